"""Counts what the passes over a shard deliver."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator
from typing import Any, TypeVar

from ray_lance.metrics import LoaderMetrics
from ray_lance.order import BatchSchedule
from ray_lance.scan.tasks import StepRange

__all__ = ["ShardMeter", "rows_of"]

T = TypeVar("T")


class ShardMeter:
    """What a shard has delivered so far. A sum for each batch would take longer than a small batch does to read."""

    def __init__(self) -> None:
        self._batches = self._rows = 0
        self._bytes = self._seconds = 0.0

    def timed(self, run: Any, schedule: BatchSchedule, batches: Iterator[T]) -> Generator[T, None, None]:
        """The batches of a pass, counted as they are asked for.

        Args:
            run: The pass.
            schedule: Its steps.
            batches: One for each step.
        """
        last_rows = rows_of(schedule) - (schedule.rank_steps - 1) * schedule.batch_size
        for step in range(1, schedule.rank_steps + 1):
            begin = time.perf_counter()
            try:
                batch = next(batches)
            except StopIteration:
                return
            finally:
                self._seconds += time.perf_counter() - begin
            rows = last_rows if step == schedule.rank_steps else schedule.batch_size
            self._batches += 1
            self._rows += rows
            self._bytes += rows * run.row_bytes
            yield batch
        next(batches, None)  # lets the execution end, and tell of rows too many

    def metrics(self, run: Any) -> LoaderMetrics:
        """What was counted, and what waits in the pass that began last."""
        return LoaderMetrics(
            batches=self._batches,
            rows=self._rows,
            bytes=round(self._bytes),
            seconds_waited=self._seconds,
            queue_depth=0 if run is None else run.reads_ahead(),
        )


def rows_of(schedule: BatchSchedule) -> int:
    """Rows that a rank reads in its steps."""
    return StepRange(schedule, 0, schedule.rank_steps).num_rows
