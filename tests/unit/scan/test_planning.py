"""Plans: every row, position or step exactly once, in tasks of the wanted size, whatever is read."""

from __future__ import annotations

import pickle
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from ray_lance.order import BatchSchedule, DenseRows, RowPermutation
from ray_lance.scan.planning import (
    MAX_TASK_BYTES,
    MIN_TASK_BYTES,
    FragmentRows,
    TaskSizing,
    plan_positions,
    plan_scan,
    plan_steps,
)
from ray_lance.scan.scan import Scan
from ray_lance.scan.tasks import FragmentRange, StepRange
from ray_lance.table import TableRef

fragment_rows = st.lists(st.integers(0, 50), max_size=20)
tables = st.lists(fragment_rows, min_size=1, max_size=3)


def scan(filter: str | None = None, **options) -> Scan:
    return Scan((TableRef("a"), TableRef("b"), TableRef("c")), ("id",), filter, options)


def fragments(tables: list[list[int]]) -> list[list[FragmentRows]]:
    return [[FragmentRows(2 * i, rows) for i, rows in enumerate(table)] for table in tables]


def rows_of(task: FragmentRange, tables: list[list[int]]) -> list[tuple[int, int, int]]:
    """Each row of a task as (table, fragment id, offset)."""
    rows = [(task.table, i, offset) for i in task.fragment_ids for offset in range(tables[task.table][i // 2])]
    return rows[task.start : task.stop]


def all_rows(tables: list[list[int]]) -> list[tuple[int, int, int]]:
    return [(t, 2 * i, o) for t, table in enumerate(tables) for i, rows in enumerate(table) for o in range(rows)]


@given(tables, st.integers(1, 40), st.none() | st.integers(1, 60), st.sampled_from([None, "id > 3"]))
def test_every_row_is_in_exactly_one_task_in_order(tables, target_rows, num_tasks, filter):
    sizing = TaskSizing(row_bytes=1.0, target_bytes=target_rows, num_tasks=num_tasks)
    tasks = plan_scan(scan(filter), fragments(tables), sizing)
    assert [row for task in tasks for row in rows_of(task, tables)] == all_rows(tables)
    assert all(task.num_rows > 0 for task in tasks)


@given(fragment_rows, st.integers(1, 40))
def test_no_task_is_larger_than_its_target(table, target_rows):
    tasks = plan_scan(scan(), fragments([table]), TaskSizing(1.0, target_rows))
    assert all(task.num_rows <= target_rows for task in tasks)


@given(fragment_rows, st.integers(1, 40))
def test_a_cut_fragment_shares_no_task_with_another(table, target_rows):
    for task in plan_scan(scan(), fragments([table]), TaskSizing(1.0, target_rows)):
        whole = sum(table[i // 2] for i in task.fragment_ids)
        assert len(task.fragment_ids) == 1 or task.num_rows == whole


@given(fragment_rows, st.integers(1, 60))
def test_a_number_of_tasks_is_honoured_exactly_while_there_are_rows(table, num_tasks):
    tasks = plan_scan(scan(), fragments([table]), TaskSizing(1.0, 10, num_tasks))
    assert len(tasks) == min(num_tasks, sum(table))
    if tasks:
        sizes = [task.num_rows for task in tasks]
        assert max(sizes) - min(sizes) <= 1


@given(fragment_rows, st.integers(1, 40))
def test_under_a_filter_fragments_stay_whole(table, target_rows):
    for task in plan_scan(scan("id > 3"), fragments([table]), TaskSizing(1.0, target_rows)):
        assert (task.start, task.stop) == (0, sum(table[i // 2] for i in task.fragment_ids))


def test_one_huge_fragment_becomes_many_tasks():
    assert len(plan_scan(scan(), fragments([[1_000_000]]), TaskSizing(528, 32 * 2**20))) == 16


def test_a_thousand_one_row_fragments_become_a_few_tasks():
    assert len(plan_scan(scan(), fragments([[1] * 1024]), TaskSizing(528, 4 * 2**20))) == 1


@pytest.mark.parametrize("option", ["nearest", "full_text_query", "limit", "offset", "order_by"])
def test_an_option_about_the_whole_dataset_is_read_by_one_task(option):
    tasks = plan_scan(scan(**{option: 1}), fragments([[100, 100]]), TaskSizing(1.0, 1))
    assert tasks == [FragmentRange(0, None, 0, 200)]


@given(st.integers(0, 10**12), st.floats(1, 10**6), st.floats(0, 10**4))
def test_target_bytes_stay_within_bounds(rows, row_bytes, cpus):
    assert MIN_TASK_BYTES <= TaskSizing.for_cluster(rows, row_bytes, cpus).target_bytes <= MAX_TASK_BYTES


def test_a_row_larger_than_a_task_still_gets_one():
    assert len(plan_scan(scan(), fragments([[3]]), TaskSizing(10**9, 1))) == 3


def test_a_task_is_small_to_send():
    task = plan_scan(scan(), fragments([[1_000_000]]), TaskSizing(528, 32 * 2**20))[0]
    assert len(pickle.dumps(task)) < 256


def test_the_first_tasks_are_small_for_the_first_batch_to_come_soon():
    sizing = TaskSizing(528, 32 * 2**20, first_tasks=4)

    tasks = plan_scan(scan(), fragments([[1_000_000]]), sizing)

    assert len(tasks) == 20
    assert [task.stop for task in tasks[:5]] == [992, 1984, 2976, 3968, 62_500]
    assert [task.start for task in tasks[1:]] == [task.stop for task in tasks[:-1]]


@pytest.mark.parametrize("sizing", [TaskSizing(1.0, 2**20, first_tasks=4), TaskSizing(528, 1, 2, first_tasks=4)])
def test_a_first_task_that_is_small_or_asked_for_stays_whole(sizing):
    whole = replace(sizing, first_tasks=0)

    assert plan_scan(scan(), fragments([[1_000]]), sizing) == plan_scan(scan(), fragments([[1_000]]), whole)


@given(
    rows=st.integers(0, 500),
    clump=st.sampled_from([1, 2, 8]),
    windows=st.integers(1, 20),
    target=st.integers(1, 200),
    num_tasks=st.none() | st.integers(1, 30),
)
def test_every_position_is_in_exactly_one_task(rows, clump, windows, target, num_tasks):
    order = RowPermutation(DenseRows(rows)).shuffle(1, clump, clump * windows)
    tasks = plan_positions(order, TaskSizing(1.0, target, num_tasks))
    assert [p for task in tasks for p in range(task.start, task.stop)] == list(range(rows))
    if num_tasks is not None:
        assert len(tasks) == min(num_tasks, rows)


@given(st.integers(1, 2000), st.integers(1, 200))
def test_no_task_reads_a_part_of_a_clump_that_another_one_reads(rows, target):
    order = RowPermutation(DenseRows(rows)).shuffle(1, 8, 64)
    assume(len(order.window_edges()) > 2)  # a single window is cut anywhere, so that several workers read it
    clumps = [set((order.rows(t.start, t.stop) // 8).tolist()) for t in plan_positions(order, TaskSizing(1.0, target))]
    assert sum(len(part) for part in clumps) == len(set().union(*clumps))


def test_one_rank_of_64_plans_its_share_of_1e11_rows_without_opening_anything():
    order = RowPermutation(DenseRows(10**11)).shuffle(7, 64, 65536).epoch(3).shard(40, 64)
    tasks = plan_positions(order, TaskSizing(528, 32 * 2**20))
    assert sum(task.num_rows for task in tasks) == len(order)
    assert len(tasks) < 30_000
    assert len(pickle.dumps(tasks[0])) < 2048
    last = order.rows(tasks[-1].start, tasks[-1].stop)
    assert len(np.unique(last)) == tasks[-1].num_rows


def test_the_first_window_is_cut_for_all_processes_to_begin_with_a_small_part():
    order = RowPermutation(DenseRows(1_000_000)).shuffle(7, 64, 65536)

    whole = plan_positions(order, TaskSizing(528, 32 * 2**20))
    cut = plan_positions(order, TaskSizing(528, 32 * 2**20, first_tasks=4))

    assert cut[5:] == whole[1:]
    assert [cut[0].start, cut[4].stop] == [whole[0].start, whole[0].stop]
    assert sum(task.num_rows for task in cut) == len(order)


@pytest.mark.parametrize(
    ("uri", "shuffled", "first_tasks"),
    [
        ("/data/a.lance", True, 4),
        ("file:///data/a.lance", True, 4),
        ("s3://a/b.lance", False, 4),
        ("s3://a/b.lance", True, 0),
    ],
)
def test_parts_of_windows_are_read_first_only_where_they_cost_a_part_of_the_window(uri, shuffled, first_tasks):
    order = RowPermutation(DenseRows(1_000_000))
    order = order.shuffle(7, 64, 65536) if shuffled else order
    sizing = TaskSizing(528, 32 * 2**20, first_tasks=4).for_order(order, TableRef.of(uri))

    assert sizing == TaskSizing(528, 32 * 2**20, first_tasks=first_tasks)


def test_without_small_tasks_a_rank_begins_with_a_whole_window():
    schedule = BatchSchedule(1_000_000, 1, 1024)
    small = plan_steps(schedule, TaskSizing(528, 32 * 2**20, first_tasks=4), 65536)
    whole = plan_steps(schedule, TaskSizing(528, 32 * 2**20), 65536)

    assert small[0].num_rows < 4096 < 60_000 < whole[0].num_rows
    assert sum(task.num_rows for task in whole) == sum(task.num_rows for task in small)


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
