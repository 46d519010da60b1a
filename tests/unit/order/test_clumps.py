from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ray_lance.errors import InvalidArgumentError
from ray_lance.order.clumps import ClumpOrder
from tests.examples import examples


@st.composite
def orders(draw, max_count=600):
    clump = draw(st.integers(1, 40))
    window = draw(st.none() | st.integers(1, 40).map(lambda clumps: clumps * clump))
    return ClumpOrder(draw(st.integers(0, max_count)), clump, window, ("test", draw(st.integers())))


@given(order=orders())
@settings(max_examples=examples(300))
def test_is_a_bijection_for_every_count_clump_and_window(order):
    positions = np.arange(order.count)
    rows = order.rows_at(positions)
    assert np.array_equal(np.sort(rows), positions)
    assert np.array_equal(order.positions_of(rows), positions)


@given(order=orders(), data=st.data())
@settings(max_examples=examples(150))
def test_any_request_gives_what_the_whole_gives(order, data):
    whole = order.rows_at(np.arange(order.count))
    start = data.draw(st.integers(0, order.count))
    stop = data.draw(st.integers(start, order.count))
    assert np.array_equal(order.rows_at(np.arange(start, stop)), whole[start:stop])
    if order.count:
        scattered = np.array(data.draw(st.lists(st.integers(0, order.count - 1), max_size=20)), dtype=np.int64)
        assert np.array_equal(order.rows_at(scattered), whole[scattered])


@given(order=orders())
@settings(max_examples=examples(200))
def test_windows_read_whole_clumps_and_share_none(order):
    edges = order.window_edges(0, order.count)
    assert (edges[0], edges[-1]) == (0, order.count)
    rows = order.rows_at(np.arange(order.count))
    if order.window is not None and order.window > 1:
        assert order.count == 0 or np.diff(edges).max() <= order.window
        assert np.ptp(np.diff(edges)) <= 2 * order.clump
    for start, stop in itertools.pairwise(edges):
        touched = np.unique(rows[start:stop] // order.clump)
        size = np.minimum((touched + 1) * order.clump, order.count) - touched * order.clump
        assert size.sum() == stop - start


@given(order=orders(), data=st.data())
def test_edges_of_a_run_are_those_of_the_whole(order, data):
    start = data.draw(st.integers(0, order.count))
    stop = data.draw(st.integers(start, order.count))
    whole = order.window_edges(0, order.count)
    inner = whole[(whole > start) & (whole < stop)]
    if order.window != 1 and not (order.window is None and order.clump == 1):
        assert order.window_edges(start, stop).tolist() == [start, *inner.tolist(), stop]


def test_placing_without_mixing_keeps_rows_of_a_clump_in_order():
    rows = ClumpOrder(1000, 8, None, (1,)).rows_at(np.arange(1000)).reshape(-1, 8)
    assert np.array_equal(np.diff(rows, axis=1), np.ones((125, 7)))
    assert not np.array_equal(rows[:, 0], np.sort(rows[:, 0]))


def test_each_window_takes_one_clump_from_each_stratum():
    # 64 clumps in 8 windows: strata of 8 neighbouring clumps, turned by a phase.
    order = ClumpOrder(64 * 4, 4, 8 * 4, (3,))
    clumps = np.sort(order.rows_at(np.arange(256)).reshape(8, 32)[:, ::1] // 4, axis=1)[:, ::4]
    gaps = np.diff(clumps, axis=1)
    assert gaps.max() < 16


@pytest.mark.parametrize("count", [24, 21], ids=["equal windows", "unequal windows"])
@pytest.mark.parametrize("window", [3, 6, 24])
def test_every_row_is_equally_likely_at_every_position(count, window):
    seeds = 2000
    rows = np.stack([ClumpOrder(count, 3, window, (seed,)).rows_at(np.arange(count)) for seed in range(seeds)])
    counts = np.stack([np.bincount(rows[:, position], minlength=count) for position in range(count)])
    # Rows of one clump move together, so the statistic varies more than a chi-square's; its mean is the same.
    statistic = ((counts - seeds / count) ** 2 / (seeds / count)).sum() / (count * (count - 1))
    assert 0.6 < statistic < 1.5


@pytest.mark.parametrize("positions", [[-1], [5]])
def test_positions_outside_raise_index_error(positions):
    with pytest.raises(IndexError, match=r"positions must be in \[0, 5\)"):
        ClumpOrder(5, 2, 4, (0,)).rows_at(np.array(positions))


@pytest.mark.parametrize(
    ("count", "clump", "window", "names"),
    [(-1, 1, 1, "count"), (2**62 + 1, 1, 1, "count"), (1, 0, 1, "clump"), (1, 2, 3, "window"), (1, 2, 0, "window")],
)
def test_refuses_what_cannot_work(count, clump, window, names):
    with pytest.raises(InvalidArgumentError, match=names):
        ClumpOrder(count, clump, window, (0,))


def test_reaches_any_place_of_a_huge_order():
    order = ClumpOrder(2**62 - 3, 64, 65536, (0,))
    for start in (0, 2**61, order.count - 1000):
        positions = np.arange(start, start + 1000)
        rows = order.rows_at(positions)
        assert len(np.unique(rows)) == 1000
        assert 0 <= rows.min() <= rows.max() < order.count
        assert np.array_equal(order.positions_of(rows), positions)
