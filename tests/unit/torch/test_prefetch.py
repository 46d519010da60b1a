"""Reading ahead: in order, by threads, with the first reads alone."""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor

import lance
import pyarrow as pa
import pytest

from ray_lance.torch import LanceIterableDataset
from ray_lance.torch.prefetch import _threads, ordered_map


@pytest.fixture
def pool():
    with ThreadPoolExecutor(4) as threads:
        yield threads


@pytest.mark.parametrize("threads", [0, 1, 3])
@pytest.mark.parametrize("alone", [0, 1, 2, 9])
def test_results_come_in_order(threads, alone):
    pool = ThreadPoolExecutor(threads) if threads else None
    results = ordered_map(lambda number: number * number, range(7), pool, ahead=3, alone=alone)

    assert list(results) == [number * number for number in range(7)]


def test_nothing_else_begins_before_the_first_items_are_done(pool):
    begun: list[int] = []
    second_may_end = threading.Event()

    def work(item: int) -> list[int]:
        begun.append(item)
        if item == 0:
            second_may_end.set()
        if item == 1:
            assert second_may_end.wait(timeout=60)
        return sorted(begun)

    results = list(ordered_map(work, range(6), pool, ahead=5, alone=2))

    assert set(results[0]) | set(results[1]) == {0, 1}
    assert sorted(begun) == list(range(6))


def test_others_begin_before_the_first_result_is_taken(pool):
    others_began = threading.Event()

    def work(item: int) -> int:
        if item == 1:
            others_began.set()
        return item

    results = ordered_map(work, range(3), pool, ahead=2, alone=1)

    assert next(results) == 0
    assert others_began.wait(timeout=60)
    results.close()


def test_a_result_does_not_wait_for_those_that_begin_with_it(pool):
    first_taken = threading.Event()

    def work(item: int) -> int:
        if item == 1:
            assert first_taken.wait(timeout=60)
        return item

    results = ordered_map(work, range(4), pool, ahead=3, alone=2)

    assert next(results) == 0
    first_taken.set()
    assert list(results) == [1, 2, 3]


def test_an_error_comes_where_its_result_would_have_come(pool):
    def work(item: int) -> int:
        if item == 1:
            raise ValueError("the second item")
        return item

    results = ordered_map(work, range(3), pool, ahead=2, alone=2)

    assert next(results) == 0
    with pytest.raises(ValueError, match="second item"):
        next(results)


def test_closing_drops_what_has_not_begun():
    begun, may_end = [], threading.Event()

    def work(item: int) -> int:
        begun.append(item)
        assert item == 0 or may_end.wait(timeout=60)
        return item

    with ThreadPoolExecutor(1) as pool:
        results = ordered_map(work, range(4), pool, ahead=3)
        assert next(results) == 0
        results.close()
        may_end.set()

    assert set(begun) <= {0, 1}


def test_the_threads_of_an_epoch_read_the_next_one(tmp_path):
    uri = str(tmp_path / "table.lance")
    lance.write_dataset(pa.table({"id": range(1000)}), uri)
    dataset = LanceIterableDataset(uri, batch_size=10, shuffle=1, prefetch=2)

    def epoch() -> set[int | None]:
        assert sorted(row for batch in dataset for row in batch["id"].tolist()) == list(range(1000))
        return {thread.ident for thread in threading.enumerate() if thread.name.startswith("ray_lance_read")}

    assert epoch() == epoch() != set()


def test_a_forked_child_has_threads_of_its_own():
    pool = _threads("read", 1)
    assert pool is not None
    pool.submit(os.getpid).result()
    child = os.fork()
    if child == 0:
        reader = _threads("read", 1)
        os._exit(0 if reader is not None and reader.submit(os.getpid).result(timeout=30) == os.getpid() else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
