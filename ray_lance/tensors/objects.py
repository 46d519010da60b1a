"""Makes Python objects: columns in; lists, dicts and DataFrames out. Only this module does that.

Ray stores objects that fit no Arrow type as pickles, in an extension type whose values pyarrow unpickles when it makes
Python objects of them. A pickle can run any code, so such columns are refused before a value is read.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pyarrow as pa

from ray_lance.errors import TensorConversionError
from ray_lance.tensors.kinds import refuse_pickled

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["checked", "to_columns", "to_frame", "to_objects", "to_rows"]


def checked(table: pa.Table) -> pa.Table:
    """``table`` itself.

    Raises:
        TensorConversionError: A column holds, at any depth, pickled objects.
    """
    for field in table.schema:
        refuse_pickled(field, TensorConversionError)
    return table


def to_objects(values: pa.Array | pa.ChunkedArray, name: str) -> list[Any]:
    """The values of column ``name`` as Python objects; raises as :func:`checked`."""
    refuse_pickled(pa.field(name, values.type), TensorConversionError)
    if isinstance(values, pa.DictionaryArray):
        return _decoded(values)
    objects: list[Any] = values.to_pylist()
    return objects


def to_rows(table: pa.Table) -> list[dict[str, Any]]:
    """One dict for each row; raises as :func:`checked`."""
    rows: list[dict[str, Any]] = checked(table).to_pylist()
    return rows


def to_columns(table: pa.Table) -> dict[str, list[Any]]:
    """One list for each column; raises as :func:`checked`."""
    columns: dict[str, list[Any]] = checked(table).to_pydict()
    return columns


def to_frame(table: pa.Table) -> pd.DataFrame:
    """A DataFrame; raises as :func:`checked`."""
    return checked(table).to_pandas()


def _decoded(values: pa.DictionaryArray) -> list[Any]:
    """Make each value of the dictionary once, however often it occurs; mutable values each time."""
    if pa.types.is_nested(values.type.value_type):
        return values.dictionary.take(values.indices).to_pylist()  # type: ignore[no-any-return]
    words = [*values.dictionary.to_pylist(), None]
    return [words[code] for code in values.indices.cast(pa.int64()).fill_null(-1).to_pylist()]
