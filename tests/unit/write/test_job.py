from __future__ import annotations

import lance
import pyarrow as pa
import pytest

from ray_lance.errors import (
    DatasetExistsError,
    DatasetNotFoundError,
    InvalidArgumentError,
    SchemaMismatchError,
    UnknownColumnError,
)
from ray_lance.fields import blob
from ray_lance.table import TableRef
from ray_lance.write.column_job import ColumnJob
from ray_lance.write.column_record import ColumnRecord, Recipe
from ray_lance.write.job import WriteJob, begin
from ray_lance.write.options import WriteOptions
from tests.datasets import sample_table
from tests.orphans import orphans
from tests.writes import QUICK, Cue, FaultySend, write_tables


def table_of(tmp_path, *table_id: str) -> TableRef:
    """A table of a directory namespace that is not there yet."""
    return TableRef(
        None, table_id=table_id, namespace_impl="dir", namespace_properties={"root": str(tmp_path / "namespace")}
    )


@pytest.fixture(params=[("t",), ("db", "t"), ("a", "b", "t")], ids="/".join)
def namespaced(tmp_path, request) -> TableRef:
    return table_of(tmp_path, *request.param)


def test_a_table_of_a_namespace_is_created_appended_and_overwritten(namespaced):
    write_tables(namespaced, [sample_table(3)])
    write_tables(namespaced, [sample_table(2, 3)], mode="append")
    assert namespaced.open().to_table().equals(sample_table(5))

    job = write_tables(namespaced, [sample_table(2)], mode="overwrite")

    assert namespaced.open().to_table().equals(sample_table(2))
    assert orphans(job.uri) in ([], [".lance-reserved"])


def test_a_table_of_a_namespace_is_not_created_twice(namespaced):
    write_tables(namespaced, [sample_table(3)])

    with pytest.raises(DatasetExistsError):
        write_tables(namespaced, [sample_table(3)])


def test_a_failed_create_takes_the_declaration_back(namespaced, tmp_path):
    with pytest.raises(Exception, match="nothing was committed"):
        write_tables(namespaced, [sample_table(3)], send=FaultySend(before=Cue(frozenset(range(QUICK.max_attempts)))))

    assert [path.name for path in (tmp_path / "namespace").iterdir()] == ["__manifest"]
    write_tables(namespaced, [sample_table(3)])
    assert namespaced.open().count_rows() == 3


def test_nested_tables_of_one_name_are_told_apart(tmp_path):
    tables = [table_of(tmp_path, *table_id) for table_id in [("t",), ("db", "t"), ("other", "t"), ("db", "s")]]

    for rows, table in enumerate(tables, start=1):
        write_tables(table, [sample_table(rows)])

    assert [table.open().count_rows() for table in tables] == [1, 2, 3, 4]


@pytest.mark.parametrize("mode", ["append", "merge"])
def test_a_nested_table_that_is_not_there_is_not_found(tmp_path, mode):
    options = WriteOptions(mode=mode, on=("id",) if mode == "merge" else ())

    with pytest.raises(DatasetNotFoundError, match=r"table \['db', 't'\] of the 'dir' namespace"):
        begin(table_of(tmp_path, "db", "t"), options)


def test_a_version_to_write_on_is_refused(uri):
    with pytest.raises(InvalidArgumentError, match="version=3: writes go on top of the latest version"):
        begin(TableRef.of(uri, version=3), WriteOptions())


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"mode": "merge", "on": "idd"}, UnknownColumnError, "on: there is no column 'idd'. Did you mean 'id'"),
        (
            {"mode": "append", "schema": pa.schema([("id", pa.int8())])},
            InvalidArgumentError,
            "schema: column 'id' is int64 in the dataset, not int8",
        ),
        ({"mode": "append", "schema": pa.schema([("ix", pa.int8())])}, UnknownColumnError, "schema: .*'ix'"),
        (
            {"mode": "append", "schema": [pa.field("id", pa.int8())]},
            InvalidArgumentError,
            "schema: column 'id' is int64 in the dataset, not int8",
        ),
    ],
    ids=["on", "type", "name", "field"],
)
def test_options_that_contradict_the_dataset_are_refused_before_any_work(uri, options, error, message):
    lance.write_dataset(sample_table(3), uri)

    with pytest.raises(error, match=message):
        begin(TableRef.of(uri), WriteOptions(**options))


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("storage", ["2.0", "2.2"])
def test_appending_to_a_column_of_blobs_it_may_be_said_that_it_is_one(uri, storage, version):
    table = pa.table({"x": pa.array([b"a"], pa.binary())})
    written = blob("x", version=1 if storage == "2.0" else 2)
    write_tables(uri, [table], schema=pa.schema([written]), data_storage_version=storage)

    write_tables(uri, [table], mode="append", schema=[blob("x", version=version)])

    assert lance.dataset(uri).count_rows() == 2


def test_a_schema_with_tensors_is_taken_as_it_will_be_stored(uri):
    given = pa.schema(
        [("v", pa.fixed_shape_tensor(pa.float32(), [4])), ("i", pa.fixed_shape_tensor(pa.int8(), [2, 2]))]
    )

    job = begin(TableRef.of(uri), WriteOptions(schema=given))

    assert job.schema == pa.schema([("v", pa.list_(pa.float32(), 4)), given.field("i")])


def test_a_job_shows_no_secrets():
    table = TableRef(
        "s3://someone:pass-word-1@bucket/t?token=pass-word-2",
        storage_options={"aws_secret_access_key": "pass-word-3"},
    )
    job = WriteJob(table=table, uri=str(table.uri), storage_options={"aws_session_token": "pass-word-4"})

    assert "pass-word" not in repr(job)
    assert "pass-word" not in repr(ColumnJob(job, pa.schema([]), ColumnRecord((), Recipe((), None, "", ())), 1))


def test_a_schema_must_have_types(uri):
    with pytest.raises(SchemaMismatchError, match=r"columns \['x'\]"):
        begin(TableRef.of(uri), WriteOptions(schema=pa.schema([("x", pa.null())])))
