"""Permutations in storage: our own form beside a dataset, and the tables that LanceDB makes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import lance
import numpy as np
import pyarrow as pa

from ray_lance.errors import DatasetExistsError, DatasetNotFoundError, InvalidArgumentError
from ray_lance.order import DenseRows, ExplicitRows, RowPermutation, Shuffle, ShuffledRows, SlicedRows
from ray_lance.order.permutation import ORDER_VERSION
from ray_lance.order.rows import RowSet
from ray_lance.table import TableRef
from ray_lance.tensors.objects import to_objects

__all__ = ["lancedb_order", "read_saved", "write_saved"]

_KEY = b"ray_lance:permutation"
_ROW_ID = "row_id"


def write_saved(place: TableRef, order: RowPermutation, details: Mapping[str, Any]) -> None:
    """Write an order as a Lance dataset: its row ids, if it has any, and the rest as JSON in the schema metadata.

    Raises:
        DatasetExistsError: There is a dataset at ``place``.
    """
    base = order.base
    rows = base.addresses if isinstance(base, ExplicitRows) else np.empty(0, np.uint64)
    text = json.dumps({**details, "order": order.describe(), "epoch": order.epoch_number})
    schema = pa.schema([pa.field(_ROW_ID, pa.uint64())], metadata={_KEY: text})
    table = pa.table([pa.array(rows.astype(np.uint64, copy=False))], schema=schema)
    try:
        lance.write_dataset(table, place.uri, mode="create", storage_options=dict(place.storage_options) or None)
    except OSError as error:
        if "already exists" not in str(error):
            raise
        raise DatasetExistsError(f"uri: there already is a dataset at {place}: choose another place") from error


def read_saved(place: TableRef) -> tuple[RowPermutation, dict[str, Any]]:
    """The order at ``place``, and the details it was saved with.

    Raises:
        DatasetNotFoundError: There is nothing.
        InvalidArgumentError: It is no permutation, or one of another version of the arithmetic.
    """
    dataset = place.open()
    text = (dataset.schema.metadata or {}).get(_KEY)
    if text is None:
        raise InvalidArgumentError(f"uri: the dataset at {place} is no permutation that Permutation.save wrote")
    details = json.loads(text)
    order = details.pop("order")
    if order["order_version"] != ORDER_VERSION:
        raise InvalidArgumentError(
            f"uri: the permutation at {place} is of version {order['order_version']} of the arithmetic, and this "
            f"ray_lance has version {ORDER_VERSION}: it would give another order"
        )
    addresses = dataset.to_table()[_ROW_ID].to_numpy()
    shuffle = order["shuffle"]
    start, stop = order["positions"]
    rows = _row_set(order["rows"], addresses)
    mixing = None if shuffle is None else Shuffle(**shuffle)
    return RowPermutation(rows, mixing, details.pop("epoch"), start, stop), details


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
    rows = permutation_table if isinstance(permutation_table, pa.Table) else permutation_table.to_arrow()
    if not {_ROW_ID, "split_id"} <= set(rows.column_names):
        raise InvalidArgumentError(
            f"permutation_table has the columns {rows.column_names}: a permutation table of LanceDB has row_id and "
            "split_id"
        )
    metadata = rows.schema.metadata or {}
    number = _split_number(split, json.loads(metadata.get(b"split_names", b"[]")), rows)
    chosen = rows.filter(pa.compute.equal(rows["split_id"], number))
    order = RowPermutation(ExplicitRows(chosen[_ROW_ID].to_numpy().astype(np.uint64, copy=False)))
    return _base_table(table, metadata.get(b"base_version")), order


def _base_table(table: Any, base_version: bytes | None) -> TableRef:
    source = TableRef.of(table.to_lance() if hasattr(table, "to_lance") else table)
    if base_version is None:
        return source.pin()
    version = int(base_version)
    if source.version == version:
        return source.pin()
    try:
        return TableRef.of(source.uri or "", version=version, storage_options=source.storage_options).pin()
    except DatasetNotFoundError as error:
        raise DatasetNotFoundError(
            f"permutation_table was made from version {version} of {source}, which is gone: make it anew from "
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


def _row_set(description: Mapping[str, Any], addresses: np.ndarray[Any, Any]) -> RowSet:
    kind = description["kind"]
    if kind == "dense":
        return DenseRows(description["count"])
    if kind == "explicit":
        return ExplicitRows(addresses)
    inner = _row_set(description["of"], addresses)
    if kind == "slice":
        return SlicedRows(inner, description["start"], description["stop"])
    return ShuffledRows(inner, description["seed"], description["clump"], description["start"], description["stop"])
