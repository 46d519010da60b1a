from __future__ import annotations

import lance
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ray_lance.errors import InvalidArgumentError, SchemaMismatchError, UnknownColumnError
from ray_lance.fields import blob
from ray_lance.write.schema import fit, refuse_null_types, with_fields
from tests.orphans import orphans
from tests.writes import write_tables


def test_columns_are_matched_by_name_and_missing_ones_are_null(uri):
    write_tables(uri, [pa.table({"a": [1], "b": ["x"], "v": pa.FixedSizeListArray.from_arrays([1.0, 2.0], 2)})])

    write_tables(uri, [pa.table({"b": ["y"], "a": [2]})], mode="append")

    expected = {"a": [1, 2], "b": ["x", "y"], "v": [[1.0, 2.0], None]}
    assert lance.dataset(uri).to_table().to_pydict() == expected


APPENDS_REFUSED = [
    (pa.table({"a": [1], "c": [1], "d": [2]}), r"columns \['c', 'd'\]"),
    (pa.table({"a": [2**40]}), "1099511627776"),
    (pa.table({"a": [1.0, 2.5]}), "2.5"),
    (pa.table({"a": ["1"]}), "'a'"),
    (pa.table([[1], [2]], ["a", "a"]), r"columns \['a'\] occur more than once"),
]


@pytest.mark.parametrize(("rows", "message"), APPENDS_REFUSED, ids=["extra", "range", "fraction", "text", "twice"])
def test_rows_that_do_not_fit_are_refused_by_name_and_value(uri, rows, message):
    write_tables(uri, [pa.table({"a": pa.array([1], pa.int32())})])

    with pytest.raises(SchemaMismatchError, match=message):
        write_tables(uri, [rows], mode="append")

    assert lance.dataset(uri).count_rows() == 1
    assert orphans(uri) == []


def test_lossless_casts_are_made(uri):
    write_tables(uri, [pa.table({"a": pa.array([1], pa.int32()), "s": pa.array(["x"], pa.large_string())})])

    write_tables(uri, [pa.table({"a": [2.0], "s": pa.array(["y"]).dictionary_encode()})], mode="append")

    assert lance.dataset(uri).to_table().to_pydict() == {"a": [1, 2], "s": ["x", "y"]}


def test_metadata_of_schema_and_fields_is_kept(uri):
    field = pa.field("a", pa.int64(), metadata={"unit": "m"})
    schema = pa.schema([field], metadata={"huggingface": '{"info": {"features": {}}}', "own": "x"})

    write_tables(uri, [pa.table({"a": [1]}, schema=schema)])

    written = lance.dataset(uri).schema
    assert written.metadata == schema.metadata
    assert written.field("a").metadata == field.metadata


def test_the_first_rows_must_tell_the_types():
    with pytest.raises(SchemaMismatchError, match=r"columns \['b'\] hold only nulls"):
        refuse_null_types(pa.schema([("a", pa.int64()), ("b", pa.null())]))


def test_given_fields_replace_inferred_ones():
    schema = pa.schema([("a", pa.int64()), ("b", pa.binary())])

    assert with_fields(schema, [pa.field("a", pa.int8())]) == pa.schema([("a", pa.int8()), ("b", pa.binary())])
    with pytest.raises(UnknownColumnError, match="schema: there is no column 'c'"):
        with_fields(schema, [pa.field("c", pa.int8())])


BLOBS = st.lists(st.none() | st.binary(max_size=20) | st.just(b"x" * 100_000), min_size=1, max_size=12)


@pytest.mark.parametrize(("version", "storage"), [(2, None), (1, "2.1"), (1, "2.0"), (1, None)])
@given(values=BLOBS)
def test_blobs_come_back_with_nulls_in_their_places(tmp_path_factory, version, storage, values):
    uri = str(tmp_path_factory.mktemp("blobs") / "t.lance")
    table = pa.table({"id": np.arange(len(values)), "data": pa.array(values, pa.binary())})
    schema = pa.schema([("id", pa.int64()), blob("data", version=version)])

    write_tables(uri, [table], schema=schema, data_storage_version=storage)
    write_tables(uri, [table.slice(1)], mode="append")

    dataset = lance.dataset(uri)
    read = dataset.scanner(blob_handling="all_binary").to_table()
    assert read["data"].to_pylist() == values + values[1:]
    assert orphans(uri) == []


def test_blobs_are_stored_apart_and_removed_with_their_file(uri, tmp_path):
    table = pa.table({"data": pa.array([b"x" * 6_000_000, b"y" * 200_000], pa.binary())})

    write_tables(uri, [table], schema=pa.schema([blob("data")]))

    dataset = lance.dataset(uri)
    assert dataset.take_blobs("data", indices=[1])[0].readall() == b"y" * 200_000
    dataset.delete("false")
    dataset.optimize.compact_files()
    dataset.cleanup_old_versions(retain_versions=1, delete_unverified=True)
    assert len(lance.dataset(uri).take_blobs("data", indices=[0])[0].readall()) == 6_000_000


def test_a_blob_has_one_of_two_versions():
    with pytest.raises(InvalidArgumentError, match="version=3 must be 1 or 2"):
        blob("data", version=3)


def test_blob_arrays_of_lance_fit_as_they_are():
    table = pa.table({"data": lance.blob_array([b"a", None])}, schema=pa.schema([blob("data")]))

    assert fit(table, table.schema).equals(table)
