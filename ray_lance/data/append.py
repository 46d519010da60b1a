"""Appends in groups while rows are computed: a Ray dataset in, a version for each group of finished files out."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from ray.data import Dataset

from ray_lance.allocator import keep_freed_memory
from ray_lance.data.arrow_blocks import RayRows
from ray_lance.data.faults import faults_of_data, own_error, said_once
from ray_lance.data.interrupts import interrupts_held
from ray_lance.errors import InvalidArgumentError
from ray_lance.key_sets import comparable_schema
from ray_lance.progress import Progress, shown_progress
from ray_lance.ray_internals.executions import executed_promptly, silenced
from ray_lance.table import TableRef
from ray_lance.tensors.objects import to_rows
from ray_lance.write.append_commit import (
    AppendRecord,
    claim_append,
    commit_rows_of_group,
    finish_append,
    remove_rest,
)
from ray_lance.write.commit import Send
from ray_lance.write.fragments import WrittenFile, write_files
from ray_lance.write.job import WriteJob, begin
from ray_lance.write.options import WriteOptions, WriteSummary
from ray_lance.write.schema import portable

__all__ = ["append_in_groups"]

_SCHEMA = pa.schema([("fragment", pa.string()), ("rows", pa.int64()), ("num_bytes", pa.int64())])


def append_in_groups(
    rows: Dataset,
    table: TableRef,
    options: WriteOptions,
    send: Send,
    ray_remote_args: Mapping[str, Any],
    concurrency: int | None,
) -> WriteSummary:
    """Append rows, and commit finished files whenever they have ``options.commit_every`` rows.

    See :func:`ray_lance.data.write.write` for the arguments.
    """
    started = time.perf_counter()
    job = begin(table, options)
    id_column = str(options.id_column)
    _check_id_column(job, id_column)
    append = _Append(job, claim_append(job, id_column, send), send)
    own = Dataset.copy(rows, _deep_copy=True)
    own.context.raise_original_map_exception = True  # so that this library's errors arrive as they are
    with shown_progress("write_lance", bars=rows.context.enable_progress_bars) as progress:
        try:
            with said_once():
                append.run(_written(own, job, id_column, ray_remote_args, concurrency), progress)
        except BaseException as error:
            # The record stays: a task may still be writing. The next run removes what is left.
            remove_rest(job, append.record, append.committed)
            cause = own_error(error) if isinstance(error, Exception) else None
            if cause is None:
                raise
            raise cause.with_traceback(None) from None
    remove_rest(job, append.record, append.committed)
    version = finish_append(job, append.record, send)
    return WriteSummary(
        uri=job.shown_uri,
        version_before=job.version_before,
        version=version,
        rows=append.rows,
        fragments=len(append.committed),
        bytes=append.num_bytes,
        seconds=time.perf_counter() - started,
    )


@dataclass
class _Append:
    """Commits files as they are finished.

    Attributes:
        job: What is written where.
        record: The dataset's record of the job.
        send: Makes new versions.
        rows: Rows committed.
        num_bytes: Bytes of the files committed.
        committed: Names of the files committed.
    """

    job: WriteJob
    record: AppendRecord
    send: Send
    rows: int = 0
    num_bytes: int = 0
    committed: list[str] = field(default_factory=list)

    def run(self, batches: Iterator[pa.Table], progress: Progress) -> None:
        """Commit files whenever they have enough rows, and what is left at the end."""
        every = self.job.options.commit_every or 1
        group: list[WrittenFile] = []
        for batch in batches:
            group += [WrittenFile(**each) for each in to_rows(batch)]
            if sum(file.rows for file in group) >= every:
                self._commit(group)
                group = []
            progress.show(self.rows)
        if group:
            self._commit(group)
        progress.show(self.rows)

    def _commit(self, group: list[WrittenFile]) -> None:
        fragments = [file.metadata() for file in group]
        commit_rows_of_group(self.job, self.record, fragments, self.send)
        self.rows += sum(file.rows for file in group)
        self.num_bytes += sum(file.num_bytes for file in group)
        self.committed += [file.path for fragment in fragments for file in fragment.files]


def _written(
    rows: Dataset, job: WriteJob, id_column: str, ray_remote_args: Mapping[str, Any], concurrency: int | None
) -> Iterator[pa.Table]:
    """The files of the rows, as tasks finish them. A task that Ray runs again is heard once, with its last files."""
    files = rows.map_batches(
        partial(_write_batch, job=job, id_column=id_column),
        batch_size=job.options.max_rows_per_file,
        batch_format="pyarrow",
        zero_copy_batch=True,
        concurrency=concurrency,
        **ray_remote_args,
    )
    found = silenced(executed_promptly(files)).iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0)
    yield from found


def _write_batch(batch: pa.Table, job: WriteJob, id_column: str) -> pa.Table:
    keep_freed_memory()
    with faults_of_data(), interrupts_held() as raise_interrupt:
        raise_interrupt()
        if not batch.num_rows:
            return _SCHEMA.empty_table()
        _check_ids(batch, id_column)
        files = write_files([RayRows(batch)], job.with_schema(portable(job.schema)))
    return pa.Table.from_pylist([vars(file) for file in files], schema=_SCHEMA)


def _check_id_column(job: WriteJob, name: str) -> None:
    schema = job.table.open().schema
    if name not in schema.names:
        raise InvalidArgumentError(f"id_column={name!r}: the dataset has the columns {schema.names}")
    one = pa.schema([schema.field(name)])
    comparable_schema(one, one)


def _check_ids(batch: pa.Table, name: str) -> None:
    if name not in batch.column_names:
        raise InvalidArgumentError(f"id_column={name!r}: the rows have the columns {batch.column_names}")
    if batch[name].null_count:
        row = pc.index(pc.is_null(batch[name]), True).as_py()
        raise InvalidArgumentError(
            f"id_column={name!r} is null in row {row} of a block: nobody could tell later that this row is there"
        )
