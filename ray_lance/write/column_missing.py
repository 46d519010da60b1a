"""Which rows have no value of a column yet: a pinned table and names of columns in, fragments and a condition out."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import lance

from ray_lance.table import TableRef
from ray_lance.write.column_plan import fragments_without, plan
from ray_lance.write.column_record import record_of

__all__ = ["MissingRows", "missing_rows"]


@dataclass(frozen=True)
class MissingRows:
    """The rows to read.

    Attributes:
        columns: The columns that lack values, with those that are computed together with them.
        fragment_ids: The fragments that hold such rows, in scan order.
        condition: SQL condition that is true for these rows of the fragments; None for all of them.
    """

    columns: tuple[str, ...]
    fragment_ids: tuple[int, ...]
    condition: str | None = None


def missing_rows(table: TableRef, columns: Sequence[str]) -> MissingRows:
    """The rows of a pinned table whose fragments lack one of the columns.

    All of them where the table has no such column. Where ``add_columns`` or ``merge_columns_from`` made a column and a
    compaction has since joined fragments that have values with others that have none, the rows that are null.

    Args:
        table: The pinned table.
        columns: Names of columns.
    """
    dataset = table.open()
    absent = [name for name in columns if name not in dataset.schema.names]
    known = [name for name in columns if name not in absent]
    together = dict.fromkeys([*columns, *(each for name in known for each in _computed_with(dataset, name))])
    found = [_missing(dataset, name) for name in known]
    if absent:
        found.append(_Missing({fragment.fragment_id for fragment in dataset.get_fragments()}))
    ids = {number for each in found for number in each.fragment_ids}
    conditions = {each.condition for each in found if each.fragment_ids}
    in_order = tuple(each.fragment_id for each in dataset.get_fragments() if each.fragment_id in ids)
    return MissingRows(tuple(together), in_order, conditions.pop() if len(conditions) == 1 else None)


@dataclass(frozen=True)
class _Missing:
    fragment_ids: Collection[int]
    condition: str | None = None


def _missing(dataset: lance.LanceDataset, name: str) -> _Missing:
    record = record_of(dataset.schema, name)
    if record is None:
        return _Missing(fragments_without(dataset, [name]))
    passes = plan(dataset, record).passes
    # The last condition is the narrower one, and as true for fragments without any value.
    condition = passes[-1].filter if passes else None
    return _Missing({work.fragment_id for each in passes for work in each.fragments}, condition)


def _computed_with(dataset: lance.LanceDataset, name: str) -> Sequence[str]:
    record = record_of(dataset.schema, name)
    return () if record is None else record.columns
