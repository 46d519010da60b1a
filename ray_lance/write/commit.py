"""Operations -> versions, each committed once whatever happens to the acknowledgements.

A job id travels in every transaction. When a commit reports failure, the versions made since are searched for it
before anything is tried again: a commit whose acknowledgement got lost is recognised, and nothing is applied twice.
Others may have removed its version by then; so the job's files are looked for too.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Protocol

import lance
import pyarrow as pa
from lance.commit import CommitConflictError
from lance.fragment import FragmentMetadata

from ray_lance.errors import CommitError, DatasetExistsError, InvalidArgumentError, panics_as_errors
from ray_lance.masking import cause, without_secrets
from ray_lance.retry import RetryPolicy, is_transient
from ray_lance.write.field_ids import check_fields
from ray_lance.write.history import JOB_PROPERTY, LostHistoryError, find_commit, is_complete, names_of_files
from ray_lance.write.job import WriteJob
from ray_lance.write.target import Target

__all__ = ["Committed", "MergeConflictError", "Proposal", "Send", "commit", "commit_once", "commit_rows", "is_conflict"]

logger = logging.getLogger(__name__)


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


@dataclass(frozen=True)
class Proposal:
    """One attempt to make a version.

    Attributes:
        target: Where; the id of its job travels in the transaction.
        operation: What to commit.
        read_version: The version that the operation is based on.
        since: The latest version before the first attempt: later ones may be the job's.
        arguments: Further arguments of Lance's ``commit``.
        is_repeatable: Whether it does no harm to commit the operation twice.
    """

    target: Target
    operation: lance.LanceOperation.BaseOperation
    read_version: int
    since: int
    arguments: Mapping[str, Any] = field(default_factory=dict)
    is_repeatable: bool = False

    def send(self, send: Send) -> int:
        """Commit; returns the version."""
        target = self.target
        transaction = lance.Transaction(
            self.read_version,
            self.operation,
            uuid=target.transaction_uuid,
            transaction_properties={JOB_PROPERTY: target.job_id},
        )
        with panics_as_errors("committing"):
            dataset = send(
                target.uri,
                transaction,
                storage_options=dict(target.storage_options) or None,
                namespace_client_managed_versioning=target.managed,
                **target.table.namespace_arguments(),
                **self.arguments,
            )
        return int(dataset.version)

    def find(self) -> int | None:
        """The version that the attempt made all the same, None where it made none.

        Raises:
            LostHistoryError: Versions that would tell were removed, and the operation is not repeatable.
        """
        try:
            return find_commit(self.target, names_of_files(self.operation), self.since)
        except LostHistoryError:
            if self.is_repeatable:
                return None
            raise


class Proposals(Protocol):
    """What to commit, attempt by attempt."""

    def next(self) -> Proposal | int:
        """The next attempt; the version where nothing is left to commit."""

    def after(self, error: Exception) -> RetryPolicy:
        """Whether to try again after an attempt that failed; raises where no further attempt could do any good."""


def commit_once(proposals: Proposals, send: Send = lance.LanceDataset.commit) -> int:
    """Commit until an attempt is known to have succeeded; returns the version.

    Raises:
        LostHistoryError: The commit may have been made, and the versions that would tell were removed.
        CommitError: Nothing was committed: conflicts or faults outlasted every retry, or cannot be resolved.
    """
    attempt = 0
    while True:
        proposal = proposals.next()
        if isinstance(proposal, int):
            return proposal
        try:
            return proposal.send(send)
        except Exception as error:
            attempt += 1
            target = proposal.target
            if (landed := proposal.find()) is not None:
                logger.info("commit of job %s had succeeded as version %d: %s", target.job_id, landed, cause(error))
                return landed
            policy = proposals.after(error)
            try:
                policy.pause(attempt, f"commit to {target.shown_uri}", error)
            except Exception:
                raise CommitError(
                    f"uri={target.shown_uri!r}: nothing was committed after {attempt} attempts: {cause(error)}"
                ) from without_secrets(error)


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
    schema = job.stored_schema()
    check_fields(fragments, schema)
    if mode == "append":
        return commit(job, lance.LanceOperation.Append(list(fragments)), send)
    if not fragments and not job.exists and job.file_version and send is lance.LanceDataset.commit:
        send = partial(_create_empty, job)
    return commit(job, lance.LanceOperation.Overwrite(schema, list(fragments)), send)


def commit(job: WriteJob, operation: lance.LanceOperation.BaseOperation, send: Send = lance.LanceDataset.commit) -> int:
    """Commit ``operation`` once.

    Args:
        job: The job that the operation belongs to.
        operation: What to commit, based on the version that the job began with.
        send: Makes the new version.

    Returns:
        The new version. Where that was removed since, the first one left that holds what was committed.

    Raises:
        DatasetExistsError: The job creates a dataset and one appeared in the meantime.
        CommitError: As :func:`commit_once`.
    """
    return commit_once(_Rebased(job, operation), send)


class _Rebased:
    """Proposes one operation again and again, on later versions after conflicts."""

    def __init__(self, job: WriteJob, operation: lance.LanceOperation.BaseOperation) -> None:
        latest = job.open_latest()
        self._since = 0 if latest is None else int(latest.version)
        self._job, self._operation = job, operation
        self._read_version = _rebase(job, operation, job.version_before or 0)

    def next(self) -> Proposal:
        """The operation on the version that it is based on now."""
        arguments: dict[str, Any] = {}
        if self._read_version == 0:
            # Without retries Lance takes an Overwrite literally: it makes version 1 or fails, and never replaces
            # a dataset that is there already.
            arguments = {"max_retries": 0, "enable_stable_row_ids": self._job.options.enable_stable_row_ids}
        return Proposal(self._job, self._operation, self._read_version, self._since, arguments)

    def after(self, error: Exception) -> RetryPolicy:
        """Base the operation on the latest version where the error asks for that, and try again there."""
        before, self._read_version = (
            self._read_version,
            _rebase(self._job, self._operation, self._read_version, error),
        )
        if self._read_version != before:
            return replace(self._job.retry, should_retry=lambda _: True)
        return replace(self._job.retry, should_retry=lambda each: is_conflict(each) or is_transient(each))


def _create_empty(job: WriteJob, uri: str, transaction: lance.Transaction, **arguments: Any) -> lance.LanceDataset:
    """Make a dataset without rows. A commit would give it Lance's default file version, having no file to go by."""
    if transaction.read_version:  # another writer has made one in the meantime
        return lance.LanceDataset.commit(uri, transaction, **arguments)
    if job.managed:
        raise InvalidArgumentError(
            f"data_storage_version={job.file_version!r}: there are no rows, and tables of a namespace that manages "
            "versions are made without rows in Lance's default version only; leave it out"
        )
    return lance.write_dataset(
        pa.RecordBatchReader.from_batches(transaction.operation.new_schema.to_pyarrow(), []),
        uri,
        mode="create",
        data_storage_version=job.file_version,
        enable_stable_row_ids=job.options.enable_stable_row_ids,
        transaction_properties=transaction.transaction_properties,
        storage_options=arguments["storage_options"],
    )


