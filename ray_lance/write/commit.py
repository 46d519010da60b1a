"""One atomic commit per job: create, append, overwrite, merge.

A job id travels in every transaction. When a commit reports failure, the versions made since the job began are
searched for it before anything is tried again: a commit whose acknowledgement got lost is recognised, and nothing
is applied twice.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import lance
from lance.commit import CommitConflictError
from lance.fragment import FragmentMetadata

from ray_lance.errors import CommitError, DatasetExistsError
from ray_lance.masking import mask_uri
from ray_lance.retry import is_transient
from ray_lance.write.job import WriteJob

__all__ = ["JOB_PROPERTY", "Committed", "MergeConflictError", "Send", "commit", "commit_rows", "find_commit"]

logger = logging.getLogger(__name__)

JOB_PROPERTY = "ray_lance.job"


@dataclass(frozen=True)
class Committed:
    """What a commit did.

    Attributes:
        version: The version it made, or found where nothing was to be done.
        updated: Existing rows replaced.
        deleted: Existing rows deleted.
    """

    version: int
    updated: int = 0
    deleted: int = 0


Send = Callable[..., lance.LanceDataset]
"""Makes a new version: ``lance.LanceDataset.commit``, or a fake of it."""


class MergeConflictError(CommitError):
    """Another writer changed rows that a merge replaces. Nothing was committed; the merge can be run again."""


_CONFLICT_MARKS = ("commit conflict", "dataset already exists", "_versions/0.manifest")


def commit_rows(job: WriteJob, fragments: Sequence[FragmentMetadata], send: Send = lance.LanceDataset.commit) -> int:
    """Commit new rows as ``mode`` says: create, append, overwrite, or ignore where there is no dataset.

    Args:
        job: The job that wrote the fragments; its schema must be known.
        fragments: What it wrote.
        send: Makes the new version.

    Returns:
        The new version.

    Raises:
        DatasetExistsError: A dataset exists, or appeared in the meantime, that the mode must not replace.
        CommitError: Nothing was committed.
    """
    mode = job.options.mode
    if job.exists and mode not in ("append", "overwrite"):
        raise DatasetExistsError(f"mode={mode!r}: a dataset stands at {job.shown_uri}; its rows are not replaced")
    if mode == "append":
        return commit(job, lance.LanceOperation.Append(list(fragments)), send)
    return commit(job, lance.LanceOperation.Overwrite(job.schema, list(fragments)), send)


def commit(job: WriteJob, operation: lance.LanceOperation.BaseOperation, send: Send = lance.LanceDataset.commit) -> int:
    """Commit ``operation`` once, whatever happens to the acknowledgements.

    Args:
        job: The job that the operation belongs to.
        operation: What to commit, based on the version that the job began with.
        send: Makes the new version.

    Returns:
        The new version.

    Raises:
        DatasetExistsError: The job creates a dataset and one appeared in the meantime.
        CommitError: Nothing was committed: conflicts or faults outlasted every retry, or cannot be resolved.
    """
    policy = replace(job.options.retry, should_retry=lambda error: _is_conflict(error) or is_transient(error))
    read_version = job.version_before or 0
    attempt = 0
    while True:
        try:
            return int(
                send(job.uri, _transaction(job, operation, read_version), **_arguments(job, read_version)).version
            )
        except Exception as error:
            attempt += 1
            if (landed := find_commit(job)) is not None:
                logger.info("commit of job %s had succeeded as version %d: %s", job.job_id, landed, error)
                return landed
            read_version = _rebase(job, operation, read_version, error)
            try:
                policy.pause(attempt, f"commit to {job.shown_uri}", error)
            except Exception:
                raise CommitError(
                    f"uri={job.shown_uri!r}: nothing was committed after {attempt} attempts: {error}"
                ) from error


def find_commit(job: WriteJob) -> int | None:
    """The version that the job committed, None where it committed nothing."""
    return job.options.retry.call(lambda: _find(job), f"looking for the commit of job {job.job_id}")


def _find(job: WriteJob) -> int | None:
    dataset = job.open_latest()
    if dataset is None:
        return None
    versions = sorted((int(entry["version"]) for entry in dataset.versions()), reverse=True)
    for version in versions:
        if version <= (job.version_before or 0):
            return None
        transaction = dataset.read_transaction(version)
        if transaction is not None and (transaction.transaction_properties or {}).get(JOB_PROPERTY) == job.job_id:
            return version
    return None


def _transaction(job: WriteJob, operation: lance.LanceOperation.BaseOperation, read_version: int) -> lance.Transaction:
    return lance.Transaction(
        read_version,
        operation,
        uuid=job.transaction_uuid,
        transaction_properties={JOB_PROPERTY: job.job_id},
    )


def _arguments(job: WriteJob, read_version: int) -> dict[str, Any]:
    arguments: dict[str, Any] = {
        "storage_options": dict(job.storage_options) or None,
        "namespace_client_managed_versioning": job.managed,
        **job.table.namespace_arguments(),
    }
    if read_version == 0:
        # Without retries Lance takes an Overwrite literally: it makes version 1 or fails, and never replaces
        # a dataset that is there already.
        arguments |= {"max_retries": 0, "enable_stable_row_ids": job.options.enable_stable_row_ids}
    return arguments


def _is_conflict(error: BaseException) -> bool:
    text = str(error).lower()
    return isinstance(error, CommitConflictError) or any(mark in text for mark in _CONFLICT_MARKS)


def _rebase(job: WriteJob, operation: lance.LanceOperation.BaseOperation, read_version: int, error: Exception) -> int:
    """The version to base the next attempt on, where the data already written can be committed there at all."""
    latest = job.open_latest()
    mode = job.options.mode
    if mode in ("create", "ignore") and latest is not None:
        raise DatasetExistsError(
            f"mode={mode!r}: a dataset appeared at {job.shown_uri} during the write (version {latest.version}); "
            "nothing was committed"
        ) from error
    if latest is None or not _is_conflict(error):
        return read_version
    if mode == "merge":
        raise MergeConflictError(
            f"uri={job.shown_uri!r}: rows that the merge replaces were changed by another writer; "
            "nothing was committed, run the merge again"
        ) from error
    if not _fits(job, operation, latest):
        raise CommitError(
            f"uri={mask_uri(job.uri)!r}: another writer changed the schema or the file version of the dataset during "
            "the write; nothing was committed, run the write again"
        ) from error
    return int(latest.version)


def _fits(job: WriteJob, operation: lance.LanceOperation.BaseOperation, latest: lance.LanceDataset) -> bool:
    if job.options.mode == "append":
        # Field ids are in the files: the schemas must agree in them too.
        return bool(latest.lance_schema == job.table.open().lance_schema) or str(latest.lance_schema) == str(
            job.table.open().lance_schema
        )
    files = [file for fragment in operation.fragments for file in fragment.files]
    return all(f"{file.file_major_version}.{file.file_minor_version}" == latest.data_storage_version for file in files)
