"""Ray datasets written as Lance datasets."""

from __future__ import annotations

import subprocess
import sys

import lance
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import ray
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from lance.arrow import bfloat16_array
from ray.data import SaveMode
from ray.data.expressions import col

import ray_lance
from ray_lance.errors import (
    DatasetExistsError,
    DatasetNotFoundError,
    InvalidArgumentError,
    SchemaMismatchError,
)
from ray_lance.fields import blob
from tests.datasets import sample_table
from tests.examples import examples
from tests.orphans import leftovers, orphans
from tests.s3 import s3_server

ROWS = 12


def blocks(*tables: pa.Table) -> ray.data.Dataset:
    return ray.data.from_arrow(list(tables))


def by_id(table: pa.Table) -> pa.Table:
    return table.sort_by("id").combine_chunks()


def batch(ids: np.ndarray) -> dict[str, np.ndarray]:
    """Columns whose rows follow from their id."""
    shape = (len(ids), 2, 3)
    ragged = np.empty(len(ids), dtype=object)
    ragged[:] = [np.full(i % 3 + 1, i, np.float32) for i in ids]
    return {
        "id": ids,
        "flag": ids % 2 == 0,
        "half": ids.astype(np.float16),
        "vector": np.repeat(ids, 4).reshape(-1, 4).astype(np.float32),
        "image": np.broadcast_to(ids.reshape(-1, 1, 1), shape).astype(np.uint8),
        "ragged": ragged,
        "text": np.array([f"row {i}" for i in ids]),
        "time": np.array([f"2020-01-{i + 1:02d}" for i in ids], "datetime64[us]"),
    }


EXPECTED_TYPES = {
    "id": pa.int64(),
    "flag": pa.bool_(),
    "half": pa.float16(),
    "vector": pa.list_(pa.float32(), 4),
    "image": pa.fixed_shape_tensor(pa.uint8(), [2, 3]),
    "text": pa.string(),
    "time": pa.timestamp("us"),
}


def numpy_columns() -> ray.data.Dataset:
    return ray.data.range(ROWS, override_num_blocks=3).map_batches(lambda rows: batch(rows["id"]))


def torch_columns() -> ray.data.Dataset:
    def tensors(rows):
        return {
            name: value if value.dtype.kind in "OUM" else torch.from_numpy(np.ascontiguousarray(value))
            for name, value in batch(rows["id"]).items()
        }

    return ray.data.range(ROWS, override_num_blocks=3).map_batches(tensors)


@pytest.mark.parametrize("columns", [numpy_columns, torch_columns])
def test_columns_become_standard_arrow_types(uri, columns):
    ray_lance.write_lance(columns(), uri)

    dataset = lance.dataset(uri)
    expected = batch(np.arange(ROWS))
    table = by_id(dataset.to_table())
    assert {name: dataset.schema.field(name).type for name in EXPECTED_TYPES} == EXPECTED_TYPES
    for name in EXPECTED_TYPES.keys() - {"vector", "image"}:
        assert table[name].to_pylist() == pa.array(expected[name]).to_pylist()
    assert table["vector"].to_pylist() == expected["vector"].tolist()
    np.testing.assert_array_equal(table["image"].combine_chunks().to_numpy_ndarray(), expected["image"])
    assert table["ragged"].to_pylist() == [row.tolist() for row in expected["ragged"]]


def test_a_process_without_ray_reads_what_was_written(uri):
    ray_lance.write_lance(numpy_columns(), uri)
    program = f"""
import sys, lance
schema = lance.dataset({uri!r}).schema
table = lance.dataset({uri!r}).to_table()
assert table.num_rows == {ROWS}
assert "ray" not in sys.modules
text = str(schema) + str([(field.type, field.metadata) for field in schema])
assert "ray" not in text.replace("array", "") and "pickle" not in text, text
print("read")
"""

    assert (
        subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout == "read\n"
    )


