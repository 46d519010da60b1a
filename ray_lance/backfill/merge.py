"""Runs ``merge_columns_from``: a table and a pipeline in, committed columns and a summary out.

The pipeline runs as it is. Each of its blocks is indexed by a task next to it: which rows of which fragments it holds.
The column file of a fragment is written by a task, as soon as all its rows have come, from references to the blocks.
Where rows come scattered over all blocks, as after a ``random_shuffle``, the blocks are sorted by address first. The
driver handles references, row counts and indices of blocks.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import lance
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import ray
from ray.data import DataContext, Dataset

from ray_lance.arguments import as_choice, as_count, as_flag, as_names, shown
from ray_lance.backfill.addressed import Addressing, BlockIndex
from ray_lance.backfill.assemble import BlockRows
from ray_lance.backfill.claim import ColumnClaim
from ray_lance.backfill.gather import FragmentGatherer
from ray_lance.backfill.matched import MatchedRows
from ray_lance.backfill.pipeline import count_rows
from ray_lance.backfill.run import AddColumnsSummary, check_files, summary_of
from ray_lance.backfill.stream import iterate_blocks
from ray_lance.backfill.window import Window
from ray_lance.backfill.writer import ColumnWriter
from ray_lance.data.cluster import cluster_cpus
from ray_lance.data.datasource import LanceDatasource
from ray_lance.data.plan import lance_reads
from ray_lance.errors import CommitError, InvalidArgumentError
from ray_lance.progress import Progress, shown_progress
from ray_lance.ray_internals.executions import executed_promptly, silenced
from ray_lance.retry import RetryPolicy
from ray_lance.scan.scan import META_COLUMNS, ROW_ADDRESS, ROW_ID
from ray_lance.table import TableRef
from ray_lance.write.column_plan import FragmentWork, Pass, matching, null_condition, refused_rewritten
from ray_lance.write.column_record import ColumnRecord, Recipe, check_columns, column_fields
from ray_lance.write.commit import Send
from ray_lance.write.field_ids import as_stored
from ray_lance.write.job import refuse_private_types
from ray_lance.write.lance_types import lance_schema
from ray_lance.write.schema import portable, refuse_null_types
from ray_lance.write.target import Target, existing_target

__all__ = ["MergeColumnsOptions", "merge_columns"]

# How often to look for blocks that have been indexed and files that have been written, while no rows come.
_PAUSE_S = 0.02
# What every pipeline's columns are recorded as: what a pipeline computes cannot be compared with that of another run.
_RECIPE = Recipe((), None, "merge_columns_from", ())


@dataclass(frozen=True)
class MergeColumnsOptions:
    """Which rows and columns of a pipeline are stored, and how. See :func:`ray_lance.merge_columns_from`.

    Attributes:
        on: The column that identifies a row.
        columns: The columns to store; None for those that are new.
        schema: Their types; None takes those of the first block.
        read_version: The version whose rows went into the pipeline; None for that of its read.
        require_full_coverage: Whether every row without a value must get one.
        overwrite: Whether columns that exist are replaced.
        fragments_per_commit: Most fragments that may be written and not committed; None commits what is finished every
            ten seconds.
        retry: How often to try again after storage faults and commit conflicts.
    """

    on: str = ROW_ADDRESS
    columns: Sequence[str] | None = None
    schema: pa.Schema | None = None
    read_version: int | None = None
    require_full_coverage: bool = True
    overwrite: bool = False
    fragments_per_commit: int | None = None
    retry: RetryPolicy = field(default_factory=RetryPolicy)

    def __post_init__(self) -> None:
        as_choice("on", self.on, (ROW_ADDRESS, ROW_ID))
        for name in ("require_full_coverage", "overwrite"):
            object.__setattr__(self, name, as_flag(name, getattr(self, name)))
        for name in ("read_version", "fragments_per_commit"):
            if (value := getattr(self, name)) is not None:
                object.__setattr__(self, name, as_count(name, value))
        self._check_columns()
        if self.overwrite and self.columns is None:
            raise InvalidArgumentError("overwrite=True: name the columns to replace, columns=[...]")

    def _check_columns(self) -> None:
        if self.schema is not None:
            if not isinstance(self.schema, pa.Schema) or not self.schema.names:
                raise InvalidArgumentError(f"schema={shown(self.schema)} must be a pyarrow.Schema of the new columns")
            refuse_null_types(self.schema)
        columns = None if self.columns is None else as_names("columns", self.columns)
        if columns is None and self.schema is not None:
            columns = tuple(self.schema.names)
        if columns is None:
            return
        if not columns or len(set(columns)) < len(columns) or not set(META_COLUMNS).isdisjoint(columns):
            raise InvalidArgumentError(
                f"columns={list(columns)} must name at least one column, none of them twice and none of "
                f"{list(META_COLUMNS)}"
            )
        if self.schema is not None and set(columns) != set(self.schema.names):
            raise InvalidArgumentError(f"columns={list(columns)} and schema={self.schema.names} name other columns")
        object.__setattr__(self, "columns", columns)


def merge_columns(
    table: TableRef, dataset: Dataset, options: MergeColumnsOptions, send: Send = lance.LanceDataset.commit
) -> AddColumnsSummary:
    """Store columns of a pipeline. See :func:`ray_lance.merge_columns_from`.

    Args:
        table: The dataset.
        dataset: The pipeline.
        options: Which rows and columns are stored, and how.
        send: Makes new versions; for tests of what happens when that fails.
    """
    started = time.perf_counter()
    if not isinstance(dataset, Dataset):
        raise InvalidArgumentError(f"dataset={shown(dataset)} must be a ray.data.Dataset that read_lance(uri) began")
    target = existing_target(table, options.retry)
    check_files(target)
    refuse_private_types(target.table.open().schema, "merge_columns_from")
    reads = _reads_of(target, dataset)
    missing = {name for read in reads for name in read.missing}
    work = _Work(target, _addressing(target, dataset, reads, missing, options), missing, options, send)
    with shown_progress("merge_columns_from", bars=DataContext.get_current().enable_progress_bars) as progress:
        version = work.run(dataset, progress)
    return summary_of(target, version, work.writer, work.done, started)


def _addressing(
    target: Target, dataset: Dataset, reads: Sequence[LanceDatasource], missing: Set[str], options: MergeColumnsOptions
) -> Addressing:
    """What says where the pipeline's rows belong, and which columns are stored."""
    number = _read_version(target, dataset, reads, options)
    table = target.table if number == target.table.number else target.table.at(number).pin()
    if len(reads) == 1 and options.on not in reads[0].scan.names:
        argument = {ROW_ADDRESS: "with_row_address", ROW_ID: "with_row_id"}[options.on]
        raise InvalidArgumentError(
            f"on={options.on!r}: the pipeline does not read it: read_lance(uri, {argument}=True)"
        )
    columns = None if options.columns is None else tuple(options.columns)
    return Addressing(table, options.on, columns, frozenset(set(target.table.open().schema.names) - missing))


