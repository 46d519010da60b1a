"""How Ray Data executes a Ray dataset: started at full width, silenced, watched, admitted, cleaned up after."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

from ray.data import DataContext, Dataset

from ray_lance.progress import Progress
from ray_lance.ray_internals.ways import fast_module

__all__ = [
    "admits_tasks",
    "begun_as_admitted",
    "clean_up_after_writes",
    "executed_promptly",
    "muted_stats",
    "reads_ahead",
    "running_context",
    "silenced",
    "watched_write",
    "with_unshaped_blocks",
]

_executions = fast_module("_executions", "executions begin at full width, and leave processes to the next one")
_quiet = fast_module("_quiet", "executions of this library print no lines of their own")
_watching = fast_module("_watching", "progress of writes while they run")

# Loggers are found by name; where Ray has renamed one, its lines are shown.
_STATS_LOG = logging.getLogger("ray.data._internal.stats")


def executed_promptly(dataset: Dataset) -> Dataset:
    """The same Ray dataset; its executions, and those of what is derived from it, begin with all tasks that fit."""
    return dataset if _executions is None else _executions.executed_promptly(dataset)


def clean_up_after_writes(clean_up: Callable[[], None]) -> None:
    """Have ``clean_up`` called when the execution fails or is interrupted, but not before its write tasks have ended.

    To be called where Ray calls :meth:`ray.data.Datasink.on_write_start`. The public way does nothing: whoever started
    the write cleans up after it, and a task that still ran may leave a file that no version names.
    """
    if _executions is not None:
        _executions.clean_up_after_writes(clean_up)


def running_context() -> DataContext:
    """The context of the Ray dataset whose execution this thread runs; that of the process elsewhere."""
    return DataContext.get_current() if _executions is None else _executions.running_context()


def admits_tasks() -> bool:
    """Whether :func:`begun_as_admitted` holds tasks back."""
    return _executions is not None


def begun_as_admitted(dataset: Dataset, admits: Callable[[int], bool]) -> Dataset:
    """The same Ray dataset; its read tasks begin as ``admits`` allows. The public way lets Ray begin them as it likes.

    Args:
        dataset: One that reads from one source.
        admits: Whether the read task of this number, counted from 0, may begin; asked until it may. It is called on
            the driver, and copies of it are sent to the workers, so that it must be possible to pickle it.
    """
    return dataset if _executions is None else _executions.begun_as_admitted(dataset, admits)


def with_unshaped_blocks(dataset: Dataset) -> Dataset:
    """The same Ray dataset; the tables that its read tasks yield become its blocks, as they are yielded.

    The public way leaves Ray to join them.
    """
    return dataset if _executions is None else _executions.with_unshaped_blocks(dataset)


def reads_ahead(executor: Any) -> int:
    """Tasks that an execution runs, and blocks that it holds and nobody has asked for; 0 where it cannot be told."""
    return 0 if _executions is None else _executions.reads_ahead(executor)


def silenced(dataset: Dataset) -> Dataset:
    """The same Ray dataset; its executions show no progress bars and print warnings only.

    ``dataset.context.enable_progress_bars = True`` brings both back. The public way leaves some lines of Ray's.
    """
    dataset.context.enable_progress_bars = False
    dataset.context.print_on_execution_start = False
    return dataset if _quiet is None else _quiet.hidden_lines(dataset)


def watched_write(dataset: Dataset, progress: Progress) -> AbstractContextManager[Dataset]:
    """The same Ray dataset; while the context lasts, ``progress`` shows how much of it has been written.

    By the public way nothing is shown before the end.
    """
    return nullcontext(dataset) if _watching is None else _watching.watched_write(dataset, progress)


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
