"""Ray Data's side of an upsert: a shuffle by key, tasks that match and write, one commit."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

import lance
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ray_lance.data.datasink import LanceDatasink, RayRows, TaskResult, run
from ray_lance.table import TableRef
from ray_lance.tensors.blocks import storable
from ray_lance.write.commit import Committed, MergeConflictError, Send
from ray_lance.write.fragments import TableRows, write_files
from ray_lance.write.job import WriteJob
from ray_lance.write.merge import (
    ADDRESSES,
    BUCKET,
    ROW_ID,
    Addresses,
    check_keys,
    commit_merge,
    match,
    with_bucket,
    with_row_ids,
)
from ray_lance.write.options import WriteOptions, WriteSummary

if TYPE_CHECKING:
    import ray.data
    from ray.data._internal.execution.interfaces import TaskContext

__all__ = ["merge"]

# A bucket is held and matched by one task.
_BUCKET_BYTES = 256 * 2**20


def merge(
    ds: ray.data.Dataset,
    table: TableRef,
    options: WriteOptions,
    ray_remote_args: dict[str, Any] | None = None,
    concurrency: int | None = None,
    send: Send = lance.LanceDataset.commit,
) -> WriteSummary:
    """Update and insert rows by key. See :func:`ray_lance.data.datasink.write` for arguments and errors.

    After a conflict with another writer the rows are matched with the new version and written again, as often as
    ``options.retry`` allows. ``send`` makes the new version.
    """
    ds = ds.materialize()
    policy = replace(options.retry, should_retry=lambda error: isinstance(error, MergeConflictError))
    attempt = 0
    while True:
        sink = _MergeSink(table, options, send=send)
        job = sink.start()
        check_keys(job.table.open().schema, options.on)
        buckets = max(1, -(-ds.size_bytes() // _BUCKET_BYTES))
        matched = (
            ds.map_batches(
                partial(_prepare, job=job, buckets=buckets),
                batch_format="pyarrow",
                batch_size=None,
                zero_copy_batch=True,
            )
            .groupby(BUCKET, num_partitions=buckets)
            .map_groups(partial(match, job=job), batch_format="pyarrow")
        )
        try:
            return run(matched, sink, ray_remote_args, concurrency)
        except MergeConflictError as error:
            attempt += 1
            policy.pause(attempt, f"merge into {job.shown_uri}", error)


def _prepare(batch: pa.Table, job: WriteJob, buckets: int) -> pa.Table:
    return with_bucket(storable(batch), job, buckets)


@dataclass(frozen=True)
class _MergeResult(TaskResult):
    """What one write task of a merge hands to the driver.

    Attributes:
        matched: Addresses of the existing rows with a new row's key.
        row_ids: Row ids of the existing rows that the first rows of the files replace, in order.
    """

    matched: Addresses = field(default_factory=lambda: np.empty(0, np.uint64))
    row_ids: Addresses = field(default_factory=lambda: np.empty(0, np.uint64))


class _MergeSink(LanceDatasink):
    """Writes matched rows, and replaces what they match."""

    modes: ClassVar[tuple[str, ...]] = ("merge",)

    def write(self, blocks: Iterable[Any], ctx: TaskContext) -> TaskResult:  # noqa: ARG002
        """Write the rows of one task: those that replace rows first, then those that are new."""
        job = self.start()
        tables = [RayRows(block).table(0, RayRows(block).num_rows) for block in blocks]
        tables = [table for table in tables if table.num_rows]
        if not tables:
            return _MergeResult((), None)
        known, unknown = zip(*(_split(table) for table in tables), strict=True)
        matched = [table.column(ADDRESSES).combine_chunks().flatten().to_numpy() for table in known]
        replacing = known if job.options.update else ()
        row_ids = [table.column(ROW_ID).to_numpy() for table in replacing]
        rows = [*replacing, *(unknown if job.options.insert else ())]
        files = write_files([TableRows(table.drop_columns([ADDRESSES, ROW_ID])) for table in rows], job)
        ids = np.concatenate([np.empty(0, np.uint64), *row_ids])
        return _MergeResult(tuple(files), job.schema, np.concatenate(matched), ids)

    def _commit(self, job: WriteJob, results: Sequence[TaskResult]) -> Committed:
        merged = [result for result in results if isinstance(result, _MergeResult)]
        stable = job.table.open().has_stable_row_ids
        fragments = [
            fragment
            for result in merged
            for fragment in with_row_ids(result.files, result.row_ids if stable else result.row_ids[:0])
        ]
        matched = np.concatenate([np.empty(0, np.uint64), *(result.matched for result in merged)])
        return commit_merge(job, fragments, matched, self._send)


def _split(table: pa.Table) -> tuple[pa.Table, pa.Table]:
    known = pc.greater(pc.list_value_length(table.column(ADDRESSES)), 0)
    return table.filter(known), table.filter(pc.invert(known))
