"""The categories of a table's dictionary-encoded columns: one dictionary for a whole version."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import lru_cache, partial

from ray_lance.retry import RetryPolicy
from ray_lance.scan.scan import Scan
from ray_lance.tensors import Categories
from ray_lance.tensors.categories import CategoryUnion

__all__ = ["categories_of"]

_BATCH_ROWS = 65536


def categories_of(scan: Scan) -> Categories:
    """The categories of the columns that ``scan`` reads.

    Every fragment may have dictionaries of its own. Their values come in the order of scanning, those of earlier tables
    and fragments first and each dictionary's in its own order, so that appended rows change no code. Values that no row
    has any more are kept as long as a dictionary lists them. Neither filter nor options of the scan change anything.

    The columns are scanned once in a process.
    """
    return _found(_Key(scan))


class _Key:
    """What decides the categories."""

    def __init__(self, scan: Scan) -> None:
        self.scan = scan
        columns = scan.columns
        named = tuple(columns.items()) if isinstance(columns, Mapping) else tuple(columns)
        self._identity = (tuple(table.cache_key for table in scan.tables), named)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Key) and self._identity == other._identity

    def __hash__(self) -> int:
        return hash(self._identity)


@lru_cache(maxsize=64)
def _found(key: _Key) -> Categories:
    whole = replace(key.scan, filter=None, options={}, decoders={})
    schema, union = key.scan.stored_schema(), CategoryUnion()
    union.add_schema(schema)
    if not (names := _encoded(schema.names, union.categories())):
        return union.categories()
    encoded = whole.select(names)
    tables = ", ".join(map(repr, encoded.tables))
    return RetryPolicy().call(partial(_union, encoded), f"reading the categories of {names} in {tables}")


def _union(scan: Scan) -> Categories:
    union = CategoryUnion()
    union.add_schema(scan.stored_schema())  # of a table without rows, too
    for table in range(len(scan.tables)):
        for batch in scan.scanner(table, batch_size=_BATCH_ROWS).to_batches():
            union.add(batch)
    return union.categories()


def _encoded(names: Iterable[str], categories: Categories) -> list[str]:
    return [name for name in names if any(entry == name or entry.startswith(f"{name}.") for entry in categories)]
