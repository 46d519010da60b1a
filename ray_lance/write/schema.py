"""Fits rows to a schema: a table in, a table of exactly that schema out; checks schemas."""

from __future__ import annotations

from collections.abc import Iterable

import pyarrow as pa

from ray_lance.errors import SchemaMismatchError, UnknownColumnError
from ray_lance.tensors.casts import conform
from ray_lance.tensors.field_code import fields_code
from ray_lance.tensors.kinds import (
    BFLOAT16,
    VARIABLE_SHAPE,
    VariableShape,
    bfloat16_field,
    child_fields,
    extension_name,
    storage_type,
    tensor_kind,
    variable_shape_field,
    with_children,
)

__all__ = ["bare_type", "fit", "portable", "refuse_null_types", "with_fields"]


def fit(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """``table`` with exactly ``schema``: see :func:`ray_lance.tensors.casts.conform`.

    Args:
        table: Rows with standard Arrow types, columns in any order. Nullable columns may be missing.
        schema: The schema to write.

    Raises:
        SchemaMismatchError: Something would be lost; the message names the column and the first offending value.
    """
    if table.schema.equals(schema, check_metadata=True) and all(field.nullable for field in schema):
        return table
    duplicates = sorted({name for name in table.column_names if table.column_names.count(name) > 1})
    if duplicates:
        raise SchemaMismatchError(f"columns {duplicates} occur more than once; rename or drop the others")
    return conform(table, schema)


def portable(schema: pa.Schema) -> pa.Schema:
    """``schema`` with extension types as storage and metadata, where Arrow's own code fails on them as types.

    Those are tensors of varying shape, and Lance's bfloat16 wherever it is nested: whether it comes as a type depends
    on whether the process has imported ``lance.arrow``.
    """
    return pa.schema([_portable(field) for field in schema], metadata=schema.metadata)


def refuse_null_types(schema: pa.Schema) -> None:
    """Refuse a schema that leaves the type of a column, or of what is in it, open.

    Raises:
        SchemaMismatchError: There is a null type in a column: all the values seen were None or empty.
    """
    if fields := [field for field in schema if _is_open(field.type)]:
        raise SchemaMismatchError(
            f"columns {[field.name for field in fields]} hold only nulls or empty lists, as far as could be seen, so "
            f"their types are unknown; give them, for instance {fields_code(fields)}"
        )


def _is_open(dtype: pa.DataType) -> bool:
    """Whether a null type is in ``dtype``, which says nothing about the values."""
    if pa.types.is_dictionary(dtype):
        return _is_open(dtype.value_type)
    return bool(pa.types.is_null(dtype)) or any(_is_open(child.type) for child in child_fields(dtype))


def with_fields(schema: pa.Schema, fields: Iterable[pa.Field]) -> pa.Schema:
    """``schema`` with each of ``fields`` in place of the field of the same name.

    Raises:
        UnknownColumnError: ``schema`` has no field of that name.
    """
    for field in fields:
        if field.name not in schema.names:
            raise UnknownColumnError("schema", field.name, schema.names)
        schema = schema.set(schema.get_field_index(field.name), field)
    return schema


def bare_type(dtype: pa.DataType) -> pa.DataType:
    """``dtype`` as it is stored, without the names of extension types, nested ones included."""
    stored = storage_type(dtype)
    children = [pa.field(child.name, bare_type(child.type), child.nullable) for child in child_fields(stored)]
    return with_children(stored, children)


def _portable(field: pa.Field) -> pa.Field:
    if extension_name(field) == BFLOAT16:
        return bfloat16_field(field.name, field.metadata).with_nullable(field.nullable)
    if isinstance(field.type, pa.BaseExtensionType):
        if extension_name(field) != VARIABLE_SHAPE:
            return field
        kind = tensor_kind(field)
        assert isinstance(kind, VariableShape)
        return variable_shape_field(field, kind.value, kind.ndim)
    return field.with_type(with_children(field.type, [_portable(child) for child in child_fields(field.type)]))
