"""Locates a write: a table in; its latest version, its place and the id of the job out."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import TypeVar

import lance
from lance.file import LanceFileSession

from ray_lance.errors import DatasetNotFoundError, InvalidArgumentError
from ray_lance.lance_internals import storage_options_of
from ray_lance.lazy import lance_namespace
from ray_lance.masking import mask_uri, remember
from ray_lance.native_errors import native_errors
from ray_lance.retry import RetryPolicy
from ray_lance.table import TableRef
from ray_lance.write.storage import Storage, existing_folder, storage_for

__all__ = ["LEGACY", "Target", "existing_target", "latest_of"]

T = TypeVar("T")

LEGACY = "0.1"
"""The version of files that hold field ids and take no new columns."""


@dataclass(frozen=True, kw_only=True)
class Target:
    """Where one job writes, as the tasks on all machines see it. Picklable; opens nothing until asked.

    Attributes:
        table: Reference to the table. Pinned to the version that is written to, or unpinned where there is none.
        uri: Location of the dataset.
        storage_options: Object store options, with what a namespace added to them.
        retry: How often to try again after storage faults and commit conflicts.
        managed: Whether commits go through the namespace.
        existing_folder: The innermost folder on a local dataset's path that existed when the job began; it stays.
        job_id: Hexadecimal UUID that travels in the transaction; names of files begin with it or with a part of it.
    """

    table: TableRef
    uri: str = field(repr=False)  # may hold a password; the reference shows it masked
    storage_options: Mapping[str, str] = field(repr=False)
    retry: RetryPolicy = field(default_factory=RetryPolicy)
    managed: bool = False
    existing_folder: str | None = None
    job_id: str = field(default_factory=lambda: uuid.uuid4().hex)

    @property
    def exists(self) -> bool:
        """Whether the dataset existed when the job began."""
        return self.table.manifest is not None

    @property
    def version_before(self) -> int | None:
        """The version that the job began with; None where there was no dataset."""
        return self.table.number if self.exists else None

    @property
    def transaction_uuid(self) -> str:
        """The UUID of the job's transaction."""
        return str(uuid.UUID(self.job_id))

    @property
    def file_version(self) -> str | None:
        """The Lance file format version of the dataset; None where there is no dataset."""
        return str(self.table.open().data_storage_version) if self.exists else None

    @property
    def shown_uri(self) -> str:
        """The location without credentials."""
        return mask_uri(self.uri)

    def doing(self, what: str) -> str:
        """``what`` as errors and the log show it, with the dataset's uri."""
        return f"{what} (uri={self.shown_uri!r})"

    def retried(self, function: Callable[[], T], what: str) -> T:
        """Call ``function`` until it succeeds; see :meth:`ray_lance.retry.RetryPolicy.call`.

        Args:
            function: What to call.
            what: What it does, as in "publishing a file".
        """
        return self.retry.call(function, self.doing(what))

    def native_errors(self, what: str) -> AbstractContextManager[None]:
        """Raise errors of Lance and of file systems as this library's own, with the dataset's uri.

        Args:
            what: What is being done, as in "writing data files".
        """
        return native_errors(self.doing(what))

    def storage(self) -> Storage:
        """The storage that holds the dataset."""
        remember(self.uri, self.storage_options)
        return storage_for(self.uri, self.storage_options, self.table.namespace_arguments(), self.existing_folder)

    def session(self) -> LanceFileSession:
        """Access to single files of the dataset, by their paths in it."""
        return LanceFileSession(
            self.uri, storage_options=dict(self.storage_options) or None, **self.table.namespace_arguments()
        )

    def open_latest(self) -> lance.LanceDataset | None:
        """The latest version of the dataset; None where there is no dataset."""
        try:
            if self.exists or not self.table.namespace_impl:
                return self.table.latest().open() if self.table.uri else None
            return TableRef(self.uri, storage_options=self.storage_options).open()
        except DatasetNotFoundError:
            return None


def existing_target(table: TableRef, retry: RetryPolicy | None = None) -> Target:
    """The target of a job on a dataset that exists.

    Args:
        table: The dataset.
        retry: How often to try again.

    Raises:
        DatasetNotFoundError: There is no such dataset or branch.
        InvalidArgumentError: The reference names another version than the latest.
    """
    pinned = latest_of(table).pin()
    uri = str(pinned.uri)
    return Target(
        table=pinned,
        uri=uri,
        storage_options=storage_options_of(pinned.open()) or dict(table.storage_options),
        retry=retry or RetryPolicy(),
        managed=_is_managed(pinned),
        existing_folder=existing_folder(uri),
    )


def latest_of(table: TableRef) -> TableRef:
    """The latest version of the table's branch, on top of which everything is written; not pinned.

    Raises:
        InvalidArgumentError: The reference names another version than the latest.
    """
    named = table.version[1] if isinstance(table.version, tuple) else table.version
    is_open = table.manifest is not None  # of an open dataset: it names the branch, and its version may be out of date
    if is_open or (named is None and "asof" not in table.dataset_options):
        return table.latest()
    try:
        latest = table.latest().pin()
        if table.pin().number == latest.number:
            return latest.latest()
        reason = f"the latest version, which is {latest.number}"
    except DatasetNotFoundError:
        reason = "the latest version"
    argument = "dataset_options['asof']" if named is None else f"version={table.version!r}"
    raise InvalidArgumentError(
        f'{argument}: writes go on top of {reason}; leave it out, or name a branch alone, as in ("dev", None)'
    )


def _is_managed(table: TableRef) -> bool:
    if not (namespace := table.namespace_arguments()):
        return False
    answer = namespace["namespace_client"].describe_table(
        lance_namespace.DescribeTableRequest(id=namespace["table_id"])
    )
    return answer.managed_versioning is True
