"""Categories: dictionaries of many batches in, one list of values for each column out, which codes refer to.

A stored dictionary is part of a file, a page or a batch, and the same code means another value in the next one. So
codes are never delivered as they are stored: they are looked up in one dictionary, which the caller has as well.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, Literal, TypeAlias

import pyarrow as pa

from ray_lance.arguments import shown
from ray_lance.errors import InvalidArgumentError, TensorConversionError
from ray_lance.tensors.kinds import refuse_pickled, tensor_kind
from ray_lance.tensors.objects import to_objects

__all__ = ["Categories", "CategoryOption", "CategoryUnion", "as_categories", "with_values"]

CategoryOption: TypeAlias = "Literal['values', 'codes'] | Mapping[str, Sequence[Any]]"


class Categories(Mapping[str, list[Any]]):
    """The categories of columns: the code of a value is its index in the column's list.

    Args:
        columns: Distinct values, without null, by column (a struct's leaf as ``"column.leaf"``).
        is_complete: Whether these are all categorical columns that there may be. If so, others are refused; if not,
            others stay values.

    Raises:
        InvalidArgumentError: Values that have no common Arrow type, a null, or a value that comes twice.
    """

    def __init__(self, columns: Mapping[str, Sequence[Any] | pa.Array], *, is_complete: bool = False) -> None:
        self._arrays = {name: _distinct(name, values) for name, values in columns.items()}
        self._cast: dict[tuple[str, pa.DataType], pa.Array] = {}
        self.is_complete = is_complete

    @classmethod
    def of_table(cls, table: pa.Table | pa.RecordBatch) -> Categories:
        """The categories of all dictionary-encoded columns, in the order in which the dictionaries list them."""
        union = CategoryUnion()
        union.add(table)
        return union.categories()

    def renamed(self, names: Mapping[str, str]) -> Categories:
        """The same lists under other names, given as new name -> name."""
        if all(new == old for new, old in names.items()):
            return self
        return Categories({new: self._arrays[old] for new, old in names.items()}, is_complete=self.is_complete)

    def array(self, name: str, dtype: pa.DataType) -> pa.Array:
        """The categories of a column as an Arrow array, to be compared with values of ``dtype``.

        Raises:
            TensorConversionError: They cannot be converted to ``dtype``.
        """
        array = self._arrays[name]
        if array.type == dtype:
            return array
        if (name, dtype) not in self._cast:
            try:
                self._cast[name, dtype] = pa.array(self[name], dtype)
            except (TypeError, OverflowError, pa.ArrowException) as error:
                raise TensorConversionError(
                    f"column {name!r} ({dtype}) cannot be compared with its categories ({array.type}): {error}"
                ) from None
        return self._cast[name, dtype]

    @cached_property
    def _lists(self) -> dict[str, list[Any]]:
        return {name: to_objects(array, name) for name, array in self._arrays.items()}

    def __getitem__(self, name: str) -> list[Any]:
        return self._lists[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._arrays)

    def __len__(self) -> int:
        return len(self._arrays)

    def __repr__(self) -> str:
        return f"Categories({dict(self)})"

    def __getstate__(self) -> dict[str, Any]:
        return {"_arrays": self._arrays, "_cast": {}, "is_complete": self.is_complete}


class CategoryUnion:
    """The categories of many batches: each dictionary's values in its order, those of earlier batches first."""

    def __init__(self) -> None:
        self._found: dict[str, pa.Array] = {}
        self._last: dict[str, pa.Array] = {}

    def add(self, table: pa.Table | pa.RecordBatch) -> None:
        """Add the dictionaries of a batch.

        Raises:
            TensorConversionError: Values that cannot be compared, such as structs.
        """
        for field, column in zip(table.schema, table.columns, strict=True):
            for chunk in column.chunks if isinstance(column, pa.ChunkedArray) else [column]:
                for name, values in _dictionaries(field.name, field, chunk):
                    self._add(name, values)

    def add_schema(self, schema: pa.Schema) -> None:
        """Add the dictionary-encoded columns, which may have no categories."""
        for field in schema:
            for name, values in _dictionaries(field.name, field, None):
                self._add(name, values)

    def add_known(self, categories: Categories) -> None:
        """Add the categories of those columns that have been added before, as values of their types."""
        for name in categories:
            if name in self._found:
                self._add(name, categories.array(name, self._found[name].type))

    def categories(self) -> Categories:
        """All categories that were added."""
        return Categories(self._found, is_complete=True)

    def _add(self, name: str, values: pa.Array) -> None:
        last = self._last.get(name)
        if last is not None and last.equals(values):  # as a rule: the batches of a file share one
            return
        self._last[name] = values
        before = [self._found[name]] if name in self._found else []
        try:
            self._found[name] = pa.chunked_array([*before, values]).unique().drop_null()
        except pa.ArrowNotImplementedError:
            raise TensorConversionError(
                f"column {name!r}: categories of type {values.type} cannot be compared: categories='values' delivers "
                "them as they are"
            ) from None


def as_categories(option: CategoryOption) -> Categories | Literal["values", "codes"]:
    """Check the argument ``categories``.

    Raises:
        InvalidArgumentError: It is something else, or its lists are no categories.
    """
    if isinstance(option, Categories):
        return option
    if isinstance(option, Mapping):
        return Categories(option)
    if isinstance(option, str) and option in ("values", "codes"):
        return option
    raise InvalidArgumentError(
        f"categories={shown(option)} must be 'values', 'codes', or lists of categories by column, such as "
        "{'color': ['red', 'green']}"
    )


def with_values(table: pa.Table) -> pa.Table:
    """``table`` with the values of dictionary-encoded columns, however they were encoded.

    Arrow's own ``to_numpy`` would convert a null to the last category (seen in 26.0).
    """
    for index, field in enumerate(table.schema):
        if pa.types.is_dictionary(field.type):
            column = table.column(index)
            chunks = [chunk.dictionary.take(chunk.indices) for chunk in column.chunks]
            values = pa.chunked_array(chunks, type=field.type.value_type)
            table = table.set_column(index, field.with_type(values.type), values)
    return table


def _dictionaries(name: str, field: pa.Field, array: pa.Array | None) -> Iterator[tuple[str, pa.Array]]:
    """Yield the dictionaries in a column, by the entry of a batch that holds the codes; empty ones without an array."""
    dtype = field.type
    if pa.types.is_dictionary(dtype):
        refuse_pickled(field.with_name(name), TensorConversionError)
        yield name, pa.array([], dtype.value_type) if array is None else array.dictionary
    elif pa.types.is_list(dtype) or pa.types.is_large_list(dtype):
        if not pa.types.is_struct(dtype.value_type):  # structs in lists become objects
            yield from _dictionaries(name, dtype.value_field, None if array is None else array.values)
    elif pa.types.is_struct(dtype) and tensor_kind(field) is None:
        for index in range(dtype.num_fields):
            child = dtype.field(index)
            yield from _dictionaries(f"{name}.{child.name}", child, None if array is None else array.field(index))


def _distinct(name: str, values: Sequence[Any] | pa.Array) -> pa.Array:
    if not isinstance(values, pa.Array):
        try:
            values = pa.array(list(values))
        except (TypeError, pa.ArrowException) as error:
            raise InvalidArgumentError(f"categories[{name!r}] must be a list of values of one type: {error}") from None
    if values.null_count or len(values.unique()) != len(values):
        raise InvalidArgumentError(f"categories[{name!r}] holds a null or a value twice: each value has one code")
    return values
