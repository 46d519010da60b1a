"""Translates errors of tasks: what Ray wraps around them in, this library's own errors out."""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

from ray.exceptions import RayTaskError, UserCodeException

from ray_lance.errors import RayLanceError

__all__ = ["faults_of_data", "own_error", "own_errors", "said_once"]

# What Ray appends to the message of an error in a task (Ray 2.60).
_APPENDED = re.compile(r"\nFailed to .{,200}? attempts \(total backoff .*", re.DOTALL)
# Where Ray prints the tracebacks of errors that it raises as well, and asks for reports of them.
_REPORTERS = ("ray.data.exceptions", "ray.data._internal.execution.streaming_executor_state")


@contextmanager
def faults_of_data() -> Iterator[None]:
    """In a task: mark this library's errors as faults of data or arguments, for Ray Data.

    It logs one line of such errors. For all others it logs two tracebacks, and asks for a bug report.
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


@contextmanager
def said_once() -> Iterator[None]:
    """Keep Ray from printing errors of this library, which are raised anyway. Its log files get them."""
    loggers = [logging.getLogger(name) for name in _REPORTERS]
    for logger in loggers:
        logger.addFilter(_hide)
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeFilter(_hide)


def own_error(error: BaseException | None) -> RayLanceError | None:
    """The error of this library that ``error`` was caused by, without what Ray wraps around it and adds to it."""
    while error is not None:
        if isinstance(error, RayTaskError):
            error = error.cause
        elif isinstance(error, RayLanceError):
            error.args = tuple(_APPENDED.sub("", part) if isinstance(part, str) else part for part in error.args)
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
    # Not by the class's own constructor, which may take other arguments than the message.
    error: RayLanceError = kind.__new__(kind)
    RayLanceError.__init__(error, message)
    return error


def _hide(record: logging.LogRecord) -> bool:
    reported = record.exc_info[1] if record.exc_info else sys.exc_info()[1]
    if own_error(reported) is not None:
        record.hide = True  # Ray's handler for the terminal leaves it out
    return True
