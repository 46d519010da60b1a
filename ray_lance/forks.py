"""Lance in forked processes: refused, because it would hang, crash or give other rows.

Lance's threads, locks and caches belong to the process that has used it. A child that was forked from it has copies in
whatever state they were in, and neither old nor new handles can be relied on there.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from typing import TypeVar

from ray_lance.errors import InvalidArgumentError

__all__ = ["check_begun_here", "check_process", "is_refused", "not_forked", "use_lance"]

T = TypeVar("T")


class _Process:
    """What this process may do with Lance."""

    def __init__(self) -> None:
        self.has_used_lance = False
        self.is_refused = False

    def after_fork(self) -> None:
        self.is_refused = self.is_refused or self.has_used_lance


_process = _Process()
os.register_at_fork(after_in_child=_process.after_fork)


def use_lance() -> None:
    """To be called before Lance is used: children that are forked from now on must not.

    Raises:
        InvalidArgumentError: As :func:`check_process`.
    """
    check_process()
    _process.has_used_lance = True


def check_process() -> None:
    """Refuse to go on in a process that was forked from one that had used Lance.

    Raises:
        InvalidArgumentError: This is such a process.
    """
    if is_refused():
        raise _refusal()


def is_refused() -> bool:
    """Whether this process was forked from one that had used Lance."""
    return _process.is_refused


def check_begun_here(pid: int) -> None:
    """Refuse to go on with what another process has begun.

    Args:
        pid: The process that has begun it.

    Raises:
        InvalidArgumentError: This is a child that was forked from it.
    """
    if pid != os.getpid():
        raise _refusal()


def not_forked(items: Iterable[T]) -> Iterator[T]:
    """The items, as long as they are asked for in the process that asked for the first one.

    Raises:
        InvalidArgumentError: While iterating, as :func:`check_process` and :func:`check_begun_here`.
    """
    check_process()
    pid = os.getpid()
    for item in items:
        yield item
        check_begun_here(pid)


def _refusal() -> InvalidArgumentError:
    return InvalidArgumentError(
        "this process was forked from one that had used Lance, whose threads do not survive a fork: reading and "
        'writing here would hang or crash. Start processes with torch.multiprocessing.set_start_method("spawn"), with '
        'multiprocessing.get_context("spawn") or as a subprocess'
    )
