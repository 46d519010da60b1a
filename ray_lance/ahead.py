"""Calls a function ahead of time: items in, results out in order, made by threads of this process.

The garbage collector ends iterations at any moment and in any thread, also in one that holds a lock or that others wait
for. So ending an iteration takes no lock and waits for nothing: it sets a flag, which the threads see.
"""

from __future__ import annotations

import atexit
import itertools
import os
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, wait
from queue import SimpleQueue
from typing import Any, NamedTuple, TypeVar

from ray_lance.forks import check_begun_here

__all__ = ["await_reads", "ordered_map"]

# Idle threads that are kept. New ones for each epoch would take their memory from other arenas of glibc, and the
# process would grow; so it would if all threads that many iterations once needed were kept.
_MOST_IDLE = 8

T = TypeVar("T")
R = TypeVar("R")


def ordered_map(
    function: Callable[[T], R], items: Iterable[T], threads: int, ahead: int, exclusive: int = 0
) -> Generator[R, None, None]:
    """``map`` by threads: results in order, ``ahead`` of them begun before they are asked for; 0 threads use none.

    Other items begin only when the first ``exclusive`` ones are done. An error is raised where its result would have
    come. Closing the generator drops calls that have not begun.

    Raises:
        InvalidArgumentError: While iterating, in a forked child: it has none of the threads.
    """
    if threads == 0:
        yield from map(function, items)
        return
    calls = _Calls(function, threads)
    pending: deque[Future[R]] = deque()
    source = iter(items)

    def begin(count: int) -> None:
        pending.extend(calls.submit(item) for item in itertools.islice(source, max(0, count)))

    try:
        begin(exclusive)
        first = list(pending)
        while True:
            check_begun_here(calls.pid)
            if pending and first:
                wait([pending[0]])
            if all(each.done() for each in first):
                first.clear()  # and with them their results
                begin(ahead + 1 - len(pending))
            if not pending:
                return
            yield pending.popleft().result()
    finally:
        calls.has_ended = True


def await_reads() -> None:
    """Wait until all calls that were begun have ended, also those of iterations that have ended."""
    _crew.await_idle()


class _Call(NamedTuple):
    """One call, and the future of its outcome."""

    future: Future[Any]
    item: Any

    def announce(self, result: Any, error: BaseException | None) -> None:
        """Set the future."""
        if error is None:
            self.future.set_result(result)
        else:
            self.future.set_exception(error)


class _Calls:
    """The calls of one iteration.

    Attributes:
        has_ended: Whether the iteration has ended. Set without a lock; seen before the next call begins.
        pid: The process whose threads make the calls.
    """

    def __init__(self, function: Callable[[Any], Any], threads: int) -> None:
        self.has_ended = False
        self.pid = os.getpid()
        self._function, self._threads = function, threads
        self._waiting: deque[_Call] = deque()
        self._running = 0

    def submit(self, item: Any) -> Future[Any]:
        """Queue a call."""
        call = _Call(Future(), item)
        with _crew.changed:
            if self._running < self._threads:
                _crew.employ(self)
                self._running += 1
            self._waiting.append(call)
        return call.future

    def take(self) -> _Call | None:
        """The next call for a thread that serves this iteration; None if there is none. Needs the lock."""
        if self.has_ended:
            self._waiting.clear()
        if self._waiting:
            return self._waiting.popleft()
        self._running -= 1
        return None

    def make(self, call: _Call) -> tuple[Any, BaseException | None]:
        """Make a call; returns its result and what it raised."""
        try:
            return self._function(call.item), None
        except BaseException as error:
            return None, error


class _Crew:
    """The threads of this process. Each serves one iteration at a time, so that nested iterations cannot block it."""

    def __init__(self) -> None:
        self._numbers = itertools.count()
        self.begin()

    def begin(self) -> None:
        """Begin without threads: a forked child has none, and one of its parent's may have held the lock."""
        self.changed = threading.Condition()
        self._idle: list[SimpleQueue[_Calls]] = []
        self._busy = 0
        self._is_closed = False

    def employ(self, calls: _Calls) -> None:
        """Assign a thread to an iteration: the one that became idle last, or a new one. Needs the lock."""
        if self._idle:
            self._idle.pop().put(calls)
        else:
            name = f"ray_lance-read-{next(self._numbers)}"
            # A daemon: the interpreter must not wait for idle threads when it ends; close() waits for busy ones.
            threading.Thread(target=self._serve, args=(calls,), name=name, daemon=True).start()
        self._busy += 1

    def await_idle(self) -> None:
        """Wait until no thread is busy."""
        with self.changed:
            self.changed.wait_for(lambda: self._busy == 0)

    def close(self) -> None:
        """Begin no more calls, and wait for running ones, which must not return to an interpreter that has ended.

        Called by the main thread when the interpreter ends, not by finalizers.
        """
        self._is_closed = True
        self.await_idle()

    def _serve(self, calls: _Calls) -> None:
        inbox: SimpleQueue[_Calls] = SimpleQueue()
        while self._work_for(calls, inbox):
            del calls  # an idle thread keeps nothing alive
            calls = inbox.get()

    def _work_for(self, calls: _Calls, inbox: SimpleQueue[_Calls]) -> bool:
        """Make the calls of an iteration; returns whether the thread is kept."""
        call, stays = self._next(calls, inbox)
        while call is not None:
            made, outcome = call, calls.make(call)
            call, stays = self._next(calls, inbox)
            # After taking the next call: whoever gets the last outcome finds this thread idle and starts no new one.
            made.announce(*outcome)
            del made, outcome
        return stays

    def _next(self, calls: _Calls, inbox: SimpleQueue[_Calls]) -> tuple[_Call | None, bool]:
        """The next call; or None, and whether the thread becomes idle rather than ending."""
        with self.changed:
            call = None if self._is_closed else calls.take()
            if call is not None:
                return call, True
            self._busy -= 1
            self.changed.notify_all()
            stays = len(self._idle) < _MOST_IDLE
            if stays:
                self._idle.append(inbox)
            return None, stays


_crew = _Crew()
os.register_at_fork(after_in_child=_crew.begin)
atexit.register(_crew.close)
