"""Writing without Ray, and fakes that fail on cue."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

import lance
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ray_lance.retry import RetryPolicy
from ray_lance.table import TableRef
from ray_lance.write.cleanup import give_up, remove_uncommitted
from ray_lance.write.column_update import UpdatedColumns, update_columns
from ray_lance.write.commit import Send
from ray_lance.write.fragments import Rows, TableRows, write_files
from ray_lance.write.inferred import agreed_schema
from ray_lance.write.job import WriteJob, begin
from ray_lance.write.merge import ADDRESSES, BUCKET, ROW_ID, commit_merge, for_columns, match, with_bucket, with_row_ids
from ray_lance.write.options import WriteOptions
from ray_lance.write.row_commit import Committed, commit_rows
from ray_lance.write.storage import Storage

QUICK = RetryPolicy(max_attempts=3, base_delay_s=0.0)


class TransientFault(OSError):
    """An error that passes."""

    def __init__(self) -> None:
        super().__init__("LanceError(IO): connection reset by peer")


@dataclass
class Cue:
    """Raises a transient fault at the calls whose numbers (from 0) are ``at``."""

    at: frozenset[int]
    calls: int = 0

    def __call__(self) -> None:
        call, self.calls = self.calls, self.calls + 1
        if call in self.at:
            raise TransientFault


def never() -> Cue:
    return Cue(frozenset())


@dataclass
class FaultyStorage:
    """A storage whose operations fail on cue: before they have done anything."""

    inner: Storage
    publishing: Cue = field(default_factory=never)
    removing: Cue = field(default_factory=never)

    def stage(self, job_id: str) -> object:
        return self.inner.stage(job_id)

    def publish(self, staged: Path, path: str) -> None:
        self.publishing()
        self.inner.publish(staged, path)

    def list(self, folder: str) -> list[str]:
        return self.inner.list(folder)

    def remove(self, path: str) -> None:
        self.removing()
        self.inner.remove(path)

    def finish(self, job_id: str) -> None:
        self.inner.finish(job_id)


@dataclass
class FaultyRows:
    """Rows that cannot be read on cue."""

    rows: pa.Table
    reading: Cue

    @property
    def num_rows(self) -> int:
        return self.rows.num_rows

    def num_bytes(self, start: int, stop: int) -> int:
        return self.rows.slice(start, stop - start).nbytes

    def table(self, start: int, stop: int) -> pa.Table:
        self.reading()
        return self.rows.slice(start, stop - start)


@dataclass
class FaultySend:
    """A commit that fails on cue.

    Attributes:
        before: Fails without having committed.
        after: Fails although it has committed.
        meanwhile: Called before the first commit, to let another writer be faster.
    """

    before: Cue = field(default_factory=never)
    after: Cue = field(default_factory=never)
    meanwhile: Callable[[], object] = lambda: None

    def __call__(self, *arguments: object, **options: object) -> lance.LanceDataset:
        meanwhile, self.meanwhile = self.meanwhile, lambda: None
        meanwhile()
        self.before()
        dataset = lance.LanceDataset.commit(*arguments, **options)
        self.after()
        return dataset


def write_tables(
    uri: str | TableRef,
    tables: Iterable[pa.Table | Rows],
    *,
    send: Send = lance.LanceDataset.commit,
    storage: Callable[[Storage], Storage] = lambda inner: inner,
    before_commit: Callable[[], object] = lambda: None,
    **options: object,
) -> WriteJob:
    """Do what a Ray write does, in this process: one task that gets all the tables."""
    options.setdefault("retry", QUICK)
    job = begin(TableRef.of(uri) if isinstance(uri, str) else uri, WriteOptions(**options))
    blocks = [TableRows(table) if isinstance(table, pa.Table) else table for table in tables]
    if job.schema is None:
        job = job.with_schema(agreed_schema([block.rows.schema for block in blocks], job.options))
    place = storage(job.storage())
    try:
        files = write_files(blocks, job, place)
        fragments = [file.metadata() for file in files]
        before_commit()
        commit_rows(job, fragments, send)
        remove_uncommitted(job, [data_file.path for fragment in fragments for data_file in fragment.files], place)
    except BaseException:
        give_up(job, place)
        raise
    return job


def merge(
    uri: str | TableRef,
    new: pa.Table,
    *,
    buckets: int = 3,
    send: Send = lance.LanceDataset.commit,
    before_commit: Callable[[], object] = lambda: None,
    on: Iterable[str] = ("k", "s"),
    **options: object,
) -> Committed:
    """Do what a Ray merge does, in this process: one task per bucket, then the commit."""
    job = begin(
        TableRef.of(uri) if isinstance(uri, str) else uri, WriteOptions(mode="merge", on=on, retry=QUICK, **options)
    )
    job = for_columns(job, new.column_names)
    prepared = with_bucket(new, job, buckets)
    fragments, addresses, parts_of_columns = [], [np.empty(0, np.uint64)], []
    for bucket in range(buckets):
        part = prepared.filter(pc.equal(prepared[BUCKET], bucket))
        if not part.num_rows:
            continue
        found = match(part, job)
        known = pc.greater(pc.list_value_length(found[ADDRESSES]), 0)
        old, new_rows = found.filter(known), found.filter(pc.invert(known))
        addresses.append(old[ADDRESSES].combine_chunks().flatten().to_numpy())
        if job.updated:
            parts_of_columns.append(old)
        parts = [*([old] if job.options.update and not job.updated else []), *([new_rows] if job.inserts else [])]
        files = write_files([TableRows(table.drop_columns([ADDRESSES, ROW_ID])) for table in parts], job)
        stable = job.table.open().has_stable_row_ids and job.options.update and not job.updated
        fragments += with_row_ids(files, old[ROW_ID].to_numpy() if stable else np.empty(0, np.uint64))
    before_commit()
    updates = _updates(pa.concat_tables(parts_of_columns), job) if parts_of_columns else []
    return commit_merge(job, fragments, np.concatenate(addresses), send, updates)


def _updates(known: pa.Table, job: WriteJob) -> list[UpdatedColumns]:
    """Column files of the fragments in which rows are matched."""
    counts = pc.list_value_length(known[ADDRESSES]).to_numpy()
    addresses = known[ADDRESSES].combine_chunks().flatten()
    rows = known.take(np.repeat(np.arange(len(counts)), counts)).append_column("_rowaddr", addresses)
    fragments = addresses.to_numpy() >> np.uint64(32)
    return [update_columns(job, rows.filter(pa.array(fragments == each))) for each in np.unique(fragments)]


def at_once(*functions: Callable[[], object]) -> list[object]:
    """Results, or exceptions, of functions that run in threads that start together."""
    barrier = threading.Barrier(len(functions))
    results: list[object] = [None] * len(functions)

    def run(index: int) -> None:
        barrier.wait()
        try:
            results[index] = functions[index]()
        except Exception as error:
            results[index] = error

    threads = [threading.Thread(target=run, args=(index,)) for index in range(len(functions))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results
