"""Rows that are kept in memory are those of the dataset, and no more of them than may be."""

from __future__ import annotations

import pickle
from pathlib import Path

import lance
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ray_lance import Permutation
from ray_lance.errors import InvalidArgumentError
from ray_lance.torch import LanceMapDataset, range_cache
from ray_lance.torch.range_cache import RangeCache
from ray_lance.torch.row_reader import MeteredRows
from tests.datasets import write_fragments

COUNT, RANGE, ROW_BYTES = 95, 10, 8
RANGES = [list(range(start, min(COUNT, start + RANGE))) for start in range(0, COUNT, RANGE)]


class Table:
    """Rows whose values are their offsets; notes what is read of them."""

    def __init__(self) -> None:
        self.reads: list[list[int]] = []

    def read(self, offsets) -> pa.Table:
        self.reads.append(offsets.tolist())
        return pa.table({"id": pa.array(offsets, pa.int64())})

    def cached(self, max_ranges: float = 100) -> RangeCache:
        return RangeCache(self.read, COUNT, ROW_BYTES, int(max_ranges * RANGE * ROW_BYTES))


def take(rows: RangeCache, offsets: list[int]) -> list[int]:
    return rows.take(np.array(offsets, np.int64))[0]["id"].to_pylist()


class TestRanges:
    @pytest.fixture(autouse=True)
    def small(self, monkeypatch):
        monkeypatch.setattr(range_cache, "MAX_TASK_BYTES", RANGE * ROW_BYTES)

    @settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(
        st.lists(st.lists(st.integers(0, COUNT - 1), min_size=1, max_size=30), min_size=1, max_size=8),
        st.sampled_from([0, 3, 100]),
    )
    def test_rows_are_those_that_were_asked_for(self, monkeypatch, batches, max_ranges):
        monkeypatch.setattr(range_cache, "_TAKEN_BEFORE", 20)
        rows = Table().cached(max_ranges)

        assert [take(rows, batch) for batch in batches] == batches

    def test_one_is_read_once_when_as_many_rows_as_it_has_were_taken(self):
        table = Table()
        rows = table.cached()

        take(rows, [20, 29, 20, 29, 25, 94, 20, 20, 21, 28])  # nine of them
        assert len(table.reads) == 1
        table.reads.clear()

        assert take(rows, [20, 29, 29, 25, 94]) == [20, 29, 29, 25, 94]
        assert table.reads == [RANGES[2], [94]]
        table.reads.clear()

        assert take(rows, [21, 28]) == [21, 28]
        assert not table.reads

    def test_a_large_one_is_read_when_1024_rows_were_taken(self, monkeypatch):
        monkeypatch.setattr(range_cache, "MAX_TASK_BYTES", 5000 * ROW_BYTES)
        table = Table()
        rows = RangeCache(table.read, 5000, ROW_BYTES, 10**6)

        take(rows, [7] * 1023)
        assert [len(read) for read in table.reads] == [1023]
        assert take(rows, [8]) == [8]
        assert [len(read) for read in table.reads] == [1023, 5000]

    def test_the_last_one_ends_with_the_dataset(self):
        table = Table()

        take(table.cached(), [94] * 1024)

        assert table.reads == [RANGES[-1]]

    @pytest.mark.parametrize("max_ranges", [0, 0.9, 1, 2.5, 9, 10])
    def test_no_more_are_kept_than_may_be(self, max_ranges):
        table = Table()
        rows = table.cached(max_ranges)
        for offsets in RANGES:
            take(rows, offsets * 205)
        table.reads.clear()

        for offsets in RANGES:
            take(rows, offsets)

        assert len(RANGES) - len(table.reads) == int(max_ranges)

    def test_datasets_of_a_process_share_what_may_be_kept(self):
        first, second = Table(), Table()
        caches = [first.cached(4), second.cached(4)]
        for rows in caches:
            for offsets in RANGES[:3]:
                take(rows, offsets * 205)
        del rows
        first.reads.clear()
        second.reads.clear()
        for offsets in RANGES[:3]:
            take(caches[0], offsets)
            take(caches[1], offsets)
        assert (len(first.reads), len(second.reads)) == (0, 2)

        caches.clear()  # and what they kept is given back
        table = Table()
        rows = table.cached(4)
        for offsets in RANGES[:4]:
            take(rows, offsets * 205)
        table.reads.clear()
        for offsets in RANGES[:4]:
            take(rows, offsets)
        assert not table.reads

    def test_rows_larger_than_was_thought_are_not_read_in_ranges(self):
        reads = []

        def read(offsets) -> pa.Table:
            reads.append(len(offsets))
            return pa.table({"id": pa.array(offsets, pa.int64()), "text": ["x" * 1000] * len(offsets)})

        rows = RangeCache(read, COUNT, ROW_BYTES, 5 * RANGE * ROW_BYTES)
        for _ in range(5):
            take(rows, [3, 4, 5])

        assert reads == [3] * 5


