"""Rows in memory from one pass over a table to the next."""

from __future__ import annotations

import mmap
import os
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ray_lance.order import ExplicitRows
from ray_lance.order.rows import RowArray
from ray_lance.scan.fixed_width import array_over, copied_bytes, fixed_width_values
from ray_lance.scan.scatter import sort_rows
from ray_lance.torch.batches import RowReader
from ray_lance.torch.budget import budget

__all__ = ["KeptRows", "RowStorage", "begin_pass"]

_MAX_TABLES = 64
# Of the rows of a read, those that are read by themselves: Lance takes a single row in the time of scanning some fifty.
_MOST_MISSING = 1 / 16


class RowStorage(Protocol):
    """Reads rows as they are stored; see :class:`~ray_lance.torch.batches.RowReader`."""

    def take(self, rows: RowArray) -> pa.Table:
        """The given rows in the given order."""

    def take_in_pieces(self, rows: RowArray, receive: Callable[[RowArray, pa.Table], bool]) -> bool:
        """Have rows received piece by piece; returns whether all of them were."""


class KeptRows:
    """Takes rows by offset, and keeps what it has read.

    Rows are kept as bytes, in one piece of memory for each column. So the rows of all columns must be of one width and
    hold no nulls, and there must be room for all rows of the table; others are read each time.

    Args:
        schema: Schema of the columns.
        count: Live rows of the table.
    """

    def __init__(self, schema: pa.Schema, count: int) -> None:
        widths = [copied_bytes(dtype) for dtype in schema.types]
        self._widths = [width for width in widths if width is not None]
        self._is_suited = count > 0 and 0 < len(widths) == len(self._widths)
        self._count = count
        self._memory: _Memory | None = None
        self._rows_read = 0
        self._users: list[weakref.ref[object]] = []

    @property
    def nbytes(self) -> int:
        """Bytes that all rows take, with one for each that tells whether it is there."""
        return self._count * (sum(self._widths) + 1)

    @property
    def is_idle(self) -> bool:
        """Whether none of those for whom rows were read is alive."""
        return not any(user() is not None for user in self._users)

    def begin(self, user: object, rows: int, max_bytes: int, *, keeps_first: bool) -> None:
        """Begin a pass over so many rows, and make room for all rows of the table if there is none.

        Args:
            user: Whom they are read for: while it lives they do not give way to others.
            rows: Rows of the pass.
            max_bytes: Bytes that all caches of this process may keep for this one to keep more.
            keeps_first: Whether to keep rows before as many have been read as the pass has: it may be the only one.
        """
        others = [other for other in self._users if other() is not None and other() is not user]
        self._users = [*others, weakref.ref(user)]
        if self._memory is not None or not self._is_suited or not (keeps_first or self._rows_read >= rows):
            return
        if budget.reserve(self.nbytes, max_bytes, self):
            try:
                self._memory = _Memory(self._widths, self._count)
            except (OSError, MemoryError):  # a limit of the process: what is not kept is read
                self.clear()

    def clear(self) -> None:
        """Give the memory back."""
        self._memory = None
        budget.release_all(self)

    def has(self, rows: RowArray) -> bool:
        """Whether all of these rows are in memory."""
        return self._memory is not None and not len(self._memory.missing(rows))

    def take(self, rows: RowArray, storage: RowStorage) -> pa.Table:
        """The rows at the given offsets among the live rows, in that order; an offset may come more than once.

        Args:
            rows: Offsets: int64, shape ``(k,)``.
            storage: Reads what is not kept.
        """
        memory = self._memory
        if memory is None or not len(rows):
            self._rows_read += len(rows)
            return storage.take(rows)
        if memory.is_empty:
            # The first batch waits for this read, and whether columns hold nulls, it is the one to show.
            table = storage.take(rows)
            if memory.write(rows, table):
                memory.confirm(rows)
            else:
                self._give_up()
            return table
        missing = memory.missing(rows)
        if len(missing):
            # In the order in which they lie: memory has them in any.
            wanted, _ = sort_rows(rows if len(missing) > _MOST_MISSING * len(rows) else missing)
            if not storage.take_in_pieces(wanted, memory.write):
                self._give_up()
                return storage.take(rows)
            memory.confirm(wanted)
        return memory.take(rows)

    def _give_up(self) -> None:
        """Some rows hold nulls."""
        self._is_suited = False
        self.clear()


