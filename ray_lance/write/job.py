"""One write, as the tasks on all machines see it."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import lance
import pyarrow as pa
from lance.file import LanceFileSession
from lance.schema import LanceSchema

from ray_lance.errors import DatasetExistsError, DatasetNotFoundError, InvalidArgumentError, UnknownColumnError
from ray_lance.handles import missing_branch
from ray_lance.lazy import lance_namespace
from ray_lance.masking import cause, mask_uri, remember, without_secrets
from ray_lance.table import TableRef
from ray_lance.tensors.blocks import storable_schema
from ray_lance.tensors.kinds import RAY_TYPES, extension_name
from ray_lance.write.field_ids import new_schema
from ray_lance.write.inferred import checked_schema
from ray_lance.write.lance_types import lance_schema
from ray_lance.write.options import WriteOptions
from ray_lance.write.schema import is_blob, portable, refuse_null_types
from ray_lance.write.storage import Storage, standing_folder, storage_for

__all__ = ["LEGACY", "WriteJob", "begin"]

LEGACY = "0.1"
"""The version of files that hold field ids and take no new columns."""

logger = logging.getLogger(__name__)

# What a directory namespace leaves in the folder of a table that is declared and not written yet.
_RESERVED = ".lance-reserved"


@dataclass(frozen=True)
class WriteJob:
    """Everything that the tasks and the commit of one write need. Picklable; opens nothing until asked.

    Attributes:
        table: Reference to the table. Pinned to the version that is written to, or unpinned where there is none.
        uri: Location of the dataset.
        storage_options: Object store options, with what a namespace added to them.
        options: What was asked for.
        schema: The schema of the rows to be written; None where the first rows of each task tell.
        declared: Whether this job made the table known to its namespace.
        managed: Whether commits go through the namespace.
        standing: The innermost folder of a local dataset's path that stood when the job began, and stays.
        job_id: Hexadecimal UUID. Begins the name of every file, and travels in the transaction.
    """

    table: TableRef
    uri: str = field(repr=False)  # may hold a password; the reference shows it masked
    storage_options: Mapping[str, str] = field(repr=False)
    options: WriteOptions = field(default_factory=WriteOptions)
    schema: pa.Schema | None = None
    declared: bool = False
    managed: bool = False
    standing: str | None = None
    job_id: str = field(default_factory=lambda: uuid.uuid4().hex)

    @property
    def exists(self) -> bool:
        """Whether a dataset stood there when the job began."""
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
        """The Lance file format version to write; None for Lance's default."""
        return str(self.table.open().data_storage_version) if self.exists else self.options.data_storage_version

    @property
    def adds_rows(self) -> bool:
        """Whether the rows become part of a dataset that is there, whose schema stays."""
        return self.exists and self.options.mode in ("append", "merge")

    def stored_schema(self) -> LanceSchema:
        """The schema with field ids that the rows will have in the dataset; the job's schema must be known."""
        if self.adds_rows:
            return self.table.open().lance_schema
        return new_schema(self.schema, self.file_version)

    @property
    def shown_uri(self) -> str:
        """The location without credentials."""
        return mask_uri(self.uri)

    def storage(self) -> Storage:
        """The storage that holds the dataset."""
        remember(self.uri, self.storage_options)
        return storage_for(self.uri, self.storage_options, self.table.namespace_arguments(), self.standing)

    def session(self) -> LanceFileSession:
        """Access to single files of the dataset, by their paths in it."""
        return LanceFileSession(
            self.uri, storage_options=dict(self.storage_options) or None, **self.table.namespace_arguments()
        )

    def open_latest(self) -> lance.LanceDataset | None:
        """The dataset as it stands now; None where there is none."""
        try:
            if self.exists or not self.table.namespace_impl:
                return self.table.latest().open() if self.table.uri else None
            return TableRef(self.uri, storage_options=self.storage_options).open()
        except DatasetNotFoundError:
            return None

    def with_schema(self, schema: pa.Schema) -> WriteJob:
        """The same job with a known schema."""
        return replace(self, schema=schema)

    def withdraw(self) -> None:
        """Take back what the job told the namespace, after it failed."""
        if not self.declared:
            return
        namespace = self.table.namespace_arguments()
        namespace["namespace_client"].deregister_table(lance_namespace.DeregisterTableRequest(id=namespace["table_id"]))
        self.storage().remove(_RESERVED)