def test_kept_and_taken_rows_of_every_kind_go_together(tmp_path, monkeypatch):
    """Ranges of a scan beside rows of a take: blobs, columns without nulls, dictionaries, expressions, nested ones."""
    count = 60
    blob = pa.field("blob", pa.large_binary(), nullable=False, metadata={"lance-encoding:blob": "true"})
    schema = pa.schema(
        [
            pa.field("id", pa.int64(), nullable=False),
            pa.field("kind", pa.dictionary(pa.int8(), pa.string())),
            pa.field("s", pa.struct([pa.field("x", pa.float32())])),
            blob,
        ]
    )
    columns = [
        list(range(count)),
        [f"k{i % 3}" for i in range(count)],
        [None if i % 7 == 0 else {"x": float(i)} for i in range(count)],
        [bytes([i]) * i for i in range(count)],
    ]
    arrays = [pa.array(values, field.type) for values, field in zip(columns, schema, strict=True)]
    uri = str(tmp_path / "table.lance")
    lance.write_dataset(pa.Table.from_arrays(arrays, schema=schema), uri, max_rows_per_file=25)
    rng = np.random.default_rng(0)

    for wanted in (["id", "kind", "blob"], ["id", "s.x"], {"id": "id", "twice": "2 * id"}):
        plain, kept = (LanceMapDataset(uri, columns=wanted, format="arrow", cache_bytes=size) for size in (0, 10**6))
        monkeypatch.setattr(range_cache, "MAX_TASK_BYTES", int(10 * kept._reader.row_bytes))
        for _ in range(12):
            indices = rng.integers(0, count, 15).tolist()
            expected, got = plain.__getitems__(indices).batch, kept.__getitems__(indices).batch
            assert got.to_pylist() == expected.to_pylist()
            assert got.schema.types == expected.schema.types
        assert 1 < len(kept._cache._tables) <= 7


@pytest.fixture
def uri(tmp_path) -> str:
    path = str(tmp_path / "table.lance")
    write_fragments(path, [400, 1, 800], deleted="id % 16 = 5")
    return path


def test_a_dataset_keeps_its_rows_in_the_order_of_its_permutation(uri):
    shuffled = Permutation(uri).shuffle(3)
    dataset = LanceMapDataset(shuffled, columns=["id", "vec", "text"])
    everything = list(range(len(dataset)))
    before = dataset.__getitems__(everything).batch
    for file in Path(uri, "data").iterdir():
        file.write_bytes(b"")  # a removed one might still be open

    after = dataset.__getitems__(everything[::-1]).batch

    assert after["id"].flip(0).equal(before["id"])
    assert after["vec"].flip(0).equal(before["vec"])
    assert after["text"][::-1] == before["text"]
    assert dataset[-1]["id"] == before["id"][-1]


def test_what_is_kept_is_not_pickled(uri):
    dataset = LanceMapDataset(uri)
    dataset.__getitems__(range(len(dataset)))

    assert len(pickle.dumps(dataset)) < 2048
    assert len(pickle.loads(pickle.dumps(dataset))[3]["vec"]) == 4


@pytest.mark.parametrize("options", [{"cache_bytes": 0}, {"filter": "id >= 0"}])
def test_rows_of_a_filter_and_without_a_cache_are_read_each_time(uri, options, monkeypatch):
    read = []
    take = MeteredRows.take
    monkeypatch.setattr(MeteredRows, "take", lambda self, rows: read.append(len(rows)) or take(self, rows))
    dataset = LanceMapDataset(uri, columns=["id"], **options)

    dataset.__getitems__(range(len(dataset)))
    assert dataset[3]["id"].item() == 3

    assert read == [len(dataset), 1]


@pytest.mark.parametrize("cache_bytes", [-1, 1.5, True, "all", None])
def test_wrong_sizes_are_refused(uri, cache_bytes):
    with pytest.raises(InvalidArgumentError, match="cache_bytes="):
        LanceMapDataset(uri, cache_bytes=cache_bytes)
