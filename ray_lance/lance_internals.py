"""Reaches what is private in pylance: an open dataset in, what only its private names say out.

Each private name has a public way, which is taken where the installed pylance lacks the name: slower, with the same
results. No other module of this package may use a private name of pylance, which a test checks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import lance
import pyarrow as pa
import pyarrow.compute as pc

from ray_lance.paths import sql_path

__all__ = [
    "count_fragments",
    "dataset_options_of",
    "manifest_of",
    "pickled_state",
    "scan_by_row_id",
    "storage_options_of",
    "take_by_row_id",
]

_CAN_TAKE = hasattr(lance.LanceDataset, "_take_rows")
# What a dataset is pickled as, in this order; earlier releases have fewer of them.
_PICKLED = (
    "uri",
    "storage_options",
    "version",
    "manifest",
    "default_scan_options",
    "read_params",
    "base_store_params",
)
_OWN_ROW_ID = "__ray_lance_row_id"


def manifest_of(dataset: lance.LanceDataset) -> bytes:
    """The serialized manifest of the version that is open; with it the version can be opened without a listing."""
    serialize = getattr(getattr(dataset, "_ds", None), "serialized_manifest", None)
    manifest: bytes = pickled_state(dataset)["manifest"] if serialize is None else serialize()
    return manifest


def storage_options_of(dataset: lance.LanceDataset) -> dict[str, str]:
    """The object store options that the dataset was opened with, those that a namespace added among them."""
    return dict(_opened_with(dataset, "storage_options") or {})


def dataset_options_of(dataset: lance.LanceDataset) -> dict[str, Any]:
    """Further arguments of ``lance.dataset`` that the dataset was opened with."""
    options = {name: _opened_with(dataset, name) for name in ("base_store_params", "read_params")}
    return {name: value for name, value in options.items() if value}


def count_fragments(dataset: lance.LanceDataset) -> int:
    """Number of fragments, found without making an object for each of them."""
    count = getattr(getattr(dataset, "_ds", None), "count_fragments", None)
    return len(dataset.get_fragments()) if count is None else int(count())


def take_by_row_id(
    dataset: lance.LanceDataset, row_ids: Sequence[int], columns: Sequence[str] | Mapping[str, str]
) -> pa.Table:
    """Rows in the order of their ids; a row may be asked for more than once, and rows that do not exist are left out.

    Args:
        dataset: The dataset.
        row_ids: Ids of the rows: addresses where the dataset has no stable row ids.
        columns: Names of columns, or SQL expressions by name.
    """
    if _CAN_TAKE:
        return dataset._take_rows(row_ids, columns)
    return scan_by_row_id(dataset, row_ids, columns)


def scan_by_row_id(
    dataset: lance.LanceDataset, row_ids: Sequence[int], columns: Sequence[str] | Mapping[str, str]
) -> pa.Table:
    """As :func:`take_by_row_id`, through the scanner: the public way."""
    expressions = columns if isinstance(columns, Mapping) else {name: sql_path((name,)) for name in columns}
    found = dataset.scanner(
        columns={**expressions, _OWN_ROW_ID: "_rowid"},
        filter=f"_rowid IN ({', '.join(map(str, sorted(set(row_ids))))})" if row_ids else "false",
        blob_handling="blobs_descriptions",  # as a take gives them
    ).to_table()
    positions = pc.index_in(pa.array(row_ids, pa.uint64()), found[_OWN_ROW_ID])
    return found.drop_columns([_OWN_ROW_ID]).take(positions.drop_null())


def pickled_state(dataset: lance.LanceDataset) -> dict[str, Any]:
    """What the dataset would be pickled as, by name: the public way to what it was opened with."""
    _, state, *_ = dataset.__reduce__()
    return dict(zip(_PICKLED, state, strict=False))


def _opened_with(dataset: lance.LanceDataset, argument: str) -> Any:
    private = f"_{argument}"
    return getattr(dataset, private) if hasattr(dataset, private) else pickled_state(dataset).get(argument)