def begin(table: TableRef, options: WriteOptions) -> WriteJob:
    """Look at the table and check that ``options`` can be carried out on it.

    Nothing is written, except that a table new to its namespace is declared there.

    Args:
        table: Where to write.
        options: What to do.

    Raises:
        DatasetExistsError: ``mode="create"`` and a dataset exists.
        DatasetNotFoundError: ``mode="append"`` or ``"merge"`` and there is no dataset; or there is no such branch.
        InvalidArgumentError: An option contradicts the dataset.
        UnknownColumnError: ``on`` names a column the dataset does not have.
    """
    table = _latest(table)
    try:
        pinned = table.pin()
    except DatasetNotFoundError as error:
        if isinstance(table.version, tuple) or missing_branch(table) is not None:
            raise  # a branch, which only Lance makes
        if options.mode in ("append", "merge"):
            raise DatasetNotFoundError(f'{error}; mode="create" makes a new one') from None
        return _new_table(table, options)
    if options.mode == "create":
        raise DatasetExistsError(_exists(pinned))
    dataset = pinned.open()
    if options.mode != "ignore":
        _check_against(dataset, options)
    schema = portable(dataset.schema) if options.mode in ("append", "merge") else _full_schema(options)
    storage_options = dict(dataset._storage_options or table.storage_options)
    uri = str(pinned.uri)
    managed = _is_managed(pinned)
    return WriteJob(pinned, uri, storage_options, options, schema, managed=managed, standing=standing_folder(uri))


def _latest(table: TableRef) -> TableRef:
    """The table's branch as it is now, on top of which everything is written.

    Raises:
        InvalidArgumentError: The reference names another version than the latest.
    """
    named = table.version[1] if isinstance(table.version, tuple) else table.version
    is_open = table.manifest is not None  # as an open dataset is: it says which branch, and may be out of date
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


def _new_table(table: TableRef, options: WriteOptions) -> WriteJob:
    schema = _full_schema(options)
    if table.namespace_impl is None or table.uri is not None:
        uri = str(table.uri)
        return WriteJob(table, uri, dict(table.storage_options), options, schema, standing=standing_folder(uri))
    namespace = table.namespace_arguments()
    answer, declared = _place_in(namespace["namespace_client"], namespace["table_id"])
    storage_options = {**table.storage_options, **(answer.storage_options or {})}
    managed = answer.managed_versioning is True
    uri = str(answer.location)
    return WriteJob(table, uri, storage_options, options, schema, declared, managed, standing_folder(uri))


def _place_in(client: Any, table_id: list[str]) -> tuple[Any, bool]:
    """Where a namespace has a new table, and whether that had to be declared."""
    errors = lance_namespace.errors
    try:
        return client.describe_table(lance_namespace.DescribeTableRequest(id=table_id)), False
    except (errors.TableNotFoundError, errors.NamespaceNotFoundError):
        # A fresh namespace says the latter of a nested table, which can be declared there all the same.
        try:
            return client.declare_table(lance_namespace.DeclareTableRequest(id=table_id)), True
        except errors.NamespaceNotFoundError as error:
            raise DatasetNotFoundError(
                f"table_id={table_id}: {cause(error)}; create the namespace {table_id[:-1]} first"
            ) from without_secrets(error)


def _full_schema(options: WriteOptions) -> pa.Schema | None:
    if not isinstance(options.schema, pa.Schema):
        return None
    refuse_null_types(options.schema)
    return checked_schema(options.schema)


def _exists(table: TableRef) -> str:
    return (
        f'mode="create": a dataset already stands at {mask_uri(str(table.uri))} (version {table.version}); '
        'mode="append" adds to it, mode="overwrite" makes a new version of it'
    )


def _check_against(dataset: lance.LanceDataset, options: WriteOptions) -> None:
    found = dataset.data_storage_version
    wanted = options.data_storage_version
    if wanted not in (None, found):
        raise InvalidArgumentError(
            f"data_storage_version={wanted!r}: the dataset has {found!r}, which stays; leave the argument out, "
            "or write to another place"
        )
    if options.enable_stable_row_ids and not dataset.has_stable_row_ids:
        raise InvalidArgumentError(
            "enable_stable_row_ids=True: the dataset was created without, and row ids cannot be made stable later; "
            "write to another place"
        )
    if options.mode in ("append", "merge"):
        _refuse_private_types(dataset, options)
    for name in options.on:
        if name not in dataset.schema.names:
            raise UnknownColumnError("on", name, dataset.schema.names)
    if options.mode in ("append", "merge") and options.schema is not None:
        given = pa.schema(list(options.schema))
        _check_schema(*(lance_schema(storable_schema(schema)) for schema in (dataset.schema, given)))


def _refuse_private_types(dataset: lance.LanceDataset, options: WriteOptions) -> None:
    private = [column.name for column in dataset.schema if extension_name(column) in RAY_TYPES]
    if private:
        raise InvalidArgumentError(
            f"mode={options.mode!r}: the dataset holds the columns {private} in types that only Ray can read; write "
            'standard ones first, for instance with write_lance(read_lance(uri), uri, mode="overwrite")'
        )


def _check_schema(dataset: pa.Schema, given: pa.Schema) -> None:
    for column in given:
        if column.name not in dataset.names:
            raise UnknownColumnError("schema", column.name, dataset.names)
        found = dataset.field(column.name)
        if not column.type.equals(found.type) and not (is_blob(column) and is_blob(found)):
            raise InvalidArgumentError(
                f"schema: column {column.name!r} is {found.type} in the dataset, not {column.type}; leave it out"
            )
