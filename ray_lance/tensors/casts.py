"""Fits tables to a schema: both in, a table of that schema out, or an error where a value would change."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ray_lance.errors import SchemaMismatchError
from ray_lance.tensors.fixed_shape import assemble, take_apart
from ray_lance.tensors.kinds import (
    BLOB,
    FixedShape,
    VariableShape,
    extension_name,
    is_list,
    shown_type,
    tensor_kind,
)
from ray_lance.tensors.memory import nulls_of, storage
from ray_lance.tensors.shapes import Shaped, shaped
from ray_lance.tensors.value_casts import cast_values, family, time_zone, to_categories

__all__ = ["conform"]


def conform(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """``table`` with the columns, order, types and metadata of ``schema``, or an error where a value would change.

    Columns are matched by name. Representations of the same values are exchanged freely (fixed_size_list and
    fixed-shape tensors, list and large_list, string and large_string, dictionary and plain, bytes and Lance's blobs).
    Numbers are cast where the target holds every one of them exactly; no cast goes between numbers, bool, text and
    times.

    Args:
        table: Data of standard Arrow types (see :func:`storable`).
        schema: What to fit. Missing columns become null.

    Returns:
        A table of ``schema``; columns that fit already are not copied.

    Raises:
        SchemaMismatchError: A column that ``schema`` does not have, a missing or null value where ``schema`` says
            not null, or a value that the target cannot hold. The message names the column and the first such value.
    """
    extra = [name for name in table.column_names if name not in schema.names]
    if extra:
        raise SchemaMismatchError(
            f"columns {extra} are not in the schema, which has {schema.names}: drop them, or add them to the dataset"
        )
    columns = []
    for target in schema:
        if target.name in table.column_names:
            column = _column(table.schema.field(target.name), table.column(target.name), target)
        else:
            column = pa.chunked_array([nulls_of(len(table), target.type)])
        if not target.nullable and column.null_count:
            raise SchemaMismatchError(
                f"column {target.name!r} is missing or holds nulls, and the schema says it is not nullable"
            )
        columns.append(column)
    return pa.Table.from_arrays(columns, schema=schema)


def _column(field: pa.Field, column: pa.ChunkedArray, target: pa.Field) -> pa.ChunkedArray:
    if field.type == target.type and _meaning(field) == _meaning(target):
        return column
    chunks = [_cast(field, chunk, target) for chunk in column.chunks]
    return pa.chunked_array(chunks, type=target.type)


def _meaning(field: pa.Field) -> Any:
    """What the values stand for beyond their storage type, in one form for both forms of an extension type."""
    kind = tensor_kind(field)
    return kind if isinstance(kind, VariableShape) else extension_name(field)


def _cast(field: pa.Field, array: pa.Array, target: pa.Field) -> pa.Array:
    if array.type == target.type and _meaning(field) == _meaning(target):
        return array
    if _holds_nothing(array.type):
        return nulls_of(len(array), target.type)
    if pa.types.is_run_end_encoded(array.type):
        return _cast(field.with_type(array.type.value_type), pc.run_end_decode(array), target)
    if pa.types.is_dictionary(array.type) and not pa.types.is_dictionary(target.type):
        return _cast(field.with_type(array.type.value_type), array.dictionary.take(array.indices), target)
    source_kind, target_kind = tensor_kind(field), tensor_kind(target)
    if isinstance(source_kind, FixedShape) and isinstance(target_kind, FixedShape):
        return _cast_fixed(field, array, target, (source_kind, target_kind))
    if (reshaped := _reshape(field, array, target)) is not None:
        return reshaped
    if _marks_differ(field, target) or isinstance(source_kind, VariableShape) or isinstance(target_kind, VariableShape):
        raise _mismatch(field, target)
    if isinstance(target.type, pa.BaseExtensionType):
        return _cast_marked(field.name, storage(array), target)
    return _cast_stored(field, storage(array), target)


def _holds_nothing(dtype: pa.DataType) -> bool:
    return bool(pa.types.is_null(dtype.value_type if pa.types.is_dictionary(dtype) else dtype))


def _cast_stored(field: pa.Field, array: pa.Array, target: pa.Field) -> pa.Array:
    source_type, target_type = array.type, target.type
    if source_type == target_type:
        return array
    if pa.types.is_struct(source_type) and pa.types.is_struct(target_type):
        return _cast_struct(field, array, target)
    if is_list(source_type) and is_list(target_type):
        return _cast_list(field, array, target)
    if pa.types.is_map(source_type) and pa.types.is_map(target_type):
        return _cast_map(field, array, target)
    if family(source_type) != family(target_type) or family(source_type) is None:
        raise _mismatch(field, target)
    if time_zone(source_type) != time_zone(target_type):
        raise _other_zone(field, target)
    if pa.types.is_dictionary(target_type):
        return to_categories(field.name, array, target_type)
    return cast_values(field.name, array, target_type)


def _reshape(field: pa.Field, array: pa.Array, target: pa.Field) -> pa.Array | None:
    """Tensors in another form: of one shape, of varying shape, or as lists in lists. None where it is no such case."""
    rows = _tensors(field, array, target)
    if rows is None:
        return None
    kind = tensor_kind(target)
    wanted = rows.value if kind is None else kind.value
    values = _cast(rows.value.with_name(field.name), rows.values, wanted.with_name(field.name))
    rows = rows.with_values(wanted, storage(values))
    if isinstance(kind, VariableShape):
        return rows.as_variable(target.type)
    if isinstance(kind, FixedShape) and kind.ndim > 1:
        return rows.as_fixed(target.type, kind.shape, field.name)
    lists = rows.as_lists()
    return _cast(pa.field(field.name, lists.type), lists, target)


def _tensors(field: pa.Field, array: pa.Array, target: pa.Field) -> Shaped | None:
    source, wanted = tensor_kind(field), tensor_kind(target)
    if isinstance(wanted, VariableShape):
        return shaped(field, array, wanted.ndim)
    if wanted is not None and wanted.ndim > 1:
        return shaped(field, array, wanted.ndim) if wanted.permutation is None else None
    is_flat_already = isinstance(source, FixedShape) and source.ndim == 1
    if source is None or is_flat_already or not is_list(target.type):
        return None
    return shaped(field, array, source.ndim)


def _marks_differ(field: pa.Field, target: pa.Field) -> bool:
    """Whether only one of two fields has an extension type that is no tensor; but bytes may become blobs."""
    names = [extension_name(each) if tensor_kind(each) is None else None for each in (field, target)]
    return names[0] != names[1] and names[1] != BLOB


def _mismatch(field: pa.Field, target: pa.Field) -> SchemaMismatchError:
    return SchemaMismatchError(
        f"column {field.name!r} is {shown_type(field)}, and the schema asks for {shown_type(target)}: no cast between "
        "them keeps every value, so convert the column first"
    )


def _cast_fixed(field: pa.Field, array: pa.Array, target: pa.Field, kinds: tuple[FixedShape, FixedShape]) -> pa.Array:
    source, wanted = kinds
    if (source.shape, source.permutation) != (wanted.shape, wanted.permutation):
        raise SchemaMismatchError(
            f"column {field.name!r} holds tensors of shape {list(source.shape)}, and the schema asks for "
            f"{list(wanted.shape)}"
        )
    leaves = take_apart(array, source.size, field.name)
    values = leaves.values
    if leaves.elements is None and values.null_count:  # nulls of null rows only
        values = pa.Array.from_buffers(values.type, len(values), [None, values.buffers()[1]], offset=values.offset)
    elif leaves.elements is not None:
        values = pc.if_else(pa.array(leaves.elements), None, values)
    if leaves.rows is not None:
        # What lies under a null row is not a value, so it must not fail the cast.
        values = pc.if_else(pa.array(np.repeat(leaves.rows, source.size)), None, values)
    values = _cast(source.value.with_name(field.name), values, wanted.value.with_name(field.name))
    return assemble(target.type, storage(values), len(array), leaves.rows)


def _cast_marked(name: str, array: pa.Array, target: pa.Field) -> pa.Array:
    stored = target.type.storage_type
    if extension_name(target) == BLOB and not pa.types.is_struct(array.type):
        # Lance's logical type of blobs: a struct of the bytes, and of a location where they lie elsewhere.
        data = _cast(pa.field(name, array.type), array, stored.field(0).with_name(name))
        array = pa.StructArray.from_arrays([data], fields=[stored.field(0)], mask=data.is_null())
    return pa.ExtensionArray.from_storage(target.type, _cast(pa.field(name, array.type), array, pa.field(name, stored)))


def _cast_struct(field: pa.Field, array: pa.Array, target: pa.Field) -> pa.Array:
    children = {child.name: index for index, child in enumerate(_children(array.type))}
    extra = [name for name in children if target.type.get_field_index(name) < 0]
    if extra:
        raise SchemaMismatchError(f"struct column {field.name!r} has fields {extra} that the schema does not have")
    parts = []
    for child in _children(target.type):
        if child.name in children:
            source = array.type.field(children[child.name])
            prefix = f"{field.name}.{child.name}"
            part = array.field(children[child.name])
            parts.append(_cast(source.with_name(prefix), part, child.with_name(prefix)))
        else:
            parts.append(nulls_of(len(array), child.type))
        if not child.nullable and pc.any(pc.and_(parts[-1].is_null(), array.is_valid())).as_py():
            raise SchemaMismatchError(
                f"field {child.name!r} of struct column {field.name!r} is missing or holds nulls, and the schema says "
                "it is not nullable"
            )
    mask = array.is_null() if array.null_count else None
    return pa.StructArray.from_arrays(parts, fields=_children(target.type), mask=mask)


def _children(dtype: pa.DataType) -> list[pa.Field]:
    return [dtype.field(index) for index in range(dtype.num_fields)]


def _cast_list(field: pa.Field, array: pa.Array, target: pa.Field) -> pa.Array:
    """Between lists of all kinds: the rows' values first, then their arrangement."""
    item, wanted = array.type.value_field, target.type.value_field
    values = _cast(item.with_name(field.name), array.flatten(), wanted.with_name(field.name))
    lengths = pc.list_value_length(array)
    if pa.types.is_fixed_size_list(target.type):
        size = target.type.list_size
        wrong = pc.not_equal(lengths, size)
        if pc.any(wrong).as_py():
            row = pc.index(wrong, True).as_py()
            raise SchemaMismatchError(
                f"column {field.name!r}: row {row} has {lengths[row]} elements, and the schema asks for {size}"
            )
        if array.null_count:
            valid = np.repeat(~np.asarray(array.is_null()), size)
            positions = np.where(valid, np.cumsum(valid) - 1, 0)
            values = storage(values).take(pa.array(positions, mask=~valid))
        return assemble(
            target.type, storage(values), len(array), np.asarray(array.is_null()) if array.null_count else None
        )
    offsets = np.concatenate([[0], np.cumsum(np.asarray(lengths.fill_null(0)))])
    width = pa.int64() if pa.types.is_large_list(target.type) else pa.int32()
    narrow = pa.array(offsets, pa.int64()).cast(width)
    validity = pa.array(np.asarray(array.is_valid())).buffers()[1] if array.null_count else None
    return pa.Array.from_buffers(target.type, len(array), [validity, narrow.buffers()[1]], children=[values])


def _cast_map(field: pa.Field, array: pa.Array, target: pa.Field) -> pa.Array:
    """A map is stored as a list of pairs."""
    pairs = pa.list_(target.type.field(0))
    plain = pa.Array.from_buffers(
        pa.list_(array.type.field(0)),
        len(array),
        array.buffers()[:2],
        offset=array.offset,
        children=[array.values],
    )
    stored = _cast_list(field.with_type(plain.type), plain, target.with_type(pairs))
    return pa.Array.from_buffers(target.type, len(stored), stored.buffers()[:2], children=[stored.values])


def _other_zone(field: pa.Field, target: pa.Field) -> SchemaMismatchError:
    return SchemaMismatchError(
        f"column {field.name!r} is {field.type}, and the schema asks for {target.type}: the same numbers would mean "
        "other times, so convert the column to that time zone first, for instance with "
        "pyarrow.compute.assume_timezone or pandas.Series.dt.tz_convert"
    )
