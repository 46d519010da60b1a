"""The schema that rows are written with, and making rows fit it."""

from __future__ import annotations

from collections.abc import Iterable

import pyarrow as pa
from lance.blob import BlobType

from ray_lance.errors import SchemaMismatchError, UnknownColumnError
from ray_lance.tensors.casts import conform
from ray_lance.tensors.kinds import (
    BFLOAT16,
    VARIABLE_SHAPE,
    VariableShape,
    bfloat16_field,
    extension_name,
    storage_type,
    tensor_kind,
    variable_shape_field,
)

__all__ = ["bare_type", "fit", "is_blob", "portable", "refuse_null_types", "untyped", "with_fields"]


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


def is_blob(field: pa.Field) -> bool:
    """Whether a column holds blobs, in either of Lance's layouts."""
    return isinstance(field.type, BlobType) or (field.metadata or {}).get(b"lance-encoding:blob") == b"true"


def portable(schema: pa.Schema) -> pa.Schema:
    """``schema`` with extension types as storage and metadata, where Arrow's own code fails on them as types.

    Those are tensors of varying shape, and Lance's bfloat16 wherever it is nested: whether it comes as a type depends
    on whether the process has imported ``lance.arrow``.
    """
    return pa.schema([_portable(field) for field in schema], metadata=schema.metadata)


def refuse_null_types(schema: pa.Schema) -> None:
    """Refuse a schema that gives a column no type.

    Raises:
        SchemaMismatchError: A column has the null type: all the values seen were None.
    """
    if names := untyped(schema):
        raise SchemaMismatchError(
            f"columns {names} hold only nulls in the first rows, so their types are unknown; "
            f"give them, for instance schema=[pyarrow.field({names[0]!r}, pyarrow.string())]"
        )


def untyped(schema: pa.Schema) -> list[str]:
    """Names of the columns of the null type, which says nothing: all the values seen were None."""
    return [field.name for field in schema if pa.types.is_null(field.type)]


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
    return _with_children(stored, [pa.field(child.name, bare_type(child.type)) for child in _children(stored)])


def _portable(field: pa.Field) -> pa.Field:
    if extension_name(field) == BFLOAT16:
        return bfloat16_field(field.name, field.metadata).with_nullable(field.nullable)
    if isinstance(field.type, pa.BaseExtensionType):
        if extension_name(field) != VARIABLE_SHAPE:
            return field
        kind = tensor_kind(field)
        assert isinstance(kind, VariableShape)
        return variable_shape_field(field, kind.value, kind.ndim)
    return field.with_type(_with_children(field.type, [_portable(child) for child in _children(field.type)]))


def _children(dtype: pa.DataType) -> list[pa.Field]:
    if isinstance(dtype, pa.BaseExtensionType):
        return []
    return [dtype.field(index) for index in range(dtype.num_fields)]


def _with_children(dtype: pa.DataType, children: list[pa.Field]) -> pa.DataType:
    """A nested type with other fields in it. Types without a form of their own here stay as they are."""
    if pa.types.is_fixed_size_list(dtype):
        return pa.list_(children[0], dtype.list_size)
    if pa.types.is_list(dtype):
        return pa.list_(children[0])
    if pa.types.is_large_list(dtype):
        return pa.large_list(children[0])
    return pa.struct(children) if pa.types.is_struct(dtype) else dtype
