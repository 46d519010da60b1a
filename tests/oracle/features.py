"""Small tables, each with one feature of Lance, and what this library does with them."""

from __future__ import annotations

import datetime
import decimal
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import lance
import numpy as np
import pyarrow as pa
from lance.arrow import bfloat16_array
from lance.blob import blob_array

from ray_lance.table import TableRef
from tests.indexes import POINT
from tests.oracle.cases import Merge, Rows
from tests.oracle.ways import InProcess, read_shuffled

__all__ = ["FEATURES", "WAYS", "Table"]

_WAY = InProcess()
_ROWS = 12


@dataclass(frozen=True)
class Table:
    """A table and rows to write into it.

    Attributes:
        source: What this library is given.
        new: Two rows whose ids are there, and two whose ids are new.
        open: Opens what stands there now.
    """

    source: str | TableRef
    new: pa.Table
    open: Callable[[], lance.LanceDataset]


def _rows(ids: range, values: pa.Array | None = None) -> pa.Table:
    numbers = np.array(ids)
    columns: dict[str, Any] = {
        "id": pa.array(numbers),
        "num": pa.array(numbers % 5),
        "text": [f"cat {number % 3}" if number % 2 else "dog" for number in ids],
        "tags": [["a", "b"] if number % 2 else ["b"] for number in ids],
        "vec": pa.FixedSizeListArray.from_arrays(pa.array(np.repeat(numbers.astype(np.float32), 8)), 8),
    }
    return pa.table(columns if values is None else {**columns, "value": values})


def _plain(uri: str, **options: Any) -> Table:
    lance.write_dataset(_rows(range(_ROWS)), uri, max_rows_per_file=5, **options)
    return Table(uri, _rows(range(_ROWS - 2, _ROWS + 2)), lambda: lance.dataset(uri))


def _changed(change: Callable[[lance.LanceDataset], object], **options: Any) -> Callable[[str], Table]:
    """A table to which something has been done."""

    def make(uri: str) -> Table:
        table = _plain(uri, **options)
        change(table.open())
        return table

    return make


def _scalar_index(kind: str, column: str) -> Callable[[str], Table]:
    return _changed(lambda dataset: dataset.create_scalar_index(column, kind))


def _vector_index(kind: str, **options: Any) -> Callable[[str], Table]:
    def make(uri: str) -> Table:
        lance.write_dataset(_rows(range(300)), uri, max_rows_per_file=200)
        lance.dataset(uri).create_index("vec", kind, metric="L2", num_partitions=2, **options)
        return Table(uri, _rows(range(298, 302)), lambda: lance.dataset(uri))

    return make


def _branch(source: Callable[[lance.LanceDataset, str], str | TableRef]) -> Callable[[str], Table]:
    def make(uri: str) -> Table:
        table = _plain(uri)
        branch = table.open().create_branch("team/dev")
        lance.write_dataset(_rows(range(100, 103)), branch, mode="append")
        branch = table.open().checkout_version(("team/dev", None))
        return Table(source(branch, uri), table.new, lambda: lance.dataset(uri).checkout_version(("team/dev", None)))

    return make


def _tag(uri: str) -> Table:
    table = _plain(uri)
    table.open().tags.create("v1", 1)
    lance.write_dataset(_rows(range(100, 103)), uri, mode="append")
    return Table(TableRef.of(uri, version="v1"), table.new, lambda: lance.dataset(uri, version="v1"))


def _clone(uri: str) -> Table:
    table = _plain(f"{uri}-original")
    table.open().shallow_clone(uri, 1)
    return Table(uri, table.new, lambda: lance.dataset(uri))


def _based(uri: str) -> Table:
    base = lance.DatasetBasePath(f"{uri}-base", name="second", is_dataset_root=False)
    lance.write_dataset(_rows(range(_ROWS)), uri, initial_bases=[base], target_bases=["second"])
    return Table(uri, _rows(range(_ROWS - 2, _ROWS + 2)), lambda: lance.dataset(uri))


def _typed(make: Callable[[int], Any], **options: Any) -> Callable[[str], Table]:
    """A table with a column of one type; ``make`` gives ``rows`` values, an array or Python objects."""

    def values(rows: int) -> pa.Array:
        made = make(rows)
        return made if isinstance(made, pa.Array) else pa.array(made)

    def table(uri: str) -> Table:
        lance.write_dataset(_rows(range(_ROWS), values(_ROWS)), uri, max_rows_per_file=5, **options)
        return Table(uri, _rows(range(_ROWS - 2, _ROWS + 2), values(4)), lambda: lance.dataset(uri))

    return table


def _array(dtype: pa.DataType, *values: Any) -> Callable[[str], Table]:
    return _typed(lambda rows: pa.array([values[row % len(values)] for row in range(rows)], dtype))


def _blobs(rows: int) -> list[bytes | None]:
    return [None if row % 5 == 3 else b"z" * row for row in range(rows)]


def _blob_1(uri: str) -> Table:
    field = pa.field("value", pa.large_binary(), metadata={"lance-encoding:blob": "true"})

    return _of_field(uri, field, _blobs, data_storage_version="2.1")


