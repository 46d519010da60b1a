"""Tables with blobs through every kind of write: the columns beside them keep their values."""

from __future__ import annotations

from collections.abc import Callable

import lance
import pyarrow as pa
import pytest

from ray_lance.errors import CommitError
from ray_lance.fields import blob
from ray_lance.scan.scan import ROW_ADDRESS
from ray_lance.write.column_commit import commit_group
from ray_lance.write.column_files import write_column_file
from ray_lance.write.field_ids import as_stored, check_fields, new_schema
from ray_lance.write.row_commit import commit_rows
from tests.orphans import orphans
from tests.unit.write.test_columns import start, todo
from tests.writes import merge, write_tables

LAYOUTS = [(2, "2.2"), (2, "2.3"), (1, "2.2"), (1, "2.1"), (1, "2.0")]


def rows(start: int, stop: int, order: tuple[str, ...], scale: int = 1) -> pa.Table:
    ids = range(start, stop)
    columns = {
        "id": pa.array(ids, pa.int64()),
        "blob": pa.array([None if i % 4 == 3 else b"z" * i * scale for i in ids], pa.large_binary()),
        "x": pa.array([float(i * scale) for i in ids]),
        "more": pa.array([b"%d" % i * scale for i in ids], pa.large_binary()),
        "text": pa.array([f"text {i * scale}" for i in ids]),
    }
    return pa.table({name: columns[name] for name in order})


def blob_schema(table: pa.Table, version: int) -> pa.Schema:
    fields = [blob(each.name, version=version) if each.type == pa.large_binary() else each for each in table.schema]
    return pa.schema(fields)


def read(uri: str) -> pa.Table:
    """As a scan delivers it, which is what is written when a table is copied."""
    return lance.dataset(uri).scanner(blob_handling="all_binary").to_table()


ORDERS = [("id", "blob", "x"), ("blob", "id", "x"), ("id", "x", "blob"), ("blob", "id", "more", "x", "text")]


@pytest.mark.parametrize("order", ORDERS, ids="-".join)
@pytest.mark.parametrize(("version", "storage"), LAYOUTS)
def test_tables_with_blobs_are_overwritten_and_copied_with_themselves(uri, tmp_path, version, storage, order):
    table = rows(0, 6, order)
    copy = str(tmp_path / "copy.lance")
    write_tables(uri, [table], schema=blob_schema(table, version), data_storage_version=storage)

    for target, mode in ((copy, "create"), (uri, "overwrite"), (uri, "append")):
        write_tables(target, [read(uri)], mode=mode, data_storage_version=storage)

    assert read(copy).to_pydict() == table.to_pydict()
    assert read(uri).to_pydict() == pa.concat_tables([table, table]).to_pydict()
    for place in (uri, copy):
        lance.dataset(place).validate()
        assert orphans(place) == []


@pytest.mark.parametrize(("version", "storage"), LAYOUTS)
def test_tables_with_blobs_are_merged(uri, version, storage):
    table = rows(0, 6, ORDERS[-1])
    write_tables(uri, [table], schema=blob_schema(table, version), data_storage_version=storage)
    new = rows(4, 8, ORDERS[-1], scale=3)

    merge(uri, new, on=["id"])

    assert read(uri).sort_by("id").to_pydict() == pa.concat_tables([table.slice(0, 4), new]).to_pydict()
    assert orphans(uri) == []


@pytest.mark.parametrize(("version", "storage"), LAYOUTS)
def test_rows_are_appended_to_a_table_with_blobs_that_was_created_empty(uri, version, storage):
    table = rows(0, 6, ORDERS[0])
    schema = blob_schema(table, version)
    write_tables(uri, [], schema=schema, data_storage_version=storage)

    write_tables(uri, [table], mode="append")

    assert read(uri).to_pydict() == table.to_pydict()


def test_files_that_do_not_fit_the_schema_are_never_committed(uri, tmp_path):
    table = rows(0, 6, ORDERS[0])
    job = write_tables(uri, [table], schema=blob_schema(table, 2))
    other = lance.fragment.write_fragments(table, str(tmp_path / "other"), mode="create")

    with pytest.raises(CommitError, match="nothing was committed"):
        commit_rows(job, other)
    with pytest.raises(CommitError, match=r"holds nothing of the columns \['x'\]"):
        check_fields(other, new_schema(blob_schema(table, 2), "2.2"))
    with pytest.raises(CommitError, match=r"fields with the ids \[2\]"):
        check_fields(other, new_schema(table.schema.remove(2), "2.2"))

    assert lance.dataset(uri).version == 1