ARROW_COLUMNS = {
    "nested": pa.array([{"a": 1, "b": {"c": ["x", None]}}, None, {"a": None, "b": None}]),
    "lists": pa.array([[1, 2], None, []], pa.list_(pa.int16())),
    "decimal": pa.array([1, None, 3], pa.decimal128(10, 2)),
    "zoned": pa.array([0, None, 10**9], pa.timestamp("ns", "Europe/Zurich")),
    "date": pa.array([0, None, 10_000], pa.date32()),
    "bytes": pa.array([b"a", None, b""], pa.large_binary()),
    "codes": pa.array(["x", None, "x"]).dictionary_encode(),
    "vector with nulls": pa.array([[1.0, 2.0], None, [3.0, 4.0]], pa.list_(pa.float32(), 2)),
    "bfloat16": bfloat16_array([1.5, None, 3.0]),
}


@pytest.mark.parametrize("name", ARROW_COLUMNS)
@pytest.mark.parametrize("mode", ["create", "append", "overwrite"])
def test_arrow_columns_come_back_as_they_were(uri, name, mode):
    table = pa.table({"id": [0, 1, 2], "value": ARROW_COLUMNS[name]})
    if mode != "create":
        lance.write_dataset(table.slice(0, 0), uri)

    ray_lance.write_lance(blocks(table.slice(0, 1), table.slice(1)), uri, mode=mode)

    read = by_id(lance.dataset(uri).to_table())
    assert read["value"].to_pylist() == table["value"].to_pylist()
    assert (
        read.schema.field("value").type == lance.write_dataset(table, uri + "2").to_table().schema.field("value").type
    )


def test_what_was_read_is_written_back_the_same(uri):
    ray_lance.write_lance(numpy_columns(), uri)

    ray_lance.write_lance(ray_lance.read_lance(uri), uri + "-copy")

    original, copy = lance.dataset(uri), lance.dataset(uri + "-copy")
    assert copy.schema == original.schema
    assert by_id(copy.to_table()).equals(by_id(original.to_table()))


def test_a_vector_index_can_be_built_on_a_tensor_column(uri):
    vectors = ray.data.range(512).map_batches(lambda rows: batch(rows["id"] % 28))
    ray_lance.write_lance(vectors, uri)

    dataset = lance.dataset(uri)
    dataset.create_index("vector", "IVF_FLAT", num_partitions=2)
    found = lance.dataset(uri).to_table(nearest={"column": "vector", "q": np.full(4, 7, np.float32), "k": 3})

    assert set(found["id"].to_pylist()) == {7}


def test_blobs_are_written_from_bytes(uri):
    table = pa.table({"id": [0, 1, 2], "data": pa.array([b"a" * 200_000, None, b""], pa.binary())})

    ray_lance.write_lance(blocks(table), uri, schema=[blob("data")])

    read = by_id(lance.dataset(uri).scanner(blob_handling="all_binary").to_table())
    assert read["data"].to_pylist() == table["data"].to_pylist()


def test_metadata_of_hugging_face_datasets_is_kept(uri):
    metadata = {"huggingface": '{"info": {"features": {"id": {"dtype": "int64", "_type": "Value"}}}}'}

    ray_lance.write_lance(blocks(pa.table({"id": [1]}).replace_schema_metadata(metadata)), uri)

    assert lance.dataset(uri).schema.metadata[b"huggingface"] == metadata["huggingface"].encode()


def test_pandas_blocks_are_written(uri):
    ray_lance.write_lance(ray.data.from_pandas(sample_table(5).select(["id", "text"]).to_pandas()), uri)

    assert by_id(lance.dataset(uri).to_table()).to_pydict() == sample_table(5).select(["id", "text"]).to_pydict()


def test_the_summary_says_what_was_done(uri, capfd):
    first = ray_lance.write_lance(blocks(sample_table(10)), uri)
    second = ray_lance.write_lance(blocks(sample_table(5, 10)), uri, mode="append")

    assert (first.version_before, first.version, first.rows, first.fragments) == (None, 1, 10, 1)
    assert (second.version_before, second.version, second.rows, second.fragments) == (1, 2, 5, 1)
    sizes = [file.file_size_bytes for part in lance.dataset(uri).get_fragments() for file in part.metadata.files]
    assert [first.bytes, second.bytes] == sizes
    assert 0 < second.seconds < 600
    assert (first.uri, second.uri) == (uri, uri)
    assert capfd.readouterr().out == ""


