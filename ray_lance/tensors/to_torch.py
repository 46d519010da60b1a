"""Arrow -> torch: a table in, tensors and lists by column out; one converter for each Arrow type."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Literal, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ray_lance.errors import InvalidArgumentError, TensorConversionError
from ray_lance.lazy import torch
from ray_lance.tensors.arrow_releases import type_ids
from ray_lance.tensors.categories import Categories, CategoryOption, as_categories
from ray_lance.tensors.dense import DENSE, Column, check_value, dense_converter, null_error, write_fill
from ray_lance.tensors.kinds import VariableShape, is_older_blob, refuse_pickled, storage_type, tensor_kind
from ray_lance.tensors.memory import Mask, combine, storage
from ray_lance.tensors.objects import to_objects
from ray_lance.tensors.ragged import Rows, data_and_shapes, list_rows, nested_rows, padded_rows, row_shapes, shaped_rows
from ray_lance.tensors.tensor_options import (
    NOT_GIVEN,
    Fill,
    Options,
    Ragged,
    check_fill,
    check_ragged,
    named_entries,
    named_fill,
)

__all__ = ["Tensors", "to_tensors"]

Tensors: TypeAlias = "dict[str, torch.Tensor | list[Any]]"


def to_tensors(
    data: pa.Table | pa.RecordBatch,
    *,
    ragged: Ragged = "nested",
    fill: Fill = None,
    categories: CategoryOption = "values",
) -> Tensors:
    """Convert every column to a tensor, or to a list where no tensor exists.

    ============================================  ===============================================================
    Arrow type                                    result, for ``n`` rows
    ============================================  ===============================================================
    int8..64, uint8..64, float16/32/64, bool      ``(n,)``, same dtype
    lance.bfloat16                                ``(n,)`` bfloat16
    fixed_size_list<T>[d], nested ones            ``(n, d)``, ``(n, *shape)``
    arrow.fixed_shape_tensor, Ray's tensor types  ``(n, *shape)``, dimensions permuted as the type says
    list<T>, list<fixed_size_list<T>[d]>          by ``ragged``
    arrow.variable_shape_tensor, Ray's            by ``ragged``
    list<list<T>> and deeper                      nested lists of tensors
    timestamp, date, time, duration               ``(n,)`` int64, in the unit of the type (date32: days)
    decimal                                       ``(n,)`` float64, rounded to nearest
    dictionary                                    what its values become; or ``(n,)`` int64 codes, by ``categories``
    null                                          ``(n,)`` float32 NaN
    string, binary, fixed_size_binary, blob       ``list[str]``, ``list[bytes]``
    struct                                        one entry per leaf, named ``"column.leaf"``
    map, list of strings or structs, others       list of Python objects
    ============================================  ===============================================================

    Nulls are never silent. Floating-point nulls, in a vector too, become NaN; a null vector becomes a row of NaN.
    Other dtypes need ``fill``. In lists, nulls are None. A null struct makes all of its leaves null.

    Tensors share memory with ``data`` where the layout allows: one chunk, no nulls, not bool, date32 or time32. Treat
    them as read-only and ``clone()`` before writing: the memory may be mapped from Ray's object store. They keep
    the memory alive.

    Args:
        data: Table or record batch, of any number of rows and chunks.
        ragged: What ragged columns become. ``"nested"``: a jagged nested tensor ``(n, j, *rest)`` (tensors ragged in
            more than one dimension become a list, as the jagged layout cannot hold them). ``"pad"``: a tensor
            ``(n, longest, *rest)`` with shorter rows padded by ``fill`` or 0, and beside it ``"column.lengths"``,
            int64 ``(n,)``; ``(n, *largest)`` and ``"column.shape"``, int64 ``(n, ndim)``, for tensors ragged in more
            than one dimension. ``"list"``: a list of ``n`` tensors.
        fill: What replaces nulls: one value for all columns, or one for each column named (a struct's leaf as
            ``"column.leaf"``, with backticks around a name that holds a dot). A null row of a ragged column becomes an
            empty row. A single value leaves strings and binary alone; a value named for such a column replaces its
            nulls.
        categories: What dictionary-encoded values become. ``"values"``: what they mean, whatever dictionary encodes
            them. ``"codes"``: their indices in one dictionary over all of ``data`` (``Categories.of_table(data)``).
            Lists of values by column: their indices in these, also for columns that are not dictionary-encoded; other
            columns stay values.

    Returns:
        Tensors and lists by column name, in the order of the columns.

    Raises:
        TensorConversionError: Nulls that have no representation and no ``fill``, a ``fill`` that the dtype cannot
            hold, a value that is none of the ``categories``, pickled objects, or blob descriptors in place of bytes.
            The message names the column.
        InvalidArgumentError: An unknown ``ragged``, or ``categories`` that are none.
        UnknownColumnError: ``fill`` or ``categories`` names a column or a struct's leaf that ``data`` does not have.
    """
    if not isinstance(data, (pa.Table, pa.RecordBatch)):
        raise InvalidArgumentError(f"data={type(data).__name__} must be a pyarrow.Table or a pyarrow.RecordBatch")
    check_ragged(ragged)
    check_fill(fill)
    schema = data.schema
    options = Options(ragged, named_fill(fill, schema), categories=_categories(as_categories(categories), data))
    out: Tensors = {}
    for field, column in zip(schema, data.columns, strict=True):
        array = combine(column, field.name)
        # The schema's type if both are equal: the array's may lack the metadata of inner values.
        meant = field if array.type == field.type else field.with_type(array.type)
        _convert(Column(field.name, meant, array, options), out)
    return out


def _categories(option: Categories | Literal["values", "codes"], data: pa.Table | pa.RecordBatch) -> Categories | None:
    if not isinstance(option, Categories):
        return Categories.of_table(data) if option == "codes" else None
    if option.is_complete:  # under the names of entries, also of columns that are not here
        return option
    return option.renamed(named_entries("categories", {name: name for name in option}, data.schema))


def _convert(column: Column, out: Tensors) -> None:
    column = _resolved(column)
    identity = column.field.type.id
    dense = DENSE.get(identity)
    if dense is not None:
        _put(out, column.name, dense(column))
    else:
        _OTHER.get(identity, _objects)(column, out)


def _resolved(column: Column) -> Column:
    """``column`` with values, or with int64 codes of the caller's categories, in place of codes of its own dictionary.

    Values that make no tensor, such as strings, stay encoded: they are looked up when objects are made of them.

    Raises:
        TensorConversionError: A value that is none of the categories given, or pickled objects.
    """
    dtype, known = column.array.type, column.options.categories
    is_encoded = pa.types.is_dictionary(dtype)
    if known is not None and not pa.types.is_nested(dtype) and column.name in known:
        return _coded(column, known)
    if not is_encoded:
        return column
    if known is not None and known.is_complete:
        raise TensorConversionError(
            f"column {column.name!r} has no categories in the dataset that was read, which are {sorted(known)}: list "
            f"them, categories={{{column.name!r}: [...]}}, or leave its values, categories='values'"
        )
    refuse_pickled(column.field.with_name(column.name), TensorConversionError)
    value = pa.field(column.field.name, dtype.value_type)
    if dense_converter(value) is None:
        return column
    return column.child(value, column.array.dictionary.take(column.array.indices))


def _coded(column: Column, known: Categories) -> Column:
    array = column.array
    if pa.types.is_dictionary(array.type):
        codes = _indices(column, array.dictionary, known).take(array.indices)
        values = array.dictionary.take(array.indices) if codes.null_count else array
    else:
        codes, values = _indices(column, array, known), array
    if codes.null_count:
        lost = pc.and_(codes.is_null(), values.is_valid())
        if pc.any(lost).as_py():
            value = to_objects(values.filter(lost).slice(0, 1), column.name)[0]
            raise TensorConversionError(f"column {column.name!r} holds {value!r}, which is none of its categories")
    return column.child(pa.field(column.field.name, pa.int64()), codes.cast(pa.int64()))


def _indices(column: Column, values: pa.Array, known: Categories) -> pa.Array:
    return pc.index_in(values, known.array(column.name, values.type))


def _put(out: Tensors, name: str, value: torch.Tensor | list[Any]) -> None:
    if name in out:
        raise TensorConversionError(
            f"two columns would both become the entry {name!r}: rename one of them, or select fewer columns"
        )
    out[name] = value


def _list(column: Column, out: Tensors) -> None:
    dense = dense_converter(column.field)  # Ray stores tensors of one shape as lists
    if dense is not None:
        return _put(out, column.name, dense(column))
    return _ragged(column, column.field.type.value_field, out)


def _ragged(column: Column, value: pa.Field, out: Tensors) -> None:
    column = column.child(column.field, storage(column.array))
    rows = Rows.of_lists(column.array)
    values = _resolved(column.child(value, column.array.flatten()))
    dense = dense_converter(values.field)
    if dense is None:
        if _has_entries(values.field):  # which cannot be cut into rows together
            return _objects(column, out)
        inner: Tensors = {}
        _convert(values._replace(options=replace(column.options, ragged="list")), inner)
        return _put(out, column.name, list_rows(inner[column.name], rows))
    tensor = dense(values)
    ragged = column.options.ragged
    if ragged == "list":
        return _put(out, column.name, list_rows(tensor, rows))
    _need_fill_for_rows(column, rows.nulls)
    if ragged == "nested":
        return _put(out, column.name, nested_rows(tensor, rows))
    padded, empty = padded_rows(tensor, rows)
    _pad(column, padded, empty)
    _put(out, column.name, padded)
    return _put(out, f"{column.name}.lengths", torch.from_numpy(rows.lengths))


def _variable(column: Column, kind: VariableShape, out: Tensors) -> None:
    check_value(column, kind.value)
    data, shapes = data_and_shapes(column.array)
    if kind.ndim == 1:
        return _ragged(column.child(pa.field(column.name, data.type), data), data.type.value_field, out)
    rows = Rows.of_lists(data)
    dense = dense_converter(kind.value)
    assert dense is not None
    flat = dense(column.child(kind.value, data.flatten()))
    sizes = row_shapes(rows, shapes, kind.ndim, column.name)
    tensors = shaped_rows(flat, rows, sizes)
    if column.options.ragged != "pad":
        return _put(out, column.name, tensors)
    _need_fill_for_rows(column, rows.nulls)
    padded = torch.zeros((len(tensors), *sizes.max(axis=0, initial=0)), dtype=flat.dtype)
    _pad(column, padded, np.ones(padded.shape, np.bool_))
    for row, tensor in zip(padded, tensors, strict=True):
        if tensor is not None:
            row[tuple(slice(size) for size in tensor.shape)] = tensor
    _put(out, column.name, padded)
    return _put(out, f"{column.name}.shape", torch.from_numpy(sizes))


def _pad(column: Column, padded: torch.Tensor, empty: Mask) -> None:
    value = column.options.fill_for(column.name)
    if value is not NOT_GIVEN:
        write_fill(column, padded, empty, value)


def _need_fill_for_rows(column: Column, nulls: Mask | None) -> None:
    if nulls is not None and column.options.fill_for(column.name) is NOT_GIVEN:
        raise null_error(column, "and a ragged tensor has no null row (ragged='list' gives None; fill, an empty row)")


def _has_entries(field: pa.Field) -> bool:
    """Whether a field becomes an entry for each of its leaves."""
    is_struct = pa.types.is_struct(storage_type(field.type))
    return is_struct and tensor_kind(field) is None and not is_older_blob(field)


def _struct(column: Column, out: Tensors) -> None:
    kind = tensor_kind(column.field)
    if isinstance(kind, VariableShape):
        return _variable(column, kind, out)
    if is_older_blob(column.field):
        raise TensorConversionError(
            f"column {column.name!r} holds blob descriptors, not bytes: scan it with blob_handling='all_binary'"
        )
    for index, array in enumerate(column.array.flatten()):
        field = column.field.type.field(index)
        _convert(column.child(field, array, f"{column.name}.{field.name}"), out)
    return None


def _extension(column: Column, out: Tensors) -> None:
    dense = dense_converter(column.field)
    if dense is not None:
        return _put(out, column.name, dense(column))
    kind = tensor_kind(column.field)
    if isinstance(kind, VariableShape):
        return _variable(column, kind, out)
    refuse_pickled(column.field.with_name(column.name), TensorConversionError)
    stored = storage(column.array)
    return _convert(column.child(pa.field(column.field.name, stored.type), stored), out)


def _tensor_or_objects(column: Column, out: Tensors) -> None:
    dense = dense_converter(column.field)
    if dense is None:
        return _objects(column, out)
    return _put(out, column.name, dense(column))


def _objects(column: Column, out: Tensors) -> None:
    # Of a type that this process does not know, only the metadata tells.
    refuse_pickled(column.field.with_name(column.name), TensorConversionError)
    values = to_objects(column.array, column.name)
    fill = column.options.fill
    if isinstance(fill, Mapping) and column.name in fill:
        values = [fill[column.name] if value is None else value for value in values]
    _put(out, column.name, values)


_OTHER: dict[int, Callable[[Column, Tensors], None]] = {
    **dict.fromkeys(type_ids("FIXED_SIZE_LIST", "FIXED_SIZE_BINARY"), _tensor_or_objects),
    **dict.fromkeys(type_ids("LIST", "LARGE_LIST"), _list),
    **dict.fromkeys(type_ids("STRUCT"), _struct),
    pa.fixed_shape_tensor(pa.int8(), [1]).id: _extension,  # pyarrow has no name for this id
}
