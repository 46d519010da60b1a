"""Runs tasks: a plan and a task in, tables of the promised schema out; reading resumes where storage fails."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

import pyarrow as pa

from ray_lance.order import ExplicitRows, RowPermutation
from ray_lance.order.rows import RowArray
from ray_lance.retry import RetryPolicy
from ray_lance.scan.delivery import delivered
from ray_lance.scan.overflow import in_smaller_batches
from ray_lance.scan.scan import Scan
from ray_lance.scan.take import take_rows
from ray_lance.scan.tasks import FragmentRange, PermutationRange, StepRange
from ray_lance.tensors import Fill

__all__ = ["BatchReader", "Fill", "PermutationPlan", "ReadPlan", "resume_batches"]

# Lance reads ahead in whole batches: a range of rows is read as one, a long scan in smaller ones.
MAX_BATCH_BYTES = 32 * 2**20
STREAM_BATCH_BYTES = 2 * 2**20
STREAM_BUFFER_BYTES = 32 * 2**20
STREAM_READAHEAD = 4

BatchReader: TypeAlias = Callable[[int], Iterator[pa.RecordBatch]]


@dataclass(frozen=True)
class ReadPlan:
    """What all tasks of a read in scan order share; sent to the workers once.

    Attributes:
        scan: What to read.
        schema: Schema of the tables to deliver.
        row_bytes: Mean bytes of a row, which batches are sized by.
        fill: What replaces nulls where a tensor cannot hold them: one value, or one by column.
        retry: How often to try again when storage fails.
    """

    scan: Scan
    schema: pa.Schema
    row_bytes: float
    fill: Fill = None
    retry: RetryPolicy = field(default_factory=RetryPolicy)

    def read(self, task: FragmentRange, limit: int | None = None) -> Iterator[pa.Table]:
        """Read a task.

        Args:
            task: The rows to read.
            limit: Read no more rows than this, counted after the filter.

        Yields:
            Tables of ``schema``, at least one, in scan order.
        """
        what = f"reading rows {task.start} to {task.stop} of {self.scan.tables[task.table]}"
        is_empty = True
        for batch in resume_batches(lambda skip: self._batches(task, limit, skip), self.retry, what):
            is_empty = False
            yield from self._deliver(batch)
        if is_empty:
            yield self.schema.empty_table()

    def _batches(self, task: FragmentRange, limit: int | None, skip: int) -> Iterator[pa.RecordBatch]:
        if task.num_rows == 0:
            return iter(())
        if self.scan.is_whole:
            return _skip_rows(self._whole_batches(task), skip)
        # Of images, Lance reads ahead what is encoded, which takes little memory.
        at_once = self.scan.is_divisible or bool(self.scan.decoders)
        rows = self._batch_rows(MAX_BATCH_BYTES if at_once else STREAM_BATCH_BYTES, task)
        return in_smaller_batches(lambda done, rows: self._open(task, limit, skip + done, rows), rows)

    def _open(self, task: FragmentRange, limit: int | None, skip: int, rows: int) -> Iterator[pa.RecordBatch]:
        remaining = None if limit is None else limit - skip
        if self.scan.is_divisible:
            left = task.num_rows - skip
            remaining = left if remaining is None else min(left, remaining)
            start = task.start + skip
        else:
            start = skip
        if remaining is not None and remaining <= 0:
            return iter(())
        options: dict[str, Any] = {"offset": start or None}
        if not self.scan.is_divisible:
            options.update(io_buffer_size=STREAM_BUFFER_BYTES, batch_readahead=STREAM_READAHEAD)
        if remaining is not None:
            options["limit"] = remaining
        options.update(self.scan.options)
        options["batch_size"] = min(rows, options.get("batch_size", rows))
        return iter(self.scan.scanner(task.table, task.fragment_ids, **options).to_reader())

    def _whole_batches(self, task: FragmentRange) -> Iterator[pa.RecordBatch]:
        return iter(self.scan.scanner(task.table, task.fragment_ids).to_reader())

    def _batch_rows(self, batch_bytes: int, task: FragmentRange) -> int:
        # Rounded up, as the largest parts of a fragment are: a single row left over would be a second chunk, and the
        # whole block would be copied wherever chunks are combined.
        return max(1, min(task.num_rows, math.ceil(batch_bytes / self.row_bytes)))

    def _deliver(self, batch: pa.RecordBatch) -> Iterator[pa.Table]:
        table = self.scan.with_fragment_id(pa.Table.from_batches([batch]))
        return delivered(table, self.scan, self.schema, self.row_bytes, self.fill)


@dataclass(frozen=True)
class PermutationPlan:
    """What all tasks of a read in a permutation's order share; sent to the workers once.

    Attributes:
        scan: The table and the columns to read; without a filter.
        order: The order, with its epoch. Its row ids, if it has any, may travel separately: see :meth:`with_rows`.
        schema: Schema of the tables to deliver.
        row_bytes: Mean bytes of a row.
        fill: What replaces nulls where a tensor cannot hold them: one value, or one by column.
        retry: How often to try again when storage fails.
    """

    scan: Scan
    order: RowPermutation
    schema: pa.Schema
    row_bytes: float
    fill: Fill = None
    retry: RetryPolicy = field(default_factory=RetryPolicy)

    def with_rows(self, row_ids: RowArray) -> PermutationPlan:
        """The same plan with the row ids that its order runs over."""
        return replace(self, order=self.order.with_base(ExplicitRows(row_ids)))

    def read(self, task: PermutationRange | StepRange, limit: int | None = None) -> Iterator[pa.Table]:
        """Read a task in one take.

        Args:
            task: The positions to read.
            limit: Read no more rows than this.

        Yields:
            Tables of ``schema``, in the order of the task's positions; one, unless images are decoded.
        """
        table = take_rows(self.scan, self.order.take(task.positions()[:limit]), self.retry)
        yield from delivered(table, self.scan, self.schema, self.row_bytes, self.fill)


def resume_batches(open_at: BatchReader, retry: RetryPolicy, what: str) -> Iterator[pa.RecordBatch]:
    """Yield the batches of ``open_at(0)``, each row once, whatever fails in between.

    A stream that failed is never read further: a new one is opened after the last delivered row.

    Args:
        open_at: Opens a stream of record batches that skips the given number of rows. It must give the same rows in the
            same order each time.
        retry: How often to try again; attempts are counted from zero after each delivered batch.
        what: What is being read, for the log.
    """
    delivered = attempt = 0
    batches: Iterator[pa.RecordBatch] | None = None
    while True:
        try:
            if batches is None:
                batches = open_at(delivered)
            batch = next(batches, None)
        except Exception as error:
            attempt += 1
            batches = None
            retry.pause(attempt, what, error)
            continue
        if batch is None:
            return
        if batch.num_rows == 0:
            continue
        attempt = 0
        delivered += batch.num_rows
        yield batch


def _skip_rows(batches: Iterator[pa.RecordBatch], skip: int) -> Iterator[pa.RecordBatch]:
    for batch in batches:
        if skip >= batch.num_rows:
            skip -= batch.num_rows
            continue
        yield batch.slice(skip)
        skip = 0