@pytest.mark.parametrize("mode", [SaveMode.CREATE, SaveMode.ERROR, "create"])
def test_create_refuses_before_any_task_starts(uri, mode):
    lance.write_dataset(sample_table(1), uri)

    with pytest.raises(DatasetExistsError):
        ray_lance.write_lance(ray.data.range(3).map(lambda row: 1 / 0), uri, mode=mode)

    assert orphans(uri) == []


def test_ignore_leaves_an_existing_dataset_alone(uri):
    created = ray_lance.write_lance(blocks(sample_table(3)), uri, mode=SaveMode.IGNORE)
    ignored = ray_lance.write_lance(blocks(sample_table(9)), uri, mode=SaveMode.IGNORE)

    assert (created.rows, ignored.rows, ignored.version) == (3, 0, 1)
    assert lance.dataset(uri).count_rows() == 3


def test_append_needs_a_dataset(uri, tmp_path):
    with pytest.raises(DatasetNotFoundError):
        ray_lance.write_lance(blocks(sample_table(3)), uri, mode="append")

    assert leftovers(tmp_path) == []


def test_an_error_in_a_task_arrives_as_itself(uri):
    lance.write_dataset(pa.table({"id": pa.array([1], pa.int8())}), uri)

    with pytest.raises(SchemaMismatchError, match="'id': 300 "):
        ray_lance.write_lance(blocks(pa.table({"id": [2]}), pa.table({"id": [300]})), uri, mode="append")

    assert lance.dataset(uri).version == 1
    assert orphans(uri) == []


def test_an_empty_dataset_needs_a_schema(uri, tmp_path):
    empty = blocks(sample_table(5)).filter(expr=col("id") > 100)

    ray_lance.write_lance(empty, uri, schema=sample_table(0).schema)
    assert lance.dataset(uri).to_table().equals(sample_table(0))

    with pytest.raises(InvalidArgumentError, match="schema=None"):
        ray_lance.write_lance(ray.data.from_items([]), str(tmp_path / "other"))
    assert not (tmp_path / "other").exists()


def test_appending_nothing_makes_no_version(uri):
    lance.write_dataset(sample_table(3), uri)

    summary = ray_lance.write_lance(blocks(sample_table(5)).filter(expr=col("id") > 100), uri, mode="append")

    assert (summary.rows, summary.version, lance.dataset(uri).version) == (0, 1, 1)


def test_two_hundred_small_blocks_become_few_files_of_the_target_size(uri):
    table = pa.table({"id": np.arange(200), "data": [bytes(10_000)] * 200})
    target = 250_000

    ray_lance.write_lance(
        blocks(*(table.slice(i, 1) for i in range(200))), uri, target_bytes_per_file=target, data_storage_version="2.0"
    )

    sizes = [file.file_size_bytes for part in lance.dataset(uri).get_fragments() for file in part.metadata.files]
    assert len(sizes) <= 9
    assert all(target / 2 <= size <= target * 2 for size in sizes)


ROWS_OF_A_FILE = 100
ROW_BYTES = 108


def of_ids(rows: int) -> pa.Table:
    """Rows of the same size each."""
    return pa.table({"id": np.arange(rows), "data": pa.array([bytes(100)] * rows, pa.binary(100))})


