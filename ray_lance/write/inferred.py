"""Infers the schema of a new dataset: schemas of blocks and given fields in, one schema out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import pyarrow as pa

from ray_lance.errors import UnknownColumnError
from ray_lance.tensors.from_ray import storable_schema
from ray_lance.tensors.unify import unify_schemas
from ray_lance.write.lance_types import lance_schema
from ray_lance.write.names import check_names
from ray_lance.write.options import WriteOptions
from ray_lance.write.schema import portable, refuse_null_types

__all__ = ["agreed_schema", "checked_schema", "inferred_schema"]


def checked_schema(schema: pa.Schema) -> pa.Schema:
    """``schema`` as a new dataset can have it: in types that Lance stores, under names that can be read.

    Raises:
        InvalidArgumentError: A column has a name that it must not have.
        SchemaMismatchError: Lance has no type for a column.
    """
    check_names(schema)
    return portable(lance_schema(storable_schema(schema)))


def inferred_schema(schemas: Iterable[pa.Schema], options: WriteOptions) -> pa.Schema:
    """The schema of a file of blocks of ``schemas``. Columns that are null in all of them have the null type.

    Args:
        schemas: What the blocks have; one at least.
        options: Their fields replace those of the same names.

    Raises:
        SchemaMismatchError: No schema holds the values of all the blocks, or Lance has no type for them.
        InvalidArgumentError: A column has a name that it must not have.
    """
    given = {field.name: field for field in _given(options)}
    seen = (pa.schema([given.get(field.name, field) for field in schema], schema.metadata) for schema in schemas)
    return portable(lance_schema(unify_schemas(checked_schema(schema) for schema in seen)))


def agreed_schema(schemas: Sequence[pa.Schema], options: WriteOptions) -> pa.Schema:
    """The schema of the dataset, for files of ``schemas``. See :func:`inferred_schema`.

    Raises:
        SchemaMismatchError: As :func:`inferred_schema`, or the type of a column is unknown.
        UnknownColumnError: The options give a field of a column that no block has.
    """
    schema = inferred_schema(schemas, options)
    for field in _given(options):
        if field.name not in schema.names:
            raise UnknownColumnError("schema", field.name, schema.names)
    refuse_null_types(schema)
    return schema


def _given(options: WriteOptions) -> Sequence[pa.Field]:
    return options.schema if isinstance(options.schema, tuple) else ()
