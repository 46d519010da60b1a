"""Permutations in storage: an order in, our own form of it out, and back; orders out of LanceDB's tables.

A stored order is only good for the table that it was made of, which its identity tells from all others.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache
from types import NoneType
from typing import Any

import lance
import numpy as np
import pyarrow as pa

from ray_lance.arguments import as_integer
from ray_lance.errors import (
    DatasetExistsError,
    DatasetNotFoundError,
    InvalidArgumentError,
    StorageError,
    panics_as_errors,
)
from ray_lance.forks import use_lance
from ray_lance.masking import cause, without_secrets
from ray_lance.order import DenseRows, ExplicitRows, RowPermutation, Shuffle, ShuffledRows, SlicedRows
from ray_lance.order.permutation import ORDER_VERSION
from ray_lance.order.rows import RowSet, digest_of
from ray_lance.table import TableRef, check_source
from ray_lance.tensors.objects import to_objects
from ray_lance.versions import Version, as_version

__all__ = ["Details", "check_count", "check_identity", "lancedb_order", "read_saved", "table_identity", "write_saved"]

_KEY = b"ray_lance:permutation"
_ROW_ID = "row_id"


@dataclass(frozen=True)
class Details:
    """What is stored of a permutation in addition to its order.

    Attributes:
        table: Uri of the table.
        version: Its version.
        identity: Identity of that version; see :func:`table_identity`.
        filter: The condition that chose the rows; None for all.
        fixed_epoch: Whether the epoch is fixed.
    """

    table: str
    version: Version
    identity: str
    filter: str | None
    fixed_epoch: bool

    def __post_init__(self) -> None:
        if isinstance(self.version, list):  # JSON has no tuples
            object.__setattr__(self, "version", tuple(self.version))
        as_version(self.version)
        for name, kind in (("table", str), ("identity", str), ("filter", (str, NoneType)), ("fixed_epoch", bool)):
            if not isinstance(getattr(self, name), kind):
                raise InvalidArgumentError(f"{name}={getattr(self, name)!r} is of the wrong type")


def table_identity(table: TableRef) -> str:
    """Identify one version of one dataset, wherever it lies: a digest of its files' names.

    Lance gives its files random names, so that equal names mean equal data.
    """
    return _identity(table.cache_key, table)


@lru_cache(maxsize=64)
def _identity(key: str, table: TableRef) -> str:  # noqa: ARG001  the key stands for the table
    digest = hashlib.blake2b(digest_size=16)
    for fragment in table.open().get_fragments():
        names = [data_file.path for data_file in fragment.data_files()]
        digest.update(f"{fragment.fragment_id}:{names}:{fragment.deletion_file()}\n".encode())
    return digest.hexdigest()


def check_identity(table: TableRef, expected: str) -> None:
    """Raise InvalidArgumentError where ``table`` is not the one that an order was made of."""
    if (found := table_identity(table)) != expected:
        raise InvalidArgumentError(
            f"the permutation is of another dataset than the one at {table} now: "
            f"its identity was {expected}, and this one's is {found}"
        )


def check_count(table: TableRef, order: RowPermutation) -> None:
    """Raise InvalidArgumentError where ``table`` has another number of rows than an order over all of them."""
    rows = table.open().count_rows()
    if isinstance(order.base, DenseRows) and len(order.base) != rows:
        raise InvalidArgumentError(f"the permutation is of {len(order.base)} rows, and {table} has {rows}")


def write_saved(place: TableRef, order: RowPermutation, details: Details) -> None:
    """Write an order as a Lance dataset: its row ids, if it has any, and the rest as JSON in the schema metadata.

    Raises:
        DatasetExistsError: There is a dataset at ``place``.
    """
    base = order.base
    rows = base.row_ids if isinstance(base, ExplicitRows) else np.empty(0, np.uint64)
    saved = {**asdict(details), "order": order.describe(), "epoch": order.epoch_number}
    text = json.dumps({**saved, "digest": digest_of(saved)})
    schema = pa.schema([pa.field(_ROW_ID, pa.uint64())], metadata={_KEY: text})
    table = pa.table([pa.array(rows.astype(np.uint64, copy=False))], schema=schema)
    use_lance()
    try:
        lance.write_dataset(table, place.uri, mode="create", storage_options=dict(place.storage_options) or None)
    except (OSError, ValueError) as error:
        if "already exists" in str(error):
            raise DatasetExistsError(f"uri: there already is a dataset at {place}: choose another place") from None
        raise StorageError(f"uri={place.shown_place!r}: {cause(error)}") from without_secrets(error)


def read_saved(place: TableRef) -> tuple[RowPermutation, Details]:
    """The order at ``place``, and the details it was saved with.

    Raises:
        DatasetNotFoundError: There is nothing.
        InvalidArgumentError: It is no permutation, it is damaged, or of another version of the arithmetic.
    """
    text, rows = _stored(place)
    if text is None:
        raise InvalidArgumentError(f"uri: the dataset at {place} was not written by Permutation.save")
    try:
        return _parsed(json.loads(text), rows)
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, pa.ArrowException) as error:
        reason = f"there is no {error}" if isinstance(error, KeyError) else str(error)
        raise InvalidArgumentError(f"uri: the permutation at {place} is damaged: {reason}. Save it again") from error


def _stored(place: TableRef) -> tuple[bytes | None, pa.Table]:
    try:
        with panics_as_errors(f"reading {place}"):
            dataset = place.open()
            return (dataset.schema.metadata or {}).get(_KEY), dataset.to_table()
    except DatasetNotFoundError:
        raise
    except (ValueError, OSError, RuntimeError, pa.ArrowException) as error:
        raise InvalidArgumentError(f"uri: the permutation at {place} cannot be read: {error}") from error


def _parsed(saved: dict[str, Any], rows: pa.Table) -> tuple[RowPermutation, Details]:
    order = saved["order"]
    if order["order_version"] != ORDER_VERSION:
        raise InvalidArgumentError(
            f"it is of version {order['order_version']} of the arithmetic, and this ray_lance has version "
            f"{ORDER_VERSION}, which would give another order"
        )
    digest = saved.pop("digest", None)  # earlier releases saved none
    if digest not in (None, digest_of(saved)):
        raise InvalidArgumentError("its description is not the one that was saved")
    row_set = _row_set(order["rows"], _row_ids(rows))
    if row_set.describe() != order["rows"]:
        raise InvalidArgumentError("its rows are not those that were saved")
    shuffle, (start, stop) = order["shuffle"], order["positions"]
    mixing = None if shuffle is None else Shuffle(**shuffle)
    found = RowPermutation(row_set, mixing, saved.pop("epoch"), start, stop)
    return found, Details(**{name: value for name, value in saved.items() if name != "order"})


def _row_ids(rows: pa.Table) -> np.ndarray[Any, Any]:
    column = rows[_ROW_ID]
    if not pa.types.is_uint64(column.type) or column.null_count:
        raise InvalidArgumentError(f"{_ROW_ID} is {column.type} with {column.null_count} nulls")
    row_ids: np.ndarray[Any, Any] = column.to_numpy()
    return row_ids


def lancedb_order(table: Any, permutation_table: Any, split: str | int | None) -> tuple[TableRef, RowPermutation]:
    """The table and the order that a permutation table of LanceDB describes.

    Args:
        table: ``lancedb.Table`` that the permutation is of, or anything :meth:`TableRef.of` takes.
        permutation_table: What ``permutation_builder(...).execute()`` gave: a ``lancedb.Table`` or a ``pyarrow.Table``.
        split: Name or number of a split; None is the first.

    Raises:
        InvalidArgumentError: ``permutation_table`` is something else, or has no such split.
        DatasetNotFoundError: The version of ``table`` that the permutation was made from is gone.
    """
    if split is not None and not isinstance(split, str):
        split = as_integer("split", split)
    rows = _permutation_rows(permutation_table)
    metadata = rows.schema.metadata or {}
    try:
        names = [str(name) for name in json.loads(metadata.get(b"split_names", b"[]"))]
        version = None if (text := metadata.get(b"base_version")) is None else int(text)
    except (ValueError, TypeError) as error:
        raise InvalidArgumentError(f"permutation_table: its metadata is none that LanceDB writes: {error}") from error
    number = _split_number(split, names, rows)
    chosen = rows.filter(pa.compute.equal(rows["split_id"], number))
    return _base_table(table, version), RowPermutation(ExplicitRows(_row_ids(chosen)))


def _permutation_rows(permutation_table: Any) -> pa.Table:
    rows = permutation_table
    if not isinstance(rows, pa.Table):
        if not hasattr(rows, "to_arrow"):
            raise InvalidArgumentError(
                f"permutation_table={type(rows).__name__} must be what permutation_builder(...).execute() of LanceDB "
                "gave, or that as a pyarrow.Table"
            )
        rows = rows.to_arrow()
    if not {_ROW_ID, "split_id"} <= set(rows.column_names):
        raise InvalidArgumentError(
            f"permutation_table has the columns {rows.column_names}: a permutation table of LanceDB has row_id and "
            "split_id"
        )
    return rows


def _base_table(table: Any, version: int | None) -> TableRef:
    opened = table.to_lance() if hasattr(table, "to_lance") else table
    check_source("table", opened)
    source = TableRef.of(opened)
    if version is None or source.version == version:
        return source.pin()
    try:
        return source.at(version).pin()
    except DatasetNotFoundError as error:
        raise DatasetNotFoundError(
            f"permutation_table was made from version {version} of {source}, which is gone: make it again from "
            "the present version"
        ) from error


def _split_number(split: str | int | None, names: list[str], rows: pa.Table) -> int:
    if isinstance(split, str):
        if split not in names:
            raise InvalidArgumentError(f"split={split!r} is none of the permutation table's splits {names}")
        return names.index(split)
    number = split or 0
    known = to_objects(pa.compute.unique(rows["split_id"]), "split_id")
    if number not in known and not 0 <= number < max(1, len(names)):
        raise InvalidArgumentError(f"split={split!r} is none of the permutation table's splits {sorted(known)}")
    return number


def _row_set(description: Mapping[str, Any], row_ids: np.ndarray[Any, Any]) -> RowSet:
    kind = description["kind"]
    if kind == "dense":
        return DenseRows(description["count"])
    if kind == "explicit":
        return ExplicitRows(row_ids)
    inner = _row_set(description["of"], row_ids)
    if kind == "slice":
        return SlicedRows(inner, description["start"], description["stop"])
    return ShuffledRows(inner, description["seed"], description["clump"], description["start"], description["stop"])
