"""Calls made ahead: in order, by threads, the first ones before all others; ended without a lock."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import threading
import time

import pytest

from ray_lance import ahead
from ray_lance.ahead import await_reads, ordered_map
from ray_lance.errors import InvalidArgumentError


@pytest.mark.parametrize("threads", [0, 1, 3])
@pytest.mark.parametrize("exclusive", [0, 1, 2, 9])
def test_results_come_in_order(threads, exclusive):
    results = ordered_map(lambda number: number * number, range(7), threads, ahead=3, exclusive=exclusive)

    assert list(results) == [number * number for number in range(7)]


def test_nothing_else_begins_before_the_first_items_are_done():
    begun: list[int] = []
    second_may_end = threading.Event()

    def work(item: int) -> list[int]:
        begun.append(item)
        if item == 0:
            second_may_end.set()
        if item == 1:
            assert second_may_end.wait(timeout=60)
        return sorted(begun)

    results = list(ordered_map(work, range(6), threads=4, ahead=5, exclusive=2))

    assert set(results[0]) | set(results[1]) == {0, 1}
    assert sorted(begun) == list(range(6))


def test_others_begin_before_the_first_result_is_taken():
    others_began = threading.Event()

    def work(item: int) -> int:
        if item == 1:
            others_began.set()
        return item

    results = ordered_map(work, range(3), threads=2, ahead=2, exclusive=1)

    assert next(results) == 0
    assert others_began.wait(timeout=60)
    results.close()


def test_a_result_does_not_wait_for_those_that_begin_with_it():
    first_taken = threading.Event()

    def work(item: int) -> int:
        if item == 1:
            assert first_taken.wait(timeout=60)
        return item

    results = ordered_map(work, range(4), threads=2, ahead=3, exclusive=2)

    assert next(results) == 0
    first_taken.set()
    assert list(results) == [1, 2, 3]


def test_an_error_comes_where_its_result_would_have_come():
    def work(item: int) -> int:
        if item == 1:
            raise ValueError("the second item")
        return item

    results = ordered_map(work, range(3), threads=2, ahead=2, exclusive=2)

    assert next(results) == 0
    with pytest.raises(ValueError, match="second item"):
        next(results)


def test_closing_drops_what_has_not_begun():
    begun, may_end = [], threading.Event()

    def work(item: int) -> int:
        begun.append(item)
        assert item == 0 or may_end.wait(timeout=60)
        return item

    results = ordered_map(work, range(4), threads=1, ahead=3)
    assert next(results) == 0
    results.close()
    may_end.set()

    assert set(begun) <= {0, 1}


def test_iterations_within_others_have_threads_of_their_own():
    def within(depth: int) -> int:
        return sum(ordered_map(within, [depth - 1] * 3, threads=1, ahead=1)) if depth else 1

    assert list(ordered_map(within, [3], threads=1, ahead=1)) == [27]


def test_threads_that_still_work_are_not_lent_to_the_next_iteration():
    may_end = threading.Event()
    left = ordered_map(lambda item: item and may_end.wait(timeout=60), range(3), threads=1, ahead=2)
    assert next(left) == 0
    left.close()

    assert list(ordered_map(lambda item: item, range(3), threads=1, ahead=2)) == [0, 1, 2]
    assert not may_end.is_set()
    may_end.set()


def test_a_forked_child_has_threads_of_its_own():
    assert list(ordered_map(lambda _: os.getpid(), range(2), threads=1, ahead=1)) == [os.getpid()] * 2
    child = os.fork()
    if child == 0:
        os._exit(list(ordered_map(lambda _: os.getpid(), range(2), threads=1, ahead=1)) != [os.getpid()] * 2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_reads_that_were_left_can_be_waited_for():
    ended = []

    def work(item: int) -> int:
        time.sleep(0.05 * item)
        ended.append(item)
        return item

    results = ordered_map(work, range(3), threads=2, ahead=1)
    assert next(results) == 0
    results.close()
    await_reads()

    assert ended == [0, 1]


def test_an_iteration_that_was_begun_before_a_fork_is_refused_after_it():
    results = ordered_map(lambda item: item, range(9), threads=1, ahead=1)
    assert next(results) == 0
    child = os.fork()
    if child == 0:
        try:
            list(results)
        except InvalidArgumentError as error:
            os._exit('set_start_method("spawn")' not in str(error))
        os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert list(results) == list(range(1, 9))


class TestEndingAnIteration:
    """The garbage collector does it too, in a thread that may hold any lock."""

    def test_takes_no_lock(self):
        results = ordered_map(lambda item: item, range(9), threads=2, ahead=3)
        assert next(results) == 0
        ended = threading.Thread(target=results.close, daemon=True)

        with ahead._crew.changed:
            ended.start()
            ended.join(timeout=60)

        assert not ended.is_alive()

    def test_waits_for_no_call(self):
        may_end = threading.Event()
        results = ordered_map(lambda item: item and may_end.wait(timeout=60), range(3), threads=1, ahead=2)
        assert next(results) == 0

        results.close()
        assert not may_end.is_set()
        may_end.set()

    def test_in_a_cycle_of_a_traceback_drops_what_has_not_begun(self):
        begun = []

        def leave() -> None:
            try:
                for _ in ordered_map(lambda item: begun.append(item), range(1000), threads=1, ahead=1):
                    raise KeyError
            except KeyError as error:
                kept = error
                assert kept.__traceback__ is not None  # whose frame holds it

        leave()
        gc.collect()
        await_reads()

        assert len(begun) <= 3

    def test_by_a_collection_at_any_moment_stops_nothing(self):
        code = """if True:
            import gc
            from ray_lance.ahead import ordered_map

            def left():  # an iteration in a cycle, for the next collection to end
                results = ordered_map(lambda item: item, range(9), threads=1, ahead=2)
                cycle = [next(results), results]
                cycle.append(cycle)

            def items():
                for item in range(400):
                    gc.disable()
                    left()
                    gc.set_threshold(item % 40 + 1)
                    gc.enable()
                    yield item

            gc.freeze()
            assert list(ordered_map(lambda item: item, items(), threads=2, ahead=3)) == list(range(400))
        """
        subprocess.run([sys.executable, "-c", code], timeout=60, check=True)


def reading_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("ray_lance-read")]


class TestThreads:
    def test_of_many_iterations_at_once_end_but_for_a_few(self):
        live = [ordered_map(lambda item: item, range(5), threads=3, ahead=3) for _ in range(300)]
        assert [next(each) for each in live] == [0] * 300
        await_reads()

        deadline = time.monotonic() + 60
        while len(reading_threads()) > 8 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert len(reading_threads()) <= 8
        assert [list(each) for each in live] == [[1, 2, 3, 4]] * 300

    def test_leave_nothing_to_say_at_the_end_of_the_interpreter(self):
        code = """if True:
            import threading, time
            from ray_lance.ahead import ordered_map

            def slow(item):
                time.sleep(0.2)
                return item

            left = ordered_map(slow, range(100), threads=3, ahead=10)
            next(left)
            keeper = threading.Thread(target=list, args=(ordered_map(slow, range(2), threads=1, ahead=1),))
            keeper.start()
        """
        run = subprocess.run([sys.executable, "-c", code], timeout=60, check=True, capture_output=True, text=True)

        assert run.stdout + run.stderr == ""
