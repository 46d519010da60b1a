"""Lets an execution of Ray Data begin with all the tasks that fit the cluster, instead of one at a time."""

from __future__ import annotations

import time

from ray.data import Dataset
from ray.data._internal.execution.execution_callback import ExecutionCallback
from ray.data._internal.execution.streaming_executor import StreamingExecutor

__all__ = ["AwaitReservation", "await_reservation"]

_LONGEST_WAIT_S = 0.5
_STEP_S = 0.0005


class AwaitReservation(ExecutionCallback):
    """Waits, before an execution starts, until its share of the cluster is known.

    An executor asks Ray's coordinator for resources and takes the first answer for its limits, which hold for a second.
    The question is answered in the background, so that the first answer is "nothing" (Ray 2.60), and for that second
    one task runs at a time. The coordinator needs a few milliseconds, and some hundred when it has to be started.
    """

    def before_execution_starts(self, executor: StreamingExecutor) -> None:
        """Ask until there is an answer, for half a second at most: a cluster may have nothing to give yet."""
        deadline = time.monotonic() + _LONGEST_WAIT_S
        while executor._cluster_autoscaler.get_total_resources().is_zero() and time.monotonic() < deadline:
            time.sleep(_STEP_S)


def await_reservation(dataset: Dataset) -> Dataset:
    """The same Ray dataset, whose executions, and those of what is derived from it, wait for their reservation."""
    classes = dataset.context.custom_execution_callback_classes
    if AwaitReservation not in classes:
        dataset.context.custom_execution_callback_classes = [*classes, AwaitReservation]
    return dataset
