"""Plans: every live row exactly once, tasks of the wanted size, whatever the fragments look like."""

from __future__ import annotations

import pickle
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ray_lance.scan.plan import MAX_TASK_BYTES, MIN_TASK_BYTES, FragmentRange, FragmentRows, TaskSizing, plan_scan
from ray_lance.scan.scan import Scan
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
