"""Whether two tables hold the same rows, in the same types, and answer the same to every question."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import lance
import pyarrow as pa

from ray_lance.table import TableRef
from tests.oracle.ways import Way, read_in_order, read_shuffled

__all__ = ["check_same"]

FILTERS = (
    "num = 3",
    "num > 2",
    "num IS NULL",
    "num IN (1, 5)",
    "id < 20",
    "cat = 'dog'",
    "text = 'cat sat'",
    "contains(text, 'cat')",
    "array_has_any(tags, ['dog', 'emu'])",
    "id % 2 = 0 AND num < 4",
)


def check_same(table: str | TableRef, ours: lance.LanceDataset, theirs: lance.LanceDataset, way: Way) -> None:
    """Compare the dataset that this library wrote with Lance's, read by Lance and by this library.

    Args:
        table: What this library reads ``ours`` through.
        ours: Written by this library.
        theirs: Written by Lance.
        way: How this library reads.

    Raises:
        AssertionError: They differ.
    """
    wanted = theirs.to_table()
    assert _types(ours.schema) == _types(theirs.schema)
    _check_rows("Lance's scan of what this library wrote", ours.to_table(), wanted)
    assert ours.has_stable_row_ids == theirs.has_stable_row_ids
    for question, ask in _questions().items():
        try:
            answer = ask(theirs)
        except Exception:  # Lance cannot tell
            continue
        assert ask(ours) == answer, question
    for name, rows in _read(table, way).items():
        _check_rows(name, rows, wanted)
    for where in FILTERS[:6]:
        _check_rows(f"filter={where!r}", way.read(table, where), theirs.to_table(filter=where))


def _read(table: str | TableRef, way: Way) -> dict[str, pa.Table]:
    return {
        "a scan of this library": way.read(table, None),
        "a shuffled permutation": read_shuffled(table),
        "the iterable dataset": read_in_order(table),
    }


def _check_rows(name: str, found: pa.Table, wanted: pa.Table) -> None:
    assert found.column_names == wanted.column_names, name
    for column in wanted.column_names:
        assert _type(found.schema.field(column).type) == _type(wanted.schema.field(column).type), (name, column)
    left, right = _by_id(found), _by_id(wanted)
    for column in wanted.column_names:
        assert [row[column] for row in left] == [row[column] for row in right], f"{name}: column {column}"


def _by_id(table: pa.Table) -> list[dict[str, str]]:
    """Rows in the order of their ids, values as text: so NaN equals NaN. Appends may bring an id again."""
    rows = [{name: repr(value) for name, value in row.items()} for row in table.to_pylist()]
    return sorted(rows, key=lambda row: (int(row["id"]), *row.values()))


def _types(schema: pa.Schema) -> dict[str, str]:
    return {field.name: f"{_type(field.type)} {field.nullable}" for field in schema}


def _type(dtype: pa.DataType) -> str:
    """A type as text. The type of a dictionary's indices says nothing of values; vectors are stored in one type."""
    if pa.types.is_dictionary(dtype):
        return str(pa.dictionary(pa.int32(), dtype.value_type))
    is_vector = isinstance(dtype, pa.FixedShapeTensorType) and len(dtype.shape) == 1
    return str(dtype.storage_type if is_vector else dtype)


def _questions() -> dict[str, Callable[[lance.LanceDataset], Any]]:
    asked: dict[str, Callable[[lance.LanceDataset], Any]] = {
        f"where {where}": lambda dataset, where=where: _ids(dataset, filter=where) for where in FILTERS
    }
    asked["full text"] = lambda dataset: _ids(dataset, full_text_query="cat") if _has_text_index(dataset) else None
    asked["nearest"] = _nearest
    return asked


def _has_text_index(dataset: lance.LanceDataset) -> bool:
    return any(index.index_type.upper() in ("INVERTED", "FTS") for index in dataset.describe_indices())


def _ids(dataset: lance.LanceDataset, **options: Any) -> list[int]:
    columns = ["id", "_score"] if "full_text_query" in options else ["id"]
    found = sorted(dataset.to_table(columns=columns, **options)["id"].to_pylist())
    if "filter" in options:
        assert dataset.count_rows(options["filter"]) == len(found)
    return found


def _nearest(dataset: lance.LanceDataset) -> list[float]:
    """Distances, which rows of equal distance share."""
    query = {"column": "vec", "q": [4.0] * 8, "k": 10, "nprobes": 20}
    return sorted(dataset.to_table(columns=["id", "_distance"], nearest=query)["_distance"].to_pylist())
