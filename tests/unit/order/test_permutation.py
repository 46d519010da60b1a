from __future__ import annotations

import itertools
import pickle
import time
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ray_lance.errors import InvalidArgumentError
from ray_lance.order.permutation import RowPermutation
from ray_lance.order.rows import DenseRows, ExplicitRows
from ray_lance.order.shuffle import auto_clump, auto_window
from tests.examples import examples
from tests.laws import check_coverage, check_one_order


@st.composite
def permutations(draw, max_rows=500):
    row_set = DenseRows(draw(st.integers(0, max_rows)))
    if draw(st.booleans()):
        row_set = ExplicitRows(np.arange(len(row_set), dtype=np.uint64) * np.uint64(3) + np.uint64(2**33))
    order = RowPermutation(row_set)
    if draw(st.booleans()):
        clump = draw(st.integers(1, 30))
        order = order.shuffle(draw(st.integers()), clump, clump * draw(st.integers(1, 30)))
    return order.epoch(draw(st.integers(0, 2**62)))


@given(order=permutations())
@settings(max_examples=examples(200))
def test_law_1_coverage(order):
    check_coverage(order.rows(), order.row_set.take(np.arange(len(order.row_set))))


@given(order=permutations(), data=st.data())
def test_law_4_every_way_to_ask_gives_one_order(order, data):
    pieces = data.draw(st.integers(1, 10))
    world_size = data.draw(st.integers(1, 9))
    cuts = [number * len(order) // pieces for number in range(pieces + 1)]
    check_one_order(
        {
            "rows()": order.rows(),
            "rows(a, b)": [row for a, b in itertools.pairwise(cuts) for row in order.rows(a, b)],
            "shards": [row for rank in range(world_size) for row in order.shard(rank, world_size).rows()],
            "slices": [row for a, b in itertools.pairwise(cuts) for row in order[a:b].rows()],
            "take": order.take(np.arange(len(order))),
            "a pickled copy": pickle.loads(pickle.dumps(order)).rows(),
        }
    )


@given(order=permutations(), bounds=st.tuples(*[st.none() | st.integers(-600, 600)] * 4))
def test_slices_follow_pythons_rules_and_compose(order, bounds):
    rows = order.rows().tolist()
    once = order[bounds[0] : bounds[1]]
    assert once.rows().tolist() == rows[bounds[0] : bounds[1]]
    assert once[bounds[2] : bounds[3]].rows().tolist() == rows[bounds[0] : bounds[1]][bounds[2] : bounds[3]]


@given(order=permutations(), world_size=st.integers(1, 20))
def test_shards_differ_by_at_most_one_row(order, world_size):
    sizes = [len(order.shard(rank, world_size)) for rank in range(world_size)]
    assert max(sizes) - min(sizes) <= 1


@given(order=permutations(), data=st.data())
def test_take_handles_negative_positions_as_lists_do(order, data):
    if len(order):
        positions = data.draw(st.lists(st.integers(-len(order), len(order) - 1), max_size=20))
        rows = order.rows().tolist()
        assert order.take(positions).tolist() == [rows[position] for position in positions]


@given(order=permutations(), data=st.data())
def test_window_edges_of_a_slice_are_positions_of_the_slice(order, data):
    start = data.draw(st.integers(0, len(order)))
    piece = order[start:]
    edges = piece.window_edges()
    assert (edges[0], edges[-1]) == (0, len(piece))
    inner = order.window_edges()[1:-1] - start
    assert edges[1:-1].tolist() == [edge for edge in inner.tolist() if 0 < edge < len(piece)]


def test_epochs_differ_in_order_and_not_in_fingerprint():
    order = RowPermutation(DenseRows(1000)).shuffle(1, clump=4, window=64)
    other = order.epoch(1)
    assert not np.array_equal(order.rows(), other.rows())
    assert order.fingerprint == other.fingerprint


def test_shuffling_again_replaces_the_shuffle():
    order = RowPermutation(DenseRows(100))
    assert order.shuffle(1, 2, 4).shuffle(2, 5, 10) == order.shuffle(2, 5, 10)


def test_a_slice_of_rows_in_their_own_order_can_be_shuffled():
    check_coverage(RowPermutation(DenseRows(100))[20:50].shuffle(1, 4, 8).rows(), range(20, 50))


@pytest.mark.parametrize("action", [lambda order: order.shuffle(1, 1, 1), lambda order: order.split({"a": 1.0})])
def test_a_slice_of_a_shuffled_order_has_no_fixed_rows(action):
    with pytest.raises(InvalidArgumentError, match=r"cannot (shuffle|split) positions \[0, 5\) of a shuffled order"):
        action(RowPermutation(DenseRows(10)).shuffle(0, 1, 1)[:5])


def test_everything_but_the_epoch_is_in_the_fingerprint():
    rows = RowPermutation(DenseRows(100))
    order = rows.shuffle(1, 2, 8)
    different = [
        rows,
        order,
        RowPermutation(DenseRows(101)).shuffle(1, 2, 8),
        RowPermutation(ExplicitRows(np.arange(100))).shuffle(1, 2, 8),
        rows.shuffle(2, 2, 8),
        rows.shuffle(1, 4, 8),
        rows.shuffle(1, 2, 10),
        order[1:],
        order.shard(0, 2),
        order.split({"a": 0.5}, 0)["a"],
        order.split({"a": 0.5}, 1)["a"],
        order.split({"a": 0.5}, None)["a"],
        order.split({"a": 0.6}, 0)["a"],
    ]
    assert len({permutation.fingerprint for permutation in different}) == len(different)


# What old checkpoints mean: never to be edited without raising ORDER_VERSION.
@pytest.mark.parametrize(
    ("count", "clump", "window", "epoch", "start", "rows"),
    [
        (20, 1, 1, 0, 0, [3, 12, 1, 2, 8, 14, 15, 5, 7, 19, 13, 9, 0, 6, 11, 18, 4, 10, 16, 17]),
        (20, 1, 1, 1, 0, [16, 1, 14, 4, 19, 8, 9, 15, 6, 7, 3, 2, 5, 17, 18, 13, 12, 10, 11, 0]),
        (23, 3, 6, 0, 0, [22, 21, 11, 10, 9, 4, 8, 3, 6, 5, 7, 2, 16, 17, 0, 1, 15, 14, 18, 20, 19, 12, 13]),
        (23, 3, 24, 5, 0, [0, 8, 2, 20, 14, 22, 3, 17, 18, 11, 9, 10, 1, 21, 15, 7, 4, 19, 13, 6, 16, 5, 12]),
        (1000000, 64, 65536, 0, 0, [588191, 466845, 781479, 854896, 339717, 522912, 217557, 138135]),
        (1000000, 64, 65536, 3, 999992, [235282, 13570, 457346, 198104, 567786, 467184, 598596, 706226]),
        (
            100000000000,
            64,
            65536,
            0,
            50000000000,
            [40667389804, 27505931730, 7005209388, 46191021668, 2180647989, 48444715885],
        ),
    ],
)
def test_golden_orders(count, clump, window, epoch, start, rows):
    order = RowPermutation(DenseRows(count)).shuffle(7, clump, window).epoch(epoch)
    assert order.rows(start, start + len(rows)).tolist() == rows


def test_golden_split_and_fingerprint():
    order = RowPermutation(DenseRows(40_000)).shuffle(7, 8, 64)
    part = order.split({"train": 0.9, "val": 0.1}, seed=3)["val"]
    assert part.rows(0, 6).tolist() == [30430, 1114, 20100, 9934, 21084, 32182]
    assert part.fingerprint == "d8c4ffe2b5d538a6689f1f9d913f9170"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda order: order.rows(0, 11), r"positions \[0, 11\) are not within \[0, 10\)"),
        (lambda order: order.rows(-1, 2), r"positions \[-1, 2\)"),
        (lambda order: order.rows(3, 2), r"positions \[3, 2\)"),
        (lambda order: order.take([0, 10]), "position 10 is out of range for 10 rows"),
        (lambda order: order.take([-11]), "position -11 is out of range for 10 rows"),
    ],
)
def test_positions_outside_raise_index_error(call, message):
    with pytest.raises(IndexError, match=message):
        call(RowPermutation(DenseRows(10)))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda order: order[::2], "has a step"),
        (lambda order: order[3], r"must be a slice.*take"),
        (lambda order: order[1.5:], "must be a slice of integers"),
        (lambda order: order.rows(1.5, 3), "start=1.5 must be an integer"),
        (lambda order: order.rows(0, True), "stop=True must be an integer"),
        (lambda order: order.shard(2, 2), "rank=2 must be from 0 to world_size - 1 = 1"),
        (lambda order: order.shard(-1, 2), "rank=-1"),
        (lambda order: order.shard(0, 0), "world_size=0 must be at least 1"),
        (lambda order: order.epoch(-1), "epoch=-1 must be at least 0"),
        (lambda order: order.epoch(1.5), "epoch=1.5 must be an integer"),
        (lambda order: order.take([[1]]), "one-dimensional sequence of integers"),
        (lambda order: order.take([1.0]), "one-dimensional sequence of integers"),
    ],
)
def test_refuses_what_cannot_work(call, message):
    with pytest.raises(InvalidArgumentError, match=message):
        call(RowPermutation(DenseRows(10)))


