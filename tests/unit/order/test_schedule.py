from __future__ import annotations

import itertools
from math import gcd, lcm

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from ray_lance.errors import CursorMismatchError, InvalidArgumentError
from ray_lance.order.cursor import Cursor
from ray_lance.order.permutation import RowPermutation
from ray_lance.order.rows import DenseRows
from ray_lance.order.schedule import BatchSchedule
from tests.examples import examples
from tests.laws import (
    Run,
    check_coverage,
    check_elasticity,
    check_equal_steps,
    check_one_order,
    check_resume,
    global_batches,
    sequence,
)

WORLD_SIZES = [1, 2, 3, 4, 6, 8]
TAILS = ["drop", "pad", "uneven"]
WHOLE_BATCH = lcm(*WORLD_SIZES)


@st.composite
def schedules(draw, max_rows=600):
    """World size 1; the global batch is divided by every world size and by the lanes."""
    lanes = draw(st.sampled_from([1, 2, 3, 4, 6, 8, 12, 24]))
    return BatchSchedule(
        rows=draw(st.integers(0, max_rows)),
        lanes=lanes,
        global_batch=WHOLE_BATCH * draw(st.integers(1, 3)),
        tail=draw(st.sampled_from(TAILS)),
    )


class RangesExecutor:
    """Reads a permutation through the schedule's ranges, each rank on its own, as every executor does."""

    def __init__(self, order: RowPermutation, schedule: BatchSchedule) -> None:
        self.order, self.schedule = order, schedule

    def __call__(self, world_size, cursor=None, steps=None):
        consumed = 0 if cursor is None else Cursor.from_json(cursor).rows
        ranks = [self.rank_schedule(world_size, rank, consumed) for rank in range(world_size)]
        steps = ranks[0].steps if steps is None else min(steps, ranks[0].steps)
        batches = [[self.read(rank, step) for step in range(min(steps, rank.rank_steps))] for rank in ranks]
        return Run(batches, Cursor.of(self.order, self.schedule.lanes, ranks[0].consumed_after(steps)).to_json())

    def rank_schedule(self, world_size, rank, consumed):
        schedule = self.schedule
        fresh = BatchSchedule(schedule.rows, schedule.lanes, schedule.global_batch, world_size, rank, schedule.tail)
        return fresh.resume(consumed)

    def read(self, rank, step):
        return np.concatenate([self.order.rows(start, stop) for start, stop in rank.ranges(step)] or [[]])


def executor(schedule: BatchSchedule) -> RangesExecutor:
    return RangesExecutor(RowPermutation(DenseRows(schedule.rows)).shuffle(3, 2, 16), schedule)


@given(schedule=schedules())
@settings(max_examples=examples(30))
def test_law_2_global_batches_do_not_depend_on_the_world_size(schedule):
    check_elasticity(executor(schedule), WORLD_SIZES)


@given(schedule=schedules(), data=st.data())
@settings(max_examples=examples(40))
def test_law_3_any_chain_of_restarts_yields_exactly_the_rest(schedule, data):
    legs = data.draw(st.lists(st.tuples(st.sampled_from(WORLD_SIZES), st.integers(0, 6)), max_size=4))
    check_resume(executor(schedule), legs, data.draw(st.sampled_from(WORLD_SIZES)))


@given(schedule=schedules(), world_size=st.sampled_from(WORLD_SIZES))
@settings(max_examples=examples(60))
def test_tails_deliver_what_they_promise(schedule, world_size):
    run = executor(schedule)(world_size)
    delivered, rows = sequence(run), range(schedule.rows)
    counts = np.bincount(delivered, minlength=schedule.rows)
    if schedule.tail == "drop":
        check_equal_steps(run)
        assert len(delivered) == schedule.rows - schedule.dropped
        assert counts.max(initial=0) <= 1
        assert schedule.dropped < schedule.global_batch
    elif schedule.tail == "pad":
        check_equal_steps(run)
        assert len(delivered) == schedule.rows + schedule.padded
        assert schedule.rows == 0 or counts.min() >= 1
        assert schedule.padded < schedule.global_batch
    else:
        check_coverage(delivered, rows)
        assert {len(batch) for batch in global_batches(run)[:-1]} <= {schedule.global_batch}
        sizes = {len(batches) for batches in run.batches}
        assert max(sizes) - min(sizes) <= 1
    assert len(global_batches(run)) == schedule.steps


def test_one_lane_reads_the_permutation_in_its_own_order():
    schedule = BatchSchedule(rows=500, lanes=1, global_batch=24, tail="uneven")
    reader = executor(schedule)
    check_one_order({"rows()": reader.order.rows(), "schedule": sequence(reader(4)), "alone": sequence(reader(1))})


@given(schedule=schedules(), world_size=st.sampled_from(WORLD_SIZES))
def test_no_two_ranks_read_one_lane_where_ranks_divide_lanes(schedule, world_size):
    assume(schedule.lanes % world_size == 0 and schedule.tail != "pad")
    owners: dict[int, int] = {}
    for rank in range(world_size):
        mine = executor(schedule).rank_schedule(world_size, rank, 0)
        for piece in itertools.chain.from_iterable(mine.pieces(step) for step in range(mine.steps)):
            assert owners.setdefault(piece.lane, rank) == rank


