"""What Ray knows of the task that runs, and of the execution that it belongs to."""

from __future__ import annotations

from typing import Any

import ray
from ray.data import DataContext

__all__ = ["attempts_before", "execution_number", "number_execution"]


def attempts_before() -> int:
    """Earlier attempts of the task that this process runs; 0 outside of tasks, and where Ray does not tell."""
    worker = getattr(ray._private.worker.global_worker, "core_worker", None)
    attempts = getattr(worker, "get_current_task_attempt_number", None)
    return int(attempts()) if attempts is not None else 0


def execution_number(context: DataContext | None) -> int:
    """How often the Ray dataset of a context has been executed before. There is no public way to tell."""
    return 0 if context is None else int(context._execution_idx)


def number_execution(context: Any, number: int) -> None:
    """Have the next execution count as this one: random expressions of Ray Data vary with it."""
    if hasattr(context, "_execution_idx"):
        context._execution_idx = number
