"""Rows in memory from one pass over a table to the next: a table that fits is read from storage twice at most."""

from __future__ import annotations

import mmap
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ray_lance.order import ExplicitRows
from ray_lance.order.rows import RowArray
from ray_lance.scan.cells import array_of_cells, cell_bytes, cells_of
from ray_lance.scan.places import sorted_rows
from ray_lance.torch.batches import RowReader
from ray_lance.torch.budget import budget

__all__ = ["KeptRows", "begin_pass"]

_MAX_TABLES = 64


class KeptRows:
    """Takes rows by offset, and keeps them from the second pass on: the first may be the only one.

    Rows are kept as bytes, in one piece of memory for each column. So the rows of all columns must be of one width and
    hold no nulls, and there must be room for all of them; others are read each time.

    Args:
        read: Reads rows in the given order.
        schema: Schema of the columns.
        count: Live rows of the table.
    """

    def __init__(self, read: Callable[[RowArray], pa.Table], schema: pa.Schema, count: int) -> None:
        self._read, self._count = read, count
        self._widths = [width for dtype in schema.types if (width := cell_bytes(dtype)) is not None]
        self._is_suited = count > 0 and 0 < len(schema) == len(self._widths)
        self._passes = 0
        self._lock = threading.Lock()
        self._memory: _Memory | None = None
        self.users: weakref.WeakSet[object] = weakref.WeakSet()

    @property
    def nbytes(self) -> int:
        """Bytes that all rows take, with one for each that tells whether it is there."""
        return self._count * (sum(self._widths) + 1)

    @property
    def is_complete(self) -> bool:
        """Whether every row is in memory."""
        return self._memory is not None and self._memory.is_complete

    def begin_pass(self, max_bytes: int, idle: Iterable[KeptRows]) -> None:
        """Count a pass over the table; make room for its rows if it is not the first.

        Args:
            max_bytes: Bytes that all caches of this process may keep for this one to keep more.
            idle: Others that nobody uses now: as many of them as it takes are cleared, the first ones first.
        """
        self._passes += 1
        if self._passes == 1 or self._memory is not None or not self._is_suited or self.nbytes > max_bytes:
            return
        givers = iter(idle)
        while not budget.reserve(self.nbytes, max_bytes):
            giver = next(givers, None)
            if giver is None:
                return
            giver.clear()
        self._memory = _Memory(self._widths, self._count)

    def clear(self) -> None:
        """Give the memory back."""
        with self._lock:
            if self._memory is not None:
                self._memory = None
                budget.release(self.nbytes)

    def take(self, rows: RowArray) -> pa.Table:
        """The rows at the given offsets among the live rows, in that order; an offset may come more than once."""
        memory = self._memory
        if memory is None or not len(rows):
            return self._read(rows)
        missing = memory.missing(rows)
        if len(missing):
            ascending, _ = sorted_rows(missing)
            if not memory.add(ascending, self._read(ascending)):
                self._is_suited = False
                self.clear()
                return self._read(rows)
        return memory.take(rows)


class _Memory:
    """The bytes of a table's rows, as far as they are there.

    Threads may read and add at once: a row counts as there when its bytes are, and they are the same whoever adds them.
    """

    def __init__(self, widths: Sequence[int], count: int) -> None:
        # Not numpy's memory, which comes in huge pages: the first batch would wait until all of them are cleared.
        memory = (mmap.mmap(-1, count * width, flags=mmap.MAP_PRIVATE) for width in widths)
        self._columns = [np.frombuffer(each, f"V{width}") for each, width in zip(memory, widths, strict=True)]
        self._is_there: npt.NDArray[np.bool_] | None = np.zeros(count, np.bool_)
        self._schema: pa.Schema | None = None

    @property
    def is_complete(self) -> bool:
        return self._is_there is None

    def missing(self, rows: RowArray) -> RowArray:
        """Those of the rows that are not there."""
        is_there = self._is_there
        return rows[:0] if is_there is None else rows[~is_there[rows]]

    def add(self, rows: RowArray, table: pa.Table) -> bool:
        """Add the rows of a table, whose offsets these are; False if it holds nulls, which have no bytes."""
        for kept, column in zip(self._columns, table.columns, strict=True):
            start = 0
            for chunk in column.chunks:
                cells = cells_of(chunk)
                if cells is None:
                    return False
                kept[rows[start : start + len(cells)]] = cells
                start += len(cells)
        self._schema = table.schema
        is_there = self._is_there
        if is_there is not None:
            is_there[rows] = True
            if is_there.all():
                self._is_there = None
        return True

    def take(self, rows: RowArray) -> pa.Table:
        """Rows that are there, copied."""
        assert self._schema is not None
        arrays = []
        for dtype, kept in zip(self._schema.types, self._columns, strict=True):
            # Arrow's allocator: it gives the memory of earlier reads again, where numpy's comes from the kernel.
            buffer = pa.allocate_buffer(len(rows) * kept.itemsize)
            # By default ("raise") numpy would copy everything twice.
            kept.take(rows, out=np.frombuffer(buffer, kept.dtype), mode="clip")
            arrays.append(array_of_cells(dtype, len(rows), buffer))
        return pa.Table.from_arrays(arrays, schema=self._schema)


_tables: OrderedDict[tuple[str, ...], KeptRows] = OrderedDict()
_lock = threading.Lock()


def begin_pass(user: object, reader: RowReader, max_bytes: int) -> KeptRows | None:
    """What this process keeps of the rows that a reader reads, for a pass over them that begins now.

    The same for all readers of the same columns of a table. It stays when nobody uses it any more, until another table
    needs the room.

    Args:
        user: Whom the rows are read for: while it lives they do not give way to others.
        reader: Who reads them.
        max_bytes: Bytes that all caches of this process may keep.

    Returns:
        None where rows are read by address, or by expressions that may give others each time.
    """
    order, scan = reader.permutation.order, reader.scan
    if isinstance(order.base, ExplicitRows) or not scan.delivers_stored(scan.read_names):
        return None
    key = (reader.permutation.table.cache_key, *scan.read_names)
    with _lock:
        if key not in _tables:
            _forget_idle()
            _tables[key] = KeptRows(reader.take, scan.stored_schema(), len(order.base))
        rows = _tables[key]
        _tables.move_to_end(key)
        rows.users.add(user)
        rows.begin_pass(max_bytes, [other for other in _tables.values() if not other.users])
    return rows


def _forget_idle() -> None:
    if len(_tables) < _MAX_TABLES:
        return
    for key in [key for key, rows in _tables.items() if not rows.users]:
        _tables.pop(key).clear()
