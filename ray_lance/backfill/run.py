"""Runs ``add_columns``: a table and a ``Compute`` in, committed columns and a summary out.

One streaming pipeline: read tasks deliver ranges of rows with their addresses, the function runs on batches in tasks or
actors, and the blocks come back in order, so that counting their rows shows which fragments are complete. The column
file of a complete fragment is written by a task that gets references to the blocks. The driver handles only references
and row counts, and commits the finished fragments in groups.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import lance
import pyarrow as pa
import ray
from ray.data import DataContext

from ray_lance.arguments import as_count, as_flag, shown
from ray_lance.backfill.assemble import FragmentAssembler
from ray_lance.backfill.claim import ColumnClaim
from ray_lance.backfill.compute import Compute
from ray_lance.backfill.pipeline import computed_columns, count_rows, inferred_columns
from ray_lance.backfill.stream import iterate_blocks
from ray_lance.backfill.window import Window
from ray_lance.backfill.writer import ColumnWriter, RowFailure
from ray_lance.data.cluster import check_resources
from ray_lance.data.faults import own_error
from ray_lance.errors import CommitError, InvalidArgumentError
from ray_lance.notebook import FieldFacts
from ray_lance.progress import Progress, shown_progress
from ray_lance.ray_internals.executions import admits_tasks
from ray_lance.retry import RetryPolicy
from ray_lance.table import TableRef
from ray_lance.write.column_plan import Pass, Plan, plan
from ray_lance.write.column_record import ColumnRecord, check_columns, recorded_columns
from ray_lance.write.commit import Send
from ray_lance.write.field_ids import as_stored
from ray_lance.write.job import refuse_private_types
from ray_lance.write.lance_types import lance_schema
from ray_lance.write.schema import portable, refuse_null_types
from ray_lance.write.target import LEGACY, Target, existing_target

__all__ = ["AddColumnsSummary", "BackfillOptions", "backfill", "check_files", "summary_of"]

logger = logging.getLogger(__name__)

# How often to look for files that have been written, while no rows come.
_PAUSE_S = 0.02
# Rounds over fragments that others rewrote in the meantime.
_MOST_ROUNDS = 5


@dataclass(frozen=True)
class BackfillOptions:
    """Which values are computed, and how they are committed.

    Attributes:
        schema: The new columns; None takes the types of the first batch.
        where: SQL condition of the rows that get a value; None for all.
        overwrite: Whether columns that exist are computed again.
        fragments_per_commit: Most fragments that may be computed and not committed; None commits what is finished
            every ten seconds.
        retry: How often to try again after storage faults and commit conflicts.
    """

    schema: pa.Schema | None = None
    where: str | None = None
    overwrite: bool = False
    fragments_per_commit: int | None = None
    retry: RetryPolicy = field(default_factory=RetryPolicy)

    def __post_init__(self) -> None:
        object.__setattr__(self, "overwrite", as_flag("overwrite", self.overwrite))
        if self.fragments_per_commit is not None:
            size = as_count("fragments_per_commit", self.fragments_per_commit)
            object.__setattr__(self, "fragments_per_commit", size)
        if self.schema is None:
            return
        if not isinstance(self.schema, pa.Schema) or not self.schema.names:
            raise InvalidArgumentError(f"schema={shown(self.schema)} must be a pyarrow.Schema of the new columns")
        refuse_null_types(self.schema)
        required = [column.name for column in self.schema if not column.nullable]
        if required:
            raise InvalidArgumentError(
                f"schema: columns {required} are not nullable, but rows have no value until they are computed: leave "
                "nullable=False out"
            )


@dataclass(frozen=True)
class AddColumnsSummary(FieldFacts):
    """What ``add_columns`` did.

    Attributes:
        uri: Location of the dataset, without credentials.
        version_before: Version before the call: ``lance.dataset(uri, version=...).restore()`` goes back to it.
        version: Version that holds the result; equal to ``version_before`` where there was nothing to do.
        fragments_done: Fragments that got values.
        fragments_skipped: Fragments that had their values already, or no row to compute.
        rows: Rows computed.
        rows_failed: Rows that are null because the function raised an error on their batch.
        failures: Which rows failed, and why.
        bytes: Bytes of the files written.
        seconds: Wall-clock time in seconds.
    """

    uri: str
    version_before: int
    version: int
    fragments_done: int
    fragments_skipped: int
    rows: int
    rows_failed: int
    failures: tuple[RowFailure, ...] = field(repr=False)
    bytes: int
    seconds: float


def backfill(
    table: TableRef, compute: Compute, options: BackfillOptions, send: Send = lance.LanceDataset.commit
) -> AddColumnsSummary:
    """Compute columns and write them back. See :func:`ray_lance.add_columns`.

    Args:
        table: The dataset.
        compute: What is called on which columns.
        options: Which values are computed, and how they are committed.
        send: Makes new versions; for tests of what happens when that fails.
    """
    started = time.perf_counter()
    target = existing_target(table, options.retry)
    schema, record = _prepare(target, compute, options)
    exists = set(schema.names) <= set(target.table.open().schema.names)
    todo = _count(target.table, plan(target.table.open(), record))
    if exists and not todo.passes and not record.owner and not record.replaces:
        return summary_of(target, target.table.number, ColumnWriter(None, 0, send), todo.done, started)
    work = _Work(target, record, schema, compute, options, send)
    with shown_progress("add_columns", bars=DataContext.get_current().enable_progress_bars) as progress:
        version = work.run(progress)
    return summary_of(target, version, work.writer, work.done, started)


def check_files(target: Target) -> None:
    """Refuse datasets that take no new columns.

    Raises:
        InvalidArgumentError: The files of the dataset are of a version that does not.
    """
    if target.file_version == LEGACY:
        raise InvalidArgumentError(
            f"uri={target.shown_uri!r}: Lance adds no columns to files of version {LEGACY}: copy the dataset, with "
            "write_lance(read_lance(uri), another_uri), and add the columns there"
        )


def _prepare(target: Target, compute: Compute, options: BackfillOptions) -> tuple[pa.Schema, ColumnRecord]:
    """Check all that can be checked before the work starts; returns the new columns and their record."""
    dataset = target.table.open()
    check_files(target)
    refuse_private_types(dataset.schema, "add_columns")
    compute.check_against(dataset.schema)
    scan = compute.scan(target.table, options.where)  # checks the condition and the decoders
    check_resources(compute.ray_arguments)
    recipe = compute.recipe(options.where, scan.decoders)
    given = options.schema and portable(as_stored(lance_schema(options.schema), target.file_version))
    schema = given or recorded_columns(dataset.schema, recipe)
    if schema is None:
        try:
            schema = portable(lance_schema(inferred_columns(compute, target.table, options.where)))
        except Exception as error:
            own = own_error(error)
            if own is None:
                raise
            raise own from error
    return schema, check_columns(dataset.schema, schema, recipe, overwrite=options.overwrite)


class _Work:
    """One call's work on the columns.

    Args:
        target: The dataset.
        record: The computation.
        schema: The columns.
        compute: What is called on which columns.
        options: Which values are computed.
        send: Makes new versions.

    Attributes:
        writer: What writes the values.
        done: Fragments that had their values before.
    """

    def __init__(
        self,
        target: Target,
        record: ColumnRecord,
        schema: pa.Schema,
        compute: Compute,
        options: BackfillOptions,
        send: Send,
    ) -> None:
        self._target, self._record, self._schema = target, record, schema
        self._compute, self._options = compute, options
        self._window = Window(options.fragments_per_commit) if options.fragments_per_commit else None
        self.writer = ColumnWriter(self._window, 0 if compute.is_class else 1, send)
        self._claim = ColumnClaim(target, self.writer, send)
        self.done = 0

    def run(self, progress: Progress) -> int:
        """Compute until every fragment has its values; returns the version that holds them."""
        return self._claim.run(partial(self._compute_rounds, progress))

    def _compute_rounds(self, progress: Progress) -> None:
        computed = 0
        for number in range(_MOST_ROUNDS):
            job = self._claim.job
            table = self._target.table if job is None else job.target.table
            todo = _count(table, plan(table.open(), self._record))
            self.done = self.done if number else todo.done
            progress.expect(computed + todo.rows)
            for each in self._parts(todo.passes):
                computed = self._compute_pass(table, each, computed, progress)
                if self._must_wait:
                    self.writer.finish()
            self.writer.finish()
            self._claimed()
            if not self.writer.lost:
                return
            logger.info("%d fragments were rewritten by others and are computed again", len(self.writer.lost))
            self.writer.lost = []
            self._claim.renew()
        raise CommitError(
            f"uri={self._target.shown_uri!r}: others kept rewriting fragments during {_MOST_ROUNDS} rounds; "
            "what is finished is committed, and calling again computes the rest"
        )

    @property
    def _must_wait(self) -> bool:
        """Whether only the end of an execution bounds how far it is ahead of the commits."""
        return self._window is not None and not admits_tasks()

    def _parts(self, passes: Sequence[Pass]) -> list[Pass]:
        """The passes, cut into what may be computed without a commit where tasks cannot be held back."""
        if self._window is None or not self._must_wait:
            return list(passes)
        size = self._window.size
        return [
            replace(each, fragments=each.fragments[first : first + size])
            for each in passes
            for first in range(0, len(each.fragments), size)
        ]

    def _compute_pass(self, table: TableRef, todo: Pass, computed: int, progress: Progress) -> int:
        """Compute the rows of one pass; returns ``computed`` with them."""
        if self._window is not None:
            self._window.begin_pass(len(todo.fragments))
        job = self._claim.job
        schema = self._schema if job is None else job.schema
        computing = computed_columns(
            self._compute, table, todo, schema, exact=self._options.schema is None, window=self._window
        )
        assembler: FragmentAssembler[ray.ObjectRef] = FragmentAssembler(todo.fragments)
        with iterate_blocks(computing, _PAUSE_S) as blocks:
            for rows in blocks:
                if rows is not None:
                    self._claimed()
                    computed += rows.stop - rows.start
                self.writer.submit([] if rows is None else assembler.add(rows))
                progress.show(computed, self.writer.rows_failed)
        assembler.finish()
        return computed

    def _claimed(self) -> None:
        self._claim.take(self._record, self._schema)


def _count(table: TableRef, todo: Plan) -> Plan:
    counted = [count_rows(table, each) for each in todo.passes]
    before, after = (sum(len(each.fragments) for each in passes) for passes in (todo.passes, counted))
    return Plan(tuple(each for each in counted if each.fragments), todo.done + before - after)


def summary_of(target: Target, version: int, writer: ColumnWriter, done: int, started: float) -> AddColumnsSummary:
    """What was done.

    Args:
        target: The dataset as it was before.
        version: The version that holds the result.
        writer: What wrote the values.
        done: Fragments that had their values before.
        started: When it began, as ``time.perf_counter`` gives it.
    """
    return AddColumnsSummary(
        uri=target.shown_uri,
        version_before=target.table.number,
        version=version,
        fragments_done=len(writer.committed),
        fragments_skipped=done,
        rows=sum(written.work.rows for written in writer.committed),
        rows_failed=sum(len(failure.row_addresses) for failure in writer.failures),
        failures=tuple(writer.failures),
        bytes=sum(written.num_bytes for written in writer.committed),
        seconds=time.perf_counter() - started,
    )