@pytest.mark.slow
@settings(max_examples=examples(12), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    sizes=st.lists(st.integers(1, 30) | st.integers(1, 450), min_size=1, max_size=25),
    concurrency=st.integers(1, 4),
    computed=st.booleans(),
)
@example(sizes=[30], concurrency=4, computed=False)
@example(sizes=[99] * 12, concurrency=4, computed=True)
@example(sizes=[101] * 12, concurrency=4, computed=True)
@example(sizes=[149] * 3, concurrency=2, computed=False)
@example(sizes=[1] * 120, concurrency=4, computed=True)
def test_whatever_the_blocks_all_files_but_one_have_about_the_target_size(
    tmp_path_factory, sizes, concurrency, computed
):
    uri = str(tmp_path_factory.mktemp("sizes") / "table.lance")
    rows = blocks(*map(of_ids, sizes))
    rows = rows.map_batches(lambda batch: batch, batch_size=None) if computed else rows

    ray_lance.write_lance(rows, uri, target_bytes_per_file=ROWS_OF_A_FILE * ROW_BYTES, concurrency=concurrency)

    found = sorted(fragment.count_rows() for fragment in lance.dataset(uri).get_fragments())
    assert sum(found) == sum(sizes)
    assert all(rows >= ROWS_OF_A_FILE / 2 for rows in found[1:])
    assert found[-1] <= ROWS_OF_A_FILE * 2
    if sum(sizes) <= ROWS_OF_A_FILE:
        assert len(found) == 1


