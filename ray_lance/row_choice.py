"""Chooses rows of a table: a filter, key columns or another table in, row ids (and hashes of the keys) out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from ray_lance.errors import UnknownColumnError
from ray_lance.key_sets import KeySet, comparable_schema, hash_keys, in_types, is_bijective
from ray_lance.native_errors import native_errors
from ray_lance.order import DenseRows, RowPermutation, stable_hash64
from ray_lance.scan.pushdown import build_scan
from ray_lance.scan.scan import ROW_ID, Scan, has_column
from ray_lance.scan.size import row_bytes
from ray_lance.scan.take import take_rows
from ray_lance.table import TableRef
from ray_lance.tensors.objects import to_objects

__all__ = ["Absent", "filtered_row_ids", "hashed_row_ids"]

_BATCH_ROWS = 2**17
# The keys of the other table that are held at a time. Where it has more, both tables are scanned several times.
_PASS_BYTES = 2**30
# What a set takes of each key while it is made: three times its bytes, unless hashes say all, its hash and its order.
_HASH_BYTES = 16
_ORDER_BYTES = 24


def filtered_row_ids(table: TableRef, filter: str) -> npt.NDArray[np.uint64]:
    """Row ids of the rows that pass a filter, in scan order: uint64, shape ``(rows,)``."""
    scan = build_scan([table], [ROW_ID], filter, [], {})
    with native_errors(f"filter={filter!r} on {table}"):
        return _row_ids(scan.scanner(0).to_table())


def hashed_row_ids(
    table: TableRef, order: RowPermutation, by: Sequence[str]
) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint64]]:
    """Row ids of an order's rows, and hashes of their values in the columns ``by``: both uint64, shape ``(rows,)``."""
    scan = build_scan([table], [*by, ROW_ID], None, [], {})
    rows = order.rows()
    if isinstance(order.base, DenseRows) and len(rows) == order.base.count:
        with native_errors(f"reading the columns {list(by)} of {table}"):
            found = scan.scanner(0).to_table().take(pa.array(rows))
    else:
        found = take_rows(scan, rows)
    return _row_ids(found), stable_hash64(*(_hashable(name, found[name]) for name in by))


def _row_ids(table: pa.Table) -> npt.NDArray[np.uint64]:
    row_ids: npt.NDArray[np.uint64] = table[ROW_ID].to_numpy().astype(np.uint64, copy=False)
    return row_ids


def _hashable(name: str, column: pa.ChunkedArray) -> Any:
    if pa.types.is_integer(column.type) and column.null_count == 0:
        return column.to_numpy()
    return to_objects(column, name)


@dataclass(frozen=True)
class Absent:
    """The rows of a table whose key is not in another table: an anti-join.

    Both tables are streamed, their key columns only. Memory holds at most ``pass_bytes`` of the other table's keys,
    eight bytes for each row that is found, and as many again for its position where there are several passes. A null in
    a key equals nothing, as in SQL: such rows are found each time.

    Attributes:
        table: The table whose rows are wanted; pinned.
        other: The table whose keys are left out; pinned.
        on: The key columns, which both have.
        pass_bytes: Bytes of keys to hold at a time.
    """

    table: TableRef
    other: TableRef
    on: tuple[str, ...]
    pass_bytes: int = _PASS_BYTES

    def row_ids(self, filter: Any = None, fragment_ids: Sequence[int] | None = None) -> npt.NDArray[np.uint64] | None:
        """Row ids of these rows in scan order: uint64, shape ``(rows,)``; None where no row is left out.

        Args:
            filter: Condition that the rows must pass too.
            fragment_ids: Fragments to look at; None for all.

        Raises:
            UnknownColumnError: One of the tables has no such key column.
            InvalidArgumentError: The key columns cannot be compared exactly, or the filter is refused.
        """
        ours = self._scan(self.table, [*self.on, ROW_ID], filter)
        theirs = self._scan(self.other, self.on, None)
        schema = comparable_schema(*(_fields(scan, self.on) for scan in (ours, theirs)))
        if not self.other.open().count_rows():
            return None
        passes = self._passes(theirs, schema)
        total = 0
        found, positions = [], []
        for number in range(passes):
            with native_errors(f"reading the columns {list(self.on)} of {self.other}"):
                keys = KeySet(_keys_of(theirs, schema, number, passes), schema)
            total = 0
            with native_errors(f"reading the columns {list(self.on)} of {self.table}"):
                for rows in _batches(ours, fragment_ids):
                    left = _absent(in_types(rows, schema), keys, number, passes)
                    found.append(_row_ids(rows)[left])
                    positions.append(np.flatnonzero(left) + total if passes > 1 else np.empty(0, np.int64))
                    total += rows.num_rows
        row_ids = np.concatenate([np.empty(0, np.uint64), *found])
        if len(row_ids) == total:
            return None
        return row_ids if passes == 1 else row_ids[np.argsort(np.concatenate(positions))]

    def _scan(self, table: TableRef, columns: Sequence[str], filter: Any) -> Scan:
        schema = table.open().schema
        for name in self.on:
            if not has_column(schema, name):
                raise UnknownColumnError(f"on={list(self.on)} of {table}", name, schema.names)
        return build_scan([table], list(columns), filter, [], {})

    def _passes(self, theirs: Scan, schema: pa.Schema) -> int:
        size = _HASH_BYTES if is_bijective(schema) else 3 * row_bytes(theirs) + _HASH_BYTES + _ORDER_BYTES
        return max(1, -(-int(self.other.open().count_rows() * size) // self.pass_bytes))


def _fields(scan: Scan, names: Sequence[str]) -> pa.Schema:
    stored = scan.stored_schema()
    return pa.schema([stored.field(name) for name in names])


def _batches(scan: Scan, fragment_ids: Sequence[int] | None = None) -> Iterator[pa.Table]:
    for batch in scan.scanner(0, fragment_ids, batch_size=_BATCH_ROWS).to_batches():
        yield pa.Table.from_batches([batch])


def _keys_of(scan: Scan, schema: pa.Schema, number: int, passes: int) -> Iterator[pa.Table]:
    """The keys without nulls that one of several passes looks at, by their hashes."""
    for rows in _batches(scan):
        keys = in_types(rows, schema).drop_null()
        yield keys if passes == 1 else keys.filter(pa.array(hash_keys(keys) % np.uint64(passes) == number))


def _absent(keys: pa.Table, held: KeySet, number: int, passes: int) -> npt.NDArray[np.bool_]:
    """Which of the rows that a pass looks at are not held. Rows with a null are those of the first pass."""
    valid = np.ones(len(keys), bool)
    for column in keys.columns:
        valid &= pc.is_valid(column).to_numpy()
    known = keys.filter(pa.array(valid))
    hashes = hash_keys(known)
    absent = np.full(len(keys), number == 0)
    absent[valid] = (hashes % np.uint64(passes) == number) & ~held.holds(known, hashes)
    return absent
