"""One call's work on the columns of a dataset, and the numbers that Lance gives to their fields."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import lance
import pyarrow as pa

from ray_lance.write.column_record import ColumnRecord
from ray_lance.write.job import WriteJob

__all__ = ["ColumnJob", "field_ids"]


@dataclass(frozen=True)
class ColumnJob:
    """One call's work on the columns, as tasks on all machines see it.

    Attributes:
        target: The dataset, pinned to the version that the work was planned on.
        record: What the dataset keeps of it; its owner is this job.
        schema: The new columns.
    """

    target: WriteJob
    record: ColumnRecord
    schema: pa.Schema

    def field_ids(self) -> list[int]:
        """Ids of the columns' fields, children behind their parents."""
        return field_ids(self.target.table.open(), self.schema.names)


def field_ids(dataset: lance.LanceDataset, names: Iterable[str]) -> list[int]:
    """Ids of the fields of columns and of all below them, parents first, columns in the order of ``names``."""
    fields = {each.name(): each for each in dataset.lance_schema.fields()}
    return [field_id for name in names for field_id in _walk_ids([fields[name]])]


def _walk_ids(fields: Iterable[lance.schema.LanceField]) -> Iterator[int]:
    """Ids of fields and of all below them, parents first."""
    for each in fields:
        yield each.id()
        yield from _walk_ids(each.children())