def is_conflict(error: BaseException | None) -> bool:
    """Whether a commit failed because another writer was faster."""
    text = str(error).lower()
    return isinstance(error, CommitConflictError) or any(mark in text for mark in _CONFLICT_MARKS)


def _rebase(
    job: WriteJob,
    operation: lance.LanceOperation.BaseOperation,
    read_version: int,
    error: Exception | None = None,
) -> int:
    """The version to base the next attempt on, where the data already written can be committed there at all.

    That is another one after a conflict, and where a version from ``read_version`` on was removed: Lance compares the
    operation with those that are left only, and would not notice what the others changed.
    """
    latest = job.open_latest()
    mode = job.options.mode
    if mode in ("create", "ignore") and latest is not None:
        raise DatasetExistsError(
            f"mode={mode!r}: a dataset appeared at {job.shown_uri} during the write (version {latest.version}); "
            "nothing was committed"
        ) from without_secrets(error)
    if latest is None or (not is_conflict(error) and is_complete(latest, read_version)):
        return read_version
    if mode == "merge":
        raise MergeConflictError(
            f"uri={job.shown_uri!r}: rows that the merge replaces were changed by another writer; "
            "nothing was committed, run the merge again"
        ) from without_secrets(error)
    if not _fits(job, operation, latest):
        raise CommitError(
            f"uri={job.shown_uri!r}: another writer changed the schema or the file version of the dataset during "
            "the write; nothing was committed, run the write again"
        ) from without_secrets(error)
    return int(latest.version)


def _fits(job: WriteJob, operation: lance.LanceOperation.BaseOperation, latest: lance.LanceDataset) -> bool:
    if job.options.mode == "append":
        # Field ids are in the files: the schemas must agree in them too.
        return bool(latest.lance_schema == job.table.open().lance_schema) or str(latest.lance_schema) == str(
            job.table.open().lance_schema
        )
    files = [file for fragment in operation.fragments for file in fragment.files]
    return all(f"{file.file_major_version}.{file.file_minor_version}" == latest.data_storage_version for file in files)