def _points(uri: str) -> Table:
    made = _of_field(uri, POINT.with_name("value"), lambda rows: [{"x": row, "y": -row} for row in range(rows)])
    made.open().create_scalar_index("value", "RTREE")
    return made


def _of_field(uri: str, field: pa.Field, values: Callable[[int], list[Any]], **options: Any) -> Table:
    """A table with a column that its field's metadata says more of."""

    def rows(ids: range) -> pa.Table:
        table = _rows(ids, pa.array(values(len(ids)), field.type))
        return table.cast(table.schema.set(table.schema.get_field_index("value"), field))

    lance.write_dataset(rows(range(_ROWS)), uri, max_rows_per_file=5, **options)
    return Table(uri, rows(range(_ROWS - 2, _ROWS + 2)), lambda: lance.dataset(uri))


_WHEN = datetime.datetime(2024, 5, 6, 7, 8, 9)

FEATURES: Mapping[str, Callable[[str], Table]] = {
    "BTREE": _scalar_index("BTREE", "num"),
    "BITMAP": _scalar_index("BITMAP", "num"),
    "LABEL_LIST": _scalar_index("LABEL_LIST", "tags"),
    "NGRAM": _scalar_index("NGRAM", "text"),
    "ZONEMAP": _scalar_index("ZONEMAP", "num"),
    "BLOOMFILTER": _scalar_index("BLOOMFILTER", "num"),
    "RTREE (points)": _points,
    "INVERTED (full text)": _scalar_index("INVERTED", "text"),
    "IVF_FLAT": _vector_index("IVF_FLAT"),
    "IVF_PQ": _vector_index("IVF_PQ", num_sub_vectors=2),
    "IVF_SQ": _vector_index("IVF_SQ"),
    "IVF_HNSW_SQ": _vector_index("IVF_HNSW_SQ"),
    "IVF_HNSW_PQ": _vector_index("IVF_HNSW_PQ", num_sub_vectors=2),
    "branch, by handle": _branch(lambda handle, _: TableRef.of(handle)),
    "branch, by `version=(name, number)`": _branch(lambda _, uri: TableRef.of(uri, version=("team/dev", None))),
    "branch, by its uri": _branch(lambda _, uri: f"{uri}/tree/team/dev"),
    "tag": _tag,
    "shallow clone": _clone,
    "further base paths": _based,
    "stable row ids": lambda uri: _plain(uri, enable_stable_row_ids=True),
    "deleted rows": _changed(lambda dataset: dataset.delete("id IN (1, 7)")),
    "deleted rows, stable row ids": _changed(
        lambda dataset: dataset.delete("id IN (1, 7)"), enable_stable_row_ids=True
    ),
    "updated rows": _changed(lambda dataset: dataset.update({"num": "9"}, where="id < 3")),
    "added columns": _changed(lambda dataset: dataset.add_columns({"more": "id * 3"})),
    "dropped columns": _changed(lambda dataset: dataset.drop_columns(["tags"])),
    "renamed columns": _changed(lambda dataset: dataset.alter_columns({"path": "tags", "name": "labels"})),
    "compacted files": _changed(lambda dataset: dataset.optimize.compact_files()),
    "files of version 0.1 (legacy)": lambda uri: _plain(uri, data_storage_version="legacy"),
    "files of version 2.0": lambda uri: _plain(uri, data_storage_version="2.0"),
    "files of version 2.1": lambda uri: _plain(uri, data_storage_version="2.1"),
    "files of version 2.2": lambda uri: _plain(uri, data_storage_version="2.2"),
    "int8 to int64, uint8 to uint64": _array(pa.uint64(), 0, 2**64 - 1, None),
    "float16, float32, float64": _array(pa.float16(), np.float16(0.5), np.float16("nan"), None),
    "lance.bfloat16": _typed(lambda rows: bfloat16_array([float(row) for row in range(rows)])),
    "bool": _array(pa.bool_(), True, False, None),
    "string, large_string": _array(pa.large_string(), "a", "", None),
    "binary, large_binary": _array(pa.large_binary(), b"a", b"", None),
    "fixed_size_binary": _array(pa.binary(3), b"abc", None),
    "date32, date64": _array(pa.date32(), _WHEN.date(), None),
    "timestamp": _array(pa.timestamp("us"), _WHEN, None),
    "timestamp with a time zone": _array(pa.timestamp("ns", "Europe/Berlin"), _WHEN, None),
    "time, duration": _array(pa.duration("ms"), datetime.timedelta(seconds=3), None),
    "decimal128": _array(pa.decimal128(10, 2), decimal.Decimal("1.25"), None),
    "dictionary (categories)": _typed(
        lambda rows: pa.array([("x", "y", "z")[row % 3] for row in range(rows)]).dictionary_encode()
    ),
    "fixed_size_list (vectors)": _array(pa.list_(pa.float32(), 2), [1, 2], [3, 4]),
    "arrow.fixed_shape_tensor": _typed(
        lambda rows: pa.FixedShapeTensorArray.from_numpy_ndarray(
            np.arange(rows * 6, dtype=np.float32).reshape(rows, 2, 3)
        )
    ),
    "list, large_list": _array(pa.list_(pa.int32()), [1], [], None, [2, 3]),
    "list of lists": _array(pa.list_(pa.list_(pa.int32())), [[1], []], [], None),
    "struct": _array(pa.struct([("a", pa.int32()), ("b", pa.string())]), {"a": 1, "b": "x"}, {"a": None, "b": None}),
    "struct in a struct": _array(pa.struct([("s", pa.struct([("a", pa.int32())]))]), {"s": {"a": 1}}),
    "list of structs": _array(pa.list_(pa.struct([("a", pa.int32())])), [{"a": 1}], [], [{"a": None}]),
    "blob, layout 1": _blob_1,
    "blob, layout 2": _typed(lambda rows: blob_array(_blobs(rows)), data_storage_version="2.2"),
}
"""A feature, and a function that makes a table with it at a path."""


