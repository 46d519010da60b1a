"""Runs a function over the rows of fragments: a ``Compute`` in, a Ray dataset of its new columns out.

The rows come in scan order with their addresses. Two questions before the work starts are answered by tasks, too: the
types of the columns, and the number of rows to compute.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import pyarrow as pa
import ray
from ray.data import Dataset

from ray_lance.backfill.compute import Compute
from ray_lance.backfill.computed_read import ComputingDatasource
from ray_lance.backfill.udf import BatchCall, ClassOnBatches, call_on_batch, first_schema
from ray_lance.backfill.window import Admission, Window
from ray_lance.data.cluster import cluster_cpus
from ray_lance.data.fragments import FragmentDatasource
from ray_lance.data.remote import actor_pool, for_read
from ray_lance.ray_internals.executions import begun_as_admitted, executed_promptly, silenced, with_unshaped_blocks
from ray_lance.scan.reader import ReadPlan
from ray_lance.scan.scan import Scan
from ray_lance.scan.size import row_bytes
from ray_lance.scan.tasks import FragmentRange
from ray_lance.table import TableRef
from ray_lance.write.column_plan import Pass, count_selected

__all__ = ["computed_columns", "count_rows", "inferred_columns"]

# Actors hand on what they have computed at the end of a task.
_MOST_BATCHES_PER_TASK = 64
_TASKS_PER_WORKER = 4
_READS_BESIDE_ACTORS = 2
_READ_ARGUMENTS = {"max_calls": 0}  # as many as there are, which is the default


def computed_columns(
    compute: Compute, table: TableRef, todo: Pass, schema: pa.Schema, *, exact: bool, window: Window | None = None
) -> Dataset:
    """A Ray dataset of the new columns of the rows of ``todo``, in scan order, with their row addresses.

    Args:
        compute: What is called on which columns.
        table: The pinned dataset.
        todo: The rows.
        schema: The new columns.
        exact: Whether the function must return these very types.
        window: How far to be ahead of the commits; None for as far as there is memory.
    """
    call = compute.call(schema, exact=exact)
    source = _datasource(compute, compute.scan(table, todo.filter), todo, window)
    if compute.is_class:
        # With a window an actor must not wait for the rows of another read to make its batch full.
        computed = _in_actors(compute, source, call, batch_size=compute.batch_size if window is None else None)
    else:
        computed = _in_tasks(compute, source, call)
    # Counts of rows show which rows a block holds only if blocks come in order.
    computed.context.execution_options.preserve_order = True
    computed.context.checkpoint_config = None  # the columns themselves show what is done
    if window is not None:
        computed = begun_as_admitted(computed, Admission(window, todo, source.last_fragments()).admits)
    return silenced(executed_promptly(computed))


def inferred_columns(compute: Compute, table: TableRef, where: str | None) -> pa.Schema:
    """The columns that the function makes of the first batch, in a task with the resources of the others."""
    task = ray.remote(_inferred_columns).options(**compute.ray_arguments)
    schema: pa.Schema = ray.get(task.remote(compute, table, where))
    return schema


def count_rows(table: TableRef, todo: Pass) -> Pass:
    """``todo`` with the number of rows that pass its filter, without fragments that have none; counted in tasks."""
    if todo.filter is None:
        return todo
    ids = [work.fragment_id for work in todo.fragments]
    parts = max(1, min(len(ids), 2 * cluster_cpus()))
    count = ray.remote(_count_rows)
    shared = ray.put(table)
    counts: dict[int, int] = {}
    for found in ray.get([count.remote(shared, ids[part::parts], todo.filter) for part in range(parts)]):
        counts.update(found)
    return todo.counted(counts)


def _datasource(compute: Compute, scan: Scan, todo: Pass, window: Window | None) -> FragmentDatasource:
    """Tasks sized by bytes, or smaller ones: a function may take long for the rows of few bytes.

    Small enough to keep all workers busy until the end, and to lose little in a failure.
    """
    fragment_ids = [work.fragment_id for work in todo.fragments]
    batches = -(-sum(work.rows for work in todo.fragments) // compute.batch_size)
    windows = 1 if window is None else -(-len(fragment_ids) // window.size)
    least = max(min(batches, windows * _TASKS_PER_WORKER * compute.workers), -(-batches // _MOST_BATCHES_PER_TASK))
    planned = partial(
        FragmentDatasource,
        scan,
        fragment_ids=fragment_ids,
        fragments_per_task=None if window is None else window.part,
        batch_size=compute.batch_size,
    )
    source = planned()
    return source if len(source.planned().tasks) >= least else planned(num_tasks=least)


def _in_actors(compute: Compute, source: FragmentDatasource, call: BatchCall, batch_size: int | None) -> Dataset:
    tasks = len(source.planned().tasks)
    rows = ray.data.read_datasource(source, override_num_blocks=1, **_read_beside_actors(compute, tasks))
    return rows.map_batches(
        ClassOnBatches,
        fn_constructor_args=(
            compute.function,
            call,
            compute.batch_size,
            compute.constructor_arguments,
            compute.constructor_keywords,
        ),
        batch_size=batch_size,
        batch_format="pyarrow",
        zero_copy_batch=True,
        compute=actor_pool(compute.concurrency, max(1, tasks)),
        **compute.ray_arguments,
    )


def _read_beside_actors(compute: Compute, tasks: int) -> dict[str, Any]:
    """Ray arguments of reads that feed actors.

    Where the actors take every CPU, reads must not reserve one, or the first would wait for ever. They need arguments
    that the actors do not have: otherwise Ray would fuse both, and the actors would read instead of computing.
    """
    each = compute.ray_arguments.get("num_cpus")
    taken = compute.workers * (1.0 if each is None else float(each))
    if taken + 1 <= cluster_cpus():
        return _READ_ARGUMENTS
    return {**_READ_ARGUMENTS, "num_cpus": 0, "concurrency": max(1, min(tasks, _READS_BESIDE_ACTORS))}


def _in_tasks(compute: Compute, source: FragmentDatasource, call: BatchCall) -> Dataset:
    computed = ray.data.read_datasource(
        ComputingDatasource(source, partial(call_on_batch, function=compute.function, call=call), compute.batch_size),
        override_num_blocks=1,
        concurrency=min(compute.workers, max(1, len(source.planned().tasks))) if compute.concurrency else None,
        **for_read(compute.ray_arguments),
    )
    return with_unshaped_blocks(computed)  # the tasks size their blocks by time, too


def _inferred_columns(compute: Compute, table: TableRef, where: str | None) -> pa.Schema:
    scan = compute.scan(table, where)
    plan = ReadPlan(scan, scan.schema(), row_bytes(scan))
    everything = FragmentRange(0, None, 0, table.open().count_rows())
    rows = pa.concat_tables(plan.read(everything, limit=compute.batch_size))
    return first_schema(rows, compute.made, compute.call())


def _count_rows(table: TableRef, fragment_ids: Sequence[int], filter: str) -> dict[int, int]:
    return count_selected(table.open(), fragment_ids, filter)
