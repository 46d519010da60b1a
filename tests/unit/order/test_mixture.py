"""MixedPermutation: proportions, coverage of each source, random access, epochs, schedules."""

from __future__ import annotations

import pickle
import resource

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ray_lance.errors import InvalidArgumentError
from ray_lance.order import BatchSchedule, DenseRows, MixedPermutation, MixedSource, RowPermutation, Shares, Stage
from ray_lance.order.mixture import check_stages, epoch_rows
from ray_lance.order.shares import whole_numbers
from tests.examples import examples

WEIGHTS = st.one_of(st.floats(1e-6, 1), st.sampled_from([1e-6, 0.5, 1.0]), st.integers(1, 100))
SOURCES = st.lists(st.tuples(st.integers(1, 60), WEIGHTS, st.booleans()), min_size=1, max_size=8)


def source(rows: int, *, shuffled: bool = True, fixed: bool = False) -> MixedSource:
    order = RowPermutation(DenseRows(rows))
    return MixedSource(order.shuffle(7, 2, 8) if shuffled else order, fixed)


def mixture(lengths, weights, count, *, restarts=False, shuffled=True) -> MixedPermutation:
    sources = tuple(source(rows, shuffled=shuffled) for rows in lengths)
    return MixedPermutation(sources, (Stage(0, Shares(whole_numbers(weights))),), count, restarts)


@settings(max_examples=examples(20))
@given(SOURCES, st.integers(0, 3))
def test_each_source_runs_through_its_own_epochs(sources, epoch):
    lengths, weights, _ = zip(*sources, strict=True)
    order = mixture(lengths, weights, 97)
    numbers = np.concatenate([order.epoch(number).rows() for number in range(epoch + 1)])

    for first, rows in zip(order.firsts, lengths, strict=False):
        found = numbers[(numbers >= first) & (numbers < first + rows)] - first
        for start in range(0, len(found) - rows + 1, rows):
            assert sorted(found[start : start + rows].tolist()) == [*range(rows)]


def test_a_source_is_in_the_order_of_its_epochs():
    order = mixture([10], [1], 25)
    alone = RowPermutation(DenseRows(10)).shuffle(7, 2, 8)
    expected = np.concatenate([alone.epoch(number).rows() for number in range(5)])

    assert np.concatenate([order.rows(), order.epoch(1).rows()]).tolist() == expected.tolist()


@settings(max_examples=examples(20))
@given(SOURCES, st.integers(0, 50), st.lists(st.integers(-97, 96), max_size=30), st.booleans())
def test_any_position_is_that_of_the_sequence(sources, epoch, wanted, restarts):
    lengths, weights, _ = zip(*sources, strict=True)
    order = mixture(lengths, weights, 97, restarts=restarts).epoch(epoch)
    whole = order.rows()

    assert order.take(np.array(wanted, dtype=np.int64)).tolist() == whole[np.array(wanted, dtype=np.int64)].tolist()
    assert order.rows(13, 50).tolist() == whole[13:50].tolist()
    assert np.concatenate([order.shard(rank, 3).rows() for rank in range(3)]).tolist() == whole.tolist()
    assert order[10:40][5:].rows().tolist() == whole[15:40].tolist()


@settings(max_examples=examples(20))
@given(SOURCES, st.integers(0, 2))
def test_an_epoch_of_first_exhausted_has_no_row_twice(sources, epoch):
    lengths, weights, _ = zip(*sources, strict=True)
    shares = Shares(whole_numbers(weights))
    rows = min(epoch_rows(shares, lengths, "first_exhausted"), 2000)
    numbers = mixture(lengths, weights, rows, restarts=True).epoch(epoch).rows()

    assert len(np.unique(numbers)) == len(numbers)


@settings(max_examples=examples(20))
@given(st.lists(st.tuples(st.integers(1, 60), st.integers(1, 20)), min_size=1, max_size=8), st.integers(0, 2))
def test_an_epoch_of_all_exhausted_has_each_row(sources, epoch):
    lengths, weights = zip(*sources, strict=True)
    rows = epoch_rows(Shares(whole_numbers(weights)), lengths, "all_exhausted")
    order = mixture(lengths, weights, rows, restarts=True).epoch(epoch)

    assert len(np.unique(order.rows())) == sum(lengths)


@given(st.lists(st.integers(1, 10**12), min_size=1, max_size=50))
def test_natural_sizes_end_all_sources_at_once(lengths):
    shares = Shares(whole_numbers(lengths))

    assert epoch_rows(shares, lengths, "first_exhausted") == sum(lengths)
    assert epoch_rows(shares, lengths, "all_exhausted") == sum(lengths)
    assert shares.counts(sum(lengths)) == lengths


