"""Finds categories: a scan in, one dictionary for each of its dictionary-encoded columns out, over a whole version."""

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
    """Find the categories of the columns that ``scan`` reads.

    Each fragment may have its own dictionaries. Values are listed in scan order, those of earlier tables and fragments
    first and those of a dictionary in its order, so that appended rows change no code. Values that no row has any more
    stay as long as a dictionary lists them. The filter and the options of the scan have no influence.

    The columns are scanned once in a process.
    """
    return _found(_Key(scan))


class _Key:
    """Key of the cache below: what decides the categories."""

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