def _reads_of(target: Target, dataset: Dataset) -> list[LanceDatasource]:
    """What in the pipeline reads the dataset."""
    uri = target.table.open().uri
    return [read for read in lance_reads(dataset) if any(table.open().uri == uri for table in read.scan.tables)]


def _read_version(
    target: Target, dataset: Dataset, reads: Sequence[LanceDatasource], options: MergeColumnsOptions
) -> int:
    uri = target.table.open().uri
    numbers = {table.number for read in reads for table in read.scan.tables if table.open().uri == uri}
    if any(len(read.scan.tables) > 1 for read in reads):
        raise InvalidArgumentError(
            "dataset: its read_lance read several datasets, whose row addresses cannot be told apart: read only "
            f"{target.shown_uri!r}"
        )
    if options.read_version is not None:
        if numbers - {options.read_version}:
            raise InvalidArgumentError(
                f"read_version={options.read_version}: the pipeline reads version {min(numbers)}"
            )
        return options.read_version
    if len(numbers) == 1:
        return numbers.pop()
    if numbers:
        raise InvalidArgumentError(
            f"dataset: it reads the versions {sorted(numbers)}, and row addresses are those of one: give read_version="
        )
    others = [read.scan.tables[0].shown_place for read in lance_reads(dataset)]
    why = f"it reads {others[0]}" if others else "it was materialized, for instance"
    raise InvalidArgumentError(
        f"dataset: nothing in it reads {target.shown_uri!r} ({why}), so that nobody can know which version its row "
        "addresses are of: give read_version="
    )


