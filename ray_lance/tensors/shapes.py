"""Rows of tensors in any layout: a column in, flat values and a shape for each row out, and back."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from ray_lance.errors import SchemaMismatchError
from ray_lance.tensors.fixed_shape import assemble, take_apart
from ray_lance.tensors.kinds import FixedShape, VariableShape, is_list, storage_type, tensor_kind
from ray_lance.tensors.memory import Mask, null_mask, storage, with_type
from ray_lance.tensors.ragged import Rows, data_and_shapes, make_lists, make_shaped, row_shapes

__all__ = ["Shaped", "shaped"]


@dataclass(frozen=True)
class Shaped:
    """Rows of tensors of one number of dimensions.

    Attributes:
        value: Element field.
        values: All elements, row after row; none for null rows.
        shapes: int64 ``(n, ndim)``; 0 for null rows.
        nulls: ``(n,)`` bool, True for null rows; None where there is none.
    """

    value: pa.Field
    values: pa.Array
    shapes: npt.NDArray[np.int64]
    nulls: Mask | None

    @property
    def ndim(self) -> int:
        """Dimensions of each row."""
        return int(self.shapes.shape[1])

    def with_values(self, value: pa.Field, values: pa.Array) -> Shaped:
        """The same shapes over other elements."""
        return replace(self, value=value, values=values)

    def as_variable(self, dtype: pa.DataType) -> pa.Array:
        """As tensors of varying shape."""
        return with_type(make_shaped(storage_type(dtype), self.values, self.shapes, self.nulls), dtype)

    def as_fixed(self, dtype: pa.DataType, shape: tuple[int, ...], name: str) -> pa.Array:
        """As tensors of one shape.

        Raises:
            SchemaMismatchError: A row has another shape; the message names the column ``name`` and the row.
        """
        wrong = (self.shapes != np.asarray(shape)).any(axis=1)
        wrong = wrong if self.nulls is None else wrong & ~self.nulls
        if wrong.any():
            row = int(np.flatnonzero(wrong)[0])
            raise SchemaMismatchError(
                f"column {name!r}: row {row} is a tensor of shape {self.shapes[row].tolist()}, and the schema asks for "
                f"{list(shape)} in every row"
            )
        values = self.values
        if self.nulls is not None:
            valid = np.repeat(~self.nulls, int(np.prod(shape)))
            values = values.take(pa.array(np.where(valid, np.cumsum(valid) - 1, 0), mask=~valid))
        return assemble(dtype, storage(values), len(self.shapes), self.nulls)

    def as_lists(self) -> pa.Array:
        """As lists in lists, one for each dimension."""
        counts = [np.ones(1, np.int64)]  # of each list of each level: its elements
        repeats = np.arange(len(self.shapes))
        for axis in range(self.ndim):
            counts.append(self.shapes[repeats, axis])
            repeats = np.repeat(repeats, counts[-1])
        array, field = self.values, self.value
        for level in range(self.ndim, 0, -1):
            offsets = np.concatenate([[0], np.cumsum(counts[level])])
            array = make_lists(field, array, offsets, self.nulls if level == 1 else None)
            field = pa.field("item", array.type)
        return array


def shaped(field: pa.Field, array: pa.Array, ndim: int) -> Shaped | None:
    """The rows of a column as tensors of ``ndim`` dimensions; None if its rows are no such tensors.

    Args:
        field: The column's field.
        array: Tensors of one shape or of varying shape, or lists in lists.
        ndim: Wanted dimensions.

    Raises:
        SchemaMismatchError: A row is no tensor: its lists differ in length or hold nulls.
    """
    kind = tensor_kind(field)
    if isinstance(kind, FixedShape):
        fits = kind.ndim == ndim and kind.permutation is None
        return _of_fixed(kind, array, field.name) if fits else None
    if isinstance(kind, VariableShape):
        return _of_variable(kind, array, field.name) if kind.ndim == ndim else None
    return _of_lists(field, array, ndim) if is_list(array.type) else None


def _of_fixed(kind: FixedShape, array: pa.Array, name: str) -> Shaped:
    leaves = take_apart(array, kind.size, name)
    shapes = np.tile(np.asarray(kind.shape, np.int64), (len(array), 1))
    values = storage(leaves.values)
    if leaves.elements is not None:
        values = pc.if_else(pa.array(leaves.elements), None, values)
    if leaves.rows is None:
        return Shaped(kind.value, values, shapes, None)
    shapes[leaves.rows] = 0
    return Shaped(kind.value, values.filter(pa.array(np.repeat(~leaves.rows, kind.size))), shapes, leaves.rows)


def _of_variable(kind: VariableShape, array: pa.Array, name: str) -> Shaped:
    data, shapes = data_and_shapes(array)
    rows = Rows.of_lists(data)
    return Shaped(kind.value, storage(data.flatten()), row_shapes(rows, shapes, kind.ndim, name), rows.nulls)


def _of_lists(field: pa.Field, array: pa.Array, ndim: int) -> Shaped | None:
    nulls = null_mask(array)
    rows = np.arange(len(array))  # of each list of the level at hand: its row
    shapes = np.zeros((len(array), ndim), np.int64)
    item = field
    for axis in range(ndim):
        if not is_list(item.type):
            return None
        if axis and array.null_count:
            raise _no_tensor(field.name, int(rows[np.asarray(array.is_null())][0]), "holds a null")
        lengths = np.asarray(pc.list_value_length(array).fill_null(0)).astype(np.int64)
        shapes[rows, axis] = lengths
        if (uneven := shapes[rows, axis] != lengths).any():
            raise _no_tensor(field.name, int(rows[uneven][0]), "holds lists of different lengths")
        rows = np.repeat(rows, lengths)
        item, array = item.type.value_field, storage(array.flatten())
    return None if is_list(storage_type(item.type)) else Shaped(item, array, shapes, nulls)


def _no_tensor(name: str, row: int, why: str) -> SchemaMismatchError:
    return SchemaMismatchError(f"column {name!r}: row {row} {why}, and the schema asks for a tensor in every row")
