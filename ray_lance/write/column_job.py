"""Says which columns one call writes and where, as tasks on all machines see it."""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa

from ray_lance.write.column_record import ColumnRecord
from ray_lance.write.field_ids import field_ids
from ray_lance.write.target import Target

__all__ = ["ColumnJob", "ColumnTarget"]


@dataclass(frozen=True)
class ColumnTarget:
    """Columns of which one call writes files.

    Attributes:
        target: The dataset, pinned to the version that the work was planned on.
        schema: The columns.
    """

    target: Target
    schema: pa.Schema

    @property
    def file_prefix(self) -> str:
        """What the names of all files of the call begin with."""
        return self.target.job_id

    def field_ids(self) -> list[int]:
        """Ids of the columns' fields, children after their parents."""
        return field_ids(self.target.table.open().lance_schema, self.schema.names)


@dataclass(frozen=True)
class ColumnJob(ColumnTarget):
    """One call's work on computed columns.

    Attributes:
        record: What the dataset keeps of it; its owner is this job.
        before: The version that the dataset had before this job claimed the columns.
    """

    record: ColumnRecord
    before: int

    @property
    def file_prefix(self) -> str:
        """What the names of all files of the job begin with."""
        return self.record.file_prefix
