"""Paths of columns, as Lance writes them: ``id``, ``meta.lang``, and with backticks ``meta.`a.b```.

A path names fields from the top down, with dots between them. A field whose name holds a dot or a backtick stands in
backticks, with each backtick of the name doubled; any field may. A text that is the very name of a column is that
column.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any, TypeAlias

import pyarrow as pa

__all__ = ["Path", "find_name", "find_path", "format_path", "parse_path", "sql_path"]

Path: TypeAlias = tuple[str, ...]
"""Names of fields, the outermost first."""

_FIELD = re.compile(r"`((?:[^`]|``)+)`|([^.`]+)")


def parse_path(text: str) -> Path | None:
    """The fields that ``text`` names; None where it is no path."""
    fields: list[str] = []
    end = -1
    while end < len(text):
        if (found := _FIELD.match(text, end + 1)) is None:
            return None
        quoted, plain = found.groups()
        fields.append(plain if quoted is None else quoted.replace("``", "`"))
        end = found.end()
        if text[end : end + 1] not in (".", ""):
            return None
    return tuple(fields)


def format_path(path: Sequence[str]) -> str:
    """A text for a path, with backticks where they are needed: the same for equal paths."""
    return ".".join(_quoted(name) if "." in name or "`" in name else name for name in path)


def sql_path(path: Sequence[str]) -> str:
    """A path as an SQL expression, which needs backticks for capitals, spaces and words of SQL."""
    return ".".join(map(_quoted, path))


def find_path(schema: pa.Schema, text: str) -> Path | None:
    """The column, or the field of a struct, that ``text`` names in ``schema``; None where there is none."""
    if text in schema.names:
        return (text,)
    path = parse_path(text)
    fields: Any = schema
    for name in path or ("",):
        index = fields.get_field_index(name) if isinstance(fields, (pa.Schema, pa.StructType)) else -1
        if index < 0:
            return None
        fields = fields.field(index).type
    return path


def find_name(names: Iterable[str], text: str) -> str | None:
    """The one of ``names``, which may be paths, that ``text`` is, or that is the same path written otherwise."""
    known = list(names)
    if text in known:
        return text
    path = parse_path(text)
    return None if path is None else next((name for name in known if parse_path(name) == path), None)


def _quoted(name: str) -> str:
    return f"`{name.replace('`', '``')}`"
