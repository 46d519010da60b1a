"""Computes inside of read tasks: a datasource and a function in, a datasource of computed rows out."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial

import pyarrow as pa
import ray
from ray.data import DataContext
from ray.data.datasource import Datasource, ReadTask

from ray_lance.data.faults import faults_of_data
from ray_lance.data.fragments import FragmentDatasource
from ray_lance.scan.rebatch import rebatched

__all__ = ["ComputingDatasource"]

# What a task has computed is handed on when there is this much of it, or this long after the last time: so that
# a slow function that is killed loses little.
_BLOCK_BYTES = 32 * 2**20
_BLOCK_SECONDS = 2.0


class ComputingDatasource(Datasource):
    """Reads rows and computes their columns in the same task, so that the inputs never enter the object store.

    Ray fuses no read with a ``map_batches`` that has a batch size.
    """

    holds_interrupts = True  # those of the source's read tasks, inside of which it computes

    def __init__(self, source: FragmentDatasource, compute: Callable[[pa.Table], pa.Table], batch_size: int) -> None:
        super().__init__()
        self._source = source
        self._compute = compute
        self._batch_size = batch_size

    def get_name(self) -> str:
        """Name of the operator."""
        return "LanceAndCompute"

    def estimate_inmemory_data_size(self) -> int | None:
        """Unknown: it depends on what is computed."""
        return None

    def get_read_tasks(
        self, parallelism: int, per_task_row_limit: int | None = None, data_context: DataContext | None = None
    ) -> list[ReadTask]:
        """The read tasks, which deliver what is computed."""
        compute = ray.put(self._compute)
        return [
            ReadTask(partial(_computed_blocks, task.read_fn, compute, self._batch_size), task.metadata)
            for task in self._source.get_read_tasks(parallelism, per_task_row_limit, data_context)
        ]


def _computed_blocks(
    read: Callable[[], Iterable[pa.Table]], shared: ray.ObjectRef, batch_size: int
) -> Iterator[pa.Table]:
    """What is computed, in blocks of bounded bytes that take bounded time."""
    compute = ray.get(shared)
    waiting: list[pa.Table] = []
    size, started = 0, time.monotonic()
    for rows in rebatched(read(), batch_size):
        with faults_of_data():
            waiting.append(compute(rows))
        size += waiting[-1].nbytes
        if size >= _BLOCK_BYTES or time.monotonic() - started >= _BLOCK_SECONDS:
            yield pa.concat_tables(waiting)
            waiting, size, started = [], 0, time.monotonic()
    if waiting:
        yield pa.concat_tables(waiting)
