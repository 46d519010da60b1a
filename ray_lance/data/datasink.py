"""Writes and commits inside Ray Data: the blocks of tasks in, one version out; cleans up after any failure."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, ClassVar

import lance
import pyarrow as pa
from ray.data import DataContext
from ray.data.datasource.datasink import Datasink, WriteResult

from ray_lance.allocator import keep_freed_memory
from ray_lance.data.arrow_blocks import RayRows, as_arrow
from ray_lance.data.interrupts import interrupts_held
from ray_lance.data.one_schema import TaskResult, in_one_schema
from ray_lance.errors import InvalidArgumentError
from ray_lance.ray_internals.executions import clean_up_after_writes, running_context
from ray_lance.table import TableRef
from ray_lance.write.cleanup import give_up, remove_uncommitted
from ray_lance.write.commit import Send
from ray_lance.write.fragments import Rows, write_files
from ray_lance.write.inferred import agreed_schema, inferred_schema
from ray_lance.write.job import WriteJob, begin
from ray_lance.write.options import WriteOptions, WriteSummary
from ray_lance.write.row_commit import Committed, commit_rows
from ray_lance.write.schema import portable

__all__ = ["LanceDatasink", "refuse_job_checkpoints"]


class LanceDatasink(Datasink[TaskResult]):
    """Writes a Ray dataset as a Lance dataset: ``ds.write_datasink(LanceDatasink(table, options))``.

    Prefer :func:`ray_lance.write_lance`, which returns the summary and lets the write begin with its share of the
    cluster. Ray puts blocks together until they hold ``target_bytes_per_file``, so that many small blocks become few
    files. A write that fails or is interrupted ends when its tasks have ended and its files are removed.

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
        if options.commit_every is not None:
            raise InvalidArgumentError(
                f"commit_every={options.commit_every!r}: a datasink commits once, at its end; use write_lance"
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
        """Open the table and check the options against it, once.

        Raises:
            RayLanceError: As :func:`ray_lance.write.job.begin` says.
        """
        if self._job is None:
            self._started = time.perf_counter()
            self._job = begin(self._table, self._options)
        return self._job

    def on_write_start(self, schema: pa.Schema | None = None) -> None:
        """Check what is known of the rows before any of them is written.

        From now on failures and interrupts are followed by a clean-up.
        """
        refuse_job_checkpoints(running_context(), self._options.mode)
        job = self.start()
        clean_up_after_writes(self.abort)
        if job.schema is None and isinstance(schema, pa.Schema) and schema.names:
            self._first_schema = inferred_schema([schema], self._options)

    def write(self, blocks: Iterable[Any], ctx: Any) -> TaskResult:  # noqa: ARG002
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
        """The blocks of one task, which can be read again by retries."""
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
        done = self._commit(job, results)
        remove_uncommitted(job, [name for result in results for name in result.file_names])
        sizes = [size for result in results for size in result.sizes]
        self.summary = WriteSummary(
            uri=job.shown_uri,
            version_before=job.version_before,
            version=done.version,
            rows=sum(result.rows for result in results),
            fragments=len(sizes),
            bytes=sum(sizes),
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
        """Fix the schema of a new dataset: that of the rows or, where there are none, of the Ray dataset."""
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


def refuse_job_checkpoints(context: DataContext, mode: str) -> None:
    """Refuse job checkpoints, which lose rows where a write has one commit at its end.

    Ray records rows as written when their task ends, but the dataset gets them only with the commit of the whole write.
    After a failure in between, the next run would leave them out, and they would not be in the dataset (Ray 2.60).

    Args:
        context: The context of the Ray dataset that is written.
        mode: How it is written, for the message.

    Raises:
        InvalidArgumentError: The context asks for job checkpoints.
    """
    config = getattr(context, "checkpoint_config", None)
    if config is None:
        return
    raise InvalidArgumentError(
        f"DataContext.checkpoint_config (id_column={config.id_column!r}): job checkpoints do not go with a write to "
        f"Lance (mode={mode!r}). Ray notes rows as written when their task ends, but the dataset gets all of them in "
        "one commit at the end: after a failure in between they would be lost without an error. Set "
        "ds.context.checkpoint_config = None and run the whole write again after a failure, which leaves nothing "
        "behind. To keep what is finished, read only what the target lacks, with read_lance(source, without=target, "
        "on=...), and write it with mode='append', commit_every=... and id_column=...; or compute columns of a dataset "
        "with add_columns, which resumes"
    )