def test_empty_requests_and_empty_row_sets():
    empty = RowPermutation(DenseRows(0)).shuffle(0, 4, 8)
    assert empty.rows().tolist() == empty.take([]).tolist() == []
    assert [len(part) for part in empty.split({"a": 0.5, "b": 0.5}).values()] == [0, 0]
    assert RowPermutation(DenseRows(9)).shuffle(0, 1, 1).rows(4, 4).dtype == np.int64


def test_numpy_integers_are_taken_everywhere():
    plain = RowPermutation(DenseRows(100)).shuffle(1, 2, 4).epoch(3).shard(1, 2)
    numpy = (
        RowPermutation(DenseRows(np.int64(100)))
        .shuffle(np.int64(1), np.int32(2), np.uint8(4))
        .epoch(np.int64(3))
        .shard(np.int64(1), np.int64(2))
    )
    assert plain == numpy
    assert plain.fingerprint == numpy.fingerprint


def test_a_rank_of_64_over_a_hundred_billion_rows_is_planned_in_no_memory():
    count = 10**11
    clump = auto_clump(512, count)
    order = RowPermutation(DenseRows(count)).shuffle(0, clump, auto_window(count, clump)).epoch(2)
    started = time.perf_counter()
    tracemalloc.start()
    shard = order.split({"train": 0.99, "val": 0.01})["train"].shard(63, 64)
    sizes = [len(shard.rows(start, start + 1024)) for start in (0, len(shard) // 2, len(shard) - 1024)]
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert sizes == [1024] * 3
    assert len(pickle.dumps(shard)) < 2000
    assert peak < 5 * 2**20
    assert time.perf_counter() - started < 1


def test_memory_is_that_of_the_request():
    order = RowPermutation(DenseRows(10**9)).shuffle(0, 64, 65536)
    tracemalloc.start()
    order.rows(5 * 10**8, 5 * 10**8 + 200_000)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 10 * 200_000 * 8
