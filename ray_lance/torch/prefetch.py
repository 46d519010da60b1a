"""Reads ahead: a rank's steps in, their batches out; which rows are read together, and by how many threads."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import numpy as np

from ray_lance.ahead import ordered_map
from ray_lance.allocator import BUFFER_BESIDE_OTHERS, KEPT_BESIDE_OTHERS, keep_freed_memory
from ray_lance.order import BatchSchedule, LaneRange, RowOrder
from ray_lance.order.rows import RowArray
from ray_lance.scan.planning import FIRST_TASK_BYTES, MAX_TASK_BYTES, MAX_WINDOW_BYTES, are_parts_cheap
from ray_lance.scan.rebatch import RowQueue
from ray_lance.torch.dataset_meter import Fetched, PassMeter
from ray_lance.torch.row_reader import ReadRows, RowReader
from ray_lance.torch.table_cache import TableCache

__all__ = ["LaneRead", "RowSource", "batches", "plan_reads"]

READ_BYTES = MAX_TASK_BYTES
"""Bytes that one read should have: enough for a take to be fast, few enough to hold several of them in memory."""

_MAX_THREADS = 4
_DECODED_AHEAD = 4
# So many rows from all over an order tell whether those of a pass are in memory.
_SAMPLE = 64


@dataclass(frozen=True)
class LaneRead:
    """Positions that are read at once for one lane: ranges, in the order in which the lane's batches need them."""

    lane: int
    ranges: tuple[tuple[int, int], ...]

    def rows(self, order: RowOrder) -> RowArray:
        """The rows at these positions."""
        if len(self.ranges) == 1:
            return order.rows(*self.ranges[0])
        return order.take(np.concatenate([np.arange(start, stop, dtype=np.int64) for start, stop in self.ranges]))


def plan_reads(
    schedule: BatchSchedule, steps: Iterable[int], order: RowOrder, row_bytes: float, *, small_first: bool = True
) -> Iterator[LaneRead]:
    """Yield reads that cover the given steps of a rank, in about the order in which they are needed.

    Those of each lane are in order. Reads end where a shuffle window ends, if a window is small enough to be read at
    once. Planning is lazy: a read takes time in proportion to its own steps.

    Args:
        schedule: The rank's steps.
        steps: Those to read, ascending.
        order: Its order.
        row_bytes: Mean bytes of a row.
        small_first: Whether each lane's first read is a small one, so that the first batch comes early.
    """
    lanes: dict[int, _LaneCutter] = {}
    for step in steps:
        for piece in schedule.pieces(step):
            lane = lanes.get(piece.lane)
            if lane is None:
                first_rows = max(len(piece), int(FIRST_TASK_BYTES / row_bytes)) if small_first else None
                lane = lanes[piece.lane] = _LaneCutter(piece.lane, order, row_bytes, first_rows)
            yield from lane.add(piece.start, piece.stop)
    for lane in lanes.values():
        yield from lane.flush()


class _LaneCutter:
    """Collects the ranges of a lane into reads."""

    def __init__(self, lane: int, order: RowOrder, row_bytes: float, first_rows: int | None) -> None:
        self._lane, self._order = lane, order
        self._wanted = max(1, int(READ_BYTES / row_bytes))
        window = order.window
        self._window = window if 1 < window <= MAX_WINDOW_BYTES / row_bytes else None
        self._longest = self._wanted if self._window is None else max(self._window, 2 * self._wanted)
        self._limit = min(first_rows or self._longest, self._longest)
        self._ranges: list[tuple[int, int]] = []
        self._rows = 0
        self._span, self._edge = (0, 0), 0

    def add(self, start: int, stop: int) -> Iterator[LaneRead]:
        while start < stop:
            edge = self._next_edge(start)
            end = min(stop, edge, start + self._limit - self._rows)
            if self._ranges and self._ranges[-1][1] == start:
                self._ranges[-1] = (self._ranges[-1][0], end)
            else:
                self._ranges.append((start, end))
            self._rows += end - start
            start = end
            if self._rows == self._limit or (end == edge and 2 * self._rows >= self._wanted):
                yield from self.flush()

    def flush(self) -> Iterator[LaneRead]:
        if self._ranges:
            yield LaneRead(self._lane, tuple(self._ranges))
            self._limit = self._longest
        self._ranges, self._rows = [], 0

    def _next_edge(self, position: int) -> int:
        """The end of the window that ``position`` is in."""
        if self._window is None:
            return len(self._order)
        if not self._span[0] <= position < self._edge:
            stop = min(len(self._order), position + 2 * self._window)
            self._span, self._edge = (position, stop), int(self._order.window_edges(position, stop)[1])
        return self._edge


