"""Collates rows: what the datasets return for indices in; batches out, whole ones as they are, single rows joined."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch.utils.data import default_collate
from torch.utils.data._utils.collate import default_collate_fn_map

from ray_lance.errors import TensorConversionError

__all__ = ["Row", "Rows", "collate"]


class Row(dict[str, Any]):
    """One row of a batch, by column. A class, so that torch's ``default_collate`` can tell it from other dicts.

    Args:
        values: The row's values.
        whole: The batch that it is a row of, which tells what the values of a column become in a batch.
    """

    def __init__(self, values: Mapping[str, Any], whole: Mapping[str, Any]) -> None:
        super().__init__(values)
        self.lists = {name for name, column in whole.items() if isinstance(column, list)}
        self.nested = {name for name, column in whole.items() if isinstance(column, torch.Tensor) and column.is_nested}

    def __reduce__(self) -> tuple[Any, ...]:
        return _restored, (dict(self), self.lists, self.nested)


def _restored(values: dict[str, Any], lists: set[str], nested: set[str]) -> Row:
    row = Row(values, {})
    row.lists, row.nested = lists, nested
    return row


class Rows(Sequence[Any]):
    """The rows of one take: a sequence, as collate functions expect it, that also holds the whole batch.

    Torch's ``default_collate`` returns :attr:`batch` as it is, instead of stacking the rows again.
    """

    def __init__(self, batch: Any, count: int, row: Callable[[Any, int], Any]) -> None:
        self._batch, self._count, self._row = batch, count, row

    @property
    def batch(self) -> Any:
        """All rows, in the dataset's format."""
        return self._batch

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(self._count))]
        if not -self._count <= index < self._count:
            raise IndexError(f"row {index} is out of range for {self._count} rows")
        return self._row(self._batch, index % self._count)

    def __iter__(self) -> Iterator[Any]:
        return (self[number] for number in range(self._count))


def collate(rows: Sequence[Any]) -> Any:
    """Join rows that were read one by one, as wrappers such as ``ConcatDataset`` ask for them, into a batch.

    Columns become what they are in a batch that is read at once: lists, nested tensors, or else what torch's
    ``default_collate`` makes of them. It also collates rows that are no dicts.

    Raises:
        TensorConversionError: Rows do not have the same columns, or a column's values do not make a batch.
    """
    first = rows[0]
    if not isinstance(first, Mapping):
        return default_collate(list(rows))
    for row in rows:
        if not isinstance(row, Mapping) or row.keys() != first.keys():
            found = list(row) if isinstance(row, Mapping) else type(row).__name__
            raise TensorConversionError(
                f"rows of one batch have the columns {list(first)} and {found}: the datasets that are joined need the "
                "same columns="
            )
    lists, nested = (set().union(*(getattr(row, kind, ()) for row in rows)) for kind in ("lists", "nested"))
    return {name: _column(name, [row[name] for row in rows], name in lists, name in nested) for name in first}


def _column(name: str, values: list[Any], is_list: bool, is_nested: bool) -> Any:
    if is_list:
        return values
    try:
        return torch.nested.as_nested_tensor(values, layout=torch.jagged) if is_nested else default_collate(values)
    except (TypeError, ValueError, RuntimeError) as error:
        kinds = " and ".join(sorted({_kind(value) for value in values}))
        raise TensorConversionError(
            f"column {name!r}: {kinds} do not make one batch. Give the datasets fill= for nulls, ragged='list' or a "
            "transform, leave the column out with columns=, or pass the loader a collate_fn of your own"
        ) from error


def _kind(value: Any) -> str:
    if isinstance(value, torch.Tensor):
        return f"a tensor of shape {list(value.shape)}"
    return "null" if value is None else type(value).__name__


def _collate(rows: Any, *, collate_fn_map: Any = None) -> Any:  # noqa: ARG001  of torch's interface
    return rows.batch if isinstance(rows, Rows) else collate(rows)


default_collate_fn_map[Row] = _collate
