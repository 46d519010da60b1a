"""Rows that stay in memory between passes are those of the table, are read once, and are no more than may be."""

from __future__ import annotations

import gc
import os
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import lance
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ray_lance import Permutation
from ray_lance.errors import InvalidArgumentError
from ray_lance.torch import LanceIterableDataset, kept
from ray_lance.torch.budget import Budget
from ray_lance.torch.kept import KeptRows
from tests.datasets import write_fragments

COUNT = 60
SCHEMA = pa.schema([pa.field("id", pa.int64(), nullable=False), ("vec", pa.list_(pa.float32(), 3))], {"of": "table"})
ROW_BYTES = 8 + 12 + 1


@pytest.fixture(autouse=True)
def room(monkeypatch) -> Budget:
    """A process in which nothing is kept yet."""
    room = Budget()
    monkeypatch.setattr(kept, "budget", room)
    monkeypatch.setattr(kept, "_tables", type(kept._tables)())
    return room


class Table:
    """Rows whose values follow from their offsets; notes what is read of them."""

    def __init__(self, schema: pa.Schema = SCHEMA, nulls: tuple[int, ...] = ()) -> None:
        self.schema, self.nulls = schema, nulls
        self.reads: list[list[int]] = []

    def read(self, offsets) -> pa.Table:
        self.reads.append(offsets.tolist())
        return self.rows(offsets.tolist())

    def rows(self, offsets: list[int]) -> pa.Table:
        ids = pa.array(offsets, pa.int64())
        vectors = pa.array([None if i in self.nulls else [i, -i, 0.5] for i in offsets], pa.list_(pa.float32(), 3))
        return pa.Table.from_arrays([ids, vectors], schema=self.schema)

    def kept(self) -> KeptRows:
        return KeptRows(self.read, self.schema, COUNT)


def take(rows: KeptRows, offsets: list[int]) -> pa.Table:
    return rows.take(np.array(offsets, np.int64))


class TestRows:
    @settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(
        st.lists(st.lists(st.lists(st.integers(0, COUNT - 1), max_size=30), max_size=4), max_size=4),
        st.sampled_from([(), (7,), (0, 41, 59)]),
        st.sampled_from([0, COUNT * ROW_BYTES - 1, COUNT * ROW_BYTES]),
    )
    def test_are_those_that_were_asked_for(self, passes, nulls, max_bytes):
        table = Table(nulls=nulls)
        rows = table.kept()

        for reads in passes:
            rows.begin_pass(max_bytes, [])
            for offsets in reads:
                got = take(rows, offsets)
                got.validate(full=True)
                assert got.equals(table.rows(offsets), check_metadata=True)

    def test_are_read_again_in_the_second_pass_alone(self):
        table = Table()
        rows = table.kept()

        for offsets in ([3, 1, 3], [1, 3, 5], [5, 3, 1, 7], [1, 7]):
            rows.begin_pass(10**6, [])
            take(rows, offsets)

        assert table.reads == [[3, 1, 3], [1, 3, 5], [7]]
        assert not rows.is_complete
        take(rows, list(range(COUNT)))
        assert rows.is_complete

    def test_with_nulls_are_read_each_time(self, room):
        table = Table(nulls=(4,))
        rows = table.kept()
        for _ in range(4):
            rows.begin_pass(10**6, [])
            take(rows, [1, 2])
            take(rows, [3, 4])

        assert table.reads[-3:] == [[3, 4], [1, 2], [3, 4]]
        assert room.used == 0

    def test_are_the_callers_own(self):
        rows = Table().kept()
        for _ in range(3):
            rows.begin_pass(10**6, [])
            got = take(rows, [4, 5])
            np.frombuffer(got["id"].chunk(0).buffers()[1], np.int64)[:] = -1

        assert take(rows, [4, 5])["id"].to_pylist() == [4, 5]

    def test_may_be_taken_by_several_threads(self):
        rng = np.random.default_rng(0)
        table = Table()
        rows = table.kept()
        rows.begin_pass(10**6, [])
        rows.begin_pass(10**6, [])
        asked = [rng.integers(0, COUNT, 20).tolist() for _ in range(200)]

        with ThreadPoolExecutor(8) as pool:
            got = list(pool.map(lambda offsets: take(rows, offsets), asked))

        assert [each["id"].to_pylist() for each in got] == asked


