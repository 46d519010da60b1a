from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ray_lance.order import BatchSchedule
from ray_lance.scan.plan import TaskSizing
from ray_lance.scan.steps import StepRange, plan_steps


@st.composite
def schedules(draw):
    lanes, world_size = draw(st.sampled_from([1, 2, 3, 6])), draw(st.sampled_from([1, 2, 3, 6]))
    rows = draw(st.integers(0, 300))
    return BatchSchedule(
        rows=rows,
        lanes=lanes,
        global_batch=6 * draw(st.integers(1, 4)),
        world_size=world_size,
        rank=draw(st.integers(0, world_size - 1)),
        tail=draw(st.sampled_from(["drop", "pad", "uneven"])),
        consumed=lanes * draw(st.integers(0, min(20, rows // lanes))),
    )


sizings = st.builds(
    TaskSizing,
    row_bytes=st.just(8.0),
    target_bytes=st.integers(1, 2000),
    num_tasks=st.none() | st.integers(1, 40),
    first_tasks=st.integers(0, 6),
)


@given(schedule=schedules(), sizing=sizings, window=st.integers(0, 100))
def test_tasks_give_every_batch_of_the_rank_in_order_whatever_their_size(schedule, sizing, window):
    tasks = plan_steps(schedule, sizing, window)
    read = np.concatenate([np.empty(0, np.int64), *(task.positions() for task in tasks)])
    batches = [
        [position for start, stop in schedule.ranges(step) for position in range(start, stop)]
        for step in range(schedule.rank_steps)
    ]
    assert read.tolist() == [position for batch in batches for position in batch]
    assert all(len(batch) == schedule.batch_size for batch in batches[:-1])
    assert all(task.num_rows == len(task.positions()) > 0 for task in tasks)


@pytest.mark.parametrize(
    ("num_tasks", "steps_of_tasks"), [(2, [10]), (6, [3, 3, 4]), (7, [2, 3, 2, 3]), (99, [1] * 10)]
)
def test_a_wanted_number_of_tasks_is_shared_by_the_ranks(num_tasks, steps_of_tasks):
    schedule = BatchSchedule(rows=200, lanes=2, global_batch=20, world_size=2)
    tasks = plan_steps(schedule, TaskSizing(8.0, 1, num_tasks))
    assert [task.end - task.first for task in tasks] == steps_of_tasks


@pytest.mark.parametrize(
    ("target", "window", "world_size", "steps_of_tasks"),
    [
        (16, 0, 4, [1, 13, 13, 13]),
        (64, 0, 4, [1, 39]),
        (16, 8, 4, [1, 13, 13, 13]),
        (16, 24, 4, [1, 19, 20]),
        (16, 24, 1, [1, 19, 20]),
        (16, 10**6, 1, [1, 19, 20]),
    ],
)
def test_tasks_grow_to_a_window_of_each_lane_within_bounds(target, window, world_size, steps_of_tasks):
    mebibyte = 2**20
    schedule = BatchSchedule(rows=160, lanes=4, global_batch=4, world_size=world_size)
    tasks = plan_steps(schedule, TaskSizing(mebibyte, target * mebibyte, first_tasks=1), window)
    assert [task.end - task.first for task in tasks] == steps_of_tasks


def test_no_steps_no_rows():
    task = StepRange(BatchSchedule(100, 1, 10), 3, 3)
    assert task.num_rows == len(task.positions()) == 0
