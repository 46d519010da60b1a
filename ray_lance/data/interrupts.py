"""Interrupts of a task, which take effect where they leave its process fit for the next task."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

__all__ = ["interrupts_held"]


class _Interrupts:
    """The interrupts of this process: one state, since there is one main thread and one handler."""

    def __init__(self) -> None:
        self._holders = 0
        self._is_pending = False
        self._handler_before: Callable[[int, FrameType | None], Any] = signal.default_int_handler

    def hold(self) -> None:
        """Let interrupts wait until they are asked for."""
        handler = signal.getsignal(signal.SIGINT)
        if handler != self._on_interrupt and callable(handler):
            # It stays, and passes on what comes while nobody holds: holders may end in any order, and in any thread.
            self._handler_before = handler
            signal.signal(signal.SIGINT, self._on_interrupt)
        if not self._holders:
            self._is_pending = False
        self._holders += 1

    def release(self) -> None:
        """The opposite of :meth:`hold`."""
        self._holders -= 1

    def raise_pending(self) -> None:
        """Raise the interrupt that has come, if one has."""
        if self._is_pending:
            self._is_pending = False
            raise KeyboardInterrupt

    def _on_interrupt(self, number: int, frame: FrameType | None) -> None:
        if self._holders:
            self._is_pending = True
        else:
            self._handler_before(number, frame)


_interrupts = _Interrupts()


@contextmanager
def interrupts_held() -> Iterator[Callable[[], None]]:
    """Hold interrupts back; the function that is yielded raises one that has come.

    Ray interrupts a task by a KeyboardInterrupt in the main thread of its process, at whatever instruction that is:
    amid an import, or between the taking of a lock and the ``try`` that would release it. The process is used again,
    and hangs where it needs that lock, or fails where it needs that module.

    Does nothing outside of the main thread, which no interrupt reaches.

    Raises:
        KeyboardInterrupt: By the function, once for interrupts that came since it was last called.
    """
    if threading.current_thread() is not threading.main_thread():
        yield _do_nothing
        return
    _interrupts.hold()
    try:
        yield _interrupts.raise_pending
    finally:
        _interrupts.release()


def _do_nothing() -> None:
    """What there is to do about interrupts in a thread that gets none."""
