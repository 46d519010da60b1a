"""Writes columns while others are computed: complete fragments in, column files and their commits out."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import ray

from ray_lance.backfill.assemble import CompleteFragment
from ray_lance.backfill.udf import FAILURE, named
from ray_lance.backfill.window import Window
from ray_lance.data.cluster import cluster_cpus
from ray_lance.data.interrupts import interrupts_held
from ray_lance.scan.scan import ROW_ADDRESS
from ray_lance.tensors.objects import to_objects
from ray_lance.write.column_commit import commit_group
from ray_lance.write.column_files import WrittenColumn, write_column_file
from ray_lance.write.column_job import ColumnJob
from ray_lance.write.column_plan import FragmentWork
from ray_lance.write.commit import Send

__all__ = ["ColumnWriter", "RowFailure", "RowsOf"]

# Without a window, what is finished is committed this often.
_SECONDS_PER_COMMIT = 10.0
# A task costs about as much as a few small files.
_FILES_PER_TASK = 32


@dataclass(frozen=True)
class RowFailure:
    """Rows of one fragment that have no value because the function raised an error on their batch.

    Attributes:
        reason: Type and text of the error.
        row_addresses: The rows: fragment id in the upper, offset in the lower 32 bits.
    """

    reason: str
    row_addresses: tuple[int, ...]


@dataclass(frozen=True)
class _Outcome:
    written: WrittenColumn
    failures: tuple[RowFailure, ...]


RowsOf: TypeAlias = Callable[
    [ColumnJob, CompleteFragment[int], Sequence[ray.ObjectRef], dict[str, list[int]]], Iterator[pa.Table]
]
"""The rows of a fragment by ascending address, from the blocks that its parts number. Notes which rows failed, and why:
their addresses by reason."""


def _computed_rows(
    job: ColumnJob,
    fragment: CompleteFragment[int],
    blocks: Sequence[ray.ObjectRef],
    failures: dict[str, list[int]],
) -> Iterator[pa.Table]:
    """Blocks that the function's columns came in, in order."""
    for rows in fragment.parts:
        table: Any = ray.get(blocks[rows.block]).slice(rows.start, rows.stop - rows.start)
        reasons = table.column(FAILURE)
        if reasons.null_count < len(reasons):
            failed = np.flatnonzero(reasons.is_valid())
            addresses = table.column(ROW_ADDRESS).take(failed).to_numpy().tolist()
            for reason, address in zip(to_objects(reasons.take(failed), FAILURE), addresses, strict=True):
                failures.setdefault(reason, []).append(address)
        yield named(table.drop_columns([FAILURE]), job.schema)


