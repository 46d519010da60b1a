"""How Ray Data executes what this library reads and writes: at full width at once, and without killing processes."""

from __future__ import annotations

import time
from functools import partial
from typing import Any

from ray.data import Dataset
from ray.data._internal.execution.execution_callback import ExecutionCallback
from ray.data._internal.execution.streaming_executor import StreamingExecutor

__all__ = ["PromptExecution", "executed_promptly"]

_LONGEST_WAIT_S = 0.5
_STEP_S = 0.0005


class PromptExecution(ExecutionCallback):
    """Lets executions begin with all the tasks that fit the cluster, and end so that the next one can begin.

    An executor asks Ray's coordinator for resources and takes the first answer for its limits, which hold for a second.
    The question is answered in the background, so that the first answer is "nothing" (Ray 2.60), and for that second
    one task runs at a time. The coordinator needs a few milliseconds, and some hundred when it has to be started.

    When an iteration is left early, Ray kills the processes of the tasks that still run, and the next execution waits
    seconds for new ones. An interrupt ends a read as well, after the take or the batch that it is at.
    """

    def before_execution_starts(self, executor: StreamingExecutor) -> None:
        """Ask until there is an answer, for half a second at most: a cluster may have nothing to give yet."""
        deadline = time.monotonic() + _LONGEST_WAIT_S
        while executor._cluster_autoscaler.get_total_resources().is_zero() and time.monotonic() < deadline:
            time.sleep(_STEP_S)
        operators: Any = executor._topology
        for operator in operators:
            operator._cancel_active_tasks = partial(_interrupt, operator._cancel_active_tasks)


def executed_promptly(dataset: Dataset) -> Dataset:
    """The same Ray dataset; its executions, and those of what is derived from it, are prompt."""
    classes = dataset.context.custom_execution_callback_classes
    if PromptExecution not in classes:
        dataset.context.custom_execution_callback_classes = [*classes, PromptExecution]
    return dataset


def _interrupt(cancel: Any, **_: bool) -> None:
    cancel(force=False)
