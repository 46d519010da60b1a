"""What is left early is closed in a thread of its own, never where the garbage collector happens to run."""

from __future__ import annotations

import gc
import subprocess
import sys
import threading

import pytest

from ray_lance.train.closing import ClosedElsewhere, close_abandoned


class Resource:
    """Is let go under a lock, as Ray's executions are."""

    def __init__(self):
        self.lock = threading.Lock()
        self.closed_by: list[str] = []

    def items(self):
        try:
            yield from range(3)
        finally:
            with self.lock:
                self.closed_by.append(threading.current_thread().name)


@pytest.fixture
def resource():
    return Resource()


def test_a_collector_that_runs_while_the_lock_is_held_neither_waits_nor_closes(resource):
    iterator = ClosedElsewhere(resource.items())
    next(iterator)
    cycle = [iterator]
    cycle.append(cycle)
    with resource.lock:
        del iterator, cycle
        gc.collect()
        assert resource.closed_by == []
    close_abandoned()
    assert len(resource.closed_by) == 1


def test_what_the_collector_has_found_is_closed_without_being_asked():
    closed = threading.Event()

    def items():
        try:
            yield from range(3)
        finally:
            closed.set()

    iterator = ClosedElsewhere(items())
    next(iterator)
    cycle = [iterator]
    cycle.append(cycle)
    del iterator, cycle
    gc.collect()
    assert closed.wait(timeout=30)


def test_leaving_a_loop_closes_there(resource):
    for _ in ClosedElsewhere(resource.items()):
        break
    assert resource.closed_by == [threading.current_thread().name]


def test_reading_to_the_end_closes_in_the_thread_that_reads(resource):
    iterator = ClosedElsewhere(resource.items())
    assert list(iterator) == [0, 1, 2]
    assert resource.closed_by == [threading.current_thread().name]
    assert list(iterator) == []


def test_close_is_at_once_and_final(resource):
    iterator = ClosedElsewhere(resource.items())
    next(iterator)
    iterator.close()
    assert resource.closed_by == [threading.current_thread().name]
    assert list(iterator) == []


def test_an_error_ends_it():
    def items():
        yield 1
        raise KeyError("lost")

    iterator = ClosedElsewhere(items())
    with pytest.raises(KeyError, match="lost"):
        list(iterator)
    assert list(iterator) == []


def test_what_cannot_be_closed_is_logged_and_holds_up_nothing_else(resource, caplog):
    def stuck():
        try:
            yield 1
        finally:
            raise OSError("no longer there")

    for items in (stuck(), resource.items()):
        next(ClosedElsewhere(items))
    close_abandoned()
    assert "could not be closed" in caplog.text
    assert len(resource.closed_by) == 1


LEFT_AT_THE_END = """
from ray_lance.train.closing import ClosedElsewhere

def items():
    try:
        yield 1
        yield 2
    finally:
        print("closed")

iterator = ClosedElsewhere(items())
print(next(iterator))
"""


def test_what_lives_until_the_end_of_the_process_is_closed_before_it():
    run = subprocess.run([sys.executable, "-c", LEFT_AT_THE_END], capture_output=True, text=True, check=True)
    assert (run.stdout.split(), run.stderr) == (["1", "closed"], "")