@dataclass(frozen=True)
class RowSource:
    """Where the rows of one pass come from.

    Attributes:
        reader: Reads rows from storage, and makes batches of them.
        cache: The cache of their table, if rows may be cached.
        meter: Counts the pass.
    """

    reader: RowReader
    cache: TableCache | None
    meter: PassMeter

    def has(self, rows: RowArray) -> bool:
        """Whether all of these rows are in memory."""
        return self.cache is not None and self.cache.has(rows)

    def fetch(self, lane: int, rows: RowArray) -> Fetched:
        """The given rows, for a lane."""
        storage = self.reader.storage(self.meter.retried)
        table, from_memory = (storage.take(rows), 0) if self.cache is None else self.cache.take(rows, storage)
        return Fetched(lane, self.reader.to_cut(table), from_memory)


def batches(
    source: RowSource, order: RowOrder, schedule: BatchSchedule, steps: range, prefetch: int
) -> Generator[Any, None, None]:
    """Yield the batches of the given steps.

    Args:
        source: Where rows come from, and what makes batches of them.
        order: The epoch's order.
        schedule: The rank's steps.
        steps: Those to deliver.
        prefetch: Reads begun before they are needed; 0 reads in the calling thread.
    """

    def locate(task: LaneRead) -> tuple[int, RowArray]:
        return task.lane, task.rows(order)

    def fetch(located: tuple[int, RowArray]) -> Fetched:
        return source.fetch(*located)

    reader, meter = source.reader, source.meter
    keep_freed_memory(KEPT_BESIDE_OTHERS, BUFFER_BESIDE_OTHERS)
    is_in_memory = source.has(_sample(order))
    small_first = is_in_memory or are_parts_cheap(order, is_remote=reader.stored.is_remote)
    plan = meter.begun(plan_reads(schedule, steps, order, reader.row_bytes, small_first=small_first))
    # The reads that the first batch waits for, and after small ones those that are needed next, are made before all
    # others: they also bring the metadata of the files into memory, which others would otherwise read as well.
    reads_of_lane = 2 if small_first else 1
    exclusive = reads_of_lane * len(schedule.pieces(steps.start)) if steps else 0
    threads = min(prefetch, _MAX_THREADS)
    if is_in_memory:
        # Finding rows is arithmetic in many small steps, after each of which a thread would wait until the caller
        # releases Python's lock: with nothing to read from storage the caller does it faster itself.
        reads = ordered_map(fetch, map(locate, plan), threads, prefetch, exclusive)
    else:
        reads = ordered_map(lambda task: fetch(locate(task)), plan, threads, prefetch, exclusive)
    with closing(reads):
        rows = _cut(meter.taken(reads), (schedule.pieces(step) for step in steps))
        with closing(ordered_map(reader.cut, rows, threads if reader.decodes else 0, _DECODED_AHEAD)) as finished:
            yield from finished


def _sample(order: RowOrder) -> RowArray:
    """Rows from all over an order, but not the last ones, which a pass may drop."""
    count = min(_SAMPLE, len(order))
    return order.take(np.arange(count) * len(order) // max(1, count))


def _cut(reads: Iterator[Fetched], steps: Iterable[list[LaneRange]]) -> Iterator[ReadRows]:
    """Cut the rows of each step from the lanes' reads, without a copy where one read holds all of them."""
    lanes: defaultdict[int, RowQueue[ReadRows]] = defaultdict(RowQueue)
    for pieces in steps:
        parts: list[ReadRows] = []
        for piece in pieces:
            lane = lanes[piece.lane]
            while len(lane) < len(piece):
                read = next(reads)
                lanes[read.lane].add(read.rows)
                del read  # the lane holds its rows only until they are taken
            parts += lane.take(len(piece))
        yield ReadRows.concat(parts)