def _read(table: Table) -> None:
    _check(_WAY.read(table.source, None), table)
    assert _ids(_WAY.read(table.source, "num = 2")) == _ids(table.open().to_table(filter="num = 2"))


def _shuffle(table: Table) -> None:
    _check(read_shuffled(table.source), table)


def _append(table: Table) -> None:
    ids = _ids(table.open().to_table(columns=["id"]))
    _WAY.write(table.source, [_fitting(table)], "append")
    _check_written(table, sorted([*ids, *_ids(table.new)]))


def _merge(table: Table) -> None:
    ids = _ids(table.open().to_table(columns=["id"]))
    _WAY.merge(table.source, [_fitting(table)], Merge(Rows((), 0), update=True, insert=True, delete_missing=False))
    _check_written(table, sorted({*ids, *_ids(table.new)}))


def _overwrite(table: Table) -> None:
    _WAY.write(table.source, [table.new], "overwrite")
    _check_written(table, _ids(table.new))


def _add_columns(table: Table) -> None:
    name = f"twice_{uuid.uuid4().hex[:4]}"
    before = table.open().to_table()
    _WAY.add_column(table.source, name)
    after = table.open().to_table()
    assert _text(after.select(before.column_names)) == _text(before)
    assert after[name].to_pylist() == [number * 2 for number in after["id"].to_pylist()]
    _check_answers(table.open())


WAYS: Mapping[str, Callable[[Table], None]] = {
    "read": _read,
    "shuffle": _shuffle,
    "append": _append,
    "merge": _merge,
    "overwrite": _overwrite,
    "add columns": _add_columns,
}
"""What is done with a table; raises AssertionError where the outcome is not what Lance in process gives."""


def _fitting(table: Table) -> pa.Table:
    """The new rows with the columns that the table has now."""
    rows = table.new
    for name in table.open().schema.names:
        if name not in rows.column_names:
            rows = rows.append_column(name, pa.array([None] * rows.num_rows, table.open().schema.field(name).type))
    return rows.select(table.open().schema.names)


def _check_written(table: Table, ids: list[int]) -> None:
    """Whether the table holds these rows, and all their values."""
    dataset = table.open()
    assert _ids(dataset.to_table(columns=["id"])) == ids
    new = _all_rows(dataset).filter(pa.compute.field("id").isin(_ids(table.new)))
    wanted = {row["id"]: row for row in _plain_rows(_fitting(table))}
    written = _plain_rows(new)[-len(wanted) :]
    assert {row["id"]: row for row in written} == wanted
    _check(_WAY.read(TableRef.of(table.source).latest(), None), table)
    _check_answers(dataset)


def _check(found: pa.Table, table: Table) -> None:
    assert _text(found) == _text(_all_rows(table.open()))


def _check_answers(dataset: lance.LanceDataset) -> None:
    """Whether filters, which may use an index, find what a look at all rows finds."""
    rows = dataset.to_table(columns=["id", "num", "text", "vec"]).to_pylist()
    for where, holds in (("num = 2", lambda row: row["num"] == 2), ("text = 'dog'", lambda row: row["text"] == "dog")):
        found = dataset.to_table(columns=["id"], filter=where)
        assert _ids(found) == sorted(row["id"] for row in rows if holds(row)), where
    query = {"column": "vec", "q": [0.0] * 8, "k": 5, "nprobes": 9, "refine_factor": 50}
    found = dataset.to_table(columns=["id", "_distance"], nearest=query)
    assert sorted(found["_distance"].to_pylist()) == sorted(8 * row["vec"][0] ** 2 for row in rows)[:5]


def _all_rows(dataset: lance.LanceDataset) -> pa.Table:
    return dataset.scanner(blob_handling="all_binary").to_table()


def _ids(table: pa.Table) -> list[int]:
    return sorted(table["id"].to_pylist())


def _plain_rows(table: pa.Table) -> list[dict[str, str]]:
    """Rows as text, blobs as their bytes."""
    return [{name: repr(_plain_value(value)) for name, value in row.items()} for row in table.to_pylist()]


def _plain_value(value: Any) -> Any:
    return value.get("data") if isinstance(value, dict) and "data" in value and "uri" in value else value


def _text(table: pa.Table) -> list[dict[str, str]]:
    return sorted(_plain_rows(table), key=repr)