def test_one_large_block_becomes_several_files(uri):
    table = pa.table({"id": np.arange(2_000), "data": np.random.default_rng(0).random(2_000).tolist()})

    summary = ray_lance.write_lance(blocks(table), uri, target_bytes_per_file=table.nbytes // 4)

    assert summary.fragments == 4
    assert by_id(lance.dataset(uri).to_table()).equals(table)


# What the options mean is tested without Ray, property-based, in unit/write/test_merge.py.
MERGES = [
    pytest.param({}, {0: 1, 1: 2, 2: 2, 9: 2}, id="upsert"),
    pytest.param({"insert": False}, {0: 1, 1: 2, 2: 2}, id="update", marks=pytest.mark.slow),
    pytest.param({"update": False}, {0: 1, 1: 1, 2: 1, 9: 2}, id="insert", marks=pytest.mark.slow),
    pytest.param({"delete_missing": True}, {1: 2, 2: 2, 9: 2}, id="replace"),
]


@pytest.mark.parametrize(("options", "expected"), MERGES)
def test_merge(uri, options, expected):
    lance.write_dataset(values([0, 1, 2], 1), uri)
    new = blocks(values([9, 1], 2), values([2], 2))

    for _ in range(2):  # running it again changes nothing
        ray_lance.write_lance(new, uri, mode=SaveMode.UPSERT, on="id", **options)
        table = lance.dataset(uri).to_table()
        assert dict(zip(table["id"].to_pylist(), table["value"].to_pylist(), strict=True)) == expected
        assert table.num_rows == len(expected)
        assert table["vector"].to_pylist() == [[key, key] for key in table["id"].to_pylist()]
    assert orphans(uri) == []


def test_merge_refuses_duplicate_keys_in_different_blocks(uri):
    lance.write_dataset(values([0], 1), uri)

    with pytest.raises(InvalidArgumentError, match="more than once"):
        ray_lance.write_lance(blocks(values([7], 2), values([7], 3)), uri, mode="merge", on="id")

    assert lance.dataset(uri).version == 1
    assert orphans(uri) == []


def test_a_merge_of_a_part_of_the_columns_leaves_the_others_where_they_are(uri, monkeypatch):
    from ray_lance.data import merge_sink

    monkeypatch.setattr(merge_sink, "_BUCKET_BYTES", 400)  # so that rows of a fragment come from several buckets
    lance.write_dataset(every_kind(range(20), "old"), uri, max_rows_per_file=8)
    before = {fragment.fragment_id: fragment.metadata for fragment in lance.dataset(uri).get_fragments()}
    names = ["id", "text", "category", "list", "struct", "tensor", "image", "flag"]
    new = every_kind([12, 3, 4, 99], "new").select(names)

    summary = ray_lance.write_lance(blocks(new.slice(0, 1), new.slice(1)), uri, mode="merge", on="id")

    dataset = lance.dataset(uri)
    assert (summary.rows, summary.rows_updated, summary.fragments) == (3, 3, 2)
    found = by_id(dataset.scanner(blob_handling="all_binary").to_table())
    wanted = every_kind(range(20), "old")
    taken = every_kind([3, 4, 12], "new")
    for name in names:
        rows = wanted[name].to_pylist()
        for position, row in zip([3, 4, 12], taken[name].to_pylist(), strict=True):
            rows[position] = row
        assert found[name].to_pylist() == rows, name
    assert found["kept"].equals(wanted["kept"])
    for fragment in dataset.get_fragments():
        paths = [file.path for file in before[fragment.fragment_id].files]
        assert [file.path for file in fragment.metadata.files][:1] == paths
        assert len(fragment.metadata.files) == (1 if fragment.fragment_id == 2 else 2)
    assert orphans(uri) == []


def every_kind(ids, text: str) -> pa.Table:
    ids = list(ids)
    words = [None if i % 4 == 0 else f"{text} {i}" for i in ids]
    tensors = pa.FixedShapeTensorArray.from_numpy_ndarray(np.array([np.full((2, 2), i + len(text)) for i in ids]))
    is_blob = {"lance-encoding:blob": "true"}
    columns = {
        pa.field("id", pa.int64()): ids,
        pa.field("text", pa.string()): words,
        pa.field("category", pa.dictionary(pa.int32(), pa.string())): pa.array(words).dictionary_encode(),
        pa.field("list", pa.list_(pa.string())): [None if i % 3 == 0 else [text] * (i % 3 - 1) for i in ids],
        pa.field("struct", pa.struct([("a", pa.int64()), ("b", pa.string())])): [{"a": i, "b": text} for i in ids],
        pa.field("tensor", tensors.type): tensors,
        pa.field("image", pa.large_binary(), metadata=is_blob): [f"{text}{i}".encode() for i in ids],
        pa.field("flag", pa.bool_(), nullable=False): [text == "new"] * len(ids),
        pa.field("kept", pa.int64(), nullable=False): ids,
    }
    arrays = [each if isinstance(each, pa.Array) else pa.array(each, field.type) for field, each in columns.items()]
    return pa.Table.from_arrays(arrays, schema=pa.schema(list(columns)))


def test_a_part_of_the_columns_is_refused_where_rows_would_lack_values(uri):
    lance.write_dataset(every_kind(range(4), "old"), uri)
    new = blocks(pa.table({"id": [1, 99], "text": ["a", "b"]}))

    with pytest.raises(SchemaMismatchError, match=r"no columns \['flag', 'kept'\], which hold no nulls"):
        ray_lance.write_lance(new, uri, mode="merge", on="id", insert=True)
    with pytest.raises(SchemaMismatchError, match="key columns"):
        ray_lance.write_lance(new.select_columns(["id"]), uri, mode="merge", on="id")
    with pytest.raises(SchemaMismatchError, match="'caption'"):
        ray_lance.write_lance(new.rename_columns({"text": "caption"}), uri, mode="merge", on="id")
    with pytest.raises(SchemaMismatchError, match="'flag'"):
        ray_lance.write_lance(new.rename_columns({"text": "flag"}), uri, mode="merge", on="id")

    assert lance.dataset(uri).version == 1
    assert orphans(uri) == []


def values(ids: list[int], value: int) -> pa.Table:
    vectors = pa.FixedSizeListArray.from_arrays(np.repeat(ids, 2).astype(np.float32), 2)
    return pa.table({"id": ids, "value": [value] * len(ids), "vector": vectors})


def test_create_append_overwrite_and_merge_in_an_object_store():
    with s3_server() as s3:
        place = {"uri": s3.uri("table"), "storage_options": s3.storage_options}
        before = dict(s3.storage_options)
        for mode, ids in (("create", [0, 1]), ("append", [2]), ("overwrite", [3, 4])):
            ray_lance.write_lance(blocks(values(ids, 1)), mode=mode, **place)
        ray_lance.write_lance(blocks(values([4, 5], 2)), mode="merge", on="id", **place)
        with pytest.raises(DatasetExistsError):
            ray_lance.write_lance(blocks(values([1], 1)), **place)

        dataset = lance.dataset(place["uri"], storage_options=s3.storage_options)
        assert dataset.version == 4
        assert sorted(dataset.to_table()["id"].to_pylist()) == [3, 4, 5]
        assert len([path for path in s3.files("table") if path.startswith("data/")]) == 4
        assert place["storage_options"] == before


def test_a_table_of_a_namespace(tmp_path):
    place = {
        "table_id": ["words"],
        "namespace_impl": "dir",
        "namespace_properties": {"root": str(tmp_path / "namespace")},
    }

    ray_lance.write_lance(blocks(sample_table(3)), **place)
    ray_lance.write_lance(blocks(sample_table(2, 3)), mode="append", **place)

    rows = ray_lance.read_lance(**place).take_all()
    assert sorted(row["id"] for row in rows) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    ("values", "dtype"), [([None, 1.5, 2.0], "float64"), ([None, 1.5, 2.0], "object"), ([None, "a", "b"], "object")]
)
def test_a_column_of_a_data_frame_may_begin_with_a_missing_value(uri, values, dtype):
    frame = pd.DataFrame({"id": range(3), "value": pd.Series(values, dtype=dtype)})

    ray_lance.write_lance(ray.data.from_pandas(frame), uri)

    assert lance.dataset(uri).to_table()["value"].to_pylist() == values