class ColumnWriter:
    """Writes complete fragments in tasks, and commits them in groups.

    Args:
        window: How far the computation may be ahead of the commits, and so how much is committed at a time; None
            commits what is finished every ten seconds.
        num_cpus: CPUs to reserve for a write task. 0 where actors may hold all of them, which would wait for ever for
            their output to be written. Otherwise 1, since Ray starts further processes for tasks of 0.
        send: Makes new versions.
        rows_of: Reads the rows of a fragment, in the task that writes it.

    Attributes:
        committed: What has been committed.
        failures: Rows without a value, in committed fragments.
        lost: Fragments that others changed before their commit.
    """

    def __init__(self, window: Window | None, num_cpus: int, send: Send, rows_of: RowsOf = _computed_rows) -> None:
        self._window = window
        self._rows_of = rows_of
        self._write = ray.remote(_write_fragments).options(num_cpus=num_cpus, max_retries=3)
        self._send = send
        self._tasks: list[ray.ObjectRef] = []
        self._most_tasks = max(2, cluster_cpus())
        self._finished: list[_Outcome] = []
        self._last_commit = time.monotonic()
        self.committed: list[WrittenColumn] = []
        self.failures: list[RowFailure] = []
        self.lost: list[FragmentWork] = []

    @property
    def rows_failed(self) -> int:
        """Rows without a value, in the fragments that have been written."""
        waiting = (failure for outcome in self._finished for failure in outcome.failures)
        return sum(len(failure.row_addresses) for failure in (*self.failures, *waiting))

    def begin(self, job: ColumnJob) -> None:
        """Take fragments of ``job`` from now on."""
        self._job = job
        self._shared = ray.put((job, self._rows_of))

    def submit(self, fragments: Sequence[CompleteFragment[ray.ObjectRef]]) -> None:
        """Write fragments in tasks; waits while too many are running. Commits what is due."""
        for first in range(0, len(fragments), _FILES_PER_TASK):
            while len(self._tasks) >= self._most_tasks:
                self._collect(wait=True)
            self._start(fragments[first : first + _FILES_PER_TASK])
        self._collect(wait=False)
        self._commit_due()

    def finish(self) -> None:
        """Wait for the tasks and commit everything."""
        while self._tasks:
            self._collect(wait=True)
            self._commit_due()
        self._commit()

    def salvage(self) -> None:
        """Commit what can still be written after a failure, even if single tasks fail."""
        while self._tasks:
            try:
                self._collect(wait=True)
            except Exception:
                continue  # its fragments are left to the next call
        self._commit()

    def abandon(self) -> None:
        """Stop the tasks, and commit nothing more: after an interrupt, or where values are not what they should be."""
        for task in self._tasks:
            ray.cancel(task)
        ray.wait(self._tasks, num_returns=len(self._tasks), timeout=60) if self._tasks else None
        self._tasks, self._finished = [], []

    def _start(self, fragments: Sequence[CompleteFragment[ray.ObjectRef]]) -> None:
        """Start a task. References travel inside a list, so that the task fetches one block after the other."""
        blocks: dict[ray.ObjectRef, int] = {}
        numbered = [
            CompleteFragment(
                fragment.work,
                tuple(replace(rows, block=blocks.setdefault(rows.block, len(blocks))) for rows in fragment.parts),
            )
            for fragment in fragments
        ]
        self._tasks.append(self._write.remote(self._shared, numbered, list(blocks)))

    def _collect(self, *, wait: bool) -> None:
        if not self._tasks:
            return
        ready, _ = ray.wait(self._tasks, num_returns=1 if wait else len(self._tasks), timeout=None if wait else 0)
        for task in ready:
            self._tasks.remove(task)  # one by one: if it has failed, the others can still be committed
            self._finished += ray.get(task)

    def _commit_due(self) -> None:
        if self._window is not None:
            is_due = len(self._finished) >= self._window.part
        else:
            is_due = time.monotonic() - self._last_commit >= _SECONDS_PER_COMMIT
        if is_due:
            self._commit()

    def _commit(self) -> None:
        self._last_commit = time.monotonic()
        group, self._finished = self._finished, []
        if not group:
            return
        done = commit_group(self._job, [outcome.written for outcome in group], self._send)
        self.committed += done.committed
        self.lost += [written.work for written in done.lost]
        if self._window is not None:
            self._window.settle(len(group))
        lost = {written.work.fragment_id for written in done.lost}
        self.failures += [
            failure for outcome in group if outcome.written.work.fragment_id not in lost for failure in outcome.failures
        ]


def _write_fragments(
    shared: tuple[ColumnJob, RowsOf], fragments: Sequence[CompleteFragment[int]], blocks: Sequence[ray.ObjectRef]
) -> list[_Outcome]:
    outcomes = []
    with interrupts_held() as raise_interrupt:
        for fragment in fragments:
            raise_interrupt()
            outcomes.append(_write_fragment(*shared, fragment, blocks))
    return outcomes


def _write_fragment(
    job: ColumnJob, rows_of: RowsOf, fragment: CompleteFragment[int], blocks: Sequence[ray.ObjectRef]
) -> _Outcome:
    failures: dict[str, list[int]] = {}
    written = write_column_file(job, fragment.work, partial(rows_of, job, fragment, blocks, failures))
    return _Outcome(written, tuple(RowFailure(reason, tuple(sorted(set(rows)))) for reason, rows in failures.items()))
