"""Batches that are cut from whole reads are those that their own rows would become."""

from __future__ import annotations

import pickle
from typing import Any

import lance
import numpy as np
import pyarrow as pa
import pytest
import torch

from ray_lance import Permutation
from ray_lance.tensors import to_tensors
from ray_lance.tensors.kinds import bfloat16_field
from ray_lance.torch import LanceIterableDataset
from ray_lance.torch.row_reader import BatchOptions, ReadRows, RowReader

COUNT = 1000
HALVES = np.arange(COUNT, dtype=np.uint16)
COLUMNS: dict[str, pa.Array] = {
    "int64": pa.array(range(COUNT)),
    "uint16": pa.array(range(COUNT), pa.uint16()),
    "half": pa.array(np.arange(COUNT, dtype=np.float16)),
    "bool": pa.array([i % 3 == 0 for i in range(COUNT)]),
    "date32": pa.array(range(COUNT), pa.date32()),
    "timestamp": pa.array(range(COUNT), pa.timestamp("ms")),
    "decimal": pa.array(range(COUNT), pa.int64()).cast(pa.decimal128(25, 3)),
    "binary": pa.array([b"%04d" % i for i in range(COUNT)], pa.binary(4)),
    "string": pa.array([f"row {i}" for i in range(COUNT)]),
    "vector": pa.array([[i, -i] for i in range(COUNT)], pa.list_(pa.float32(), 2)),
    "bool vector": pa.array([[True, i == 7] for i in range(COUNT)], pa.list_(pa.bool_(), 2)),
    "matrix": pa.FixedShapeTensorArray.from_numpy_ndarray(np.arange(6 * COUNT, dtype=np.int32).reshape(COUNT, 3, 2)),
    "vector of decimals": pa.array([[i, 1] for i in range(COUNT)], pa.list_(pa.decimal128(9, 1), 2)),
    "ragged": pa.array([list(range(i % 4)) for i in range(COUNT)]),
    "struct": pa.array([{"a": i, "b": float(i)} for i in range(COUNT)]),
    "nulls": pa.array([None if i % 9 == 0 else float(i) for i in range(COUNT)]),
    "dictionary": pa.array([f"kind {i % 3}" for i in range(COUNT)]).dictionary_encode(),
}


def plain(value: Any) -> Any:
    """What a value is, in Python's own types."""
    if not isinstance(value, torch.Tensor):
        return value
    rows = [row.tolist() for row in value.unbind()] if value.is_nested else value.nan_to_num(nan=-1).tolist()
    return value.dtype, None if value.is_nested else tuple(value.shape), rows


@pytest.mark.parametrize("name", COLUMNS)
@pytest.mark.parametrize("shuffle", [None, 5])
@pytest.mark.parametrize("cache_bytes", [0, "auto"])
def test_columns_of_every_type(name, uri, shuffle, cache_bytes):
    table = pa.table({"id": range(COUNT), "column": COLUMNS[name]})
    lance.write_dataset(table, uri, max_rows_per_file=300)
    options: dict[str, Any] = {"shuffle": shuffle, "tail": "uneven", "cache_bytes": cache_bytes}
    tensors = LanceIterableDataset(uri, batch_size=48, **options)
    tables = LanceIterableDataset(uri, batch_size=48, format="arrow", **options)

    for _ in range(3):
        for got, expected in zip(tensors, tables, strict=True):
            wanted = to_tensors(expected)
            assert {key: plain(value) for key, value in got.items()} == {
                key: plain(each) for key, each in wanted.items()
            }


def test_bfloat16(uri):
    field = bfloat16_field("column")
    values = pa.Array.from_buffers(field.type, COUNT, [None, pa.py_buffer(HALVES)])
    lance.write_dataset(pa.Table.from_arrays([values], schema=pa.schema([field])), uri)

    got = torch.cat([batch["column"] for batch in LanceIterableDataset(uri, batch_size=100)])

    assert got.dtype == torch.bfloat16
    assert got.view(torch.int16).tolist() == HALVES.tolist()


def test_a_batch_has_storage_of_its_own(uri):
    lance.write_dataset(pa.table({"id": range(COUNT), "vec": COLUMNS["vector"]}), uri)

    for batch in LanceIterableDataset(uri, batch_size=10, shuffle=1):
        assert {name: values.untyped_storage().nbytes() for name, values in batch.items()} == {"id": 80, "vec": 80}
        assert len(pickle.dumps(batch)) < 1500
        batch["id"].add_(1)  # memory that may be written to
        batch["vec"].zero_()


def test_most_reads_are_converted_as_a_whole(uri):
    """And those that cannot be are cut as tables: in several pieces of memory, with nulls, in another format."""
    lance.write_dataset(pa.table({"id": range(COUNT), "nulls": COLUMNS["nulls"]}), uri)

    def rows(columns: list[str], table: pa.Table | None = None, **options: Any) -> ReadRows:
        reader = RowReader(Permutation(uri), BatchOptions(columns, **options))
        return reader.to_cut(reader.storage().take(np.arange(COUNT)[::-1].copy()) if table is None else table)

    assert rows(["id"]).arrays["id"].tolist() == list(range(COUNT))[::-1]
    assert rows(["id", "nulls"]).arrays is None
    assert rows(["id"], format="numpy").arrays is None
    assert rows(["id"], fill=3).arrays is None
    assert rows(["id"], pa.table({"id": pa.chunked_array([[1], [2]])})).arrays is None


def test_a_batch_across_two_reads_is_cut_from_both(uri, monkeypatch):
    monkeypatch.setattr("ray_lance.torch.prefetch.READ_BYTES", 1000)
    lance.write_dataset(pa.table({"id": range(COUNT), "vec": COLUMNS["vector"]}), uri)
    order = Permutation(uri).shuffle(1, clump=1)
    wanted = order.fetch(range(COUNT), format="arrow")

    got = list(LanceIterableDataset(order.epoch(0), batch_size=77, tail="uneven", cache_bytes=0))

    assert torch.cat([batch["id"] for batch in got]).tolist() == wanted["id"].to_pylist()
    assert torch.cat([batch["vec"] for batch in got]).tolist() == wanted["vec"].to_pylist()
    assert [batch["vec"].untyped_storage().nbytes() for batch in got] == [77 * 8] * 12 + [76 * 8]
