from __future__ import annotations

import lance
import pyarrow as pa
import pytest

from ray_lance.errors import InvalidArgumentError
from ray_lance.write.names import check_names
from tests.sinks import one_task_each
from tests.writes import write_tables

RESERVED = [
    "_rowid",
    "_rowaddr",
    "_rowoffset",
    "_fragid",
    "_row_created_at_version",
    "_row_last_updated_at_version",
    "__ray_lance_bucket",
    "_ray_lance_failure",
]
UNREADABLE = ["", "a`b", "`a`", "a\0b"]


@pytest.mark.parametrize("name", [*RESERVED, *UNREADABLE, "a.b"])
@pytest.mark.parametrize("mode", ["create", "overwrite"])
def test_columns_that_could_not_be_read_are_not_written(uri, name, mode):
    lance.write_dataset(pa.table({"z": [1]}), uri, mode="create") if mode == "overwrite" else None

    with pytest.raises(InvalidArgumentError, match="rename"):
        one_task_each(uri, pa.table({"k": [1], name: [1]}), mode=mode)
    with pytest.raises(InvalidArgumentError, match="rename"):
        write_tables(uri, [pa.table({name: [1]})], mode=mode, schema=pa.schema([(name, pa.int64())]))

    if mode == "overwrite":
        assert lance.dataset(uri).schema.names == ["z"]


@pytest.mark.parametrize("name", UNREADABLE)
@pytest.mark.parametrize(
    "nested",
    [
        lambda struct: struct,
        lambda struct: pa.list_(struct),
        lambda struct: pa.struct([("s", pa.list_(struct))]),
        lambda struct: pa.map_(pa.string(), struct),
    ],
)
def test_fields_that_could_not_be_named_are_refused_at_any_depth(name, nested):
    dtype = nested(pa.struct([("ok", pa.int8()), (name, pa.int8())]))

    with pytest.raises(InvalidArgumentError, match="of struct 'x"):
        check_names(pa.schema([("x", dtype)]))


@pytest.mark.parametrize(
    "dtype", [pa.struct([("a", pa.int8()), ("a", pa.int8())]), pa.list_(pa.struct([("a", pa.int8())] * 2))], ids=str
)
def test_fields_of_one_name_are_refused(dtype):
    with pytest.raises(InvalidArgumentError, match=r"'a' of struct 'x': the name occurs more than once"):
        check_names(pa.schema([("x", dtype)]))


NAMES = ["a b", "é", "A", 'a"b', "a'b", "a\nb", "select", "_distance", "_score", "a[0]", "*", " "]


@pytest.mark.parametrize("name", NAMES)
def test_other_names_are_written_and_read_back(uri, name):
    rows = pa.table({name: [1, 2], "s": pa.StructArray.from_arrays([pa.array([1, 2])], [name])})

    write_tables(uri, [rows])

    assert lance.dataset(uri).to_table().equals(rows)
    assert lance.dataset(uri).take([1]).to_pylist() == rows.slice(1).to_pylist()


def test_fields_may_hold_dots_and_reserved_names(uri):
    rows = pa.table({"s": [{"a.b": 1, "_rowid": 2}]})

    write_tables(uri, [rows])

    assert lance.dataset(uri).to_table(columns=["s.`a.b`"]).to_pydict() == {"s.`a.b`": [1]}


def test_rows_are_added_to_a_column_that_has_a_reserved_name_already(uri):
    lance.write_dataset(pa.table({"_fragid": [7]}), uri)

    write_tables(uri, [pa.table({"_fragid": [8]})], mode="append")

    assert lance.dataset(uri).to_table().to_pydict() == {"_fragid": [7, 8]}
