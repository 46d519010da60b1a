"""Updates columns of some rows: values with row addresses in, a file of these columns for their fragment out.

The other columns of the fragment are neither read nor written, and its rows stay where they are.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from lance.fragment import FragmentMetadata

from ray_lance.errors import CommitError, InvalidArgumentError
from ray_lance.scan.row_sets import bitmap
from ray_lance.scan.scan import ROW_ADDRESS
from ray_lance.write.column_files import WrittenColumn, write_column_file
from ray_lance.write.column_job import ColumnTarget
from ray_lance.write.column_plan import FragmentWork
from ray_lance.write.field_ids import field_ids
from ray_lance.write.job import WriteJob
from ray_lance.write.schema import fit, portable
from ray_lance.write.storage import Storage
from ray_lance.write.target import LEGACY

__all__ = ["UpdatedColumns", "check_updatable", "update_columns", "updated_fields"]

# Lance's mark in the list of a file's fields for a column whose values are in another file.
_MOVED = -2


@dataclass(frozen=True)
class UpdatedColumns:
    """A published file with the updated columns of one fragment, not committed yet.

    Attributes:
        written: The file.
        offsets: The updated rows of the fragment, as a Roaring bitmap of their offsets.
    """

    written: WrittenColumn
    offsets: bytes

    @property
    def fragment_id(self) -> int:
        """The fragment."""
        return self.written.work.fragment_id

    @property
    def rows(self) -> int:
        """Updated rows."""
        return self.written.work.rows

    def applied(self, fragment: FragmentMetadata) -> FragmentMetadata:
        """``fragment``, with the values of the columns in this file instead of where they were."""
        file = self.written.data_file()
        for old in fragment.files:
            old.fields = [_MOVED if field in file.fields else field for field in old.fields]
        kept = [old for old in fragment.files if any(field != _MOVED for field in old.fields)]
        fragment.files = [*kept, file]
        return fragment


def check_updatable(job: WriteJob) -> None:
    """Refuse datasets whose columns cannot be updated without the others.

    Raises:
        InvalidArgumentError: The files are of a version that takes no new columns, or hold updates of single values.
    """
    if job.file_version == LEGACY:
        raise InvalidArgumentError(
            f"uri={job.shown_uri!r}: Lance updates no single columns in files of version {LEGACY}: give all the "
            "columns, or copy the dataset with write_lance(read_lance(uri), another_uri)"
        )
    if any(fragment.metadata.overlays for fragment in job.table.open().get_fragments()):
        raise InvalidArgumentError(
            f"uri={job.shown_uri!r}: the dataset holds overlays, which would hide the new values: run "
            "dataset.optimize.compact_files() first, or give all the columns"
        )


def update_columns(job: WriteJob, rows: pa.Table, storage: Storage | None = None) -> UpdatedColumns:
    """Write the columns of one fragment with new values at some of its rows.

    Args:
        job: The merge; its ``updated`` columns are written.
        rows: The new values, and ``_rowaddr``, in any order: of one fragment, and each row once.
        storage: Where to publish; None for the storage of the job's dataset.

    Raises:
        SchemaMismatchError: A value does not fit the dataset.
        CommitError: A row occurs twice.
        StorageError: Storage kept failing after every retry.
    """
    schema = _columns(job)
    addresses = rows[ROW_ADDRESS].to_numpy()
    order = np.argsort(addresses)
    ascending = addresses[order]
    if (np.diff(ascending) == 0).any():
        raise CommitError("two new rows update the same row; nothing was committed")
    values = fit(rows.select(schema.names), schema).take(order).append_column(ROW_ADDRESS, pa.array(ascending))
    fragment = job.table.open().get_fragment(int(ascending[0]) >> 32)
    work = FragmentWork(fragment.fragment_id, fragment.physical_rows, len(order), keeps=True, sources=())
    # Deleted rows have no values, also where live ones must have some.
    target = ColumnTarget(job, pa.schema([field.with_nullable(True) for field in schema]))
    return UpdatedColumns(write_column_file(target, work, lambda: [values], storage), bitmap(ascending))


def updated_fields(job: WriteJob) -> list[int]:
    """Ids of the fields that the merge updates."""
    return field_ids(job.table.open().lance_schema, job.updated)


def _columns(job: WriteJob) -> pa.Schema:
    schema = portable(job.schema)  # it may have been sent here as extension types
    return pa.schema([schema.field(name) for name in job.updated])
