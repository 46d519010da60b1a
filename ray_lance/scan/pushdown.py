"""Makes scans: columns, filter and options as callers give them in, a checked scan out, before any task starts."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeAlias

import lance
import pyarrow as pa

from ray_lance.arguments import shown
from ray_lance.errors import InvalidArgumentError, UnknownColumnError
from ray_lance.masking import cause, without_secrets
from ray_lance.scan.reserved import check_names, meta_among, refuse_reserved
from ray_lance.scan.scan import META_COLUMNS, Scan, has_column
from ray_lance.table import TableRef

__all__ = ["Columns", "Filter", "build_scan", "check_filter", "takes_filter"]

Columns = Sequence[str] | Mapping[str, str] | None
Filter: TypeAlias = str | pa.compute.Expression

# Columns that Lance adds to the result of a search.
_SEARCH_COLUMNS = ("_distance", "_score", "query_index")
_SEARCHES = {"nearest", "full_text_query"}
_NO_FIELD = re.compile(r"No field named (.+?)\.(?=[ ,?]|$)")


def build_scan(
    tables: Sequence[TableRef],
    columns: Columns,
    filter: Filter | None,
    meta_columns: Sequence[str],
    options: Mapping[str, Any],
) -> Scan:
    """Make a checked scan.

    Args:
        tables: Pinned references.
        columns: Names, or names mapped to SQL expressions; None for every column of every table.
        filter: SQL, a pyarrow expression, or None.
        meta_columns: Those of ``_rowid``, ``_rowaddr`` and ``_fragid`` to deliver after the others.
        options: Further scanner options.

    Raises:
        UnknownColumnError: No table has one of the columns.
        InvalidArgumentError: Lance refuses the filter or an option.
    """
    schemas = [table.open().schema for table in tables]
    for table, schema in zip(tables, schemas, strict=True):
        refuse_reserved(table, schema)
    wanted = _wanted_columns(columns, schemas, _SEARCH_COLUMNS if _SEARCHES & set(options) else ())
    meta = meta_among(wanted, schemas)
    check_names(wanted, meta_columns, meta, schemas)
    meta = meta.union(meta_columns)
    if isinstance(wanted, Mapping):
        wanted = {**wanted, **{name: name for name in meta_columns}}
    else:
        wanted = tuple(dict.fromkeys((*wanted, *meta_columns)))
    scan = Scan(tuple(tables), wanted, options=dict(options), meta=meta)
    _check_options(scan)
    if scan.is_whole and not isinstance(wanted, Mapping):
        found = scan.scanner(0).projected_schema.names
        added = (name for name in _SEARCH_COLUMNS if name in found)
        scan = replace(scan, columns=tuple(dict.fromkeys((*wanted, *added))))
    if filter is not None:
        check_filter(scan, filter)
        scan = replace(scan, filter=filter)
    return scan


def check_filter(scan: Scan, filter: Filter, name: str = "filter") -> None:
    """Check a filter by letting Lance plan it on every table.

    Args:
        scan: The tables.
        filter: The condition.
        name: The argument that it was given as.

    Raises:
        UnknownColumnError: The filter names a column that a table does not have.
        InvalidArgumentError: Lance cannot parse the filter, or its types do not fit.
    """
    if not isinstance(filter, pa.compute.Expression) and (not isinstance(filter, str) or not filter.strip()):
        raise InvalidArgumentError(
            f'{name}={shown(filter)} must be a SQL condition that is not empty, such as "label = 2"'
        )
    for table in scan.tables:
        dataset = table.open()
        try:
            _let_plan(dataset, filter)
        except (KeyError, ValueError, OSError, NotImplementedError, pa.ArrowException) as error:
            if (missing := _NO_FIELD.search(str(error))) is not None:
                raise UnknownColumnError(
                    f"{name}={shown(filter)}", missing.group(1).strip('"`'), dataset.schema.names
                ) from without_secrets(error)
            raise InvalidArgumentError(f"{name}={shown(filter)}: {cause(error)}") from without_secrets(error)


def takes_filter(scan: Scan, expression: pa.compute.Expression) -> bool:
    """Whether Lance can evaluate a pyarrow expression on every table of the scan."""
    try:
        for table in scan.tables:
            _let_plan(table.open(), expression)
    except (ValueError, OSError, NotImplementedError, pa.ArrowException):
        return False
    return True


def _let_plan(dataset: lance.LanceDataset, filter: Filter) -> None:
    # Without columns: Lance cannot read every column that it has let be written.
    dataset.scanner(columns=[], with_row_id=True, filter=filter).explain_plan()


def _wanted_columns(
    columns: Columns, schemas: Sequence[pa.Schema], added: Sequence[str]
) -> tuple[str, ...] | Mapping[str, str]:
    stored = tuple(dict.fromkeys(name for schema in schemas for name in schema.names))
    if columns is None:
        return stored
    if isinstance(columns, Mapping):
        return dict(columns)
    if isinstance(columns, str):
        raise InvalidArgumentError(f"columns={shown(columns)} must be a list of names, such as [{shown(columns)}]")
    if not isinstance(columns, Iterable) or not all(isinstance(name, str) for name in columns):
        raise InvalidArgumentError(
            f"columns={shown(columns)} must be a list of names, or names mapped to SQL expressions"
        )
    for name in columns:
        known = name in META_COLUMNS or name in added or any(has_column(schema, name) for schema in schemas)
        if not known:
            raise UnknownColumnError("columns", name, stored)
    if len(set(columns)) < len(columns):
        raise InvalidArgumentError(f"columns={list(columns)} names a column twice")
    return tuple(columns)


def _check_options(scan: Scan) -> None:
    for table in range(len(scan.tables)):
        try:
            scan.scanner(table).projected_schema  # noqa: B018  reading the property is what makes Lance plan
        except TypeError as error:
            raise InvalidArgumentError(f"scanner_options: {cause(error)}") from without_secrets(error)
        except (ValueError, OSError, NotImplementedError) as error:
            argument = "columns" if isinstance(scan.columns, Mapping) else "scanner_options"
            raise InvalidArgumentError(f"{argument}: {cause(error)}") from without_secrets(error)
