"""Commits new rows: fragments and a mode in, one version out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import lance
import pyarrow as pa
from lance.fragment import FragmentMetadata

from ray_lance.errors import CommitError, DatasetExistsError, InvalidArgumentError
from ray_lance.masking import without_secrets
from ray_lance.retry import RetryPolicy, is_transient
from ray_lance.write.commit import Proposal, Send, commit_once, is_conflict
from ray_lance.write.field_ids import check_fields
from ray_lance.write.history import is_complete
from ray_lance.write.job import WriteJob

__all__ = ["Committed", "MergeConflictError", "commit", "commit_rows"]


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


class MergeConflictError(CommitError):
    """Another writer changed rows that a merge replaces. Nothing was committed; the merge can be run again."""


def commit_rows(job: WriteJob, fragments: Sequence[FragmentMetadata], send: Send = lance.LanceDataset.commit) -> int:
    """Commit new rows as the mode asks: create, append, overwrite, or ignore where there is no dataset.

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
        raise DatasetExistsError(f"mode={mode!r}: there is a dataset at {job.shown_uri}; its rows are not replaced")
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
        The new version; if it was removed since, the first version left that holds what was committed.

    Raises:
        DatasetExistsError: The job creates a dataset and one appeared in the meantime.
        CommitError: As :func:`commit_once`.
    """
    return commit_once(_Rebased(job, operation), send)


class _Rebased:
    """Proposes one operation, based on a later version after each conflict."""

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
    """Make a dataset without rows. A commit without files would give it Lance's default file version."""
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


def _rebase(
    job: WriteJob,
    operation: lance.LanceOperation.BaseOperation,
    read_version: int,
    error: Exception | None = None,
) -> int:
    """The version to base the next attempt on, if the data already written can be committed there at all.

    That is a later one after a conflict, and also where a version from ``read_version`` on was removed: Lance compares
    the operation only with the versions that are left, and would not notice what the removed ones changed.
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