def test_a_column_without_any_value_is_refused(uri):
    frame = pd.DataFrame({"id": range(3), "value": [None] * 3})

    with pytest.raises(ray_lance.SchemaMismatchError, match=r"\['value'\] hold only nulls"):
        ray_lance.write_lance(ray.data.from_pandas(frame), uri)


def test_an_append_in_groups_is_finished_by_the_same_program(tmp_path):
    source, target = str(tmp_path / "source.lance"), str(tmp_path / "target.lance")
    lance.write_dataset(pa.table({"id": range(40)}), source, max_rows_per_file=4)
    lance.write_dataset(pa.table({"id": pa.array([], pa.int64()), "x": pa.array([], pa.int64())}), target)

    def program(fails_at: int | None = None):
        def compute(batch):
            if fails_at in batch["id"]:
                raise ValueError("this batch cannot be computed")
            return {"id": batch["id"], "x": batch["id"] * 2}

        rows = ray_lance.read_lance(source, without=target, on="id", override_num_blocks=10)
        return ray_lance.write_lance(
            rows.map_batches(compute), target, mode="append", commit_every=8, id_column="id", concurrency=1
        )

    with pytest.raises(Exception, match="cannot be computed"):
        program(fails_at=30)
    before = lance.dataset(target).count_rows()
    summary = program()

    assert before == 40 - summary.rows
    found = lance.dataset(target).to_table().sort_by("id")
    assert found.to_pydict() == {"id": list(range(40)), "x": list(range(0, 80, 2))}
    assert orphans(target) == []
    assert program().rows == 0


def test_an_append_in_groups_needs_ids(uri):
    lance.write_dataset(pa.table({"id": [1], "x": [1.5]}), uri)
    options = {"mode": "append", "commit_every": 5}
    rows = pa.table({"id": [2, None], "x": [1.0, 1.0]})

    with pytest.raises(InvalidArgumentError, match="null in row 1"):
        ray_lance.write_lance(blocks(rows), uri, id_column="id", **options)
    with pytest.raises(InvalidArgumentError, match="id_column='y'"):
        ray_lance.write_lance(blocks(rows), uri, id_column="y", **options)
    with pytest.raises(InvalidArgumentError, match="column 'x' is double"):
        ray_lance.write_lance(blocks(rows), uri, id_column="x", **options)
    with pytest.raises(InvalidArgumentError, match="needs the other"):
        ray_lance.write_lance(blocks(rows), uri, **options)

    assert lance.dataset(uri).count_rows() == 1
