"""Converts rows: an Arrow table in, one of nine formats out, named as in LanceDB."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
import pyarrow as pa

from ray_lance.arguments import as_choice
from ray_lance.errors import TensorConversionError
from ray_lance.lazy import torch
from ray_lance.tensors import to_tensors
from ray_lance.tensors.dtypes import as_one_dtype
from ray_lance.tensors.objects import checked, to_columns, to_frame, to_rows

__all__ = ["FORMATS", "Format", "check_format", "convert"]

Format: TypeAlias = Literal[
    "torch", "torch_row", "torch_col", "numpy", "python", "python_col", "pandas", "arrow", "polars"
]
FORMATS: tuple[str, ...] = get_args(Format)


def check_format(format: str) -> None:
    """Raise InvalidArgumentError where ``format`` is not one of the nine."""
    as_choice("format", format, FORMATS)


def convert(table: pa.Table, format: Format) -> Any:
    """``table`` in another form.

    ============  ==========================================================================================
    format        result
    ============  ==========================================================================================
    torch         dict of tensors of shape ``(n, *shape)``; lists where no tensor exists
    torch_row     list of n tensors of shape ``(columns,)``: all columns must be numbers, which one dtype holds exactly
    torch_col     one tensor of shape ``(columns, n)``: likewise
    numpy         dict of arrays of shape ``(n, *shape)``; arrays of objects where values differ in size
    python        list of n dicts
    python_col    dict of lists
    pandas        pandas.DataFrame
    arrow         pyarrow.Table
    polars        polars.DataFrame
    ============  ==========================================================================================

    Raises:
        TensorConversionError: A column cannot become a tensor, or holds pickled objects.
    """
    check_format(format)
    return _CONVERTERS[format](table)


def _torch_col(table: pa.Table) -> torch.Tensor:
    columns: dict[str, torch.Tensor] = {}
    for name, values in to_tensors(table).items():
        if not isinstance(values, torch.Tensor) or values.is_nested or values.ndim != 1:
            raise TensorConversionError(
                f"column {name!r} does not hold numbers: format='torch' gives each column its own tensor"
            )
        columns[name] = values
    return torch.stack(as_one_dtype(columns)) if columns else torch.empty(0, len(table))


def _numpy(table: pa.Table) -> dict[str, np.ndarray[Any, Any]]:
    return {name: _as_array(values) for name, values in to_tensors(table, ragged="list").items()}


def _as_array(values: Any) -> np.ndarray[Any, Any]:
    if isinstance(values, torch.Tensor):
        return values.numpy()
    array = np.empty(len(values), dtype=object)
    for row, value in enumerate(values):
        array[row] = value.numpy() if isinstance(value, torch.Tensor) else value
    return array


def _polars(table: pa.Table) -> Any:
    import polars

    return polars.from_arrow(checked(table))


_CONVERTERS: dict[str, Callable[[pa.Table], Any]] = {
    "torch": to_tensors,
    "torch_row": lambda table: list(_torch_col(table).T),
    "torch_col": _torch_col,
    "numpy": _numpy,
    "python": to_rows,
    "python_col": to_columns,
    "pandas": to_frame,
    "arrow": checked,
    "polars": _polars,
}
