"""The fast way of silence: what executions would print goes to Ray's log file only. See ``executions.py``."""

from __future__ import annotations

import logging

from ray.data import DataContext, Dataset
from ray.data._internal import logging as ray_data_logging
from ray.data._internal.execution import streaming_executor
from ray.data._internal.execution.execution_callback import ExecutionCallback
from ray.data._internal.execution.streaming_executor import StreamingExecutor
from ray.util.debug import log_once

from ray_lance.ray_internals.ways import needs

__all__ = ["hidden_lines"]

needs(DataContext, "custom_execution_callback_classes")
needs(StreamingExecutor, "_data_context", "_dataset_id")

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


def hidden_lines(dataset: Dataset) -> Dataset:
    """The same Ray dataset; what Ray says about its executions, warnings aside, is hidden while they show no bars."""
    context = dataset.context
    if QuietExecution not in context.custom_execution_callback_classes:
        context.custom_execution_callback_classes = [*context.custom_execution_callback_classes, QuietExecution]
    return dataset


def _hide_quiet(record: logging.LogRecord) -> bool:
    if record.levelno <= logging.INFO and any(name in str(record.msg) for name in _quiet_ids):
        record.hide = True  # for the filter of Ray Data's console; its log file shows the record all the same
    return True