def test_epochs_that_restart_are_shuffled_anew():
    order = mixture([8, 8], [1, 1], 16, restarts=True)

    assert order.rows().tolist() != order.epoch(1).rows().tolist()
    assert sorted(order.rows()) == sorted(order.epoch(1).rows()) == [*range(16)]
    assert order.epoch(2).located().epochs.tolist() == [2] * 16


def test_epochs_that_go_on_begin_where_the_sources_were():
    order = mixture([4, 100], [1, 1], 6)

    assert order.located().positions[order.located().sources == 1].tolist() == [0, 1, 2]
    after = order.epoch(1).located()
    assert after.positions[after.sources == 1].tolist() == [3, 4, 5]
    assert after.positions[after.sources == 0].tolist() == [3, 0, 1]
    assert after.epochs[after.sources == 0].tolist() == [0, 1, 1]


def test_a_fixed_epoch_of_a_source_comes_again_and_again():
    order = MixedPermutation((source(8, fixed=True),), (Stage(0, Shares((1,))),), 16, restarts=False)

    assert order.rows(0, 8).tolist() == order.rows(8, 16).tolist()


class TestSchedule:
    @settings(max_examples=examples(20))
    @given(st.integers(1, 200), st.integers(0, 200))
    def test_what_was_before_a_change_stays(self, change, more):
        sources = (source(30), source(50), source(7))
        first, second = Shares((7, 2, 1)), Shares((1, 1, 0))
        plain = MixedPermutation(sources, (Stage(0, first),), 100, restarts=False)
        changed = MixedPermutation(sources, (Stage(0, first), Stage(change, second)), 100, restarts=False)
        numbers = [np.concatenate([order.epoch(0).rows(), order.epoch(1).rows()]) for order in (plain, changed)]

        assert numbers[0][:change].tolist() == numbers[1][:change].tolist()
        assert plain.fingerprint != changed.fingerprint

    def test_counts_are_carried_on(self):
        stages = (Stage(0, Shares((1, 1))), Stage(10, Shares((0, 1))), Stage(20, Shares((1, 0))))
        located = MixedPermutation((source(100), source(100)), stages, 30, restarts=False).located()

        assert located.positions[located.sources == 0].tolist() == [*range(15)]
        assert located.positions[located.sources == 1].tolist() == [*range(15)]

    @pytest.mark.parametrize("rows", [[], [5], [0, 7, 7], [0, 9, 3]])
    def test_stages_follow_each_other(self, rows):
        with pytest.raises(InvalidArgumentError, match="row 0"):
            check_stages([Stage(row, Shares((1,))) for row in rows])


@given(st.integers(1, 5), st.integers(0, 30), st.lists(WEIGHTS, min_size=2, max_size=6))
def test_global_batches_have_their_shares_at_one_lane(batch, steps, weights):
    order = mixture([50] * len(weights), weights, 200)
    schedule = BatchSchedule(len(order), lanes=1, global_batch=batch)
    rows = schedule.consumed_after(min(steps, schedule.steps))

    for count, weight in zip(order.counts(rows), weights, strict=True):
        assert abs(count - rows * weight / sum(weights)) <= order.bound + 1e-6


def test_an_order_is_a_recipe():
    order = mixture([10, 20], [0.7, 0.3], 40).epoch(3)

    assert pickle.loads(pickle.dumps(order)).rows().tolist() == order.rows().tolist()
    assert order.fingerprint == order.epoch(5).fingerprint
    assert order.fingerprint != mixture([10, 20], [0.7, 0.31], 40).fingerprint


def test_the_order_stays_the_same():
    """What a saved state means: if this changes, MIXTURE_VERSION must."""
    order = mixture([10, 20, 5], [0.6, 0.3, 0.1], 20, shuffled=False)

    assert order.rows().tolist() == [0, 10, 1, 30, 2, 3, 11, 4, 12, 5, 6, 13, 7, 31, 8, 9, 14, 0, 15, 1]


def test_an_epoch_beyond_the_largest_position_is_refused():
    with pytest.raises(InvalidArgumentError, match="2\\*\\*62"):
        mixture([10], [1], 2**40).epoch(2**22)


def test_a_rank_of_a_thousand_finds_its_rows_among_trillions_without_arrays_of_them():
    sources = tuple(MixedSource(RowPermutation(DenseRows(10**12)).shuffle(7, 64, 65536)) for _ in range(20))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    shares = Shares(whole_numbers([1e-6 * 1.9**number for number in range(20)]))
    order = MixedPermutation(sources, (Stage(0, shares),), 20 * 10**12, restarts=False).epoch(1)
    schedule = BatchSchedule(len(order), lanes=1024, global_batch=4096, world_size=1024, rank=777)
    [(first, stop)] = schedule.ranges(10**9)
    rows = order.rows(first, first + 16_384)

    assert stop - first == 4
    assert len(np.unique(rows)) == 16_384
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200 * 1024
