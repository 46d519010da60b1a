"""Rows of different lengths or shapes: a flat tensor and offsets in; lists, nested or padded tensors out, and back."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ray_lance.errors import TensorConversionError
from ray_lance.lazy import torch
from ray_lance.tensors.memory import Mask, null_mask, storage

__all__ = [
    "Rows",
    "data_and_shapes",
    "list_rows",
    "make_lists",
    "make_shaped",
    "nested_rows",
    "padded_rows",
    "row_shapes",
    "shaped_rows",
]


@dataclass(frozen=True)
class Rows:
    """Where the rows of a list column lie in its flattened values.

    Attributes:
        offsets: int64 ``(n + 1,)``, from 0.
        nulls: ``(n,)`` bool, True for null rows, which have no values; None where there is none.
    """

    offsets: npt.NDArray[np.int64]
    nulls: Mask | None

    @classmethod
    def of_lists(cls, array: pa.Array) -> Rows:
        """Rows of a list or large_list array over ``array.flatten()``."""
        nulls = null_mask(array)
        offsets = np.asarray(array.offsets)
        if nulls is None:
            return cls((offsets - offsets[:1]).astype(np.int64) if len(offsets) else np.zeros(1, np.int64), None)
        lengths = np.where(nulls, 0, np.diff(offsets))
        return cls(np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64), nulls)

    @property
    def lengths(self) -> npt.NDArray[np.int64]:
        """int64 ``(n,)``; 0 for null rows."""
        return np.diff(self.offsets)


def list_rows(values: torch.Tensor | list[Any], rows: Rows) -> list[Any]:
    """Slices of ``values``, one per row; None for null rows."""
    bounds = rows.offsets.tolist()
    parts: list[Any] = [values[start:stop] for start, stop in itertools.pairwise(bounds)]
    return parts if rows.nulls is None else _with_nulls(parts, rows.nulls)


def nested_rows(values: torch.Tensor, rows: Rows) -> torch.Tensor:
    """A jagged nested tensor ``(n, j, *rest)`` over ``values`` ``(total, *rest)``."""
    return torch.nested.nested_tensor_from_jagged(values, torch.from_numpy(rows.offsets))


def padded_rows(values: torch.Tensor, rows: Rows) -> tuple[torch.Tensor, Mask]:
    """Rows side by side in ``(n, longest, *rest)``, with 0 after the shorter ones.

    Returns:
        The padded tensor, and a mask that is True where it holds padding.
    """
    lengths = rows.lengths
    taken = np.arange(lengths.max(initial=0)) < lengths[:, None]
    padded = torch.zeros((*taken.shape, *values.shape[1:]), dtype=values.dtype)
    _numpy(padded)[taken] = _numpy(values)
    return padded, ~taken


def data_and_shapes(array: pa.Array) -> tuple[pa.Array, pa.Array]:
    """The lists of values and the lists of sizes of variable-shape tensors, both null where a row is null."""
    array = storage(array)
    names = [array.type.field(index).name for index in range(array.type.num_fields)]
    children = array.flatten()  # nulls of the struct reach its children
    return children[names.index("data")], children[names.index("shape")]


def row_shapes(rows: Rows, shapes: pa.Array, ndim: int, name: str) -> npt.NDArray[np.int64]:
    """The ``(n, ndim)`` shapes of variable-shape tensors, 0 for null rows.

    Args:
        rows: Where each row lies in the values.
        shapes: List array of ``ndim`` sizes per row.
        ndim: Dimensions of each row.
        name: Name of the column, for errors.

    Raises:
        TensorConversionError: A row whose shape does not fit its number of values.
    """
    valid = np.ones(len(shapes), np.bool_) if rows.nulls is None else ~rows.nulls
    sizes = np.zeros((len(shapes), ndim), np.int64)
    flat = np.asarray(shapes.flatten())
    fits = flat.size == valid.sum() * ndim
    if fits:
        sizes[valid] = flat.reshape(-1, ndim)
        fits = bool((sizes.prod(axis=1) == rows.lengths)[valid].all())
    if not fits:
        raise TensorConversionError(
            f"column {name!r}: a row's shape does not fit its number of values; the data is damaged"
        )
    return sizes


def shaped_rows(values: torch.Tensor, rows: Rows, sizes: npt.NDArray[np.int64]) -> list[torch.Tensor | None]:
    """Views of flat ``values``, one per row, each in its own shape; None for null rows."""
    parts: Sequence[torch.Tensor] = list_rows(values, Rows(rows.offsets, None))
    views: list[torch.Tensor | None] = [part.view(size) for part, size in zip(parts, sizes.tolist(), strict=True)]
    return views if rows.nulls is None else _with_nulls(views, rows.nulls)


def make_lists(item: pa.Field, values: pa.Array, offsets: npt.NDArray[Any], nulls: Mask | None) -> pa.Array:
    """A list<item> array whose row ``i`` is ``values[offsets[i]:offsets[i + 1]]``, over the same memory.

    Raises:
        pa.ArrowInvalid: More than 2**31 values.
    """
    narrow = pa.array(offsets, pa.int64()).cast(pa.int32())
    validity = None if nulls is None or not nulls.any() else pa.array(~nulls).buffers()[1]
    buffers = [validity, narrow.buffers()[1]]
    return pa.Array.from_buffers(pa.list_(item), len(offsets) - 1, buffers, children=[values])


def make_shaped(
    dtype: pa.DataType, values: pa.Array, shapes: npt.NDArray[np.int64], nulls: Mask | None
) -> pa.StructArray:
    """Variable-shape tensors, as struct{data, shape}, over flat ``values``.

    Args:
        dtype: Storage type of an arrow.variable_shape_tensor.
        values: All elements, row after row.
        shapes: ``(n, ndim)``, 0 for null rows.
        nulls: ``(n,)`` bool, True for null rows.
    """
    sizes = shapes.prod(axis=1)
    if nulls is not None:
        sizes[nulls] = 0
    offsets = np.concatenate([[0], np.cumsum(sizes)])
    data = make_lists(dtype.field("data").type.value_field, values, offsets, None)
    flat_shapes = pa.array(shapes.astype(np.int32).reshape(-1))
    shape = pa.Array.from_buffers(dtype.field("shape").type, len(shapes), [None], children=[flat_shapes])
    mask = pa.array(nulls) if nulls is not None and nulls.any() else None
    return pa.StructArray.from_arrays([data, shape], fields=list(dtype), mask=mask)


def _with_nulls(parts: Sequence[Any], nulls: Mask) -> list[Any]:
    return [None if null else part for part, null in zip(parts, nulls.tolist(), strict=True)]


def _numpy(tensor: torch.Tensor) -> npt.NDArray[Any]:
    # numpy has no bfloat16, and torch cannot index its wider unsigned integers.
    return (tensor.view(torch.int16) if tensor.dtype == torch.bfloat16 else tensor).numpy()
