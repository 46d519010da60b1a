"""Unifies schemas: those of different blocks in, the narrowest one that holds the values of all out."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import reduce

import pyarrow as pa

from ray_lance.errors import SchemaMismatchError
from ray_lance.tensors.field_code import fields_code
from ray_lance.tensors.fixed_shape import fixed_type
from ray_lance.tensors.kinds import (
    FixedShape,
    VariableShape,
    child_fields,
    extension_name,
    is_list,
    retyped,
    shown_type,
    tensor_kind,
    variable_shape_field,
)
from ray_lance.tensors.number_types import unify_numbers
from ray_lance.tensors.value_casts import family, time_zone

__all__ = ["unify_fields", "unify_schemas"]

_UNITS = ["s", "ms", "us", "ns"]


def unify_schemas(schemas: Iterable[pa.Schema]) -> pa.Schema:
    """The schema that rows of each of ``schemas`` can be cast to.

    ======================================================  ========================================================
    types                                                   become
    ======================================================  ========================================================
    null and T                                              T
    integers, floats, decimals                              the narrowest type that holds the values of both; of
                                                            64-bit integers and floats float64, of int64 and uint64
                                                            uint64: a value that it does not hold is found when it
                                                            is cast
    string and large_string, binary and large_binary        the large one
    lists of any kinds                                      list or large_list, fixed_size_list where all are of one
                                                            size; the items are unified
    structs                                                 the fields of both, in order of appearance
    tensors of different shapes, of one number of           list<T> for one dimension, else tensors of varying shape
    dimensions
    dictionary<T> and dictionary<U>                         dictionary of what T and U become
    dictionary<T> and U                                     what T and U become
    times, timestamps of one zone, durations                the finest unit
    ======================================================  ========================================================

    A column or a field that one of them lacks is nullable. Columns come in order of appearance.

    Raises:
        SchemaMismatchError: There is no such type; the message names the column, and the field in it.
    """
    return reduce(_unify_two, schemas)


def unify_fields(left: pa.Field, right: pa.Field) -> pa.Field:
    """One field for the values of two, named as the first. See :func:`unify_schemas`."""
    nullable = left.nullable or right.nullable
    if left.type == right.type and extension_name(left) == extension_name(right):
        return left.with_nullable(nullable)
    for one, other in ((left, right), (right, left)):
        if pa.types.is_null(one.type):
            return other.with_name(left.name).with_nullable(True)
    marked = _unify_marked(left, right)
    field = left.with_type(_unify_types(left, right)) if marked is None else marked
    return field.with_nullable(nullable)


def _unify_two(left: pa.Schema, right: pa.Schema) -> pa.Schema:
    fields = _unify_siblings(list(left), list(right), _unify_columns)
    return pa.schema(fields, metadata={**(right.metadata or {}), **(left.metadata or {})} or None)


def _unify_columns(left: pa.Field, right: pa.Field) -> pa.Field:
    try:
        return unify_fields(left, right)
    except SchemaMismatchError as error:
        raise SchemaMismatchError(
            f"{error}: convert it where it differs, and set its type with {fields_code([left])}"
        ) from None


def _unify_siblings(
    left: list[pa.Field], right: list[pa.Field], unify: Callable[[pa.Field, pa.Field], pa.Field]
) -> list[pa.Field]:
    others = {field.name: field for field in right}
    names = {field.name for field in left}
    both = [unify(field, others[field.name]) if field.name in others else field.with_nullable(True) for field in left]
    return both + [field.with_nullable(True) for field in right if field.name not in names]


def _unify_children(left: pa.Field, right: pa.Field) -> pa.DataType:
    def unify(one: pa.Field, other: pa.Field) -> pa.Field:
        path = f"{left.name}.{one.name}"
        return unify_fields(one.with_name(path), other.with_name(path)).with_name(one.name)

    return pa.struct(_unify_siblings(child_fields(left.type), child_fields(right.type), unify))


def _unify_marked(left: pa.Field, right: pa.Field) -> pa.Field | None:
    """Tensors, and extension types of other kinds; None where both fields are plain."""
    one, other = tensor_kind(left), tensor_kind(right)
    plain = [extension_name(field) is None for field in (left, right)]
    if one is None and other is None:
        if all(plain):
            return None
        raise _no_type(left, right)
    if all(plain):  # nested lists of fixed size that differ, or one of them and another list
        return None
    value, ndim = _elements(left, right)
    if ndim == 1:
        return retyped(left, pa.list_(value))
    shapes = {kind.shape for kind in (one, other) if isinstance(kind, FixedShape) and kind.permutation is None}
    is_fixed = isinstance(one, FixedShape) and isinstance(other, FixedShape) and len(shapes) == 1
    return retyped(left, fixed_type(value, *shapes)) if is_fixed else variable_shape_field(left, value, ndim)


def _elements(left: pa.Field, right: pa.Field) -> tuple[pa.Field, int]:
    """The element field and the number of dimensions of two columns, one of which holds tensors."""
    levels = [_levels(field) for field in (left, right)]
    if any(level is None for level in levels):
        raise _no_type(left, right)
    (one, ndim), (other, other_ndim) = levels  # type: ignore[misc]
    if ndim != other_ndim:
        raise _no_type(left, right)
    return unify_fields(one.with_name(left.name), other.with_name(left.name)).with_name("item"), ndim


def _levels(field: pa.Field) -> tuple[pa.Field, int] | None:
    """Element field and dimensions of tensors, or of lists in lists; None for other types."""
    kind = tensor_kind(field)
    if isinstance(kind, VariableShape) or (kind is not None and kind.permutation is None):
        return kind.value, kind.ndim
    if extension_name(field) is not None or not is_list(field.type):
        return None
    inner = field.type.value_field
    if extension_name(inner) is None and is_list(inner.type):
        below = _levels(inner)
        return None if below is None else (below[0], below[1] + 1)
    return inner, 1


def _unify_types(left: pa.Field, right: pa.Field) -> pa.DataType:
    one, other = left.type, right.type
    if pa.types.is_dictionary(one) or pa.types.is_dictionary(other):
        return _unify_dictionaries(left, right)
    if pa.types.is_struct(one) and pa.types.is_struct(other):
        return _unify_children(left, right)
    if pa.types.is_map(one) and pa.types.is_map(other):
        return _unify_maps(left, right)
    if is_list(one) and is_list(other):
        return _unify_lists(left, right)
    kind = family(one)
    if kind is None or kind != family(other) or time_zone(one) != time_zone(other):
        raise _no_type(left, right)
    dtype = _unify_values(one, other, kind)
    if dtype is None:
        raise _no_type(left, right)
    return dtype


def _unify_dictionaries(left: pa.Field, right: pa.Field) -> pa.DataType:
    values = [
        field.with_type(field.type.value_type) if pa.types.is_dictionary(field.type) else field
        for field in (left, right)
    ]
    dtype = unify_fields(*values).type
    if not (pa.types.is_dictionary(left.type) and pa.types.is_dictionary(right.type)):
        return dtype
    widest = max(left.type.index_type, right.type.index_type, key=lambda index: index.bit_width)
    return pa.dictionary(widest, dtype, left.type.ordered and right.type.ordered)


def _unify_lists(left: pa.Field, right: pa.Field) -> pa.DataType:
    one, other = left.type, right.type
    items = [dtype.value_field.with_name(left.name) for dtype in (one, other)]
    item = unify_fields(*items).with_name(one.value_field.name)
    sizes = [dtype.list_size if pa.types.is_fixed_size_list(dtype) else None for dtype in (one, other)]
    if sizes[0] is not None and sizes[0] == sizes[1]:
        return pa.list_(item, sizes[0])
    large = any(pa.types.is_large_list(dtype) or pa.types.is_large_list_view(dtype) for dtype in (one, other))
    return pa.large_list(item) if large else pa.list_(item)


def _unify_maps(left: pa.Field, right: pa.Field) -> pa.DataType:
    key, item = (
        unify_fields(*(getattr(field.type, part).with_name(left.name) for field in (left, right)))
        for part in ("key_field", "item_field")
    )
    names = [child.name for child in child_fields(left.type.field(0).type)]
    is_sorted = left.type.keys_sorted and right.type.keys_sorted
    return pa.map_(key.with_name(names[0]).with_nullable(False), item.with_name(names[1]), keys_sorted=is_sorted)


def _unify_values(left: pa.DataType, right: pa.DataType, kind: str) -> pa.DataType | None:
    """One type for plain values of one kind."""
    if kind == "number":
        return unify_numbers(left, right)
    if kind == "text":
        return pa.large_string() if pa.types.is_large_string(left) or pa.types.is_large_string(right) else pa.string()
    if kind == "bytes":
        return pa.large_binary() if pa.types.is_large_binary(left) or pa.types.is_large_binary(right) else pa.binary()
    if kind == "date":
        return pa.date64()
    unit = max(left.unit, right.unit, key=_UNITS.index)
    if kind == "timestamp":
        return pa.timestamp(unit, left.tz)
    if kind == "duration":
        return pa.duration(unit)
    return pa.time32(unit) if unit in ("s", "ms") else pa.time64(unit)


def _no_type(left: pa.Field, right: pa.Field) -> SchemaMismatchError:
    return SchemaMismatchError(
        f"column {left.name!r} is {shown_type(left)} in some blocks and {shown_type(right)} in others, and no "
        "type holds the values of both as they are"
    )
