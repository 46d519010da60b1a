"""Writes columns of one fragment: values with row addresses in, one published file out."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import lance
import numpy as np
import numpy.typing as npt
import pyarrow as pa
from lance.fragment import DataFile

from ray_lance.errors import CommitError
from ray_lance.scan.scan import ROW_ADDRESS
from ray_lance.write.column_job import ColumnTarget
from ray_lance.write.column_plan import FragmentWork
from ray_lance.write.data_file import write_data_file
from ray_lance.write.field_ids import renumbered
from ray_lance.write.publish import published
from ray_lance.write.schema import fit, portable
from ray_lance.write.storage import Storage

__all__ = ["WrittenColumn", "place", "taken", "write_column_file"]

_BATCH_BYTES = 8 * 2**20
_MAX_BATCH_ROWS = 2**16

Offsets = npt.NDArray[np.int64]


@dataclass(frozen=True)
class WrittenColumn:
    """A published column file, not committed yet.

    Attributes:
        work: The fragment it belongs to.
        file: Arguments of Lance's ``DataFile``.
        num_bytes: Size of the file and of the blob files that belong to it.
    """

    work: FragmentWork
    file: dict[str, Any]
    num_bytes: int

    def data_file(self) -> DataFile:
        """The file as Lance takes it."""
        return DataFile(**self.file)


def write_column_file(
    job: ColumnTarget, work: FragmentWork, tables: Callable[[], Iterable[pa.Table]], storage: Storage | None = None
) -> WrittenColumn:
    """Write the columns of one fragment. Nothing is visible to readers before the commit.

    Args:
        job: What is written where.
        work: The fragment.
        tables: The computed rows: tables of the columns and ``_rowaddr``, of this fragment only, by ascending row
            address. Called again for each attempt.
        storage: Where to publish; None for the storage of the job's dataset.

    Raises:
        CommitError: The rows are not those of the fragment, each once.
        StorageError: Storage kept failing after every retry.
    """
    job = replace(job, schema=portable(job.schema))  # it may have been sent here as extension types
    name = f"{job.file_prefix}-{work.fragment_id}-{uuid.uuid4().hex[:8]}"
    with job.target.native_errors("writing a column file"):
        file, num_bytes = published(
            job.target,
            storage or job.target.storage(),
            lambda folder: _stage(job, work, tables(), folder),
            name=name,
            prefix=job.file_prefix,
            what="a column file",
        )
    return WrittenColumn(work, {**file, "path": f"{name}.lance"}, num_bytes)


def _stage(
    job: ColumnTarget, work: FragmentWork, tables: Iterable[pa.Table], folder: Path
) -> tuple[dict[str, Any], Path]:
    """Write the rows as one data file below ``folder``; returns arguments of ``DataFile`` and where it lies."""
    rows = place(_values(tables, job, work), _kept(job, work), work.physical_rows, job.schema)
    operation = write_data_file(
        rows, job.schema, dataset_uri=str(folder), mode="create", data_storage_version=job.target.file_version
    )
    (file,) = operation.fragments[0].to_json()["files"]
    # The file was written for a dataset of these columns alone.
    fields = renumbered(file["fields"], operation.new_schema, job.target.table.open().lance_schema)
    return {**file, "fields": fields}, folder / "data" / file["path"]


def place(
    values: Iterable[tuple[Offsets, pa.Table]],
    kept: Iterable[tuple[Offsets, pa.Table]],
    physical_rows: int,
    schema: pa.Schema,
) -> Iterator[pa.RecordBatch]:
    """All the rows of a fragment, deleted ones included: values at their offsets, kept rows at theirs, null elsewhere.

    Args:
        values: Offsets within the fragment, ascending over all of the tables, and the rows at them.
        kept: The same for rows that keep what they have where there is no new value.
        physical_rows: Rows of the fragment.
        schema: Schema of the batches.
    """
    new, old = _Ascending(values, schema), _Ascending(kept, schema)
    position = 0
    while position < physical_rows:
        stop = min(physical_rows, position + min(new.rows_per_batch(), old.rows_per_batch()))
        yield from _window(new.until(stop), old.until(stop), position, stop).to_batches()
        position = stop


def _window(new: tuple[Offsets, pa.Table], old: tuple[Offsets, pa.Table], start: int, stop: int) -> pa.Table:
    """Rows ``[start, stop)``."""
    if len(new[0]) == stop - start:
        return new[1]
    positions = np.full(stop - start, -1, np.int64)
    positions[old[0] - start] = np.arange(len(old[0]))
    positions[new[0] - start] = np.arange(len(new[0])) + len(old[0])
    rows = pa.concat_tables([old[1], new[1]])
    return taken(rows, pa.array(positions, mask=positions < 0))


def taken(table: pa.Table, positions: pa.Array) -> pa.Table:
    """Rows of ``table`` by number, in the order of ``positions``; nulls where these are null."""
    if len(table) == 0:
        # Nothing to take from: all positions are null.
        return fit(pa.table({name: pa.nulls(len(positions)) for name in table.column_names}), table.schema)
    columns = []
    for column in table.columns:
        array = column.combine_chunks()
        if isinstance(array, pa.ChunkedArray):
            array = pa.concat_arrays(array.chunks)
        if isinstance(array, pa.ExtensionArray):
            columns.append(pa.ExtensionArray.from_storage(array.type, array.storage.take(positions)))
        else:
            columns.append(array.take(positions))
    return pa.Table.from_arrays(columns, schema=table.schema)


class _Ascending:
    """Rows by ascending offset, taken step by step."""

    def __init__(self, tables: Iterable[tuple[Offsets, pa.Table]], schema: pa.Schema) -> None:
        self._tables = iter(tables)
        self._offsets: Offsets = np.empty(0, np.int64)
        self._rows = pa.Table.from_batches([], schema)
        self._last = -1
        self._ended = not self._advance()

    def rows_per_batch(self) -> int:
        """Rows of a batch of bounded bytes; the most that a batch may have where no rows are left."""
        row_bytes = self._rows.nbytes / len(self._rows) if len(self._rows) else 0.0
        return int(min(max(1, _BATCH_BYTES // max(row_bytes, 1e-3)), _MAX_BATCH_ROWS))

    def until(self, stop: int) -> tuple[Offsets, pa.Table]:
        """The next rows: those with offsets below ``stop``."""
        taken_offsets, taken_rows = [], []
        while True:
            cut = int(np.searchsorted(self._offsets, stop))
            taken_offsets.append(self._offsets[:cut])
            taken_rows.append(self._rows.slice(0, cut))
            self._offsets, self._rows = self._offsets[cut:], self._rows.slice(cut)
            if len(self._offsets) or self._ended:
                return np.concatenate(taken_offsets), pa.concat_tables(taken_rows)
            self._ended = not self._advance()

    def _advance(self) -> bool:
        for offsets, rows in self._tables:
            if not len(offsets):
                continue
            if offsets[0] <= self._last or (np.diff(offsets) <= 0).any():
                raise CommitError(f"rows of a fragment came out of order at offset {offsets[0]}: nothing was committed")
            self._last = int(offsets[-1])
            self._offsets, self._rows = offsets, rows
            return True
        return False


def _values(tables: Iterable[pa.Table], job: ColumnTarget, work: FragmentWork) -> Iterator[tuple[Offsets, pa.Table]]:
    rows = 0
    for table in tables:
        addresses = table[ROW_ADDRESS].to_numpy()
        if (addresses >> np.uint64(32) != work.fragment_id).any():
            raise CommitError(f"rows of another fragment were given for fragment {work.fragment_id}")
        rows += len(addresses)
        yield (
            (addresses & np.uint64(0xFFFFFFFF)).astype(np.int64),
            fit(table.drop_columns([ROW_ADDRESS]), job.schema),
        )
    if rows != work.rows:
        raise CommitError(f"fragment {work.fragment_id}: {rows} rows were computed where {work.rows} were expected")


def _kept(job: ColumnTarget, work: FragmentWork) -> Iterator[tuple[Offsets, pa.Table]]:
    if not work.keeps:
        return
    dataset: lance.LanceDataset = job.target.table.open()
    scanner = dataset.scanner(
        columns=job.schema.names,
        with_row_address=True,
        fragments=[dataset.get_fragment(work.fragment_id)],
        blob_handling="all_binary",
    )
    for batch in scanner.to_batches():
        table = pa.Table.from_batches([batch])
        offsets = (table[ROW_ADDRESS].to_numpy() & np.uint64(0xFFFFFFFF)).astype(np.int64)
        yield offsets, fit(table.drop_columns([ROW_ADDRESS]), job.schema)