class TestRoom:
    def test_is_taken_for_all_rows_or_none(self, room):
        first, second = Table(), Table()
        rows = [first.kept(), second.kept()]
        limit = 2 * COUNT * ROW_BYTES - 1
        for each in rows:
            each.begin_pass(limit, [])
            each.begin_pass(limit, [])
            take(each, [1])
            take(each, [1])

        assert (len(first.reads), len(second.reads)) == (1, 2)
        assert room.used == rows[0].nbytes == COUNT * ROW_BYTES

    def test_is_made_by_those_that_nobody_uses(self, room):
        old, older, new = Table().kept(), Table().kept(), Table().kept()
        limit = 2 * COUNT * ROW_BYTES
        for each in (older, old):
            each.begin_pass(limit, [])
            each.begin_pass(limit, [])
            take(each, list(range(COUNT)))

        new.begin_pass(limit, [older, old])
        new.begin_pass(limit, [older, old])
        take(new, list(range(COUNT)))

        assert [each.is_complete for each in (older, old, new)] == [False, True, True]
        assert room.used == limit

    def test_is_taken_page_by_page(self):
        """The first batch of a pass does not wait until the memory of all rows has been cleared."""
        count, width = 2**15, 8192
        schema = pa.schema([("data", pa.binary(width))])
        rows = KeptRows(lambda offsets: pa.table({"data": pa.array([b"x" * width] * len(offsets))}), schema, count)
        rows.begin_pass(2**30, [])
        rows.begin_pass(2**30, [])
        before = resident()

        rows.take(np.arange(0, count, 2**8))

        assert resident() - before < 2**25 < rows.nbytes / 4


