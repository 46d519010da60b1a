"""Every type of the type table as a computed column, and computed columns on any dataset."""

from __future__ import annotations

import datetime
import decimal
import sys

import lance
import numpy as np
import pyarrow as pa
import pytest
import ray
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import ray_lance
from ray_lance.tensors import from_tensors
from ray_lance.tensors.kinds import extension_name
from tests.datasets import sample_table, write_fragments
from tests.examples import examples
from tests.orphans import orphans

# Workers cannot import this module.
ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])

NUMBERS = [f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)]
FLOATS = ["float16", "float32", "float64"]


def tensors(ids: np.ndarray) -> dict:
    """Columns of all the types that tensors have."""
    small = ids % 100
    return {
        **{name: small.astype(name) for name in [*NUMBERS, *FLOATS]},
        "bool": ids % 2 == 0,
        "bfloat16": torch.tensor(small).to(torch.bfloat16),
        "vector": np.repeat(ids, 3).reshape(-1, 3).astype(np.float32),
        "vector of bfloat16": torch.tensor(np.repeat(small, 2).reshape(-1, 2)).to(torch.bfloat16),
        "tensor": np.repeat(ids, 6).reshape(-1, 2, 3),
        "tensor of bool": np.repeat(ids % 2 == 0, 4).reshape(-1, 2, 2),
        "ragged": torch.nested.nested_tensor([torch.arange(int(i) % 4) for i in ids], layout=torch.jagged),
        "images": [np.full((int(i) % 3 + 1, int(i) % 2 + 1, 3), i, np.uint8) for i in ids],
        "string": [f"row {i}" for i in ids],
        "bytes": [bytes([i % 256]) * (i % 5) for i in ids.tolist()],
    }


def arrays(ids: np.ndarray) -> dict:
    """Columns of all the other types, as Arrow arrays. Every third value is null."""
    day = datetime.date(2020, 1, 1)
    moment = datetime.datetime(2020, 1, 1)
    rows = [None if i % 3 == 1 else i for i in ids.tolist()]

    def values(make, dtype):
        return pa.array([None if i is None else make(i) for i in rows], dtype)

    return {
        "null int": values(int, pa.int32()),
        "large string": values(str, pa.large_string()),
        "fixed binary": values(lambda i: bytes([i % 256] * 4), pa.binary(4)),
        "timestamp": values(lambda i: moment + datetime.timedelta(seconds=i), pa.timestamp("us")),
        "timestamp in a zone": values(lambda i: moment + datetime.timedelta(hours=i), pa.timestamp("ms", "UTC")),
        "date": values(lambda i: day + datetime.timedelta(days=i), pa.date32()),
        "time": values(lambda i: datetime.time(i % 24), pa.time64("us")),
        "duration": values(lambda i: datetime.timedelta(seconds=i), pa.duration("ms")),
        "decimal": values(lambda i: decimal.Decimal(i) / 4, pa.decimal128(12, 2)),
        "dictionary": values(lambda i: "abc"[i % 3], pa.string()).dictionary_encode(),
        "list": values(lambda i: [i] * (i % 3), pa.list_(pa.int16())),
        "large list": values(lambda i: [i / 2] * (i % 3), pa.large_list(pa.float64())),
        "list of strings": values(lambda i: ["x", None][: i % 3], pa.list_(pa.string())),
        "nested list": values(lambda i: [[i] * (i % 2)] * 2, pa.list_(pa.list_(pa.int32()))),
        "struct": values(
            lambda i: {"a": i, "b": {"c": str(i)}},
            pa.struct([("a", pa.int64()), ("b", pa.struct([("c", pa.string())]))]),
        ),
        "list of structs": values(lambda i: [{"a": i}] * (i % 3), pa.list_(pa.struct([("a", pa.int64())]))),
    }


@pytest.mark.usefixtures("plain_bfloat16")
@pytest.mark.parametrize(
    ("make", "told"),
    [
        pytest.param(tensors, True, id="tensors, schema", marks=pytest.mark.slow),
        pytest.param(tensors, False, id="tensors, first batch"),
        pytest.param(arrays, True, id="arrays, schema"),
        pytest.param(arrays, False, id="arrays, first batch", marks=pytest.mark.slow),
    ],
)
def test_every_type_comes_back_as_it_was_computed(uri, make, told):
    ids = np.array([i for i in range(60) if i % 7 != 3])
    expected = from_tensors(make(ids))
    lance.write_dataset(sample_table(60), uri, max_rows_per_file=25, data_storage_version="2.1")
    lance.dataset(uri).delete("id % 7 = 3")
    schema = expected.schema if told else None

    ray_lance.add_columns(uri, lambda batch: make(batch["id"]), input_columns=["id"], schema=schema, batch_size=10)

    found = lance.dataset(uri).to_table(columns=expected.column_names)
    for name in expected.column_names:
        assert extension_name(found.schema.field(name)) == extension_name(expected.schema.field(name)), name
        assert stored(found, name) == stored(expected, name), name
    assert orphans(uri) == []


