"""Shares: exact proportions after any number of rows, each row of each source once, at any position."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from ray_lance.order.shares import MAX_POSITION, MAX_WEIGHT, Shares, whole_numbers

WEIGHT = st.one_of(
    st.floats(1e-6, 1), st.sampled_from([1e-6, 0.1, 0.25, 0.5, 0.999999, 1.0]), st.integers(1, 10**12), st.just(10**12)
)
SHARES = st.lists(WEIGHT, min_size=1, max_size=50).map(lambda weights: Shares(whole_numbers(weights)))
POSITION = st.one_of(st.integers(0, 10**6), st.integers(0, MAX_POSITION - 10_000))


def test_decimals_count_as_they_are_written():
    assert whole_numbers([0.7, 0.2, 0.1]) == (7, 2, 1)
    assert whole_numbers([Fraction(1, 3), 1]) == (1, 3)
    assert whole_numbers([6, 4, 0]) == (3, 2, 0)


@given(st.lists(WEIGHT, min_size=1, max_size=50))
def test_whole_numbers_keep_the_proportions(weights):
    whole = whole_numbers(weights)
    exact = [Fraction(repr(weight)) if isinstance(weight, float) else Fraction(weight) for weight in weights]

    assert 0 < sum(whole) < MAX_WEIGHT
    for number, weight in zip(whole, exact, strict=True):
        assert abs(Fraction(number, sum(whole)) - weight / sum(exact)) < Fraction(52, MAX_WEIGHT // 2)


def test_two_sources_alternate():
    sources, numbers = Shares((1, 1)).locate(np.arange(6))

    assert sources.tolist() in ([0, 1] * 3, [1, 0] * 3)
    assert numbers.tolist() == [0, 0, 1, 1, 2, 2]


@given(SHARES, POSITION)
def test_counts_stay_within_the_bound(shares, positions):
    counts = shares.counts(positions)
    exact = [Fraction(positions * weight, sum(shares.weights)) for weight in shares.weights]
    off = [abs(count - share) for count, share in zip(counts, exact, strict=True)]

    assert sum(counts) == positions
    assert max(off) <= Fraction(shares.bound) + Fraction(1, 10**9)
    assert shares.bound <= 1.68


@given(SHARES, POSITION)
def test_each_row_of_each_source_comes_once_and_in_order(shares, start):
    sources, numbers = shares.locate(np.arange(start, start + 500))
    counts = shares.counts(start)

    for source, first in enumerate(counts):
        found = numbers[sources == source]
        assert found.tolist() == [*range(first, first + len(found))]


@given(SHARES, st.lists(POSITION, min_size=1, max_size=20))
def test_any_position_is_found_without_those_before_it(shares, positions):
    sources, numbers = shares.locate(np.array(positions))

    for position, source, number in zip(positions, sources.tolist(), numbers.tolist(), strict=True):
        assert shares.counts(position)[source] == number
        assert shares.counts(position + 1)[source] == number + 1
        assert shares.position(source, number) == position


def test_up_to_three_sources_are_never_off_by_more_than_a_row():
    assert Shares((1,)).bound == 0
    assert Shares((3, 1)).bound == 0.5
    assert Shares((10**6, 10**6, 1)).bound <= 1


def test_a_source_without_weight_gets_nothing():
    assert Shares((0, 3, 0, 1)).counts(8) == [0, 6, 0, 2]


def test_nothing_is_located_for_no_positions():
    sources, numbers = Shares((1, 2)).locate(np.empty(0, np.int64))

    assert len(sources) == len(numbers) == 0
