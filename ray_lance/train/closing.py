"""Iterators over Ray's executions, which are not shut down by the garbage collector.

Shutting an execution down takes locks and waits for threads. An iterator that nobody refers to any more does that where
it was left, as Ray's own do. But the collector may run a finalizer at any point of any thread, also in one that holds
those very locks: what it finds goes to a thread that closes it. Generators are kept until then where the collector does
not find them, as it would run their ``finally`` itself.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import logging
import queue
import threading
from collections.abc import Generator, Iterator
from inspect import GEN_CLOSED, getgeneratorstate
from typing import Any, TypeVar

import ray

from ray_lance.ray_internals.executions import muted_stats

__all__ = ["ClosedElsewhere", "close_abandoned"]

T = TypeVar("T")

logger = logging.getLogger(__name__)


class ClosedElsewhere(Iterator[T]):
    """An iterator over a generator, which a thread closes where the garbage collector finds it unfinished.

    Args:
        generator: Yields the items; what it holds is let go by its ``close``.
    """

    def __init__(self, generator: Generator[T, None, None]) -> None:
        self._generator: Generator[T, None, None] | None = generator
        self._let_go = _CLOSER.let_go  # global names may be gone when a finalizer runs at the end of the process
        _CLOSER.keep(generator)

    def __next__(self) -> T:
        if self._generator is None:
            raise StopIteration
        try:
            return next(self._generator)
        except BaseException:
            if getgeneratorstate(self._generator) == GEN_CLOSED:
                self.close()  # it has ended, and has closed what it held
            raise

    def close(self) -> None:
        """Let go of what the generator holds, here and now."""
        if self._generator is not None:
            _CLOSER.close(self._generator)
            self._generator = None

    def __del__(self) -> None:
        if self._generator is not None:
            self._let_go(self._generator)


class _Closer:
    """Keeps generators until they are closed: those that the collector has found, in a thread of its own."""

    def __init__(self) -> None:
        self._kept: set[Generator[Any, None, None]] = set()
        # Of all queues, this one's put may interrupt itself: it takes no lock that a finalizer could find taken.
        self._abandoned: queue.SimpleQueue[Generator[Any, None, None]] = queue.SimpleQueue()
        self._closing = threading.Lock()
        self._thread: threading.Thread | None = None
        self._this_thread = threading.get_ident
        self._collecting_thread: int | None = None

    def keep(self, generator: Generator[Any, None, None]) -> None:
        """Hold a generator until it is closed."""
        if self._thread is None:
            gc.callbacks.append(self._note_collection)
        if self._thread is None or not self._thread.is_alive():
            self._thread = threading.Thread(target=self._run, name="ray_lance-closer", daemon=True)
            self._thread.start()
        self._kept.add(generator)

    def let_go(self, generator: Generator[Any, None, None]) -> None:
        """Close a generator whose iterator is gone; called by finalizers."""
        if generator not in self._kept:
            return
        if self._this_thread() == self._collecting_thread:
            self._abandoned.put(generator)
        else:
            self._close_abandoned(generator)

    def close(self, generator: Generator[Any, None, None]) -> None:
        """Close a generator here and now."""
        try:
            with contextlib.nullcontext() if ray.is_initialized() else muted_stats():
                generator.close()
        finally:
            self._kept.discard(generator)

    def drain(self) -> None:
        """Close what has been abandoned; return when all of it is closed."""
        with contextlib.suppress(queue.Empty):
            while True:
                self._close_in_turn(self._abandoned.get_nowait())
        with self._closing:  # which the thread may be at
            return

    def close_all(self) -> None:
        """Close everything, at the end of the process: later, threads no longer run that closing waits for."""
        for generator in list(self._kept):
            self._close_abandoned(generator)

    def _run(self) -> None:
        while True:
            self._close_in_turn(self._abandoned.get())

    def _close_in_turn(self, generator: Generator[Any, None, None]) -> None:
        with self._closing:
            self._close_abandoned(generator)

    def _close_abandoned(self, generator: Generator[Any, None, None]) -> None:
        try:
            self.close(generator)
        except Exception:
            logger.exception("an iterator that was left early could not be closed")

    def _note_collection(self, phase: str, _: object) -> None:
        self._collecting_thread = self._this_thread() if phase == "start" else None


def close_abandoned() -> None:
    """Wait until what was left early is shut down, so that what begins now finds its resources free."""
    _CLOSER.drain()


_CLOSER = _Closer()
atexit.register(_CLOSER.close_all)
