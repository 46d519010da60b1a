"""pandas -> Arrow: a DataFrame in, a table out; missing values become nulls, and NaN stays a number."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from ray_lance.errors import SchemaMismatchError
from ray_lance.tensors.from_torch import from_tensors

__all__ = ["from_pandas"]


def from_pandas(frame: Any, schema: pa.Schema | None = None) -> pa.Table:
    """Build an Arrow table from the columns of a DataFrame; its index is left out.

    None, ``pandas.NA`` and ``NaT`` become null. NaN is a value in columns of floats, also inside lists and dicts. It is
    pandas' mark for a missing value, and becomes null, in object columns of anything else and where ``schema`` asks
    for something that is no float: pandas makes floats of integers that lack one.

    Args:
        frame: The DataFrame.
        schema: What the columns will be converted to, as far as that is known.

    Raises:
        SchemaMismatchError: A column that Arrow has no type for, or two columns of one name.
    """
    names = [str(name) for name in frame.columns]
    if len(set(names)) < len(names):
        raise SchemaMismatchError(f"columns {sorted({name for name in names if names.count(name) > 1})} occur twice")
    types = {} if schema is None else {field.name: field.type for field in schema}
    columns = [_column(name, frame.iloc[:, number], types.get(name)) for number, name in enumerate(names)]
    return pa.Table.from_arrays(columns, names)


def _column(name: str, series: Any, target: pa.DataType | None) -> pa.Array | pa.ChunkedArray:
    try:
        if series.dtype == object:
            return _objects(name, series)
        if isinstance(series.dtype, np.dtype) and series.dtype.kind == "f":
            return pa.array(series.to_numpy(), from_pandas=target is not None and not pa.types.is_floating(target))
        return pa.array(series)
    except (pa.ArrowException, TypeError, ValueError) as error:
        raise SchemaMismatchError(f"column {name!r} of dtype {series.dtype} cannot be stored: {error}") from error


def _objects(name: str, series: Any) -> pa.Array | pa.ChunkedArray:
    values = list(zip(series.tolist(), series.isna().tolist(), strict=True))
    has_nan = all(_is_float(value) for value, is_missing in values if not is_missing)
    rows = [None if is_missing and not (has_nan and _is_float(value)) else value for value, is_missing in values]
    if any(isinstance(row, np.ndarray) and row.ndim > 1 for row in rows):
        return from_tensors({name: rows}).column(0)
    return pa.array(rows)


def _is_float(value: Any) -> bool:
    return isinstance(value, (float, np.floating))
