"""Numbers fields as Lance does: a schema in, ids out. Data files hold values by these ids, not by name."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import pyarrow as pa
from lance.fragment import FragmentMetadata, write_fragments
from lance.schema import LanceSchema

from ray_lance.errors import CommitError

__all__ = ["as_stored", "check_fields", "check_ids", "field_ids", "new_schema", "renumbered"]

_Path = tuple[str, ...]


def field_ids(schema: LanceSchema, names: Iterable[str]) -> list[int]:
    """Ids of the fields of columns and of all below them, parents first, columns in the order of ``names``."""
    fields = {each.name(): each for each in schema.fields()}
    return [each.id() for name in names for _, each in _walk([fields[name]])]


def new_schema(schema: pa.Schema, file_version: str | None) -> LanceSchema:
    """The schema that Lance gives to a new dataset of rows with ``schema``.

    It may have other fields: files from version 2.2 on hold blobs of the older layout as the current one.

    Args:
        schema: The schema of the rows.
        file_version: The Lance file format version; None for Lance's default.
    """
    transaction = write_fragments(
        pa.RecordBatchReader.from_batches(schema, []),
        "memory://schema",
        mode="create",
        data_storage_version=file_version,
        return_transaction=True,
    )
    return transaction.operation.new_schema


def as_stored(schema: pa.Schema, file_version: str | None) -> pa.Schema:
    """``schema`` with blobs in the layout that files of ``file_version`` hold them in."""
    if b"lance-encoding:blob" not in schema.serialize().to_pybytes():
        return schema
    return new_schema(schema, file_version).to_pyarrow()


def renumbered(ids: Sequence[int], written: LanceSchema, stored: LanceSchema) -> list[int]:
    """The ids in schema ``stored`` of the fields that have ``ids`` in schema ``written``, found by their paths.

    Raises:
        CommitError: A field of the file is none of the dataset's, or of another type there.
    """
    fields = {each.id(): (path, each) for path, each in _walk(written.fields())}
    targets = dict(_walk(stored.fields()))
    numbers = []
    for field_id in ids:
        path, field = fields[field_id]
        target = targets.get(path)
        if target is None or _layout(target) != _layout(field):
            raise CommitError(
                f"the file holds a field {'.'.join(path)!r} of type {_layout(field)}, and the dataset "
                f"{'none of that name' if target is None else f'one of type {_layout(target)}'}; nothing was committed"
            )
        numbers.append(target.id())
    return numbers


def check_fields(fragments: Iterable[FragmentMetadata], schema: LanceSchema) -> None:
    """Check that the files of each fragment hold all the columns of ``schema``, and nothing else.

    Raises:
        CommitError: They do not: a commit would show nulls, or what belongs to another column.
    """
    columns = [(each.name(), {below.id() for _, below in _walk([each])}) for each in schema.fields()]
    for fragment in fragments:
        held = {field_id for file in fragment.files for field_id in file.fields}
        absent = [name for name, ids in columns if ids.isdisjoint(held)]
        if absent:
            raise CommitError(f"a file of new rows holds nothing of the columns {absent}; nothing was committed")
        check_ids(held, schema)


def check_ids(ids: Iterable[int], schema: LanceSchema) -> None:
    """Check that ``schema`` has fields with all of ``ids``.

    Raises:
        CommitError: It does not.
    """
    foreign = sorted(set(ids) - {each.id() for _, each in _walk(schema.fields())})
    if foreign:
        raise CommitError(f"a file holds fields with the ids {foreign}, which the schema lacks; nothing was committed")


def _layout(field: LanceSchema) -> object:
    """What a file says of a field: the type of a value, and for others whether they are lists, structs or blobs."""
    dtype = field.to_arrow().type
    return dtype.id if field.children() else dtype


def _walk(fields: Iterable[LanceSchema], parent: _Path = ()) -> Iterator[tuple[_Path, LanceSchema]]:
    """Paths and fields of a schema with all below them, parents first."""
    for each in fields:
        path = (*parent, each.name())
        yield path, each
        yield from _walk(each.children(), path)
