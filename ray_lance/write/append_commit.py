"""Commits new rows in groups: files in, a version for each group out. Claims the dataset first, and releases it.

A job claims the dataset with a record in the dataset's configuration, which stays when the job is killed, and names
every job since the last that finished: the next one to finish removes the files of all of them. A job checks before
each commit that the record is still its own. One that takes over also commits a fence: an operation that changes
nothing, and with which Lance lets every later append conflict that is based on an earlier version. So a job that only
seemed dead cannot commit a file that its successor removes.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, replace

import lance
from lance.fragment import FragmentMetadata

from ray_lance.errors import CommitError
from ray_lance.masking import cause
from ray_lance.write.cleanup import Leftovers, remove_left
from ray_lance.write.commit import Send, commit_rebuilt
from ray_lance.write.field_ids import check_fields
from ray_lance.write.job import WriteJob

__all__ = ["AppendRecord", "claim_append", "commit_rows_of_group", "finish_append", "record_of_append", "remove_rest"]

logger = logging.getLogger(__name__)

RECORD_KEY = "ray_lance.append"


@dataclass(frozen=True)
class AppendRecord:
    """What the dataset keeps of an append in groups while it is not finished.

    Attributes:
        job_id: The job that may commit; names of its files begin with it.
        id_column: The column by which rows are known.
        unfinished: Earlier jobs that did not finish.
        since: The version that the first of all these jobs began with.
    """

    job_id: str
    id_column: str
    unfinished: tuple[str, ...]
    since: int

    @property
    def owner(self) -> str:
        """What the ids of the job's transactions begin with."""
        return self.job_id[:16]

    def to_json(self) -> str:
        """The record as text."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> AppendRecord:
        """The record of which ``text`` is the :meth:`to_json`."""
        values = json.loads(text)
        return cls(**{**values, "unfinished": tuple(values["unfinished"])})


def record_of_append(dataset: lance.LanceDataset) -> AppendRecord | None:
    """The record of an append in groups that has not finished; None where there is none."""
    text = dataset.config().get(RECORD_KEY)
    return None if text is None else AppendRecord.from_json(text)


def claim_append(job: WriteJob, id_column: str, send: Send = lance.LanceDataset.commit) -> AppendRecord:
    """Begin to append in groups. Another job that has not finished cannot commit any more.

    Args:
        job: The append.
        id_column: The column by which rows are known.
        send: Makes new versions.

    Raises:
        CommitError: The faults outlasted every retry.
    """
    record = AppendRecord(job.job_id, id_column, (), job.version_before or 0)

    def note(dataset: lance.LanceDataset) -> lance.LanceOperation.BaseOperation | None:
        nonlocal record
        before = record_of_append(dataset)
        if before is not None and before.job_id == job.job_id:
            record = before
            return None
        if before is not None:
            record = replace(record, unfinished=(*before.unfinished, before.job_id), since=before.since)
        return _noted(record.to_json())

    commit_rebuilt(job, record.owner, note, send, is_repeatable=True)
    if record.unfinished:
        commit_rebuilt(job, record.owner, _fence, send, is_repeatable=True)
    return record


def commit_rows_of_group(
    job: WriteJob,
    record: AppendRecord,
    fragments: Sequence[FragmentMetadata],
    send: Send = lance.LanceDataset.commit,
) -> int:
    """Append the fragments of a group in one version; returns it.

    Raises:
        CommitError: Another job has taken over, another writer changed the schema, or conflicts and faults outlasted
            every retry.
    """
    schema = job.stored_schema()
    check_fields(fragments, schema)

    def build(dataset: lance.LanceDataset) -> lance.LanceOperation.BaseOperation:
        _check_owner(dataset, job)
        if str(dataset.lance_schema) != str(schema):  # field ids are in the files
            raise CommitError(
                f"uri={job.shown_uri!r}: another writer changed the schema of the dataset during the write; nothing "
                "more was committed, run the write again"
            )
        return lance.LanceOperation.Append(list(fragments))

    return commit_rebuilt(job, record.owner, build, send, is_repeatable=False)


def finish_append(job: WriteJob, record: AppendRecord, send: Send = lance.LanceDataset.commit) -> int:
    """Remove the record, so that nothing is left of the job but its rows; returns the version."""

    def build(dataset: lance.LanceDataset) -> lance.LanceOperation.BaseOperation | None:
        if record_of_append(dataset) is None:  # by an attempt that seemed to fail
            return None
        _check_owner(dataset, job)
        return _noted(None)

    return commit_rebuilt(job, record.owner, build, send, is_repeatable=True)


def remove_rest(job: WriteJob, record: AppendRecord, committed: Collection[str]) -> None:
    """Remove the files of this job and of the unfinished ones before it that no version refers to. Raises nothing.

    Args:
        job: The append; none of its tasks may be running any more.
        record: Its record.
        committed: Names of the files that it committed.
    """
    jobs = (record.job_id, *record.unfinished)
    left = Leftovers(
        jobs,
        tuple(each[:16] for each in jobs),
        since=record.since - 1,
        before=job.version_before or 0,
        is_claim=lambda transaction: RECORD_KEY.encode() in transaction,
    )
    try:
        remove_left(job, left, committed)
    except Exception as error:
        logger.warning("files of job %s at %s may be left behind: %s", job.job_id, job.shown_uri, cause(error))


def _noted(record: str | None) -> lance.LanceOperation.BaseOperation:
    return lance.LanceOperation.UpdateConfig(config_updates=lance.LanceOperation.UpdateMap({RECORD_KEY: record}))


def _fence(dataset: lance.LanceDataset) -> lance.LanceOperation.BaseOperation:
    return lance.LanceOperation.Project(dataset.lance_schema)


def _check_owner(dataset: lance.LanceDataset, job: WriteJob) -> None:
    record = record_of_append(dataset)
    if record is None or record.job_id != job.job_id:
        raise CommitError(
            f"uri={job.shown_uri!r}: another append with commit_every= has begun since; what was committed stays, and "
            "nothing more was"
        )
