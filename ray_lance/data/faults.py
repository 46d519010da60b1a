"""Errors of tasks as the caller meets them: this library's own, in a few lines, without Ray's tracebacks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

from ray.exceptions import RayTaskError, UserCodeException

from ray_lance.errors import RayLanceError

__all__ = ["faults_of_data", "own_error", "own_errors"]


@contextmanager
def faults_of_data() -> Iterator[None]:
    """In a task: have Ray Data take this library's errors for what they are, faults of data or arguments.

    It logs a line of such errors. Of all others it logs two tracebacks, and asks for a bug report.
    """
    try:
        yield
    except RayLanceError as error:
        raise _fault(type(error), str(error)) from None


@contextmanager
def own_errors() -> Iterator[None]:
    """On the driver: raise an error that this library raised in a task as it was raised there."""
    try:
        yield
    except Exception as error:
        own = own_error(error)
        if own is None:
            raise
        raise own from None


def own_error(error: BaseException | None) -> RayLanceError | None:
    """The error of this library that ``error`` was caused by, without what Ray wraps around it."""
    while error is not None:
        if isinstance(error, RayTaskError):
            error = error.cause
        elif isinstance(error, RayLanceError):
            return error if (plain := getattr(error, "_plain", None)) is None else _made(plain, str(error))
        else:
            error = error.__cause__
    return None


@cache
def _fault_class(plain: Any) -> Any:
    def reduced(self: RayLanceError) -> tuple[Any, ...]:
        return _fault, (plain, str(self))

    members = {"_plain": plain, "__reduce__": reduced, "__module__": plain.__module__}
    return type(plain.__name__, (plain, UserCodeException), members)


def _fault(plain: Any, message: str) -> RayLanceError:
    return _made(_fault_class(plain), message)


def _made(kind: Any, message: str) -> RayLanceError:
    # Not by the class's own constructor, which may make the message of other arguments.
    error: RayLanceError = kind.__new__(kind)
    RayLanceError.__init__(error, message)
    return error