def resident() -> int:
    """Bytes of this process that are in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


ALL_TYPES = {
    "int8": pa.array(range(COUNT), pa.int8()),
    "uint64": pa.array(range(COUNT), pa.uint64()),
    "half": pa.array(np.arange(COUNT, dtype=np.float16)),
    "date": pa.array(range(COUNT), pa.date32()),
    "timestamp": pa.array(range(COUNT), pa.timestamp("us", "UTC")),
    "decimal": pa.array(range(COUNT), pa.int64()).cast(pa.decimal128(30, 2)),
    "binary": pa.array([b"%04d" % i for i in range(COUNT)], pa.binary(4)),
    "vector": pa.array([[i, -i] for i in range(COUNT)], pa.list_(pa.float64(), 2)),
    "matrix": pa.FixedShapeTensorArray.from_numpy_ndarray(np.arange(4 * COUNT, dtype=np.int32).reshape(COUNT, 2, 2)),
}
UNSUITED = {
    "text": pa.array([str(i) for i in range(COUNT)]),
    "list": pa.array([[i] * (i % 3) for i in range(COUNT)]),
    "bool": pa.array([i % 2 == 0 for i in range(COUNT)]),
    "struct": pa.array([{"a": i} for i in range(COUNT)]),
    "nulls": pa.array([None if i == 30 else float(i) for i in range(COUNT)]),
}


def passes(source, count: int = 4, **options) -> list[list[pa.Table]]:
    options = {"batch_size": 7, "shuffle": 3, "tail": "uneven", "format": "arrow", **options}
    dataset = LanceIterableDataset(source, **options)
    return [list(dataset) for _ in range(count)]


@pytest.mark.parametrize("name", [*ALL_TYPES, *UNSUITED])
def test_columns_of_every_type_are_the_same_in_every_pass(name, uri, room):
    column = {**ALL_TYPES, **UNSUITED}[name]
    lance.write_dataset(pa.table({"id": range(COUNT), "column": column}), uri, max_rows_per_file=25)

    for got, expected in zip(passes(uri), passes(uri, cache_bytes=0), strict=True):
        for batch, plain in zip(got, expected, strict=True):
            batch.validate(full=True)
            assert batch.schema.equals(plain.schema, check_metadata=True)
            assert batch.to_pylist() == plain.to_pylist()

    assert (room.used > 0) == (name in ALL_TYPES)


class TestDatasets:
    @pytest.fixture
    def table(self, uri) -> str:
        write_fragments(uri, [40, 1, 80], deleted="id % 16 = 5")
        return uri

    def emptied(self, table: str) -> None:
        for file in Path(table, "data").iterdir():
            file.write_bytes(b"")  # a removed one might still be open

    def test_read_nothing_from_the_third_pass_on(self, table):
        options = {"batch_size": 10, "columns": ["id", "vec"], "shuffle": 3, "tail": "uneven"}
        expected = passes(table, 5, **options, cache_bytes=0)
        dataset = LanceIterableDataset(table, **options, format="arrow")
        got = [list(dataset), list(dataset)]
        self.emptied(table)

        again = LanceIterableDataset(table, **{**options, "shuffle": 5}, format="arrow")  # another order, and object
        rest = sorted(row for batch in again for row in batch["id"].to_pylist())
        got += [list(dataset) for _ in range(3)]

        assert got == expected
        assert rest == sorted(row for batch in expected[0] for row in batch["id"].to_pylist())

    def test_go_on_from_a_state(self, table):
        options = {"batch_size": 10, "columns": ["id"], "shuffle": 3}
        plain = LanceIterableDataset(table, **options, cache_bytes=0)
        for _ in range(2):
            list(LanceIterableDataset(table, **options))
        batches = iter(plain)
        for _ in range(4):
            next(batches)

        resumed = LanceIterableDataset(table, **options)
        resumed.load_state_dict(plain.state_dict())

        assert [batch["id"].tolist() for batch in resumed] == [batch["id"].tolist() for batch in batches]

    def test_of_another_table_at_the_same_place_are_other_rows(self, table):
        passes(table, columns=["id"])
        shutil.rmtree(table)
        write_fragments(table, [40, 1, 80], deleted="id % 16 = 6")

        (rows,) = passes(table, 1, columns=["id"])

        assert 6 not in [row for batch in rows for row in batch["id"].to_pylist()]

    @pytest.mark.parametrize(
        "options",
        [{"cache_bytes": 0}, {"cache_bytes": 1000}, {"filter": "id >= 0"}, {"columns": {"id": "id + 0"}}],
    )
    def test_that_may_not_keep_rows_read_them(self, table, options, room):
        passes(table, 3, **{"columns": ["id"], **options})

        assert room.used == 0

    def test_that_live_keep_their_rows_and_others_make_room(self, table, room):
        size = 113 * (8 + 1)
        options = {"batch_size": 10, "tail": "uneven", "cache_bytes": 2 * size - 1}
        first = LanceIterableDataset(table, columns=["id"], **options)
        for _ in range(3):
            list(first)
        assert room.used == size

        passes(table, 3, columns=["label"], **options)
        assert next(iter(kept._tables))[1:] == ("id",)
        assert room.used == size
        assert [rows.is_complete for rows in kept._tables.values()] == [True, False]

        del first
        gc.collect()
        passes(table, 3, columns=["label"], **options)
        assert [rows.is_complete for rows in kept._tables.values()] == [False, True]
        assert room.used == size

    def test_of_many_tables_are_forgotten(self, table, monkeypatch, room):
        monkeypatch.setattr(kept, "_MAX_TABLES", 3)
        for columns in (["id"], ["label"], ["vec"], ["id", "label"], ["label", "id"]):
            passes(table, 3, columns=columns)
        gc.collect()

        assert len(kept._tables) <= 3
        assert room.used == sum(rows.nbytes for rows in kept._tables.values())

    @pytest.mark.parametrize("cache_bytes", [-1, 1.5, True, "all", None])
    def test_refuse_wrong_sizes(self, table, cache_bytes):
        with pytest.raises(InvalidArgumentError, match="cache_bytes="):
            LanceIterableDataset(table, batch_size=1, cache_bytes=cache_bytes)

    def test_of_one_table_iterate_at_once(self, table):
        order = Permutation(table).shuffle(1)
        expected = [batch.to_pylist() for batch in passes(order, 1, shuffle=None, columns=["id"], cache_bytes=0)[0]]
        started, got = threading.Barrier(4), []

        def iterate() -> None:
            dataset = LanceIterableDataset(order.epoch(0), batch_size=7, tail="uneven", columns=["id"], format="arrow")
            started.wait()
            got.extend([batch.to_pylist() for batch in dataset] == expected for _ in range(5))

        threads = [threading.Thread(target=iterate) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

        assert got == [True] * 20
