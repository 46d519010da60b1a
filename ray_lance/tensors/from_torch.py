"""torch, numpy and Python -> Arrow: columns in any layout of tensors in, a table of standard Arrow types out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ray_lance.errors import InvalidArgumentError, SchemaMismatchError, TensorConversionError
from ray_lance.lazy import torch
from ray_lance.tensors.casts import conform
from ray_lance.tensors.fixed_shape import assemble, fixed_type
from ray_lance.tensors.kinds import VariableShape, bfloat16_field, is_bfloat16, tensor_kind, variable_shape_field
from ray_lance.tensors.memory import Mask, flat_array
from ray_lance.tensors.ragged import make_lists, make_shaped

__all__ = ["from_tensors"]

_Encoded = tuple[pa.Field, pa.Array | pa.ChunkedArray]
_Rows = Sequence[Any] | npt.NDArray[Any]


def from_tensors(columns: Mapping[str, Any], schema: pa.Schema | None = None) -> pa.Table:
    """Build an Arrow table from tensors, arrays and lists; the inverse of :func:`to_tensors`.

    ==============================================  =============================================================
    column, of ``n`` rows                           Arrow type
    ==============================================  =============================================================
    tensor or array ``(n,)``                        the same number type; bfloat16: lance.bfloat16
    ``(n, d)``                                      fixed_size_list<T>[d]
    ``(n, *shape)``                                 arrow.fixed_shape_tensor (bfloat16: nested fixed_size_list)
    list of equally shaped tensors or arrays        the same as one stacked tensor
    jagged nested tensor, list ragged in its first  list<T>, list<fixed_size_list<T>[d]>
    dimension
    list ragged in other dimensions                 arrow.variable_shape_tensor: struct{data, shape}
    list of str, bytes, numbers, dicts, ...         what ``pyarrow.array`` makes of it
    pyarrow array                                   itself
    ==============================================  =============================================================

    None in a list is a null row. Gradients are detached and tensors on other devices copied to the CPU. Memory is
    shared with contiguous CPU tensors and arrays (not bool): do not write to them afterwards.

    Args:
        columns: Columns by name; all of one length. The first dimension of a tensor is the row.
        schema: Types to convert to. Numbers without a width of their own (Python's) take the schema's; all else
            is cast only where nothing is lost. Columns are matched by name, and come out in the schema's order;
            missing nullable ones are null.

    Raises:
        InvalidArgumentError: Columns of different lengths, or a tensor without a row dimension.
        TensorConversionError: A dtype with no counterpart in Arrow, or rows that make no tensor column.
        SchemaMismatchError: A value that ``schema`` cannot hold exactly, or columns that do not match it.
    """
    fields, arrays = [], []
    for name, values in columns.items():
        target = schema.field(name) if schema is not None and name in schema.names else None
        try:
            field, array = _encode(name, values, target)
        except pa.ArrowException as error:
            cause = SchemaMismatchError if target is not None else TensorConversionError
            goal = "" if target is None else f" as {target.type}"
            raise cause(f"column {name!r} cannot be stored{goal}: {error}") from None
        fields.append(field)
        arrays.append(array)
    lengths = {name: len(array) for name, array in zip(columns, arrays, strict=True)}
    if len(set(lengths.values())) > 1:
        raise InvalidArgumentError(f"columns differ in their number of rows: {lengths}; they must have the same")
    table = pa.Table.from_arrays(arrays, schema=pa.schema(fields))
    return table if schema is None else conform(table, schema)


def _encode(name: str, values: Any, target: pa.Field | None) -> _Encoded:
    if isinstance(values, (pa.Array, pa.ChunkedArray)):
        return pa.field(name, values.type), values
    if isinstance(values, torch.Tensor):
        values = values.detach().cpu()
        if values.is_nested:
            return _encode_nested(name, values, target)
        if values.layout is not torch.strided:
            raise TensorConversionError(f"column {name!r} is a {values.layout} tensor: call to_dense() on it first")
        return _encode_dense(name, values)
    if isinstance(values, np.ndarray) and values.dtype != object:
        if values.dtype.kind in "biuf":
            return _encode_dense(name, values.astype(values.dtype.newbyteorder("="), copy=False))
        if values.ndim == 1:
            return _plain(name, values, None)
        return _plain(name, values.tolist(), target)
    if isinstance(values, (np.ndarray, list, tuple)):
        return _encode_rows(name, values, target)
    return _plain(name, values, target)


def _plain(name: str, values: Any, target: pa.Field | None) -> _Encoded:
    # A tensor column given as nested Python lists goes in through its storage type.
    dtype = None
    if target is not None and not isinstance(target.type, pa.BaseExtensionType) and not is_bfloat16(target):
        dtype = target.type
    try:
        array = pa.array(values, type=dtype)
    except OverflowError as error:
        raise SchemaMismatchError(f"column {name!r} cannot be stored as {dtype}: {error}") from None
    except TypeError as error:
        raise TensorConversionError(f"column {name!r}: a {type(values).__name__} is no column: {error}") from None
    return pa.field(name, array.type), array


def _encode_dense(name: str, values: torch.Tensor | npt.NDArray[Any], rows: Mask | None = None) -> _Encoded:
    """``(n, *shape)`` values; ``rows`` is True for null rows, whose values do not matter."""
    if values.ndim == 0:
        raise InvalidArgumentError(f"column {name!r} is a single value: its first dimension must be the rows")
    shape = tuple(values.shape[1:])
    flat = _flatten(name, values)
    field = _value_field("item", values, flat)
    dtype = fixed_type(field, shape)
    array = assemble(dtype, flat, len(values), rows)
    return field.with_name(name) if not shape else pa.field(name, dtype), array


def _flatten(name: str, values: torch.Tensor | npt.NDArray[Any]) -> pa.Array:
    try:
        return flat_array(values.reshape(-1) if isinstance(values, torch.Tensor) else np.ravel(values))
    except TensorConversionError as error:
        raise TensorConversionError(f"column {name!r}: {error}; convert it to a number type first") from None


def _value_field(name: str, values: torch.Tensor | npt.NDArray[Any], flat: pa.Array) -> pa.Field:
    return bfloat16_field(name) if values.dtype == torch.bfloat16 else pa.field(name, flat.type)


def _encode_nested(name: str, values: torch.Tensor, target: pa.Field | None) -> _Encoded:
    jagged = values.layout is torch.jagged and values._ragged_idx == 1 and values.lengths() is None  # type: ignore[attr-defined]
    if not jagged or isinstance(_kind(target), VariableShape):
        return _encode_rows(name, list(values.unbind()), target)
    return _encode_ragged(name, values.values(), values.offsets().numpy(), None)  # type: ignore[attr-defined]


def _encode_rows(name: str, rows: _Rows, target: pa.Field | None) -> _Encoded:
    if not any(isinstance(row, (torch.Tensor, np.ndarray)) for row in rows):
        return _plain(name, list(rows), target)
    tensors, nulls = _as_tensors(name, rows)
    if tensors is None:
        return _plain(name, [row.tolist() if isinstance(row, np.ndarray) else row for row in rows], target)
    shapes = {tuple(tensor.shape) for tensor in tensors}
    if len({len(shape) for shape in shapes}) > 1:
        raise TensorConversionError(
            f"column {name!r}: its tensors have {sorted({len(shape) for shape in shapes})} dimensions; all must have "
            "the same number"
        )
    if len(shapes) == 1 and not isinstance(_kind(target), VariableShape):
        return _stacked(name, tensors, nulls)
    if len({shape[1:] for shape in shapes}) == 1 and not isinstance(_kind(target), VariableShape):
        lengths = np.zeros(len(rows), np.int64)
        lengths[~nulls] = [len(tensor) for tensor in tensors]
        return _encode_ragged(name, torch.cat(tensors), np.concatenate([[0], np.cumsum(lengths)]), nulls)
    return _encode_variable(name, tensors, nulls)


def _as_tensors(name: str, rows: _Rows) -> tuple[list[torch.Tensor] | None, Mask]:
    """The rows that are not None as CPU tensors of one dtype (None where they hold no numbers), and where None is."""
    nulls = np.fromiter((row is None for row in rows), np.bool_, len(rows))
    tensors = []
    for row in rows:
        if row is None:
            continue
        if not isinstance(row, torch.Tensor):
            row = np.asarray(row)
            if row.dtype.kind not in "biuf":
                return None, nulls
            row = torch.tensor(row)
        tensors.append(row.detach().cpu())
    dtypes = {tensor.dtype for tensor in tensors}
    if len(dtypes) > 1:
        raise TensorConversionError(
            f"column {name!r} mixes tensors of {sorted(map(str, dtypes))}: all rows must have one dtype"
        )
    return tensors, nulls


def _stacked(name: str, tensors: list[torch.Tensor], nulls: Mask) -> _Encoded:
    if not nulls.any():
        return _encode_dense(name, torch.stack(tensors))
    values = torch.zeros((len(nulls), *tensors[0].shape), dtype=tensors[0].dtype)
    for row, tensor in zip(np.flatnonzero(~nulls).tolist(), tensors, strict=True):
        values[row] = tensor
    return _encode_dense(name, values, nulls)


def _encode_ragged(name: str, values: torch.Tensor, offsets: npt.NDArray[Any], nulls: Mask | None) -> _Encoded:
    """Rows ``values[offsets[i]:offsets[i + 1]]`` as list<T>."""
    item, inner = _encode_dense("item", values)
    lists = make_lists(item, inner, offsets, nulls)
    return pa.field(name, lists.type), lists


def _encode_variable(name: str, tensors: list[torch.Tensor], nulls: Mask) -> _Encoded:
    flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
    shapes = np.zeros((len(nulls), tensors[0].ndim), np.int64)
    shapes[~nulls] = [tensor.shape for tensor in tensors]
    values = _flatten(name, flat)
    field = variable_shape_field(
        pa.field(name, pa.null()), _value_field("item", values=flat, flat=values), shapes.shape[1]
    )
    return field, make_shaped(field.type, values, shapes, nulls)


def _kind(target: pa.Field | None) -> Any:
    return None if target is None else tensor_kind(target)
