"""Holds one call's work on the columns of a dataset, as tasks on all machines see it."""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa

from ray_lance.write.column_record import ColumnRecord
from ray_lance.write.field_ids import field_ids
from ray_lance.write.target import Target

__all__ = ["ColumnJob"]


@dataclass(frozen=True)
class ColumnJob:
    """One call's work on the columns, as tasks on all machines see it.

    Attributes:
        target: The dataset, pinned to the version that the work was planned on.
        record: What the dataset keeps of it; its owner is this job.
        schema: The new columns.
        before: The version that the dataset had before this job claimed the columns.
    """

    target: Target
    record: ColumnRecord
    schema: pa.Schema
    before: int

    def field_ids(self) -> list[int]:
        """Ids of the columns' fields, children after their parents."""
        return field_ids(self.target.table.open().lance_schema, self.schema.names)
