"""Checks names of columns: a schema in, an error where a column could not be written or read by its name."""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa

from ray_lance.errors import InvalidArgumentError
from ray_lance.scan.reserved import LANCES_OWN
from ray_lance.scan.scan import FRAGMENT_ID
from ray_lance.tensors.kinds import child_fields

__all__ = ["check_names"]

_RESERVED = frozenset({*LANCES_OWN, FRAGMENT_ID})
# Of columns that travel with the rows inside a job and are never written.
_OWN = ("__ray_lance_", "_ray_lance_")


def check_names(schema: pa.Schema) -> None:
    """Refuse new columns that could not be written, or not be read again.

    Raises:
        InvalidArgumentError: A name is reserved, empty, occurs twice, or holds a character that Lance has no way to
            quote.
    """
    _check_siblings(list(schema), None)
    for field in schema:
        if field.name in _RESERVED or field.name.startswith(_OWN):
            raise _refused(field.name, None, "the name is reserved for what a read adds to the rows")
        if "." in field.name:
            raise _refused(field.name, None, "Lance takes a dot for the way into a struct")
        for path, fields in _structs(field.type, field.name):
            _check_siblings(fields, path)


def _check_siblings(fields: list[pa.Field], parent: str | None) -> None:
    names = [field.name for field in fields]
    for name in names:
        if not name:
            raise _refused(name, parent, "Lance does not find it by an empty name")
        if "`" in name or "\0" in name:
            raise _refused(name, parent, "Lance quotes names with backticks, and ends them at a zero byte")
        if names.count(name) > 1:
            raise _refused(name, parent, "the name occurs more than once")


def _structs(dtype: pa.DataType, path: str) -> Iterator[tuple[str, list[pa.Field]]]:
    """The fields of each struct in a type, with the path to it."""
    fields = child_fields(dtype)
    if pa.types.is_struct(dtype):
        yield path, fields
    for field in fields:
        yield from _structs(field.type, f"{path}.{field.name}" if pa.types.is_struct(dtype) else path)


def _refused(name: str, parent: str | None, why: str) -> InvalidArgumentError:
    place = f"column {name!r}" if parent is None else f"field {name!r} of struct {parent!r}"
    return InvalidArgumentError(f"{place}: {why}; rename it, for instance with Dataset.rename_columns")