class _Memory:
    """The bytes of a table's rows, as far as they are there.

    Threads may take and write at once: a row is there once all of the read that brought it has been written.
    """

    def __init__(self, widths: Sequence[int], count: int) -> None:
        # Not numpy's memory, which comes in huge pages: the first batch would wait until all of them are cleared.
        memory = [mmap.mmap(-1, count * width, flags=mmap.MAP_PRIVATE) for width in widths]
        self._columns = [np.frombuffer(each, f"V{width}") for each, width in zip(memory, widths, strict=True)]
        self._is_there: npt.NDArray[np.bool_] = np.zeros(count, np.bool_)
        self._schema: pa.Schema | None = None
        self.is_empty = True

    def missing(self, rows: RowArray) -> RowArray:
        """Those of the rows that are not there."""
        is_there = self._is_there[rows]
        return rows[:0] if is_there.all() else rows[~is_there]

    def write(self, rows: RowArray, table: pa.Table) -> bool:
        """Write down the rows of a table, whose offsets these are; False if some hold nulls, which have no bytes.

        Rows that are there stay as they are: others may be reading them.
        """
        is_new = ~self._is_there[rows]
        is_all_new = bool(is_new.all())
        for kept, column in zip(self._columns, table.columns, strict=True):
            start = 0
            for chunk in column.chunks:
                cells = fixed_width_values(chunk)
                if cells is None or cells.dtype != kept.dtype:
                    return False
                part = slice(start, start + len(cells))
                if is_all_new:
                    kept[rows[part]] = cells
                else:
                    kept[rows[part][is_new[part]]] = cells[is_new[part]]
                start += len(cells)
        self._schema = table.schema
        return True

    def confirm(self, rows: RowArray) -> None:
        """From now on these rows are there: all of them have been written."""
        self._is_there[rows] = True
        self.is_empty = False

    def take(self, rows: RowArray) -> pa.Table:
        """Rows that are there, copied."""
        assert self._schema is not None
        arrays = []
        for dtype, kept in zip(self._schema.types, self._columns, strict=True):
            # Arrow's allocator: it gives the memory of earlier reads again, where numpy's comes from the kernel.
            buffer = pa.allocate_buffer(len(rows) * kept.itemsize)
            # By default ("raise") numpy would copy everything twice.
            kept.take(rows, out=np.frombuffer(buffer, kept.dtype), mode="clip")
            arrays.append(array_over(dtype, len(rows), buffer))
        return pa.Table.from_arrays(arrays, schema=self._schema)


class _Tables:
    """What this process keeps, by table and columns; the one that was used last comes last."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.kept: OrderedDict[tuple[str, ...], KeptRows] = OrderedDict()

    def after_fork(self) -> None:
        self.lock = threading.Lock()  # the parent may have held it at the moment of the fork

    def trim(self) -> None:
        """Forget tables that nobody has used for long where they are many."""
        idle = [key for key, rows in self.kept.items() if rows.is_idle]
        for key in idle[: max(0, len(self.kept) - _MAX_TABLES)]:
            self.kept.pop(key).clear()


_tables = _Tables()
os.register_at_fork(after_in_child=_tables.after_fork)


def begin_pass(user: object, reader: RowReader, rows: int, max_bytes: int) -> KeptRows | None:
    """What this process keeps of the rows that a reader reads, for a pass over its order that begins now.

    The same for all readers of the same columns of a table. It stays when nobody uses it any more, until another table
    needs the room. A shuffled pass is an epoch of many; one in order may be all there is, as in inference, and would
    take two or three times as long for nothing: of a table that is read in order the second pass is the first to keep.

    Args:
        user: Whom the rows are read for: while it lives they do not give way to others.
        reader: Who reads them.
        rows: Rows of the pass.
        max_bytes: Bytes that all caches of this process may keep.

    Returns:
        None where rows are read by address, or by expressions, which may give others each time.
    """
    order, scan = reader.permutation.order, reader.scan
    if isinstance(order.base, ExplicitRows) or isinstance(scan.columns, Mapping):
        return None
    key = (reader.permutation.table.cache_key, *scan.read_names)
    kept = _tables.kept.get(key) or KeptRows(scan.stored_schema(), len(order.base))
    with _tables.lock:
        kept = _tables.kept.setdefault(key, kept)
        _tables.kept.move_to_end(key)
        kept.begin(user, rows, max_bytes, keeps_first=order.mixing is not None)
        _tables.trim()
    return kept