def test_planning_an_epoch_of_a_hundred_billion_rows_is_arithmetic():
    schedule = BatchSchedule(rows=10**11 + 7, lanes=64, global_batch=64 * 1024, world_size=64, rank=63)
    stop = schedule.lane_bounds(63)[0] + schedule.steps * 1024
    assert schedule.ranges(schedule.steps - 1) == [(stop - 1024, stop)]


@given(
    rows=st.integers(0, 500),
    lanes=st.sampled_from([1, 2, 4]),
    batches=st.tuples(st.integers(1, 8), st.integers(1, 8)),
    steps=st.integers(0, 10),
)
def test_the_global_batch_may_change_at_a_cursor(rows, lanes, batches, steps):
    before = BatchSchedule(rows, lanes, lanes * batches[0], tail="uneven")
    steps = min(steps, before.steps)
    after = BatchSchedule(rows, lanes, lanes * batches[1], tail="uneven", consumed=before.consumed_after(steps))
    positions = [
        position
        for schedule, count in ((before, steps), (after, after.steps))
        for step in range(count)
        for start, stop in schedule.ranges(step)
        for position in range(start, stop)
    ]
    check_coverage(positions, range(rows))


@pytest.mark.parametrize(
    ("rows", "lanes", "tail", "steps"),
    [
        (10, 1, "drop", [[(0, 4)], [(4, 8)]]),
        (10, 1, "uneven", [[(0, 4)], [(4, 8)], [(8, 10)]]),
        (10, 1, "pad", [[(0, 4)], [(4, 8)], [(8, 10), (0, 2)]]),
        (10, 2, "drop", [[(0, 2), (5, 7)], [(2, 4), (7, 9)]]),
        (10, 2, "uneven", [[(0, 2), (5, 7)], [(2, 4), (7, 9)], [(4, 5), (9, 10)]]),
        (10, 2, "pad", [[(0, 2), (5, 7)], [(2, 4), (7, 9)], [(4, 6), (9, 10), (0, 1)]]),
        (3, 4, "uneven", [[(0, 3)]]),
        (1, 1, "pad", [[(0, 1)] * 4]),
        (3, 1, "drop", []),
        (0, 2, "pad", []),
    ],
)
def test_ranges_of_every_step(rows, lanes, tail, steps):
    schedule = BatchSchedule(rows, lanes, global_batch=4, tail=tail)
    assert [schedule.ranges(step) for step in range(schedule.steps)] == steps


@given(rows=st.integers(0, 300), world_size=st.sampled_from(WORLD_SIZES), data=st.data())
def test_steps_are_known_before_the_first_batch(rows, world_size, data):
    lanes = data.draw(st.sampled_from([1, 3, 8]))
    batch = world_size * lanes // gcd(world_size, lanes)
    tail = data.draw(st.sampled_from(TAILS))
    for rank in range(world_size):
        schedule = BatchSchedule(rows, lanes, batch, world_size, rank, tail)
        full = [step for step in range(schedule.steps) if schedule.ranges(step)]
        assert full == list(range(schedule.rank_steps))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lanes": 3}, "lanes=3 does not divide global_batch=8.*6 or 9"),
        ({"world_size": 5}, "world_size=5 does not divide global_batch=8.*5 or 10"),
        ({"world_size": 16}, "world_size=16 does not divide global_batch=8.*: 16"),
        ({"world_size": 2, "rank": 2}, "rank=2 must be from 0 to world_size - 1 = 1"),
        ({"rank": -1}, "rank=-1 must be at least 0"),
        ({"rows": -1}, "rows=-1"),
        ({"global_batch": 0}, "global_batch=0"),
        ({"lanes": 0}, "lanes=0"),
        ({"tail": "trim"}, "tail='trim' must be one of"),
        ({"consumed": -1}, "consumed=-1"),
    ],
)
def test_refuses_what_cannot_work(options, message):
    with pytest.raises(InvalidArgumentError, match=message):
        BatchSchedule(**{"rows": 100, "lanes": 2, "global_batch": 8, **options})


def test_refuses_a_cursor_that_lanes_cannot_share():
    with pytest.raises(CursorMismatchError, match="consumed=3 rows cannot be shared by lanes=2"):
        BatchSchedule(100, 2, 8).resume(3)


@pytest.mark.parametrize(("tail", "last"), [("drop", 100), ("pad", 104), ("uneven", 100)])
def test_refuses_a_cursor_beyond_the_end_of_an_epoch(tail, last):
    assert BatchSchedule(100, 2, 8, tail=tail).resume(last).steps == 0
    with pytest.raises(CursorMismatchError, match="consumed=1000000000 rows are more than an epoch of 100 rows has"):
        BatchSchedule(100, 2, 8, tail=tail).resume(10**9)


@pytest.mark.parametrize("step", [-1, 12])
def test_steps_outside_raise_index_error(step):
    with pytest.raises(IndexError, match="12 steps"):
        BatchSchedule(100, 2, 8).ranges(step)
