"""The fast way of executions: callbacks of Ray's streaming executor. See ``executions.py``."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import ray
from ray.data import DataContext, Dataset
from ray.data._internal.execution.execution_callback import ExecutionCallback
from ray.data._internal.execution.operators.input_data_buffer import InputDataBuffer
from ray.data._internal.execution.operators.task_pool_map_operator import TaskPoolMapOperator
from ray.data._internal.execution.streaming_executor import StreamingExecutor
from ray.data._internal.output_buffer import OutputBlockSizeOption

from ray_lance.ray_internals.ways import needs

__all__ = [
    "PromptExecution",
    "begun_as_admitted",
    "clean_up_after_writes",
    "executed_promptly",
    "reads_ahead",
    "running_context",
    "with_unshaped_blocks",
]

needs(DataContext, "custom_execution_callback_classes")
needs(StreamingExecutor, "_topology", "_cluster_autoscaler", "_callbacks", "_data_context")
needs(TaskPoolMapOperator, "_cancel_active_tasks", "_logical_operators", "can_add_input", "get_map_transformer")
needs(TaskPoolMapOperator, "get_active_tasks", "num_active_tasks", "input_dependencies")
needs(OutputBlockSizeOption, "disable_block_shaping")

_STEP_S = 0.0005
# How long an execution rests that waits to be admitted: it would ask again and again, at the expense of a CPU.
_REST_S = 0.005
# The name that Ray gives to the operator of a datasink.
_WRITE = "Write"
# As long as a write task may go on with the file that it is at.
_GRACE_S = 10.0
# As long as a read task may go on with the batch that it is at: about what it takes to start a process instead.
_PATIENCE_S = 3.0
_POLL_S = 0.05


class PromptExecution(ExecutionCallback):
    """Lets executions begin with all the tasks that fit the cluster, and end so that the next one can begin.

    An executor asks Ray's coordinator for resources and takes the first answer for its limits, which hold for a second.
    The question is answered in the background, so that the first answer is "nothing", and for that second
    one task runs at a time. The coordinator needs a few milliseconds, and some hundred when it has to be started.

    When an iteration is left early, Ray kills the processes of the tasks that still run, and the next execution waits
    seconds for new ones. Our own reads are interrupted instead, where that leaves their processes fit for other tasks.

    Attributes:
        longest_wait_s: How long to wait for an answer other than "nothing": a cluster may have nothing to give yet.
    """

    longest_wait_s = 0.5

    def before_execution_starts(self, executor: StreamingExecutor) -> None:
        """Ask until there is an answer."""
        deadline = time.monotonic() + self.longest_wait_s
        while executor._cluster_autoscaler.get_total_resources().is_zero() and time.monotonic() < deadline:
            time.sleep(_STEP_S)
        operators: Any = executor._topology
        for operator in operators:
            if any(_holds_interrupts(logical) for logical in operator._logical_operators):
                operator._cancel_active_tasks = partial(_leave, operator)


class CleanedUpExecution(ExecutionCallback):
    """Cleans up after an execution that failed or was interrupted.

    Args:
        clean_up: What to call when the tasks have ended.
    """

    def __init__(self, clean_up: Callable[[], None]) -> None:
        self._clean_up = clean_up

    def after_execution_fails(self, executor: StreamingExecutor, error: Exception) -> None:  # noqa: ARG002
        """Clean up."""
        self._clean_up()


def clean_up_after_writes(clean_up: Callable[[], None]) -> None:
    """Have ``clean_up`` called when the execution fails or is interrupted, but not before its write tasks have ended.

    A failed or interrupted execution leaves its tasks running for a while, which does no harm as long as they only
    read. A task that published a file after the clean-up would leave it behind.

    To be called where Ray calls :meth:`ray.data.Datasink.on_write_start`: in the thread of the execution.
    """
    executor = threading.current_thread()
    if not isinstance(executor, StreamingExecutor):
        return
    for operator in executor._topology or ():
        if operator.name == _WRITE:
            cancel = partial(type(operator)._cancel_active_tasks, operator)
            operator._cancel_active_tasks = partial(_end, operator, cancel)
    executor._callbacks.append(CleanedUpExecution(clean_up))


def running_context() -> DataContext:
    """The context of the Ray dataset whose execution this thread runs; that of the process elsewhere."""
    executor = threading.current_thread()
    own = getattr(executor, "_data_context", None) if isinstance(executor, StreamingExecutor) else None
    return own or DataContext.get_current()


class UnshapedBlocks(ExecutionCallback):
    """Lets read tasks hand on each table that they yield as a block of its own, at once.

    Ray collects what a task yields until it has the bytes of a block, and all of it where no size is set.
    """

    def before_execution_starts(self, executor: StreamingExecutor) -> None:
        """Switch the collecting off; the tasks are told with the first of them."""
        for operator in executor._topology or ():
            if isinstance(operator, TaskPoolMapOperator):
                for transform in operator.get_map_transformer().get_transform_fns():
                    transform._output_block_size_option = OutputBlockSizeOption.of(disable_block_shaping=True)


class AdmittedExecution(ExecutionCallback):
    """Lets read tasks begin, in their order, only when they are admitted.

    A policy of back-pressure would not do: Ray disregards them while no task is running.
    """

    admits: Callable[[int], bool]

    def before_execution_starts(self, executor: StreamingExecutor) -> None:
        """Make the operators that run read tasks ask first."""
        for operator in executor._topology or ():
            if any(isinstance(source, InputDataBuffer) for source in operator.input_dependencies):
                operator.can_add_input = partial(_may_begin, operator, operator.can_add_input, type(self).admits)

    def on_execution_step(self, executor: StreamingExecutor) -> None:
        """Rest while there is nothing to do until a task is admitted."""
        if all(operator.num_active_tasks() == 0 for operator in executor._topology or ()):
            time.sleep(_REST_S)


def begun_as_admitted(dataset: Dataset, admits: Callable[[int], bool]) -> Dataset:
    """The same Ray dataset; its read tasks begin as ``admits`` allows.

    Args:
        dataset: One that reads from one source.
        admits: Whether the read task of this number, counted from 0, may begin; asked until it may. It is called on
            the driver, and copies of it are sent to the workers, so that it must be possible to pickle it.
    """
    admitted = type("Admitted", (AdmittedExecution,), {"admits": staticmethod(admits)})
    dataset.context.custom_execution_callback_classes = [
        *dataset.context.custom_execution_callback_classes,
        admitted,
    ]
    return dataset


def with_unshaped_blocks(dataset: Dataset) -> Dataset:
    """The same Ray dataset; the tables that its read tasks yield become its blocks, as they are yielded."""
    dataset.context.custom_execution_callback_classes = [
        *dataset.context.custom_execution_callback_classes,
        UnshapedBlocks,
    ]
    return dataset


def executed_promptly(dataset: Dataset) -> Dataset:
    """The same Ray dataset; its executions, and those of what is derived from it, are prompt."""
    classes = dataset.context.custom_execution_callback_classes
    if PromptExecution not in classes:
        dataset.context.custom_execution_callback_classes = [*classes, PromptExecution]
    return dataset


def reads_ahead(executor: StreamingExecutor) -> int:
    """Tasks that an execution runs, and blocks that it holds and nobody has asked for."""
    topology: Any = dict(executor._topology or {})
    return sum(
        operator.num_active_tasks() + len(state.output_queue)
        for operator, state in topology.items()
        if operator.input_dependencies  # what a read begins with are the tasks that have not begun
    )


def _may_begin(operator: Any, can_begin: Callable[[], bool], admits: Callable[[int], bool]) -> bool:
    return can_begin() and admits(operator.metrics.num_inputs_received)


def _holds_interrupts(operator: Any) -> bool:
    """Whether the tasks of a logical operator are our reads; those that Ray fuses with it run inside of them."""
    return getattr(getattr(operator, "datasource", None), "holds_interrupts", False)


def _leave(operator: Any, **_: bool) -> None:
    """Have the tasks end soon; does not wait until they have."""
    running = [task.get_waitable() for task in operator.get_active_tasks()]
    if running:
        threading.Thread(target=_end_reads, args=(running,), name="ray_lance-leave", daemon=True).start()


def _end_reads(tasks: Sequence[ray.ObjectRefGenerator]) -> None:
    """Interrupt each task once it has yielded something, and kill it where it has not ended in time.

    A task that has yielded holds interrupts back (``interrupts.py``); one that has not may still be importing.
    """
    begun: list[ray.ObjectRefGenerator] = []
    deadline = time.monotonic() + _PATIENCE_S
    while tasks and ray.is_initialized():
        if time.monotonic() >= deadline:
            for task in tasks:
                ray.cancel(task, force=True)
            return
        for task in _ready([task for task in tasks if task not in begun], _POLL_S):
            ray.cancel(task, force=False)
            begun.append(task)
        ended = _ready([task.completed() for task in tasks], _POLL_S)
        tasks = [task for task in tasks if task.completed() not in ended]


def _ready(waitables: list[Any], timeout_s: float) -> list[Any]:
    """Those that have something to fetch, all of them or after the timeout."""
    if not waitables:
        return []
    return list(ray.wait(waitables, num_returns=len(waitables), timeout=timeout_s, fetch_local=False)[0])


def _end(operator: Any, cancel: Any, **_: bool) -> None:
    """Interrupt the tasks and wait until they have ended; kill those that have not within the grace period."""
    running = [task.get_waitable().completed() for task in operator.get_active_tasks()]
    if not running:
        return
    cancel(force=False)
    if len(_ready(running, _GRACE_S)) < len(running):
        cancel(force=True)
        _ready(running, _GRACE_S)
