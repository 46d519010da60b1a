"""Checks names of columns: names in, errors out for those that mean something else to Lance or to a read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pyarrow as pa

from ray_lance.errors import InvalidArgumentError
from ray_lance.paths import sql_path
from ray_lance.scan.scan import FRAGMENT_ID, META_COLUMNS, ROW_ADDRESS, ROW_ID
from ray_lance.table import TableRef

__all__ = ["LANCES_OWN", "check_names", "meta_among", "readable_names", "refuse_reserved"]

# Columns that Lance adds to a scan. With a stored column of such a name, which older versions and alter_columns allow,
# every scan fails.
LANCES_OWN = (ROW_ID, ROW_ADDRESS, "_rowoffset", "_row_created_at_version", "_row_last_updated_at_version")

_RENAMING = (
    "ename it, which rewrites no data: lance.dataset(uri).alter_columns({{'path': '{path}', 'name': 'renamed'}})"
)


def refuse_reserved(table: TableRef, schema: pa.Schema) -> None:
    """Raise InvalidArgumentError where a stored column has a name that keeps Lance from scanning the table."""
    for name in schema.names:
        if name in LANCES_OWN:
            raise InvalidArgumentError(
                f"uri: the dataset at {table} has a column {name!r}, which Lance uses for a column that it adds: "
                "Lance cannot scan such a dataset. R" + _RENAMING.format(path=name)
            )


def readable_names(schema: pa.Schema) -> list[str]:
    """The columns that Lance can read: it allows names to be written that it cannot read afterwards."""
    return [name for name in schema.names if not _is_unreadable(name)]


def meta_among(columns: Sequence[str] | Mapping[str, str], schemas: Sequence[pa.Schema]) -> frozenset[str]:
    """Those of ``columns`` that are meta columns: named like one, neither stored nor computed by an expression."""
    stored = {name for schema in schemas for name in schema.names}
    named = [name for name in META_COLUMNS if name in columns and name not in stored]
    if isinstance(columns, Mapping):
        named = [name for name in named if columns[name] in (name, sql_path((name,)))]
    return frozenset(named)


def check_names(
    columns: Sequence[str] | Mapping[str, str], added: Sequence[str], meta: frozenset[str], schemas: Sequence[pa.Schema]
) -> None:
    """Check that each column to deliver can be read, and that no two have one name.

    Args:
        columns: The columns that were asked for.
        added: Meta columns to deliver after them.
        meta: The meta columns among ``columns``.
        schemas: The tables' schemas.

    Raises:
        InvalidArgumentError: Lance cannot read a column, or two would have one name.
    """
    for name in columns:
        if name in (ROW_ID, ROW_ADDRESS) and name not in meta:
            raise InvalidArgumentError(
                f"columns={{{name!r}: ...}}: {name!r} is what Lance calls a column that it adds: give the expression "
                "another name"
            )
        if name == FRAGMENT_ID and name in added and name not in meta:
            raise InvalidArgumentError(
                f"with_metadata=True adds the number of the fragment as {name!r}, and there is a column of that name: "
                "leave it out with columns=, or give with_row_address=True, whose upper 32 bits are that number"
            )
    if not isinstance(columns, Mapping):
        _refuse_unreadable(columns, schemas)


def _refuse_unreadable(columns: Sequence[str], schemas: Sequence[pa.Schema]) -> None:
    for name in (name for schema in schemas for name in schema.names):
        if name in columns and _is_unreadable(name):
            raise InvalidArgumentError(
                f"columns: Lance cannot read the column {name!r}, whose name "
                f"{'holds a backtick' if name else 'is empty'}: leave it out with columns=[...]"
                + (f", or r{_RENAMING.format(path=sql_path((name,)))}" if name else "")
            )


def _is_unreadable(name: str) -> bool:
    return not name or "`" in name
