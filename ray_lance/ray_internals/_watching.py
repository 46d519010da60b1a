"""The fast way of progress: executions that are watched on the driver, step by step. See ``executions.py``."""

from __future__ import annotations

import logging
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from ray.data import DataContext, Dataset
from ray.data._internal.execution.execution_callback import ExecutionCallback
from ray.data._internal.execution.interfaces.op_runtime_metrics import OpRuntimeMetrics
from ray.data._internal.execution.streaming_executor import StreamingExecutor

from ray_lance.progress import Progress
from ray_lance.ray_internals.ways import needs

__all__ = ["watched_write"]

needs(DataContext, "custom_execution_callback_classes")
needs(StreamingExecutor, "_topology", "_data_context")
needs(OpRuntimeMetrics, "_running_tasks", "num_row_inputs_received", "rows_inputs_of_submitted_tasks")

_DATASET_LOG = logging.getLogger(Dataset.__module__)
_KEY = "ray_lance.watched"
# The context of a Ray dataset goes to the workers: it holds a name only, and what it names stays here.
_WATCHERS: dict[str, Callable[[StreamingExecutor], None]] = {}


class WatchedExecution(ExecutionCallback):
    """Shows an execution to its watcher, step by step."""

    def on_execution_step(self, executor: StreamingExecutor) -> None:
        """Show it."""
        watch = _WATCHERS.get(executor._data_context.get_config(_KEY, ""))
        if watch is not None:
            watch(executor)


@contextmanager
def watched_write(dataset: Dataset, progress: Progress) -> Iterator[Dataset]:
    """The same Ray dataset; while the context lasts, ``progress`` shows how much of it has been written."""
    name = uuid.uuid4().hex
    _WATCHERS[name] = lambda executor: _show_written(executor, progress)
    dataset.context.set_config(_KEY, name)
    classes = dataset.context.custom_execution_callback_classes
    dataset.context.custom_execution_callback_classes = [*classes, WatchedExecution]
    try:
        with _without_last_line():
            yield dataset
    finally:
        del _WATCHERS[name]


@contextmanager
def _without_last_line() -> Iterator[None]:
    """Leave out what Ray logs of a write that has come to its end, as the progress says it."""
    here = threading.get_ident()

    def is_kept(record: logging.LogRecord) -> bool:
        return record.thread != here or record.levelno > logging.INFO

    _DATASET_LOG.addFilter(is_kept)
    try:
        yield
    finally:
        _DATASET_LOG.removeFilter(is_kept)


def _show_written(executor: StreamingExecutor, progress: Progress) -> None:
    for operator in executor._topology or ():
        if operator.name == "Write":
            metrics: Any = operator.metrics
            running = sum(task.inputs.num_rows() or 0 for task in metrics._running_tasks.values())
            progress.expect(operator.input_dependencies[0].num_output_rows_total())
            arrived = metrics.num_row_inputs_received
            progress.show(metrics.rows_inputs_of_submitted_tasks - running, note=f"{arrived:,} read")
