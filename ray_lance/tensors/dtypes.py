"""Finds a common dtype: columns of numbers in, the same in one dtype out, if one holds all values exactly."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from ray_lance.errors import TensorConversionError
from ray_lance.lazy import torch

__all__ = ["as_one_dtype"]


def as_one_dtype(columns: Mapping[str, torch.Tensor]) -> list[torch.Tensor]:
    """Convert columns to one dtype: the smallest that holds every value of their dtypes.

    Where there is none, as for int64 and floats, it is float64 (int64 for integers), if that holds the actual values.

    Args:
        columns: At least one, on the CPU.

    Raises:
        TensorConversionError: A value would be rounded.
    """
    dtypes = {column.dtype for column in columns.values()}
    dtype = next((wanted for wanted in _candidates() if all(_holds(wanted, each) for each in dtypes)), None)
    if dtype is None:
        dtype = torch.float64 if any(each.is_floating_point for each in dtypes) else torch.int64
        for name, column in columns.items():
            _check_exact(name, column, dtype, dtypes)
    return [column.to(dtype) for column in columns.values()]


def _candidates() -> Iterable[torch.dtype]:
    integers = (torch.uint8, torch.int8, torch.int16, torch.uint16, torch.int32, torch.uint32, torch.int64)
    floats = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
    return (torch.bool, *integers, torch.uint64, *floats)


def _holds(wanted: torch.dtype, dtype: torch.dtype) -> bool:
    """Whether ``wanted`` has each value of ``dtype``."""
    if dtype == torch.bool or wanted == dtype:
        return True
    if wanted == torch.bool:
        return False
    if not wanted.is_floating_point:
        if dtype.is_floating_point:
            return False
        outer, inner = torch.iinfo(wanted), torch.iinfo(dtype)
        return outer.min <= inner.min and inner.max <= outer.max
    if dtype.is_floating_point:
        return torch.promote_types(wanted, dtype) == wanted
    info = torch.iinfo(dtype)
    return max(info.max, -info.min) <= _largest_exact(wanted)


def _largest_exact(dtype: torch.dtype) -> int:
    """Up to here a floating-point dtype has every integer."""
    return int(2 / torch.finfo(dtype).eps)


def _check_exact(name: str, column: torch.Tensor, dtype: torch.dtype, dtypes: Iterable[torch.dtype]) -> None:
    if _holds(dtype, column.dtype):
        return
    values = column.numpy()
    limit = _largest_exact(dtype) if dtype.is_floating_point else torch.iinfo(dtype).max
    large = (
        values[(values > limit) | (values < -limit)] if values.dtype.kind == "i" else values[values > np.uint64(limit)]
    )
    for value in large.tolist():
        if not dtype.is_floating_point or int(float(value)) != value:
            raise TensorConversionError(
                f"column {name!r} ({column.dtype}) holds {value}, which {dtype}, the dtype for columns of "
                f"{sorted(map(str, dtypes))} together, cannot hold exactly: format='torch' gives each column its own "
                "tensor"
            )
