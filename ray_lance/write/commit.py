"""Commits once, even if acknowledgements get lost: proposals of operations in, a version out.

A job id travels in every transaction. When a commit reports failure, the versions made since are searched for it
before anything is tried again: a commit whose acknowledgement got lost is recognised, and nothing is applied twice.
Others may have removed its version by then, so that the job's files are searched for too.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import lance
from lance.commit import CommitConflictError

from ray_lance.errors import CommitError, panics_as_errors
from ray_lance.masking import cause, without_secrets
from ray_lance.retry import RetryPolicy, is_transient
from ray_lance.write.history import JOB_PROPERTY, LostHistoryError, find_commit, names_of_files
from ray_lance.write.target import Target

__all__ = [
    "Build",
    "Proposal",
    "Proposals",
    "Send",
    "commit_once",
    "commit_rebuilt",
    "is_conflict",
    "retry_of_commits",
]

logger = logging.getLogger(__name__)

Send = Callable[..., lance.LanceDataset]
"""Makes a new version: ``lance.LanceDataset.commit``, or a fake of it."""

Build = Callable[[lance.LanceDataset], lance.LanceOperation.BaseOperation | None]
"""The operation to commit on the latest version; None where nothing is left to commit."""

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
        """The version that the attempt made although it reported a failure; None where it made none.

        Raises:
            LostHistoryError: Versions that would show it were removed, and the operation is not repeatable.
        """
        try:
            return find_commit(self.target, names_of_files(self.operation, self.target.job_id), self.since)
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
        LostHistoryError: The commit may have been made, and the versions that would show it were removed.
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


def commit_rebuilt(target: Target, owner: str, build: Build, send: Send, *, is_repeatable: bool) -> int:
    """Commit what ``build`` returns for the latest version, once; builds it again after a conflict.

    Args:
        target: Where.
        owner: What the id of each attempt's job begins with: 16 hexadecimal digits.
        build: What to commit; may be called several times.
        send: Makes the new version.
        is_repeatable: Whether it does no harm to commit it twice.

    Returns:
        The version.

    Raises:
        CommitError: As :func:`commit_once`.
    """
    return commit_once(_Rebuilt(target, owner, build, is_repeatable), send)


def retry_of_commits(target: Target) -> RetryPolicy:
    """How often to try again after conflicts and faults that pass."""
    return replace(target.retry, should_retry=lambda error: is_conflict(error) or is_transient(error))


@dataclass(frozen=True)
class _Rebuilt:
    """Proposes what ``build`` returns for the latest version, each time under another job id."""

    target: Target
    owner: str
    build: Build
    is_repeatable: bool

    def next(self) -> Proposal | int:
        """The operation for the latest version."""
        table = self.target.table.latest().pin()
        operation = self.build(table.open())
        if operation is None:
            return table.number
        # Each commit is a job of its own, whose id begins with the owner's: after a failure it is searched for.
        target = replace(self.target, table=table, job_id=self.owner + uuid.uuid4().hex[:16])
        return Proposal(target, operation, table.number, since=table.number, is_repeatable=self.is_repeatable)

    def after(self, error: Exception) -> RetryPolicy:  # noqa: ARG002
        """Try again after conflicts and faults that pass."""
        return retry_of_commits(self.target)


def is_conflict(error: BaseException | None) -> bool:
    """Whether a commit failed because another writer was faster."""
    text = str(error).lower()
    return isinstance(error, CommitConflictError) or any(mark in text for mark in _CONFLICT_MARKS)
