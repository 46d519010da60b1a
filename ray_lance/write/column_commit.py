"""Commits new columns: column files in, versions out. Claims the columns first, and releases them at the end.

A job claims the columns by writing its id into their field metadata, and checks before each commit that the id is
still there. A job that takes over from one that did not finish also commits a fence: an operation that changes nothing,
and with which Lance lets every later commit of column files conflict that is based on an earlier version. So a job that
only seemed dead cannot commit a file that its successor removes.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import lance
import pyarrow as pa

from ray_lance.errors import CommitError
from ray_lance.masking import cause
from ray_lance.native_output import UNSTABLE_REPLACEMENT, without_lines
from ray_lance.write.cleanup import Leftovers, remove_left
from ray_lance.write.column_files import WrittenColumn
from ray_lance.write.column_job import ColumnJob
from ray_lance.write.column_record import RECORD_KEY, ColumnRecord, column_fields, record_of
from ray_lance.write.commit import Build, Send, commit_rebuilt, retry_of_commits
from ray_lance.write.field_ids import check_ids, field_ids
from ray_lance.write.target import Target

__all__ = ["GroupCommit", "claim", "commit_group", "drop_blank", "finish", "remove_leftovers", "renewed"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class GroupCommit:
    """What the commit of a group did.

    Attributes:
        version: The version that holds the result.
        committed: What it holds.
        lost: What no longer fits the dataset, because others changed or removed the fragments.
    """

    version: int
    committed: tuple[WrittenColumn, ...]
    lost: tuple[WrittenColumn, ...]


def claim(
    target: Target, record: ColumnRecord, columns: pa.Schema, send: Send = lance.LanceDataset.commit
) -> ColumnJob:
    """Begin a job: add the missing columns, without values, and record which job works on them.

    Args:
        target: The dataset, pinned to the version that the arguments were checked against.
        record: The computation to begin or to resume.
        columns: The columns.
        send: Makes new versions.

    Raises:
        CommitError: Another writer added a column of that name in the meantime, or the faults outlasted every retry.
    """
    before = target.version_before or 0
    record = record.claimed(before)
    job = ColumnJob(target, columns, record, before)
    added = _add_missing(target, record, columns)

    def note(dataset: lance.LanceDataset) -> lance.LanceOperation.BaseOperation | None:
        return None if _record(dataset, record) == record else _note(dataset, record)

    try:
        _commit(target, record.owner, note, send)
        if record.unfinished:
            _commit(target, record.owner, _fence, send)
        return renewed(job)
    except BaseException:
        if added == columns.names:
            with suppress(Exception):
                drop_blank(renewed(job))
        raise


def renewed(job: ColumnJob) -> ColumnJob:
    """The same job pinned to the latest version.

    Raises:
        CommitError: Another job has taken over.
    """
    table = job.target.table.latest().pin()
    _check_owner(table.open(), job)
    fields = column_fields(table.open().schema, job.schema.names)
    return replace(job, target=replace(job.target, table=table), schema=fields)


def commit_group(
    job: ColumnJob, written: Sequence[WrittenColumn], send: Send = lance.LanceDataset.commit
) -> GroupCommit:
    """Make the files of a group of fragments part of the dataset, in one version.

    Fragments that others changed since they were read are left out. Appended rows and deletions do no harm; but where
    files are gone (after a compaction) or others have taken their place, the values would not belong to the rows.

    Raises:
        CommitError: Another job has taken over, or conflicts and faults outlasted every retry.
    """
    columns = job.field_ids()
    fitting: list[WrittenColumn] = []

    def build(dataset: lance.LanceDataset) -> lance.LanceOperation.BaseOperation | None:
        _check_owner(dataset, job)
        fragments = {fragment.fragment_id: fragment.metadata for fragment in dataset.get_fragments()}
        fitting[:] = [
            each
            for each in written
            if (found := fragments.get(each.work.fragment_id)) is not None and each.work.fits(found, columns)
        ]
        if not fitting:
            return None
        check_ids((number for each in fitting for number in each.file["fields"]), dataset.lance_schema)
        groups = [
            lance.LanceOperation.DataReplacementGroup(each.work.fragment_id, each.data_file()) for each in fitting
        ]
        return lance.LanceOperation.DataReplacement(groups)

    version = _commit(job.target, job.record.owner, build, send)
    lost = tuple(each for each in written if each not in fitting)
    return GroupCommit(version, tuple(fitting), lost)


def finish(job: ColumnJob, send: Send = lance.LanceDataset.commit) -> int:
    """Record that the job finished; returns the version."""

    def build(dataset: lance.LanceDataset) -> lance.LanceOperation.BaseOperation:
        _check_owner(dataset, job)
        return _note(dataset, job.record.finished())

    return _commit(job.target, job.record.owner, build, send)


def drop_blank(job: ColumnJob) -> None:
    """Drop columns that the job added, unless a fragment holds values of them."""
    dataset = job.target.table.latest().open()
    _check_owner(dataset, job)
    columns = set(job.field_ids())
    files = (file for fragment in dataset.get_fragments() for file in fragment.metadata.files)
    if all(columns.isdisjoint(file.fields) for file in files):
        dataset.drop_columns(job.schema.names)


def remove_leftovers(job: ColumnJob, committed: Collection[str]) -> None:
    """Remove the files of this job and of unfinished ones before it that no version refers to.

    Args:
        job: The job; none of its tasks may be running any more.
        committed: Names of the files that it committed.
    """
    record = job.record
    prefixes = (record.file_prefix, *record.unfinished)
    left = Leftovers(
        prefixes,
        tuple(prefix.partition("-")[2] for prefix in prefixes),
        since=record.since - 1,
        before=job.before,
        is_claim=partial(_is_claim, record=record),
    )
    try:
        remove_left(job.target, left, committed)
    except Exception as error:
        logger.warning("files of job %s at %s may be left behind: %s", record.owner, job.target.shown_uri, cause(error))


def _is_claim(transaction: bytes, record: ColumnRecord) -> bool:
    """Whether a transaction that no version refers to is left of a call that was killed while it claimed the columns.

    The claim would have recorded whose it is, so nothing else says it. In Lance a claim conflicts with any other one of
    the same columns that is based on an earlier version: none that is based on a version before ours can land any more.
    """
    columns = json.dumps({"columns": list(record.columns)}).removesuffix("}")  # how every record of them begins
    return RECORD_KEY.encode() in transaction and columns.encode() in transaction


def _add_missing(target: Target, record: ColumnRecord, columns: pa.Schema) -> list[str]:
    """Add the columns that the dataset lacks, without values; returns their names."""
    missing = [name for name in columns.names if name not in target.table.open().schema.names]
    fields = [columns.field(name) for name in missing]
    noted = [each.with_metadata({**(each.metadata or {}), RECORD_KEY: record.to_json()}) for each in fields]

    def add() -> None:
        dataset = target.table.latest().open()
        present = [name for name in missing if name in dataset.schema.names]
        if not present:
            dataset.add_columns(pa.schema(noted))
        elif record_of(dataset.schema, present[0]) != record:  # equal: an attempt that seemed to fail has added them
            raise CommitError(f"another writer added the column {present[0]!r} in the meantime: run the call again")

    if missing:
        retry_of_commits(target).call(add, target.doing("adding columns"))
    return missing


def _record(dataset: lance.LanceDataset, record: ColumnRecord) -> ColumnRecord | None:
    """The record that all of the columns share."""
    found = {record_of(dataset.schema, name) for name in record.columns}
    return found.pop() if len(found) == 1 else None


def _note(dataset: lance.LanceDataset, record: ColumnRecord) -> lance.LanceOperation.BaseOperation:
    update = lance.LanceOperation.UpdateMap({RECORD_KEY: record.to_json()})
    return lance.LanceOperation.UpdateConfig(
        field_metadata_updates={field_ids(dataset.lance_schema, [name])[0]: update for name in record.columns}
    )


def _fence(dataset: lance.LanceDataset) -> lance.LanceOperation.BaseOperation:
    fragments = [fragment.metadata for fragment in dataset.get_fragments()]
    return lance.LanceOperation.Merge(fragments, dataset.lance_schema, preserves_nullability=True)


def _check_owner(dataset: lance.LanceDataset, job: ColumnJob) -> None:
    record = _record(dataset, job.record)
    if record is None or record.owner != job.record.owner:
        raise CommitError(
            f"uri={job.target.shown_uri!r}: the columns {job.schema.names} were taken over by another call, or dropped"
        )


def _commit(target: Target, owner: str, build: Build, send: Send) -> int:
    """Commit what ``build`` returns for the latest version; builds it again after a conflict."""

    def send_quietly(*arguments: Any, **options: Any) -> lance.LanceDataset:
        with without_lines(UNSTABLE_REPLACEMENT):
            return send(*arguments, **options)

    with target.native_errors("committing columns"):
        return commit_rebuilt(target, owner, build, send_quietly, is_repeatable=True)