class _Work:
    """One call's work.

    Args:
        target: The dataset.
        how: What says where rows belong.
        missing: Columns without whose values the pipeline's rows were read.
        options: Which rows and columns are stored.
        send: Makes new versions.

    Attributes:
        writer: What writes the values.
        done: Fragments that had their values before.
    """

    def __init__(
        self, target: Target, how: Addressing, missing: Set[str], options: MergeColumnsOptions, send: Send
    ) -> None:
        self._target, self._how, self._missing, self._options = target, how, missing, options
        window = Window(options.fragments_per_commit) if options.fragments_per_commit else None
        # No CPUs: the pipeline's actors may hold all of them, and would wait for ever for their output to be taken.
        self.writer = ColumnWriter(window, 0, send, MatchedRows(how, options.require_full_coverage))
        self._claim = ColumnClaim(target, self.writer, send)
        self._columns: tuple[ColumnRecord, pa.Schema] | None = None
        self._gatherer: FragmentGatherer[ray.ObjectRef] = FragmentGatherer({}, ())
        self._works: dict[int, int] = {}
        self._partial: dict[int, int] = {}
        self.done = 0
        self._rows = 0

    def run(self, dataset: Dataset, progress: Progress) -> int:
        """Store what comes; returns the version that holds it."""
        self._match(progress, ColumnRecord((), _RECIPE))  # refuses fragments that were rewritten before anything runs
        schema = self._known_schema()
        if schema is not None:
            self._begin(schema, progress)
        return self._claim.run(partial(self._merge, dataset, progress))

    def _known_schema(self) -> pa.Schema | None:
        """The columns, where their types are known before any of them is computed."""
        columns, stored = self._options.columns, self._target.table.open().schema
        if columns is None and self._missing and self._missing <= set(stored.names):
            columns = [name for name in stored.names if name in self._missing]
        if self._options.schema is not None:
            given = self._options.schema
            return portable(as_stored(lance_schema(given), self._target.file_version))
        if columns is None:
            return None
        existing = [name for name in columns if name in stored.names]
        if existing and len(existing) < len(columns) and not self._options.overwrite:
            check_columns(stored, column_fields(stored, existing), _RECIPE, overwrite=False)
            raise InvalidArgumentError(
                f"columns={list(columns)}: of these {existing} exist, and were stored without the others: store the "
                "others by themselves"
            )
        return column_fields(stored, columns) if len(existing) == len(columns) else None

    def _begin(self, schema: pa.Schema, progress: Progress) -> None:
        """Find what is to be done for these columns."""
        stored = self._target.table.open().schema
        record = check_columns(stored, schema, _RECIPE, overwrite=self._options.overwrite)
        self._columns = record, schema
        self._match(progress, record)

    def _match(self, progress: Progress, record: ColumnRecord) -> None:
        target = self._target.table
        found = matching(
            self._how.table.open(), target.open(), record, keeps_others=not self._options.require_full_coverage
        )
        works = dict(found.works)
        self._partial = self._count_partial(works, record)
        settled = {number for number, rows in self._partial.items() if not rows}
        done = found.done | settled
        works = {number: work for number, work in works.items() if number not in settled}
        self._gatherer = FragmentGatherer(works, done)
        self._works = {number: work.rows for number, work in works.items()}
        self.done = len(done)
        progress.expect(sum(work.rows for work in works.values()))

    def _count_partial(self, works: dict[int, FragmentWork], record: ColumnRecord) -> dict[int, int]:
        """Rows without a value in fragments that hold values of other files, after a compaction for instance."""
        found = tuple(work for work in works.values() if work.keeps)
        if record.replaces or not found:
            return {}
        counted = count_rows(self._target.table, Pass(null_condition(record.columns), found))
        return {work.fragment_id: 0 for work in found} | {work.fragment_id: work.rows for work in counted.fragments}

    def _merge(self, dataset: Dataset, progress: Progress) -> None:
        if self._columns is not None and not self._works:
            record, schema = self._columns
            if record.owner or record.replaces:  # an earlier call was killed before it had finished
                self._claim.take(record, schema)
            return
        own = executed_promptly(silenced(Dataset.copy(dataset, _deep_copy=True)))
        own.context.checkpoint_config = None  # the columns themselves show what is done
        self._stream(own, self._how, progress)
        absent = self._gatherer.missing()
        self.writer.submit(self._gatherer.rest(self._partial if self._options.require_full_coverage else None))
        if self._gatherer.scattered:
            self._gather_sorted(progress)
        self.writer.finish()
        if self.writer.lost:
            ids = [work.fragment_id for work in self.writer.lost]
            raise CommitError(refused_rewritten(self._how.table.number, ids))
        self._refuse_missing(absent)

    def _stream(self, dataset: Dataset, how: Addressing, progress: Progress) -> None:
        """Run ``dataset``, and write each fragment when its last row has come."""
        indexer = _Indexer(how)
        with iterate_blocks(dataset, _PAUSE_S) as blocks:
            for rows in blocks:
                if rows is not None:
                    indexer.start(rows)
                self._take(indexer.finished(wait=indexer.is_full), progress)
        while indexer.is_busy:
            self._take(indexer.finished(wait=True), progress)

    def _take(self, indexed: Iterator[tuple[ray.ObjectRef, BlockIndex]], progress: Progress) -> None:
        for block, index in indexed:
            if index.schema is None:
                continue
            self._claimed(index.schema, progress)
            try:
                complete = self._gatherer.add(block, index)
            except InvalidArgumentError:
                self.writer.abandon()
                raise
            self.writer.submit(complete)
            self._rows += int(index.starts[-1])
        self.writer.submit([])
        progress.show(self._rows, 0)

    def _claimed(self, schema: pa.Schema, progress: Progress) -> None:
        """Claim the columns, which are those of the first block where nothing else says what they are."""
        if self._columns is None:
            refuse_null_types(schema)
            self._begin(portable(as_stored(lance_schema(schema), self._target.file_version)), progress)
        assert self._columns is not None
        self._claim.take(*self._columns)

    def _gather_sorted(self, progress: Progress) -> None:
        """Sort the blocks of scattered fragments by address, and write the fragments from those."""
        assert self._claim.job is not None
        works, blocks = self._gatherer.scattered, self._gatherer.held
        how = self._how.of_addresses()
        self._gatherer = FragmentGatherer(works, (), most_parts=len(blocks) * len(works) + 1)
        self._rows -= sum(work.rows for work in works.values())
        rows = ray.data.from_arrow_refs(blocks).map_batches(
            partial(_rows_of_fragments, how, self._claim.job.schema, np.array(sorted(works), np.int64)),
            batch_size=None,
            batch_format="pyarrow",
            zero_copy_batch=True,
        )
        self._stream(silenced(rows.sort(ROW_ADDRESS)), how, progress)

    def _refuse_missing(self, absent: dict[int, int]) -> None:
        """Refuse rows that did not come, unless they may be left out."""
        if not self._options.require_full_coverage:
            return
        lacking = {number: rows for number, rows in absent.items() if number not in self._partial}
        # Of others, tasks have checked those of which some rows came.
        lacking |= {n: self._partial[n] for n, rows in absent.items() if n in self._partial and rows == self._works[n]}
        if lacking:
            raise InvalidArgumentError(
                f"the pipeline returned {sum(lacking.values())} rows too few, of the fragments "
                f"{shown(sorted(lacking))}: let it keep every row, or give require_full_coverage=False to leave the "
                "others null. Fragments of which all rows came have their values"
            )


