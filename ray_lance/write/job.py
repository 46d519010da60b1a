"""Begins a write of rows: a table and options in, a job out that has been checked against the dataset."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import lance
import pyarrow as pa
from lance.schema import LanceSchema

from ray_lance.errors import DatasetExistsError, DatasetNotFoundError, InvalidArgumentError, UnknownColumnError
from ray_lance.handles import missing_branch
from ray_lance.lazy import lance_namespace
from ray_lance.masking import cause, mask_uri, without_secrets
from ray_lance.table import TableRef
from ray_lance.tensors.from_ray import storable_schema
from ray_lance.tensors.kinds import RAY_TYPES, extension_name, is_blob
from ray_lance.write.field_ids import new_schema
from ray_lance.write.inferred import checked_schema
from ray_lance.write.lance_types import lance_schema
from ray_lance.write.options import WriteOptions
from ray_lance.write.schema import portable, refuse_null_types
from ray_lance.write.storage import existing_folder
from ray_lance.write.target import Target, existing_target, latest_of

__all__ = ["WriteJob", "begin", "refuse_private_types"]

# The file that a directory namespace puts into the folder of a table that is declared and not written yet.
_RESERVED = ".lance-reserved"


@dataclass(frozen=True, kw_only=True)
class WriteJob(Target):
    """Everything that the tasks and the commit of one write of rows need.

    Attributes:
        options: What was asked for.
        schema: The schema of the rows to be written; None where each task infers it from its first rows.
        declared: Whether this job declared the table in its namespace.
        updated: Merge: the columns to update, where the rows have only a part of the columns; otherwise none.
    """

    options: WriteOptions = field(default_factory=WriteOptions)
    schema: pa.Schema | None = None
    declared: bool = False
    updated: tuple[str, ...] = ()

    @property
    def file_version(self) -> str | None:
        """The Lance file format version to write; None for Lance's default."""
        return super().file_version if self.exists else self.options.data_storage_version

    @property
    def adds_rows(self) -> bool:
        """Whether the rows are added to a dataset that exists, whose schema stays."""
        return self.exists and self.options.mode in ("append", "merge")

    @property
    def inserts(self) -> bool:
        """Merge: whether rows whose key does not exist are added."""
        return not self.updated if self.options.insert is None else self.options.insert

    def stored_schema(self) -> LanceSchema:
        """The schema with field ids that the rows will have in the dataset; the job's schema must be known."""
        if self.adds_rows:
            return self.table.open().lance_schema
        return new_schema(self.schema, self.file_version)

    def with_schema(self, schema: pa.Schema) -> WriteJob:
        """The same job with a known schema."""
        return replace(self, schema=schema)

    def withdraw(self) -> None:
        """Take the declaration in the namespace back, after the job failed."""
        if not self.declared:
            return
        namespace = self.table.namespace_arguments()
        namespace["namespace_client"].deregister_table(lance_namespace.DeregisterTableRequest(id=namespace["table_id"]))
        self.storage().remove(_RESERVED)


def begin(table: TableRef, options: WriteOptions) -> WriteJob:
    """Open the table and check that ``options`` can be carried out on it.

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
    table = latest_of(table)
    try:
        target = existing_target(table, options.retry)
    except DatasetNotFoundError as error:
        if isinstance(table.version, tuple) or missing_branch(table) is not None:
            raise  # a branch, which a write does not create
        if options.mode in ("append", "merge"):
            raise DatasetNotFoundError(f'{error}; mode="create" makes a new one') from None
        return _new_table(table, options)
    if options.mode == "create":
        raise DatasetExistsError(_exists(target.table))
    dataset = target.table.open()
    if options.mode != "ignore":
        _check_against(dataset, options)
    schema = portable(dataset.schema) if options.mode in ("append", "merge") else _full_schema(options)
    return WriteJob(**vars(target), options=options, schema=schema)


def _new_table(table: TableRef, options: WriteOptions) -> WriteJob:
    schema = _full_schema(options)
    uri, storage_options, declared, managed = str(table.uri), dict(table.storage_options), False, False
    if table.namespace_impl is not None and table.uri is None:
        namespace = table.namespace_arguments()
        answer, declared = _place_in(namespace["namespace_client"], namespace["table_id"])
        storage_options |= answer.storage_options or {}
        uri, managed = str(answer.location), answer.managed_versioning is True
    return WriteJob(
        table=table,
        uri=uri,
        storage_options=storage_options,
        retry=options.retry,
        managed=managed,
        existing_folder=existing_folder(uri),
        options=options,
        schema=schema,
        declared=declared,
    )


def _place_in(client: Any, table_id: list[str]) -> tuple[Any, bool]:
    """Where a namespace puts a new table, and whether the table had to be declared for that."""
    errors = lance_namespace.errors
    try:
        return client.describe_table(lance_namespace.DescribeTableRequest(id=table_id)), False
    except (errors.TableNotFoundError, errors.NamespaceNotFoundError):
        # A new namespace raises the latter for a nested table, which can be declared all the same.
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
        refuse_private_types(dataset.schema, f"mode={options.mode!r}")
    for name in options.on:
        if name not in dataset.schema.names:
            raise UnknownColumnError("on", name, dataset.schema.names)
    if options.mode in ("append", "merge") and options.schema is not None:
        given = pa.schema(list(options.schema))
        _check_schema(*(lance_schema(storable_schema(schema)) for schema in (dataset.schema, given)))


def refuse_private_types(schema: pa.Schema, what: str) -> None:
    """Refuse to add to a dataset with columns of Ray's own extension types.

    Args:
        schema: The dataset's schema.
        what: What adds to it, for the message.

    Raises:
        InvalidArgumentError: There is such a column.
    """
    private = [column.name for column in schema if extension_name(column) in RAY_TYPES]
    if private:
        raise InvalidArgumentError(
            f"{what}: the dataset holds the columns {private} in types that only Ray can read; write "
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