def stored(table: pa.Table, name: str) -> list:
    """The values as they are stored: pyarrow makes nothing of some extension types."""
    chunks = table[name].chunks
    return [
        value
        for chunk in chunks
        for value in (chunk.storage if isinstance(chunk, pa.ExtensionArray) else chunk).to_pylist()
    ]


def blob(i: int) -> bytes:
    """Lance keeps the first kind inside the data file, the second in a file that others share, the third in its own."""
    return bytes([i % 251]) * (3, 100_000, 5_000_000)[i % 3]


def as_bytes(batch: dict) -> dict:
    return {"blob": [blob(int(i)) for i in batch["id"]]}


def as_blobs(batch: dict) -> dict:
    return {"blob": lance.blob_array([blob(int(i)) for i in batch["id"]])}


INLINE = pa.schema([pa.field("blob", pa.large_binary(), metadata={"lance-encoding:blob": "true"})])
EXTERNAL = pa.schema([lance.blob_field("blob")])


@pytest.mark.parametrize(
    ("version", "fn", "schema"),
    [("2.0", as_bytes, INLINE), ("2.2", as_bytes, EXTERNAL), ("2.2", as_blobs, EXTERNAL), ("2.2", as_blobs, None)],
    ids=["first layout", "second layout", "blobs", "blobs without a schema"],
)
def test_blobs_come_back_with_the_files_they_lie_in(uri, version, fn, schema):
    lance.write_dataset(sample_table(12), uri, max_rows_per_file=5, data_storage_version=version)
    lance.dataset(uri).delete("id = 4")

    summary = ray_lance.add_columns(uri, fn, input_columns=["id"], schema=schema, batch_size=4)

    rows = lance.dataset(uri).to_table(columns=["id"], with_row_address=True)
    found = lance.dataset(uri).take_blobs("blob", addresses=rows["_rowaddr"].to_pylist())
    assert [each.read() for each in found] == [blob(i) for i in rows["id"].to_pylist()]
    assert summary.bytes > sum(len(blob(i)) for i in rows["id"].to_pylist())
    assert orphans(uri) == []


@pytest.mark.parametrize(("version", "schema"), [("2.0", INLINE), ("2.2", EXTERNAL)])
def test_overwriting_some_blobs_keeps_the_others(uri, version, schema):
    lance.write_dataset(sample_table(12), uri, max_rows_per_file=6, data_storage_version=version)
    ray_lance.add_columns(uri, as_bytes, input_columns=["id"], schema=schema)

    def other(batch):
        return {"blob": [b"other"] * len(batch["id"])}

    ray_lance.add_columns(uri, other, input_columns=["id"], schema=schema, where="id < 8", overwrite=True)

    rows = lance.dataset(uri).to_table(columns=["id"], with_row_address=True)
    found = lance.dataset(uri).take_blobs("blob", addresses=rows["_rowaddr"].to_pylist())
    assert [each.read() for each in found] == [b"other" if i < 8 else blob(i) for i in range(12)]
    assert orphans(uri) == []


@settings(max_examples=examples(8), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    sizes=st.lists(st.integers(1, 40), min_size=1, max_size=6),
    deleted=st.none() | st.integers(0, 6),
    where=st.none() | st.just("label < 5"),
    batch_size=st.integers(1, 50),
    per_commit=st.none() | st.integers(1, 3),
    in_actors=st.booleans(),
    appended=st.integers(0, 10),
)
@pytest.mark.slow
def test_any_dataset_gets_what_one_process_computes(
    tmp_path_factory, sizes, deleted, where, batch_size, per_commit, in_actors, appended
):
    uri = str(tmp_path_factory.mktemp("any") / "table.lance")
    write_fragments(uri, sizes, deleted=None if deleted is None else f"id % 7 = {deleted}")

    class Double:
        def __call__(self, batch):
            # Somebody appends while the work goes on.
            if appended and lance.dataset(uri).count_rows("id >= 1000") == 0:
                lance.write_dataset(sample_table(appended, 1000), uri, mode="append")
            return {"double": batch["id"] * 2}

    def call():
        return ray_lance.add_columns(
            uri,
            Double if in_actors else Double().__call__,
            input_columns=["id"],
            schema=pa.schema([("double", pa.int64())]),
            where=where,
            batch_size=batch_size,
            fragments_per_commit=per_commit,
            concurrency=1,
        )

    call()
    call()

    found = lance.dataset(uri).to_table(columns=["id", "double"]).to_pylist()
    assert [row["double"] for row in found] == [
        row["id"] * 2 if where is None or row["id"] % 10 < 5 else None for row in found
    ]
    assert call().rows == 0
    assert orphans(uri) == []
