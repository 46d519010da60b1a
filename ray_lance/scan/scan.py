"""What to read, as data: tables, columns and filter in, Lance's scanners and the delivered schema out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import lance
import pyarrow as pa
import pyarrow.compute as pc

from ray_lance.decode import Decode, ImageDecode, decoded_schema, find_decoders
from ray_lance.errors import SchemaMismatchError, UnknownColumnError
from ray_lance.paths import Path, find_path, sql_path
from ray_lance.table import TableRef
from ray_lance.tensors import delivered_schema
from ray_lance.tensors.kinds import BLOB_MARK, holds_blobs, is_blob

__all__ = ["FRAGMENT_ID", "META_COLUMNS", "ROW_ADDRESS", "ROW_ID", "Scan", "has_column"]

ROW_ID = "_rowid"
ROW_ADDRESS = "_rowaddr"
FRAGMENT_ID = "_fragid"
META_COLUMNS = (ROW_ID, ROW_ADDRESS, FRAGMENT_ID)
_META_FIELDS = {name: pa.field(name, pa.uint64()) for name in META_COLUMNS}
# A scanner takes this for all columns, even where a column has this name.
_EVERYTHING = "*"

# Scanner options whose meaning is the whole dataset's: a scan that has one is never split into tasks.
_WHOLE_SCAN_OPTIONS = frozenset(
    {"limit", "offset", "nearest", "full_text_query", "order_by", "row_addr_allowlist", "row_addr_blocklist"}
    | {"include_deleted_rows", "index_segments"}
)


@dataclass(frozen=True)
class Scan:
    """The columns and rows to read from one or more tables. Holds no open handle.

    Attributes:
        tables: Pinned references, read in this order.
        columns: Paths of stored columns (``"a.b"`` for a struct's field) and names of meta columns, in the order of
            delivery; or a mapping of names to SQL expressions.
        meta: Those of ``columns`` that identify a row: ``_rowid``, ``_rowaddr`` and ``_fragid``. A stored column may be
            named ``_fragid``, too.
        filter: SQL or a pyarrow expression; rows for which it is not true are left out.
        options: Further keyword arguments of ``lance.LanceDataset.scanner``.
        decoders: Decoders of encoded columns, by name.
    """

    tables: tuple[TableRef, ...]
    columns: tuple[str, ...] | Mapping[str, str]
    filter: str | pa.compute.Expression | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    decoders: Mapping[str, ImageDecode] = field(default_factory=dict)
    meta: frozenset[str] = frozenset()

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the delivered columns, in order."""
        return tuple(self.columns)

    @property
    def read_names(self) -> tuple[str, ...]:
        """Names of the columns to read: those to deliver, and the row address where an error has to name a row."""
        named = ROW_ADDRESS in self.columns or all(decoder.on_error != "raise" for decoder in self.decoders.values())
        return self.names if named else (*self.names, ROW_ADDRESS)

    @property
    def is_divisible(self) -> bool:
        """Whether the scan may be cut at any row: offsets count rows only where no filter drops some."""
        return self.filter is None and not self.is_whole

    @property
    def is_whole(self) -> bool:
        """Whether an option (such as ``nearest``) applies to the dataset as a whole, so that one task must read it."""
        return not _WHOLE_SCAN_OPTIONS.isdisjoint(self.options)

    def decoding(self, decode: Decode) -> Scan:
        """The same scan with decoders of encoded columns; see :func:`ray_lance.decode.find_decoders`.

        Raises:
            UnknownColumnError: ``decode`` names a column that is not delivered.
            InvalidArgumentError: The column holds no bytes, the value is no decoder, or Pillow is not installed.
        """
        return self if decode is None else replace(self, decoders=find_decoders(decode, self.stored_schema()))

    def delivers_stored(self, names: Sequence[str]) -> bool:
        """Whether each of ``names`` is delivered as it is stored, not decoded nor computed by an SQL expression."""
        if not self.decoders.keys().isdisjoint(names) or not self.meta.isdisjoint(names):
            return False
        if not isinstance(self.columns, Mapping):
            return True
        return all(self.columns.get(name) in (name, sql_path((name,))) for name in names)

    def select(self, names: Sequence[str]) -> Scan:
        """The same scan of some of its columns, in the order of ``names``.

        Args:
            names: Names of columns, or paths of fields in stored columns, which are delivered under these names.

        Raises:
            UnknownColumnError: A name is not among the scan's columns.
        """
        sources = {name: self._source(name) for name in names}
        decoders = {name: self.decoders[source] for name, source in sources.items() if source in self.decoders}
        columns: tuple[str, ...] | dict[str, str] = tuple(names)
        if isinstance(self.columns, Mapping):
            columns = {name: self.columns[name] for name in names}
        return replace(self, columns=columns, decoders=decoders, meta=self.meta.intersection(names))

    def _source(self, name: str) -> str:
        """The column that is, or holds, what is delivered as ``name``."""
        if name in self.columns:
            return name
        path = _path_in([table.open().schema for table in self.tables], name) or ()
        for column, around in self.stored_paths.items():
            if path == around or (path[: len(around)] == around and column not in self.decoders):
                return column
        raise UnknownColumnError("select_columns", name, self.names)

    def of_table(self, table: int) -> Scan:
        """The columns of this scan that one of its tables has, as a scan of only that table, without the filter."""
        columns = self.columns
        if len(self.tables) > 1 and not isinstance(columns, Mapping):
            schema = self.tables[table].open().schema
            columns = tuple(name for name in columns if name in self.meta or has_column(schema, name))
        decoders = {name: decoder for name, decoder in self.decoders.items() if name in columns}
        return Scan((self.tables[table],), columns, decoders=decoders, meta=self.meta)

    def scanner(self, table: int, fragment_ids: Sequence[int] | None = None, **options: Any) -> lance.LanceScanner:
        """Lance's scanner of one table of this scan.

        Args:
            table: Index into ``tables``.
            fragment_ids: Fragments to read, in this order; None reads the whole dataset.
            **options: Scanner options; they override those of the scan.
        """
        dataset = self.tables[table].open()
        if fragment_ids is not None:
            options["fragments"] = [dataset.get_fragment(fragment_id) for fragment_id in fragment_ids]
        return self._scanner(dataset, table, options)

    def scanner_of_rows(self, rows: bytes, **options: Any) -> lance.LanceScanner:
        """Lance's scanner of some rows of the first table, through a handle for many small reads.

        Args:
            rows: Their addresses, as :func:`ray_lance.scan.row_sets.row_set` gives them.
            **options: As of :meth:`scanner`.
        """
        return self._scanner(self.tables[0].open_for_takes(), 0, {**options, "row_addr_allowlist": rows})

    def _scanner(self, dataset: lance.LanceDataset, table: int, options: dict[str, Any]) -> lance.LanceScanner:
        if self.filter is not None:
            options["filter"] = self.filter
        projection = self.of_table(table)._projection(with_row_address=ROW_ADDRESS in self.read_names)
        # Always in order: a stream that failed is resumed after the number of rows that it has delivered.
        given = {"blob_handling": "all_binary", **self.options, **options, "scan_in_order": True}
        return dataset.scanner(**projection, **given)

    def stored_schema(self) -> pa.Schema:
        """The unified schema of the tables as Lance's scanner gives it, in delivery order.

        Raises:
            SchemaMismatchError: Two tables hold one column with types that cannot be unified.
        """
        schemas = [self._scanned_schema(table) for table in range(len(self.tables))]
        unified = schemas[0] if len(schemas) == 1 else _unify(schemas)
        fields = [_META_FIELDS[name] if name in self.meta else unified.field(name) for name in self.names]
        return pa.schema(fields, metadata=unified.metadata)

    def schema(self) -> pa.Schema:
        """The schema of the tables that reading delivers."""
        return delivered_schema(decoded_schema(self.stored_schema(), self.decoders))

    @cached_property
    def stored_paths(self) -> dict[str, Path]:
        """The path in the table of each column that is no meta column; empty where ``columns`` is a mapping."""
        if isinstance(self.columns, Mapping):
            return {}
        schemas = [table.open().schema for table in self.tables]
        return {name: path for name in self.columns if name not in self.meta and (path := _path_in(schemas, name))}

    def blob_columns(self) -> dict[str, str]:
        """Columns of blobs, of which a take gives only descriptors, with their names in the table."""
        if isinstance(self.columns, Mapping):
            return {}
        schema = self.tables[0].open().schema
        whole = {name: path[0] for name, path in self.stored_paths.items() if len(path) == 1}
        return {name: column for name, column in whole.items() if is_blob(schema.field(column))}

    def reads_blobs(self) -> bool:
        """Whether blobs of the first table are or can be read: as columns, inside of structs or by an expression."""
        schema = self.tables[0].open().schema
        mapped = isinstance(self.columns, Mapping)
        names = schema.names if mapped else {path[0] for path in self.stored_paths.values()}
        return any(holds_blobs(schema.field(name)) for name in names)

    def with_fragment_id(self, table: pa.Table) -> pa.Table:
        """Add the fragment's id to what was read, if the scan delivers it: the upper half of the row address."""
        if FRAGMENT_ID not in self.meta:
            return table
        return table.append_column(FRAGMENT_ID, pc.shift_right(table[ROW_ADDRESS], pa.scalar(32, pa.uint64())))

    def _scanned_schema(self, table: int) -> pa.Schema:
        scanned = self.scanner(table).projected_schema
        one = self.of_table(table)
        blobs = one.blob_columns()
        fields = [_blob_bytes(field) if field.name in blobs else field for field in scanned]
        delivered = [field for field in fields if field.name in one.columns and field.name not in self.meta]
        return pa.schema(delivered, metadata=scanned.metadata)

    def _projection(self, *, with_row_address: bool) -> dict[str, Any]:
        """Arguments that tell a scanner of the one table which columns to read."""
        with_row_address = with_row_address or FRAGMENT_ID in self.meta
        stored: Any = [name for name in self.columns if name not in self.meta]
        if isinstance(self.columns, Mapping):
            stored = {name: self.columns[name] for name in stored}
        elif _EVERYTHING in stored:
            stored = {name: sql_path(path) for name, path in self.stored_paths.items()}
        # Lance refuses to scan nothing at all; the row id is the cheapest column.
        with_row_id = ROW_ID in self.meta or not (stored or with_row_address)
        return {"columns": stored, "with_row_id": with_row_id, "with_row_address": with_row_address}


def _path_in(schemas: Sequence[pa.Schema], name: str) -> Path | None:
    """The path that ``name`` is, in the first of the schemas that has it."""
    return next((path for schema in schemas if (path := find_path(schema, name)) is not None), None)


def has_column(schema: pa.Schema, path: str) -> bool:
    """Whether ``schema`` has the column, or the struct field ``"a.b"``, that ``path`` names."""
    return find_path(schema, path) is not None


def _blob_bytes(field: pa.Field) -> pa.Field:
    """A blob column as it is scanned, marked so that a write stores its bytes as a blob again."""
    if not pa.types.is_large_binary(field.type):  # descriptors were asked for
        return field
    kept = {key: text for key, text in (field.metadata or {}).items() if not key.startswith(b"ARROW:extension:")}
    return field.with_metadata({**kept, **BLOB_MARK})


def _unify(schemas: Sequence[pa.Schema]) -> pa.Schema:
    types: dict[str, pa.DataType] = {}
    for schema in schemas:
        for column in schema:
            known = types.setdefault(column.name, column.type)
            if known != column.type:
                raise SchemaMismatchError(
                    f"uri: column {column.name!r} is {known} in one dataset and {column.type} in another; "
                    "read them one by one, or leave the column out with columns="
                )
    return pa.unify_schemas([schema.remove_metadata() for schema in schemas]).with_metadata(schemas[0].metadata)
