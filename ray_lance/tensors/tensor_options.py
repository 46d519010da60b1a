"""Options of tensor conversion: what callers give for ragged columns, nulls and categories in; checked options out."""

from __future__ import annotations

import decimal
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, TypeVar, get_args

import numpy as np
import pyarrow as pa

from ray_lance.arguments import as_choice, shown
from ray_lance.errors import InvalidArgumentError, UnknownColumnError
from ray_lance.paths import Path, parse_path
from ray_lance.tensors.categories import Categories

__all__ = [
    "NOT_GIVEN",
    "Fill",
    "FillValue",
    "Options",
    "Ragged",
    "check_fill",
    "check_ragged",
    "named_entries",
    "named_fill",
]

Ragged = Literal["nested", "pad", "list"]
FillValue = bool | int | float | str | bytes
Fill: TypeAlias = FillValue | Mapping[str, FillValue] | None

NOT_GIVEN: Any = object()

_FILL_TYPES = (bool, int, float, str, bytes, decimal.Decimal, np.generic)

T = TypeVar("T")


@dataclass(frozen=True)
class Options:
    """What the caller of ``to_tensors`` or ``deliver`` asked for."""

    ragged: Ragged
    fill: Fill
    nullable: frozenset[str] = frozenset()
    categories: Categories | None = None

    def fill_for(self, name: str) -> Any:
        """The value for nulls of column ``name``, or ``NOT_GIVEN``."""
        if isinstance(self.fill, Mapping):
            return self.fill.get(name, NOT_GIVEN)
        return NOT_GIVEN if self.fill is None else self.fill


def check_ragged(ragged: Any) -> None:
    """Raise InvalidArgumentError where ``ragged`` is none of the ways to represent ragged columns."""
    as_choice("ragged", ragged, get_args(Ragged))


def check_fill(fill: Any) -> None:
    """Refuse what can fill no column of any type.

    Raises:
        InvalidArgumentError: It is neither a value, nor values by column, nor None.
    """
    values = fill if isinstance(fill, Mapping) else {} if fill is None else {"": fill}
    for name, value in values.items():
        if not isinstance(name, str) or not isinstance(value, _FILL_TYPES):
            at = f"[{name!r}]" if isinstance(fill, Mapping) else ""
            raise InvalidArgumentError(
                f"fill{at}={shown(value)} must be a number, a boolean, a string or bytes, or a dict of these by column"
            )


def named_fill(fill: Fill, schema: pa.Schema, *, is_part: bool = False) -> Fill:
    """``fill`` with each column under the name of the entry that it becomes; see :func:`named_entries`."""
    return named_entries("fill", fill, schema, is_part=is_part) if isinstance(fill, Mapping) else fill


def named_entries(argument: str, given: Mapping[str, T], schema: pa.Schema, *, is_part: bool = False) -> dict[str, T]:
    """Rename what was given by column to the entry that each column becomes.

    Args:
        argument: Name of the argument, for errors.
        given: By column or struct's leaf: the entry's name, or a path (``"meta.`a.b`"``).
        schema: What the entries are made of.
        is_part: Whether ``schema`` may lack named columns, which are then omitted.

    Raises:
        UnknownColumnError: A column or a struct's leaf is named that ``schema`` does not have.
        InvalidArgumentError: Two names are the same column.
    """
    names = {path: name for name, path in _entries(schema)}
    entries: set[str] = set(names.values())
    found: dict[str, T] = {}
    for name, value in given.items():
        entry = name if name in entries else names.get(parse_path(name) or ())
        if entry in found:
            raise InvalidArgumentError(f"{argument}={dict(given)} names column {entry!r} twice")
        if entry is not None:
            found[entry] = value
        elif not is_part:
            raise UnknownColumnError(argument, name, sorted(entries))
    return found


def _entries(schema: pa.Schema) -> Iterator[tuple[str, Path]]:
    """Names of all columns and structs' leaves, with their paths."""
    for field in schema:
        yield from _entries_of(field, field.name, parse_path(field.name) or (field.name,))


def _entries_of(field: pa.Field, name: str, path: Path) -> Iterator[tuple[str, Path]]:
    yield name, path
    for index in range(field.type.num_fields if pa.types.is_struct(field.type) else 0):
        inner = field.type.field(index)
        yield from _entries_of(inner, f"{name}.{inner.name}", (*path, inner.name))
