"""Reading ahead: in order, by threads, with the first reads alone."""

from __future__ import annotations

import threading

import pytest

from ray_lance.torch.prefetch import ordered_map


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
