"""Reading ahead: in order, by threads, with the first reads alone."""

from __future__ import annotations

import os
import threading
import time

import lance
import pyarrow as pa
import pytest

from ray_lance.torch import LanceIterableDataset
from ray_lance.torch.prefetch import await_reads, ordered_map


@pytest.mark.parametrize("threads", [0, 1, 3])
@pytest.mark.parametrize("alone", [0, 1, 2, 9])
def test_results_come_in_order(threads, alone):
    results = ordered_map(lambda number: number * number, range(7), threads, ahead=3, alone=alone)

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

    results = list(ordered_map(work, range(6), threads=4, ahead=5, alone=2))

    assert set(results[0]) | set(results[1]) == {0, 1}
    assert sorted(begun) == list(range(6))


def test_others_begin_before_the_first_result_is_taken():
    others_began = threading.Event()

    def work(item: int) -> int:
        if item == 1:
            others_began.set()
        return item

    results = ordered_map(work, range(3), threads=2, ahead=2, alone=1)

    assert next(results) == 0
    assert others_began.wait(timeout=60)
    results.close()


def test_a_result_does_not_wait_for_those_that_begin_with_it():
    first_taken = threading.Event()

    def work(item: int) -> int:
        if item == 1:
            assert first_taken.wait(timeout=60)
        return item

    results = ordered_map(work, range(4), threads=2, ahead=3, alone=2)

    assert next(results) == 0
    first_taken.set()
    assert list(results) == [1, 2, 3]


def test_an_error_comes_where_its_result_would_have_come():
    def work(item: int) -> int:
        if item == 1:
            raise ValueError("the second item")
        return item

    results = ordered_map(work, range(3), threads=2, ahead=2, alone=2)

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


def test_the_threads_of_an_epoch_read_the_next_one(tmp_path):
    uri = str(tmp_path / "table.lance")
    lance.write_dataset(pa.table({"id": range(1000)}), uri)
    dataset = LanceIterableDataset(uri, batch_size=10, shuffle=1, prefetch=2)

    def epoch() -> set[str]:
        names = set()
        for batch in dataset:
            names |= {thread.name for thread in threading.enumerate() if thread.name.startswith("ray_lance")}
            assert len(batch["id"]) == 10
        return names

    before = epoch()
    for _ in range(3):
        assert epoch() <= before


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
