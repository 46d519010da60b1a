"""Matches rows by address: blocks of a pipeline in, their rows by ascending address and where each fragment's are out.

Runs in tasks, next to the blocks.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ray_lance.backfill.assemble import BlockRows
from ray_lance.data.arrow_blocks import as_arrow
from ray_lance.errors import InvalidArgumentError
from ray_lance.lance_internals import take_by_row_id
from ray_lance.scan.scan import META_COLUMNS, ROW_ADDRESS, ROW_ID
from ray_lance.table import TableRef
from ray_lance.tensors import storable
from ray_lance.write.column_files import taken
from ray_lance.write.schema import fit

__all__ = ["Addressing", "BlockIndex", "merged", "shown_address"]

_WINDOW_BYTES = 8 * 2**20
# A block is kept as it is while it is at most this much larger than what is needed of it.
_MOST_WASTE = 1.25

_Integers = npt.NDArray[np.int64]


@dataclass(frozen=True)
class BlockIndex:
    """Where the rows of each fragment are in a block that is sorted by address.

    Attributes:
        fragment_ids: The fragments, ascending: int64, shape ``(k,)``.
        starts: The first row of each, and after them the number of rows: int64, shape ``(k + 1,)``.
        first: The first address of each.
        last: The last address of each.
        schema: The columns, in types that are stored; None where there are no rows.
    """

    fragment_ids: _Integers
    starts: _Integers
    first: _Integers
    last: _Integers
    schema: pa.Schema | None

    @classmethod
    def of(cls, addresses: _Integers, schema: pa.Schema | None) -> BlockIndex:
        """The index of a block with these ascending addresses."""
        ids, starts = np.unique(addresses >> 32, return_index=True)
        starts = np.append(starts, len(addresses)).astype(np.int64)
        return cls(ids, starts, addresses[starts[:-1]], addresses[starts[1:] - 1], schema)

    def rows_of(self, fragment_id: int, block: Any) -> AddressedRows:
        """The rows of a fragment that it names."""
        at = int(np.searchsorted(self.fragment_ids, fragment_id))
        bounds = (int(self.starts[at]), int(self.starts[at + 1]))
        return AddressedRows(block, *bounds, int(self.first[at]), int(self.last[at]))


@dataclass(frozen=True)
class AddressedRows(BlockRows[Any]):
    """Rows of one fragment in a block.

    Attributes:
        first: Address of the first of them.
        last: Address of the last of them.
    """

    first: int
    last: int


@dataclass(frozen=True)
class Addressing:
    """Which columns of a pipeline's rows are stored, and what says where.

    Attributes:
        table: The version whose rows went into the pipeline.
        on: The column that identifies a row: ``_rowaddr`` or ``_rowid``.
        columns: The columns to store; None for all but ``_rowaddr``, ``_rowid``, ``_fragid`` and ``without``.
        without: See ``columns``.
    """

    table: TableRef
    on: str
    columns: tuple[str, ...] | None
    without: frozenset[str] = frozenset()

    def indexed(self, block: Any, start: int, stop: int) -> tuple[BlockIndex, pa.Table | None]:
        """Where the rows ``[start, stop)`` of a block belong, and these by ascending address.

        Returns:
            The index, and the rows; None where the block itself serves, of which :meth:`rows` makes the same.

        Raises:
            InvalidArgumentError: A column is missing, or an address is null, foreign or there twice.
            SchemaMismatchError: Values cannot be stored.
        """
        whole = as_arrow(block)
        table = whole.slice(start, stop - start)
        if not len(table):
            return BlockIndex.of(np.empty(0, np.int64), None), None
        rows = self.rows(table)
        schema = rows.drop_columns([ROW_ADDRESS]).schema
        addresses = rows[ROW_ADDRESS].to_numpy().view(np.int64)
        steps = np.diff(addresses)
        if not (steps > 0).all():
            order = np.argsort(addresses, kind="stable")
            addresses = addresses[order]
            _refuse_twice(addresses)
            rows = taken(rows, pa.array(order))
        elif block is whole and len(table) == len(whole) and self._serves(whole, rows):
            return BlockIndex.of(addresses, schema), None
        return BlockIndex.of(addresses, schema), rows

    def fitted(self, table: pa.Table, schema: pa.Schema) -> pa.Table:
        """As :meth:`rows`, with the columns of ``schema``.

        Raises:
            SchemaMismatchError: Something would be lost.
        """
        rows = self.rows(table)
        return fit(rows.drop_columns([ROW_ADDRESS]), schema).append_column(ROW_ADDRESS, rows[ROW_ADDRESS])

    def rows(self, table: pa.Table) -> pa.Table:
        """The columns to store of some rows, in types that are stored, and ``_rowaddr``."""
        if self.on not in table.column_names:
            raise InvalidArgumentError(
                f"on={self.on!r}: the pipeline's rows have the columns {table.column_names}: let the functions of "
                "map_batches return that column as they are given it"
            )
        addresses = self._addresses(table[self.on])
        rows = storable(table.select(self._names(table.column_names)))
        return rows.append_column(ROW_ADDRESS, addresses).replace_schema_metadata(None)

    def of_addresses(self) -> Addressing:
        """The same for what :meth:`indexed` returns."""
        return Addressing(self.table, ROW_ADDRESS, self.columns, self.without)

    def _serves(self, whole: pa.Table, rows: pa.Table) -> bool:
        return self.on == ROW_ADDRESS and whole.nbytes <= _MOST_WASTE * max(1, rows.nbytes)

    def _names(self, present: Sequence[str]) -> list[str]:
        if self.columns is None:
            names = [name for name in present if name not in self.without and name not in META_COLUMNS]
        else:
            names = list(self.columns)
        if not names or (missing := [name for name in names if name not in present]):
            raise InvalidArgumentError(
                f"columns={None if self.columns is None else names}: the pipeline's rows have the columns "
                + (f"{list(present)}, without {missing}" if names else f"{list(present)}, none of which is new")
            )
        return names

    def _addresses(self, keys: pa.ChunkedArray) -> pa.Array:
        if not pa.types.is_integer(keys.type):
            raise InvalidArgumentError(f"on={self.on!r}: the column is {keys.type} in the pipeline's rows, not uint64")
        if keys.null_count:
            raise InvalidArgumentError(f"on={self.on!r}: {keys.null_count} of {len(keys)} rows of a block have a null")
        try:
            whole = keys.cast(pa.uint64()).combine_chunks()
        except pa.ArrowInvalid as error:
            raise InvalidArgumentError(f"on={self.on!r}: {error}") from None
        array = whole if isinstance(whole, pa.Array) else pa.concat_arrays(whole.chunks)
        if self.on == ROW_ID and self.table.open().has_stable_row_ids:
            return self._found(array)
        if (array.to_numpy() >> np.uint64(63)).any():
            raise InvalidArgumentError(f"on={self.on!r}: {array.to_numpy().max()} is no address of a row")
        return array

    def _found(self, row_ids: pa.Array) -> pa.Array:
        """The addresses of rows with stable ids."""
        found = take_by_row_id(self.table.open(), row_ids.to_numpy().tolist(), [ROW_ADDRESS, ROW_ID])
        if len(found) < len(row_ids):
            lost = np.setdiff1d(row_ids.to_numpy(), found[ROW_ID].to_numpy())
            raise InvalidArgumentError(
                f"on={self.on!r}: version {self.table.open().version}, which was read, has no row {lost[0]}"
            )
        return found[ROW_ADDRESS].combine_chunks()


def merged(tables: Sequence[pa.Table]) -> Iterator[pa.Table]:
    """The rows of several tables, each sorted by address, by ascending address; copies little at a time.

    Raises:
        InvalidArgumentError: An address is there twice.
    """
    if len(tables) == 1:
        yield tables[0]
        return
    keys = [table[ROW_ADDRESS].to_numpy() for table in tables]
    everything = np.sort(np.concatenate(keys))
    _refuse_twice(everything)
    row_bytes = sum(table.nbytes for table in tables) / max(1, len(everything))
    step = int(max(1, _WINDOW_BYTES // max(row_bytes, 1.0)))
    done = [0] * len(tables)
    for stop in range(step, len(everything) + step, step):
        limit = everything[min(stop, len(everything)) - 1]
        ends = [int(np.searchsorted(each, limit, side="right")) for each in keys]
        parts = [table.slice(at, end - at) for table, at, end in zip(tables, done, ends, strict=True) if end > at]
        window = pa.concat_tables(parts)
        yield taken(window, pa.array(np.argsort(window[ROW_ADDRESS].to_numpy(), kind="stable")))
        done = ends


def shown_address(address: int) -> str:
    """An address as an error shows it."""
    return f"{address} (fragment {address >> 32}, offset {address & 0xFFFFFFFF})"


def _refuse_twice(addresses: npt.NDArray[Any]) -> None:
    """Refuse sorted addresses in which one is there twice."""
    if len(twice := np.flatnonzero(addresses[1:] == addresses[:-1])):
        raise InvalidArgumentError(
            f"the pipeline returned the row at address {shown_address(int(addresses[twice[0]]))} more than once: "
            "nothing says which of its values is right"
        )