class _Indexer:
    """Indexes blocks in tasks, several at a time.

    Args:
        how: What says where their rows belong.
    """

    def __init__(self, how: Addressing) -> None:
        self._how = ray.put(how)
        self._index = ray.remote(_indexed).options(num_cpus=0, num_returns=2)
        self._running: dict[ray.ObjectRef, tuple[ray.ObjectRef, ray.ObjectRef]] = {}
        self._most = 2 * cluster_cpus()

    @property
    def is_busy(self) -> bool:
        """Whether a block is being indexed."""
        return bool(self._running)

    @property
    def is_full(self) -> bool:
        """Whether no other block should be given before one is finished."""
        return len(self._running) >= self._most

    def start(self, rows: BlockRows[ray.ObjectRef]) -> None:
        """Index a block."""
        index, sorted_rows = self._index.remote(self._how, rows.block, rows.start, rows.stop)
        self._running[index] = rows.block, sorted_rows

    def finished(self, *, wait: bool) -> Iterator[tuple[ray.ObjectRef, BlockIndex]]:
        """The blocks that have been indexed, sorted, each with its index; waits for one of them if asked to."""
        if not self._running:
            return
        running = list(self._running)
        ready, _ = ray.wait(running, num_returns=1 if wait else len(running), timeout=None if wait else 0)
        for task in ready:
            block, sorted_rows = self._running.pop(task)
            index, is_sorted = ray.get(task)
            yield (block if is_sorted else sorted_rows), index


def _indexed(how: Addressing, block: Any, start: int, stop: int) -> tuple[tuple[BlockIndex, bool], pa.Table | None]:
    index, rows = how.indexed(block, start, stop)
    return (index, rows is None), rows


def _rows_of_fragments(
    how: Addressing, schema: pa.Schema, fragment_ids: npt.NDArray[np.int64], block: pa.Table
) -> pa.Table:
    """What is stored of the rows of some fragments."""
    rows = how.fitted(block, portable(schema))
    ids = rows[ROW_ADDRESS].to_numpy().view(np.int64) >> 32
    return rows.filter(pa.array(np.isin(ids, fragment_ids)))
