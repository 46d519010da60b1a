"""Ray Data's side of a write: tasks that write files, one commit on the driver, clean-up whatever happens."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import lance
import pyarrow as pa
from ray.data import Dataset
from ray.data.block import BlockAccessor
from ray.data.datasource.datasink import Datasink, WriteResult

from ray_lance.allocator import keep_freed_memory
from ray_lance.data.arrow_blocks import as_arrow
from ray_lance.data.checkpoints import refuse_job_checkpoints
from ray_lance.data.cluster import check_resources
from ray_lance.data.execution import clean_up_after_writes, executed_promptly, running_context
from ray_lance.data.faults import own_error, said_once
from ray_lance.data.interrupts import interrupts_held
from ray_lance.data.quiet import silenced
from ray_lance.data.rewriting import TaskResult, in_one_schema
from ray_lance.data.watching import watched_write
from ray_lance.errors import (
    CommitError,
    DatasetExistsError,
    InvalidArgumentError,
)
from ray_lance.progress import shown_progress
from ray_lance.table import TableRef
from ray_lance.tensors.blocks import storable
from ray_lance.write.cleanup import give_up, remove_uncommitted
from ray_lance.write.commit import Committed, Send, commit_rows
from ray_lance.write.fragments import Rows, write_files
from ray_lance.write.inferred import agreed_schema, inferred_schema
from ray_lance.write.job import WriteJob, begin
from ray_lance.write.options import WriteOptions, WriteSummary
from ray_lance.write.schema import portable

if TYPE_CHECKING:
    from ray.data._internal.execution.interfaces import TaskContext

__all__ = ["LanceDatasink", "RayRows", "TaskResult", "run", "write"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class RayRows:
    """:class:`ray_lance.write.fragments.Rows` of a Ray block, which stays in the object store."""

    block: Any

    @property
    def num_rows(self) -> int:
        """Rows in the block."""
        return int(BlockAccessor.for_block(self.block).num_rows())

    def num_bytes(self, start: int, stop: int) -> int:
        """Bytes in memory of rows ``[start, stop)``."""
        part = BlockAccessor.for_block(self.block).slice(start, stop, copy=False)
        return int(BlockAccessor.for_block(part).size_bytes())

    def table(self, start: int, stop: int) -> pa.Table:
        """Rows ``[start, stop)`` with standard Arrow types."""
        part = BlockAccessor.for_block(self.block).slice(start, stop, copy=False)
        return storable(BlockAccessor.for_block(part).to_arrow())


class LanceDatasink(Datasink[TaskResult]):
    """Writes a Ray dataset as a Lance dataset: ``ds.write_datasink(LanceDatasink(table, options))``.

    Prefer :func:`write`, which returns the summary and lets the write begin with its share of the cluster. Ray puts
    blocks together until they hold ``target_bytes_per_file``, so that many small blocks become few files. A write that
    fails or is interrupted ends when its tasks have ended and its files are removed.

    Args:
        table: Where to write.
        options: What to do.
        send: Makes the new version; for tests of what happens when that fails.

    Attributes:
        modes: The modes that it carries out.
        summary: What was done; None before the commit.

    Raises:
        InvalidArgumentError: ``options`` ask for a mode that takes more than a datasink, such as a merge.
    """

    modes: ClassVar[tuple[str, ...]] = ("create", "append", "overwrite", "ignore")

    def __init__(self, table: TableRef, options: WriteOptions, *, send: Send = lance.LanceDataset.commit) -> None:
        if options.mode not in self.modes:
            raise InvalidArgumentError(
                f"mode={options.mode!r}: {type(self).__name__} does {list(self.modes)}; use write()"
            )
        self._table = table
        self._options = options
        self._send = send
        self._job: WriteJob | None = None
        self._first_schema: pa.Schema | None = None
        self._started = time.perf_counter()
        self.summary: WriteSummary | None = None

    def __getstate__(self) -> dict[str, Any]:
        # Tasks neither commit nor need what the commit is made with.
        return {**self.__dict__, "_send": None}

    def start(self) -> WriteJob:
        """Look at the table and check the options against it, once.

        Raises:
            RayLanceError: As :func:`ray_lance.write.job.begin` says.
        """
        if self._job is None:
            self._started = time.perf_counter()
            self._job = begin(self._table, self._options)
        return self._job

    def on_write_start(self, schema: pa.Schema | None = None) -> None:
        """Check what can be seen of the rows before any of them is written.

        From now on a failure and an interrupt are cleaned up after.
        """
        refuse_job_checkpoints(running_context(), self._options.mode)
        job = self.start()
        clean_up_after_writes(self.abort)
        if job.schema is None and isinstance(schema, pa.Schema) and schema.names:
            self._first_schema = inferred_schema([schema], self._options)

    def write(self, blocks: Iterable[Any], ctx: TaskContext) -> TaskResult:  # noqa: ARG002
        """Write the blocks of one task as files."""
        with interrupts_held() as raise_interrupt:
            return self._write(blocks, raise_interrupt)

    def _write(self, blocks: Iterable[Any], raise_interrupt: Callable[[], None]) -> TaskResult:
        keep_freed_memory()
        job = self.start()
        tables = []
        for table in map(as_arrow, blocks):
            raise_interrupt()
            if table.num_rows:
                tables.append(table)
        if not tables:
            return TaskResult((), None)
        if job.schema is None:
            schema = inferred_schema((table.schema for table in tables), self._options)
        else:
            # Sent between processes, a column of tensors of varying shape arrives as Arrow's extension type.
            schema = portable(job.schema)
        return TaskResult(tuple(write_files(self.rows(tables), job.with_schema(schema))), schema)

    def rows(self, blocks: Iterable[Any]) -> list[Rows]:
        """The blocks of one task, to be read as often as its retries need."""
        return [RayRows(block) for block in blocks]

    def on_write_complete(self, write_result: WriteResult[TaskResult]) -> None:
        """Commit what all the tasks wrote as one version, or clean up."""
        try:
            self._complete(write_result)
        except BaseException:  # Ray reports no interrupts
            self.abort()
            raise

    def _complete(self, write_result: WriteResult[TaskResult]) -> None:
        results = [result for result in write_result.write_returns if result is not None]
        job = self._agree_on_schema([result.schema for result in results if result.schema is not None])
        results = in_one_schema(job, results)
        files = [file for result in results for file in result.files]
        done = self._commit(job, results)
        remove_uncommitted(job, [data_file.path for file in files for data_file in file.metadata().files])
        self.summary = WriteSummary(
            uri=job.shown_uri,
            version_before=job.version_before,
            version=done.version,
            rows=sum(file.rows for file in files),
            fragments=len(files),
            bytes=sum(file.num_bytes for file in files),
            seconds=time.perf_counter() - self._started,
            rows_updated=done.updated,
            rows_deleted=done.deleted,
        )

    def on_write_failed(self, error: Exception) -> None:  # noqa: ARG002
        """Remove every file of the job."""
        self.abort()

    def abort(self) -> None:
        """Remove every file of the job that is not part of the dataset. Raises nothing."""
        job, self._job = self._job, None
        if job is not None:
            give_up(job)

    def get_name(self) -> str:
        """Name of the write tasks."""
        return "WriteLance"

    @property
    def min_bytes_per_write(self) -> int:
        """Bytes of blocks that Ray puts together for one task: one file's."""
        return self._options.target_bytes_per_file

    def _agree_on_schema(self, schemas: list[pa.Schema]) -> WriteJob:
        """Fix the schema of a new dataset: of the rows, or where there are none, of the Ray dataset."""
        job = self.start()
        if job.schema is None:
            if not schemas and self._first_schema is None:
                raise InvalidArgumentError("schema=None: the Ray dataset is empty; give the schema to write")
            job = self._job = job.with_schema(agreed_schema(schemas or [self._first_schema], self._options))
        return job

    def _commit(self, job: WriteJob, results: Sequence[TaskResult]) -> Committed:
        files = [file for result in results for file in result.files]
        if not files and job.version_before is not None and job.options.mode == "append":
            return Committed(job.version_before)
        return Committed(commit_rows(job, [file.metadata() for file in files], self._send))