def nested_rows(start: int, stop: int, nesting: str) -> pa.Table:
    values = [None if i % 4 == 3 else b"z" * i for i in range(start, stop)]
    if nesting == "struct":
        deep = [None if i % 5 == 4 else {"a": i, "blob": value} for i, value in enumerate(values, start)]
    elif nesting == "list":
        deep = [None if i % 5 == 4 else [value] * (i % 3) for i, value in enumerate(values, start)]
    else:
        deep = [{"parts": [{"blob": value, "a": i}] * (i % 3)} for i, value in enumerate(values, start)]
    return pa.table({"id": range(start, stop), "deep": deep, "x": [float(i) for i in range(start, stop)]})


def nested_schema(version: int, nesting: str) -> pa.Schema:
    field = blob("blob", version=version)
    dtype = {
        "struct": pa.struct([pa.field("a", pa.int64()), field]),
        "list": pa.list_(field),
        "struct<list<struct>>": pa.struct([("parts", pa.list_(pa.struct([field, pa.field("a", pa.int64())])))]),
    }[nesting]
    return pa.schema([("id", pa.int64()), ("deep", dtype), ("x", pa.float64())])


@pytest.mark.parametrize("nesting", ["struct", "list", "struct<list<struct>>"])
@pytest.mark.parametrize(("version", "storage"), [(2, "2.2"), (1, "2.2")])
def test_blobs_inside_of_structs_and_lists_are_written(uri, version, storage, nesting):
    schema = nested_schema(version, nesting)
    parts = [nested_rows(start, start + 7, nesting) for start in (0, 7, 14)]

    write_tables(uri, [parts[0].slice(0, 3), parts[0].slice(3)], schema=schema, data_storage_version=storage)
    write_tables(uri, [parts[1].slice(0, 2), parts[1].slice(2)], mode="append")
    merge(uri, parts[2], on=["id"])
    write_tables(uri, [read(uri)], mode="append")

    expected = pa.concat_tables([*parts, *parts]).sort_by("id").to_pylist()
    assert read(uri).sort_by("id").to_pylist() == expected
    assert lance.dataset(uri).schema.types[2] == pa.float64()
    lance.dataset(uri).validate()


NEW_COLUMNS = {
    "2-2.2": pa.schema([blob("plus")]),
    "1-2.2": pa.schema([blob("plus", version=1)]),
    "1-2.0": pa.schema([blob("plus", version=1)]),
    "nested-2.2": pa.schema([("plus", pa.struct([pa.field("n", pa.int64()), blob("blob")]))]),
}


@pytest.mark.parametrize("case", NEW_COLUMNS)
def test_columns_of_blobs_are_added(uri, case):
    storage = case.rpartition("-")[2]
    table = pa.table({"gone": [0] * 6, "id": range(6), "x": [float(i) for i in range(6)]})
    lance.write_dataset(table, uri, max_rows_per_file=4, data_storage_version=storage)
    lance.dataset(uri).drop_columns(["gone"])

    job = start(uri, columns=as_stored(NEW_COLUMNS[case], storage))
    value = (lambda i: {"n": i, "blob": b"z" * i}) if case == "nested-2.2" else (lambda i: b"z" * i)
    written = [
        write_column_file(
            job, work, lambda work=work: [addressed(uri, work.fragment_id, lambda i: None if i == 2 else value(i))]
        )
        for work in todo(job).passes[0].fragments
    ]
    commit_group(job, written)

    expected = [{"id": i, "x": float(i), "plus": None if i == 2 else value(i)} for i in range(6)]
    assert read(uri).to_pylist() == expected
    lance.dataset(uri).validate()


def addressed(uri: str, fragment_id: int, value: Callable[[int], object]) -> pa.Table:
    fragment = lance.dataset(uri).get_fragment(fragment_id)
    rows = fragment.scanner(columns=["id"], with_row_address=True).to_table()
    return pa.table({ROW_ADDRESS: rows[ROW_ADDRESS], "plus": [value(i) for i in rows["id"].to_pylist()]})
