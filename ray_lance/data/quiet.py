"""Executions of Ray Data that print nothing of their own: what they would print goes to Ray's log file only."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from ray.data import Dataset
from ray.data._internal import logging as ray_data_logging
from ray.data._internal import stats
from ray.data._internal.execution import streaming_executor
from ray.data._internal.execution.execution_callback import ExecutionCallback
from ray.data._internal.execution.streaming_executor import StreamingExecutor
from ray.util.debug import log_once

__all__ = ["muted_stats", "silenced"]

_STATS_LOG = logging.getLogger(stats.__name__)
# Where executions say that they begin and end, and that another one is running beside them.
_EXECUTION_LOGS = [logging.getLogger(module.__name__) for module in (streaming_executor, ray_data_logging)]
# Of the executions that print nothing: Ray names them in its messages.
_quiet_ids: set[str] = set()


class QuietExecution(ExecutionCallback):
    """Keeps Ray's messages about an execution, warnings aside, off the console."""

    def __init__(self) -> None:
        # Made before the execution looks for progress bars, and would tell how to have them back.
        log_once("ray_data_progress_manager_disabled")

    def before_execution_starts(self, executor: StreamingExecutor) -> None:
        """Hide what is logged of this execution from now on, unless its progress is shown."""
        if not executor._data_context.enable_progress_bars:
            for log in _EXECUTION_LOGS:
                log.addFilter(_hide_quiet)
            _quiet_ids.add(executor._dataset_id)

    def after_execution_succeeds(self, executor: StreamingExecutor) -> None:
        """Forget the execution."""
        _quiet_ids.discard(executor._dataset_id)

    def after_execution_fails(self, executor: StreamingExecutor, error: Exception) -> None:  # noqa: ARG002
        """Forget the execution; its error reaches whoever asked for it."""
        _quiet_ids.discard(executor._dataset_id)


def silenced(dataset: Dataset) -> Dataset:
    """The same Ray dataset; its executions show no progress bars and print warnings only.

    ``dataset.context.enable_progress_bars = True`` brings both back.
    """
    context = dataset.context
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    if QuietExecution not in context.custom_execution_callback_classes:
        context.custom_execution_callback_classes = [*context.custom_execution_callback_classes, QuietExecution]
    return dataset


def _hide_quiet(record: logging.LogRecord) -> bool:
    if record.levelno <= logging.INFO and any(name in str(record.msg) for name in _quiet_ids):
        record.hide = True  # for the filter of Ray Data's console; its log file shows the record all the same
    return True


@contextmanager
def muted_stats() -> Iterator[None]:
    """Drop what Ray logs in this thread about statistics that it cannot report, as it has been shut down."""
    here = threading.get_ident()

    def is_elsewhere(record: logging.LogRecord) -> bool:
        return record.thread != here

    _STATS_LOG.addFilter(is_elsewhere)
    try:
        yield
    finally:
        _STATS_LOG.removeFilter(is_elsewhere)
