"""How this library writes and reads a table: through Ray, or with its tasks run in this process, which is faster."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from typing import Protocol

import pyarrow as pa
import pyarrow.compute as pc
import ray
from ray.data.datasource.datasink import WriteResult

from ray_lance import Permutation, add_columns, read_lance, write_lance
from ray_lance.data import merge_sink
from ray_lance.data.datasink import LanceDatasink
from ray_lance.data.fragments import FragmentDatasource
from ray_lance.scan.pushdown import build_scan
from ray_lance.table import TableRef
from ray_lance.tensors.from_ray import storable
from ray_lance.torch import LanceIterableDataset
from ray_lance.write.column_commit import claim, commit_group, finish
from ray_lance.write.column_files import ROW_ADDRESS, WrittenColumn, write_column_file
from ray_lance.write.column_job import ColumnJob
from ray_lance.write.column_plan import FragmentWork, plan
from ray_lance.write.column_record import Recipe, check_columns
from ray_lance.write.merge import BUCKET
from ray_lance.write.options import WriteOptions
from ray_lance.write.target import existing_target
from tests.oracle.cases import Merge

__all__ = ["InProcess", "Refused", "ThroughRay", "Way", "read_in_order", "read_shuffled"]

_BUCKETS = 2


class Refused(Exception):
    """The case cannot be tried: Lance, or Ray, does not take its rows."""


class Way(Protocol):
    """What a history needs of this library."""

    def write(self, table: str | TableRef, blocks: Sequence[pa.Table], mode: str, **options: object) -> None:
        """Create, append or overwrite."""

    def merge(self, table: str | TableRef, blocks: Sequence[pa.Table], step: Merge) -> None:
        """Upsert by ``id``."""

    def add_column(self, table: str | TableRef, name: str) -> None:
        """Add the column ``name``, twice the ``id``."""

    def read(self, table: str | TableRef, where: str | None) -> pa.Table:
        """Rows in scan order, in standard types."""


class InProcess:
    """What Ray's tasks do, one task after another."""

    def write(self, table: str | TableRef, blocks: Sequence[pa.Table], mode: str, **options: object) -> None:
        sink = LanceDatasink(TableRef.of(table), WriteOptions(mode=mode, **options))
        _run(sink, [blocks[:1], blocks[1:]])

    def merge(self, table: str | TableRef, blocks: Sequence[pa.Table], step: Merge) -> None:
        sink = merge_sink.MergeSink(TableRef.of(table), _merge_options(step))
        job = sink.start()
        prepared = [merge_sink._prepare(block, job=job, buckets=_BUCKETS) for block in blocks]
        buckets = [
            pa.concat_tables(
                [rows.filter(pc.equal(rows[BUCKET], number)) for rows in prepared], promote_options="permissive"
            )
            for number in range(_BUCKETS)
        ]
        _run(sink, [[merge_sink._match(bucket, job=job)] for bucket in buckets if bucket.num_rows])

    def add_column(self, table: str | TableRef, name: str) -> None:
        columns = pa.schema([(name, pa.int64())])
        target = existing_target(TableRef.of(table))
        dataset = target.table.open()
        recipe = Recipe(("id",), None, name, ())
        job = claim(target, check_columns(dataset.schema, columns, recipe, overwrite=False), columns)
        works = [work for each in plan(dataset, job.record).passes for work in each.fragments]
        commit_group(job, [_column_file(job, work) for work in works])
        finish(job)

    def read(self, table: str | TableRef, where: str | None) -> pa.Table:
        scan = build_scan([TableRef.of(table).pin()], None, where, [], {})
        planned = FragmentDatasource(scan, num_tasks=3).planned()
        blocks = [block for task in planned.tasks for block in planned.plan.read(task, None)]
        return _joined([storable(block) for block in blocks], dataset_schema(table))


class ThroughRay:
    """The public functions."""

    def write(self, table: str | TableRef, blocks: Sequence[pa.Table], mode: str, **options: object) -> None:
        write_lance(_ray_dataset(blocks), table, mode=mode, **options)

    def merge(self, table: str | TableRef, blocks: Sequence[pa.Table], step: Merge) -> None:
        write_lance(
            _ray_dataset(blocks),
            table,
            mode="merge",
            on="id",
            update=step.update,
            insert=step.insert,
            delete_missing=step.delete_missing,
        )

    def add_column(self, table: str | TableRef, name: str) -> None:
        add_columns(
            table, _twice, input_columns="id", fn_kwargs={"name": name}, schema=pa.schema([pa.field(name, pa.int64())])
        )

    def read(self, table: str | TableRef, where: str | None) -> pa.Table:
        blocks = ray.get(read_lance(table, filter=where, override_num_blocks=3).to_arrow_refs())
        return _joined([storable(block) for block in blocks], dataset_schema(table))


def read_shuffled(table: str | TableRef) -> pa.Table:
    """All rows through a shuffled permutation."""
    permutation = Permutation(table).shuffle(3, 2, 8)
    return permutation.fetch(range(len(permutation)), format="arrow")


def read_in_order(table: str | TableRef) -> pa.Table:
    """All rows through the iterable dataset."""
    dataset = LanceIterableDataset(table, batch_size=7, tail="uneven", format="arrow")
    return _joined(list(dataset), dataset_schema(table))


def dataset_schema(table: str | TableRef) -> pa.Schema:
    return TableRef.of(table).open().schema


def _column_file(job: ColumnJob, work: FragmentWork) -> WrittenColumn:
    """Twice the ids of one fragment, as a column file."""
    dataset = job.target.table.open()
    fragments = [dataset.get_fragment(work.fragment_id)]
    rows = dataset.scanner(columns=["id"], fragments=fragments, with_row_address=True).to_table()
    values = pa.table({ROW_ADDRESS: rows[ROW_ADDRESS], job.schema.names[0]: pc.multiply(rows["id"], 2)})
    return write_column_file(job, work, lambda: [values])


def _ray_dataset(blocks: Sequence[pa.Table]) -> ray.data.Dataset:
    try:
        return ray.data.from_arrow(list(blocks))
    except ValueError as error:  # Ray cannot send views
        raise Refused(str(error)) from error


def _twice(batch: dict[str, object], name: str) -> dict[str, object]:
    return {name: batch["id"] * 2}


def _merge_options(step: Merge) -> WriteOptions:
    return WriteOptions(
        mode="merge", on=("id",), update=step.update, insert=step.insert, delete_missing=step.delete_missing
    )


def _run(sink: LanceDatasink, tasks: Sequence[Sequence[pa.Table]]) -> None:
    tasks = [blocks for blocks in tasks if blocks]
    sink.on_write_start(tasks[0][0].schema if tasks else None)
    try:
        results = [pickle.loads(pickle.dumps(sink)).write(blocks, None) for blocks in tasks]
    except Exception as error:
        sink.on_write_failed(error)
        raise
    sink.on_write_complete(WriteResult(num_rows=0, size_bytes=0, write_returns=results))


def _joined(tables: Sequence[pa.Table], schema: pa.Schema) -> pa.Table:
    tables = [table for table in tables if table.num_rows]
    return pa.concat_tables(tables, promote_options="permissive") if tables else schema.empty_table()
