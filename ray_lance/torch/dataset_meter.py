"""Counts what a torch dataset delivers, here and in workers of its loaders: passes in, LoaderMetrics out."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import fields, replace
from typing import Any, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt
import torch

from ray_lance.metrics import LoaderMetrics
from ray_lance.order import BatchSchedule
from ray_lance.torch.row_reader import ReadRows
from ray_lance.torch.shared import SharedNumbers, is_spawning

__all__ = ["DatasetMeter", "Fetched", "PassMeter", "rows_of_steps"]

T = TypeVar("T")

# So many workers that were started one after another write to separate memory.
_COPIES = 64
_NAMES = [field.name for field in fields(LoaderMetrics)]


class Fetched(NamedTuple):
    """What one read returned.

    Attributes:
        lane: The lane that the rows are for.
        rows: The rows.
        from_memory: How many of them were not read from storage.
    """

    lane: int
    rows: ReadRows
    from_memory: int


class PassMeter:
    """Counts what one pass delivers. Its bytes and its rows from memory are its share of what was read for it.

    Attributes:
        has_ended: Whether nobody asks for more. Set without a lock, for the garbage collector ends passes too.
    """

    def __init__(self, workers: _WorkerCounts) -> None:
        self.has_ended = False
        self._workers = workers if workers.is_worker else None
        self._lock = threading.Lock()
        self._batches = self._rows = self._retries = 0
        self._seconds = 0.0
        self._reads_begun = self._reads_taken = 0
        self._rows_taken = self._bytes_taken = self._from_memory = 0
        self._published = _as_array(LoaderMetrics())

    @property
    def reads_ahead(self) -> int:
        """Reads that were begun and not asked for."""
        return 0 if self.has_ended else self._reads_begun - self._reads_taken

    def begun(self, plan: Iterable[T]) -> Iterator[T]:
        """The reads of a plan, counted as they begin."""
        for read in plan:
            self._reads_begun += 1
            yield read

    def taken(self, reads: Iterable[Fetched]) -> Iterator[Fetched]:
        """What reads returned, counted as it is asked for."""
        for read in reads:
            self._reads_taken += 1
            self.read(len(read.rows), read.rows.table.nbytes, read.from_memory)
            yield read
            del read  # not held while the next one is awaited

    def timed(self, batches: Iterable[T], sizes: Iterable[int]) -> Generator[T, None, None]:
        """Batches, counted as they are asked for.

        Args:
            batches: The batches.
            sizes: Rows of each.
        """
        try:
            begin = time.perf_counter()
            for batch, size in zip(batches, sizes, strict=True):
                self.returned(size, time.perf_counter() - begin)
                yield batch
                begin = time.perf_counter()
        finally:
            self.has_ended = True

    def read(self, rows: int, nbytes: int, from_memory: int) -> None:
        """Count rows that have been taken, some of them from memory."""
        with self._lock:
            self._rows_taken += rows
            self._bytes_taken += nbytes
            self._from_memory += from_memory

    def returned(self, rows: int, seconds: float) -> None:
        """Count a batch that has been returned, for which its caller waited."""
        with self._lock:
            self._batches += 1
            self._rows += rows
            self._seconds += seconds
            if self._workers is not None:
                counts = _as_array(self.counts())
                self._workers.add(counts - self._published)
                self._published = counts

    def retried(self) -> None:
        """Count a read that is tried again."""
        with self._lock:
            self._retries += 1

    def counts(self) -> LoaderMetrics:
        """What was counted so far; without reads ahead, which are of this moment."""
        share = self._rows / max(self._rows_taken, 1)
        return LoaderMetrics(
            batches=self._batches,
            rows=self._rows,
            bytes=round(share * self._bytes_taken),
            seconds_waited=self._seconds,
            rows_from_memory=round(share * self._from_memory),
            retries=self._retries,
        )


class _WorkerCounts:
    """What all workers of a dataset's loaders have counted, in memory that they share with the training process."""

    def __init__(self) -> None:
        self._shared = SharedNumbers(torch.zeros(_COPIES * len(_NAMES), dtype=torch.float64), inherited=0)

    @property
    def is_worker(self) -> bool:
        """Whether this process is such a worker."""
        return self._shared.copy_number > 0

    def add(self, counts: npt.NDArray[np.float64]) -> None:
        """Add what this worker has counted since the last time."""
        start = self._shared.copy_number % _COPIES * len(counts)
        self._shared.values.numpy()[start : start + len(counts)] += counts

    def total(self) -> LoaderMetrics:
        """What they have counted so far."""
        total = dict(zip(_NAMES, self._shared.values.view(_COPIES, -1).sum(0).tolist(), strict=True))
        counts = {name: value if name == "seconds_waited" else round(value) for name, value in total.items()}
        return LoaderMetrics(**counts)


class DatasetMeter:
    """What a dataset has delivered so far, in this process and in workers. A copy elsewhere counts from zero."""

    def __init__(self, workers: _WorkerCounts | None = None) -> None:
        self._workers = workers or _WorkerCounts()
        self._lock = threading.Lock()
        self._ended = LoaderMetrics()
        self._passes: list[PassMeter] = []

    def begin(self) -> PassMeter:
        """Count a pass that begins."""
        new = PassMeter(self._workers)
        with self._lock:
            ended = [each for each in self._passes if each.has_ended]
            self._ended = sum((each.counts() for each in ended), self._ended)
            self._passes = [*(each for each in self._passes if each not in ended), new]
        return new

    def metrics(self) -> LoaderMetrics:
        """What was counted so far."""
        with self._lock:
            total = sum((each.counts() for each in self._passes), self._ended)
            reads_ahead = sum(each.reads_ahead for each in self._passes)
        if not self._workers.is_worker:
            total += self._workers.total()
        return replace(total, queue_depth=reads_ahead)

    def __reduce__(self) -> tuple[Any, ...]:
        return DatasetMeter, (self._workers,) if is_spawning() else ()


def rows_of_steps(schedule: BatchSchedule, steps: Sequence[int]) -> Iterator[int]:
    """Rows of this rank's batches at the given steps, in ascending order."""
    if steps:  # all are full but the last one, which may not be
        yield from itertools.repeat(schedule.batch_size, len(steps) - 1)
        yield sum(map(len, schedule.pieces(steps[-1])))


def _as_array(metrics: LoaderMetrics) -> npt.NDArray[np.float64]:
    return np.array([getattr(metrics, name) for name in _NAMES], np.float64)