def write(
    ds: Dataset,
    table: TableRef,
    options: WriteOptions,
    *,
    ray_remote_args: dict[str, Any] | None = None,
    concurrency: int | None = None,
) -> WriteSummary:
    """Write a Ray dataset as a Lance dataset, in one atomic commit.

    Args:
        ds: The rows.
        table: Where to write.
        options: What to do.
        ray_remote_args: Arguments of ``ray.remote`` for the write tasks.
        concurrency: Upper bound of write tasks at the same time.

    Returns:
        What was done.

    Raises:
        DatasetExistsError: ``mode="create"`` and a dataset exists, or appeared during the write.
        DatasetNotFoundError: ``mode="append"`` or ``"merge"`` and there is no dataset.
        InvalidArgumentError: An option contradicts the dataset.
        SchemaMismatchError: The rows do not fit the schema without loss.
        CommitError: Nothing was committed.
    """
    refuse_job_checkpoints(ds.context, options.mode)
    check_resources(ray_remote_args or {})
    if options.mode == "merge":
        # Imported here: a merge is made of the parts of this module.
        from ray_lance.data.merge import merge

        return merge(ds, table, options, ray_remote_args, concurrency)
    return run(ds, LanceDatasink(table, options), ray_remote_args, concurrency)


def run(
    ds: Dataset,
    sink: LanceDatasink,
    ray_remote_args: dict[str, Any] | None = None,
    concurrency: int | None = None,
) -> WriteSummary:
    """Run ``sink``, and clean up after any end but a good one, interrupts included. See :func:`write`."""
    job = sink.start()
    if job.exists and job.options.mode == "ignore":
        return _nothing_done(job)
    try:
        _execute(ds, sink, dict(ray_remote_args or {}), concurrency)
    except Exception as error:
        sink.abort()
        cause = own_error(error)
        if isinstance(cause, DatasetExistsError) and job.options.mode == "ignore":
            return _nothing_done(begin(job.table.latest(), job.options))
        if cause is None:
            raise
        raise cause.with_traceback(None) from None
    except BaseException:
        sink.abort()
        raise
    if sink.summary is None:
        raise CommitError(f"uri={job.shown_uri!r}: Ray ended the write without completing it")
    return sink.summary


def _execute(ds: Dataset, sink: LanceDatasink, ray_remote_args: dict[str, Any], concurrency: int | None) -> None:
    # A copy, since the caller's Ray dataset keeps the context that it has.
    own = executed_promptly(Dataset.copy(ds, _deep_copy=True))
    with shown_progress("write_lance", bars=ds.context.enable_progress_bars) as progress:
        with said_once(), watched_write(silenced(own), progress):
            own.write_datasink(sink, ray_remote_args=ray_remote_args, concurrency=concurrency)
        if sink.summary is not None:
            progress.show(sink.summary.rows)


def _nothing_done(job: WriteJob) -> WriteSummary:
    version = job.version_before or 0
    return WriteSummary(job.shown_uri, version, version, rows=0, fragments=0, bytes=0, seconds=0.0)
