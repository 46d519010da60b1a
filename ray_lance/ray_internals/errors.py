"""Errors of tasks, where Ray Data executes a dataset."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

from ray.data import Dataset

from ray_lance.ray_internals.ways import fast_module

__all__ = ["raise_while_executing"]

_errors = fast_module("_errors", "errors of iterations are raised as they were in the task")


def raise_while_executing(kind: type[Dataset], own_errors: Callable[[], AbstractContextManager[None]]) -> None:
    """Have executions of datasets of a class run within a context.

    By the public way only methods of our own are.

    Args:
        kind: The class.
        own_errors: Makes the context, in which errors may be replaced.
    """
    if _errors is not None:
        _errors.raise_while_executing(kind, own_errors)
