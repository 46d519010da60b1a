"""Tables with blobs through every kind of write: the columns beside them keep their values."""

from __future__ import annotations

import lance
import pyarrow as pa
import pytest

from ray_lance.blobs import blob
from ray_lance.errors import CommitError
from ray_lance.write.commit import commit_rows
from ray_lance.write.field_ids import check_fields, new_schema
from tests.orphans import orphans
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
