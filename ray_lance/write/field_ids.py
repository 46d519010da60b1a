"""The numbers that Lance gives to the fields of a schema. Data files hold values by them, not by name."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from lance.schema import LanceSchema

from ray_lance.errors import CommitError

__all__ = ["field_ids", "renumbered"]

_Path = tuple[str, ...]


def field_ids(schema: LanceSchema, names: Iterable[str]) -> list[int]:
    """Ids of the fields of columns and of all below them, parents first, columns in the order of ``names``."""
    fields = {each.name(): each for each in schema.fields()}
    return [field_id for name in names for _, field_id in _walk([fields[name]])]


def renumbered(ids: Sequence[int], written: LanceSchema, stored: LanceSchema) -> list[int]:
    """The ids in schema ``stored`` of the fields that have ``ids`` in schema ``written``, found by their paths.

    Raises:
        CommitError: A field of the file is none of the dataset's.
    """
    paths = {field_id: path for path, field_id in _walk(written.fields())}
    targets = dict(_walk(stored.fields()))
    foreign = [".".join(paths[field_id]) for field_id in ids if paths[field_id] not in targets]
    if foreign:
        raise CommitError(f"the file holds fields {foreign}, which the dataset does not have; nothing was committed")
    return [targets[paths[field_id]] for field_id in ids]


def _walk(fields: Iterable[LanceSchema], parent: _Path = ()) -> Iterator[tuple[_Path, int]]:
    """Paths and ids of fields and of all below them, parents first."""
    for each in fields:
        path = (*parent, each.name())
        yield path, each.id()
        yield from _walk(each.children(), path)
