"""Rows that stay in memory between passes are those of the table, are read once, and take no more than may be used."""

from __future__ import annotations

import ctypes
import errno
import gc
import os
import shutil
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import lance
import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ray_lance import Permutation
from ray_lance.errors import InvalidArgumentError
from ray_lance.order.rows import RowArray
from ray_lance.torch import LanceIterableDataset, cache_budget, table_cache
from ray_lance.torch.range_cache import RangeCache
from ray_lance.torch.table_cache import TableCache
from tests.datasets import write_fragments

COUNT = 60
SCHEMA = pa.schema([pa.field("id", pa.int64(), nullable=False), ("vec", pa.list_(pa.float32(), 3))], {"of": "table"})
ROW_BYTES = 8 + 12 + 1


class User:
    """Somebody for whom rows are read."""


class Storage:
    """Rows whose values follow from their offsets; notes what is read of them."""

    def __init__(self, nulls: tuple[int, ...] = ()) -> None:
        self.nulls = nulls
        self.reads: list[list[int]] = []

    def take(self, offsets: RowArray) -> pa.Table:
        self.reads.append(offsets.tolist())
        return self.rows(offsets.tolist())

    def take_in_pieces(self, offsets: RowArray, receive: Callable[[RowArray, pa.Table], bool]) -> bool:
        assert offsets.tolist() == sorted(offsets.tolist())
        self.reads.append(offsets.tolist())
        pieces = [offsets[start : start + 7] for start in range(0, len(offsets), 7)]
        return all(receive(piece, self.rows(piece.tolist())) for piece in pieces)

    def rows(self, offsets: list[int]) -> pa.Table:
        ids = pa.array(offsets, pa.int64())
        vectors = pa.array([None if i in self.nulls else [i, -i, 0.5] for i in offsets], pa.list_(pa.float32(), 3))
        return pa.Table.from_arrays([ids, vectors], schema=SCHEMA)


class Table:
    """A stored table of which rows are cached, for a user."""

    def __init__(self, nulls: tuple[int, ...] = ()) -> None:
        self.storage = Storage(nulls)
        self.reads = self.storage.reads
        self.rows = self.storage.rows
        self.cache = TableCache(SCHEMA, COUNT)
        self.user = User()

    def begin(self, rows: int = COUNT, max_bytes: int = 10**6, keeps_first: bool = True) -> None:
        self.cache.begin(self.user, rows, max_bytes, keeps_first=keeps_first)

    def take(self, offsets: list[int]) -> pa.Table:
        return self.cache.take(np.array(offsets, np.int64), self.storage)[0]

    def take_all(self) -> pa.Table:
        return self.take(list(range(COUNT)))


class TestRows:
    @settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(
        st.lists(st.lists(st.lists(st.integers(0, COUNT - 1), max_size=80), max_size=4), max_size=4),
        st.sampled_from([(), (7,), (0, 41, 59)]),
        st.sampled_from([0, COUNT * ROW_BYTES - 1, COUNT * ROW_BYTES]),
    )
    def test_are_those_that_were_asked_for(self, passes, nulls, max_bytes):
        table = Table(nulls=nulls)

        for reads in passes:
            table.begin(20, max_bytes)
            for offsets in reads:
                got = table.take(offsets)
                got.validate(full=True)
                assert got.equals(table.rows(offsets), check_metadata=True)

    def test_are_read_once_and_from_the_second_read_on_in_the_order_in_which_they_lie(self):
        table = Table()

        for offsets in ([9, 1, 5], [1, 9], [7, 5, 1, 3], [5, 7]):
            table.begin()
            table.take(offsets)

        assert table.reads == [[9, 1, 5], [1, 3, 5, 7]]

    def test_of_a_first_pass_that_may_be_the_only_one_are_not_kept(self, room):
        table, used = Table(), []
        for offsets in ([0, 1], range(COUNT), range(COUNT), range(COUNT)):
            table.begin(keeps_first=False)
            table.take(list(offsets))
            used.append(room.used)

        assert used == [0, 0, COUNT * ROW_BYTES, COUNT * ROW_BYTES]
        assert len(table.reads) == 3

    def test_that_are_few_are_read_alone(self):
        table = Table()
        table.begin()
        table.take(list(range(40)))
        table.reads.clear()

        assert table.take([*range(5, 40), 50, 0]).equals(table.rows([*range(5, 40), 50, 0]))
        assert table.take([*range(10), 51, 52]).equals(table.rows([*range(10), 51, 52]))
        table.take([50, 51, 52])

        assert table.reads == [[50], [*range(10), 51, 52]]

    def test_with_nulls_are_read_each_time(self, room):
        table = Table(nulls=(4,))
        for _ in range(4):
            table.begin()
            table.take_all()
            table.take([1, 2])

        assert [len(read) for read in table.reads] == [COUNT, 2] * 4
        assert room.used == 0

    def test_with_nulls_among_the_last_few_are_read_again(self, room):
        table = Table(nulls=(50,))
        table.begin()
        table.take(list(range(40)))

        assert table.take([*range(40), 50]).equals(table.rows([*range(40), 50]))
        assert room.used == 0

    def test_of_a_read_that_failed_are_not_kept_and_those_that_are_stay(self):
        table = Table()
        table.begin()
        table.take([20, 21])

        def fail(offsets: RowArray, receive: Callable[[RowArray, pa.Table], bool]) -> bool:
            receive(offsets[:5], table.rows([1, 2, 3, 4, 5]))  # others than were asked for
            raise IndexError("only 5 of 20 rows exist")

        with pytest.raises(IndexError, match="only 5"):
            table.cache.take(np.arange(20, 40), SimpleNamespace(take_in_pieces=fail))

        assert table.take([21, 20])["id"].to_pylist() == [21, 20]
        assert table.take([22])["id"].to_pylist() == [22]
        assert table.reads == [[20, 21], [22]]

    def test_are_the_callers_own(self):
        table = Table()
        table.begin()
        for _ in range(3):
            memory = table.take([4, 5])["id"].chunk(0).buffers()[1]
            ctypes.memset(memory.address, 255, memory.size)

        assert table.take([4, 5])["id"].to_pylist() == [4, 5]

    def test_may_be_taken_by_several_threads(self):
        rng = np.random.default_rng(0)
        table = Table()
        table.begin()
        asked = [rng.integers(0, COUNT, 20).tolist() for _ in range(200)]

        with ThreadPoolExecutor(8) as pool:
            got = list(pool.map(table.take, asked))

        assert [each["id"].to_pylist() for each in got] == asked

    def test_are_there_when_they_have_been_read(self):
        table = Table()
        assert not table.cache.has(np.arange(1))
        table.begin()
        table.take([3, 4])

        assert table.cache.has(np.array([4, 3, 4]))
        assert not table.cache.has(np.array([3, 5]))


class TestRoom:
    def test_is_taken_for_all_rows_or_none(self, room):
        tables = [Table(), Table()]
        for table in tables:
            for _ in range(3):
                table.begin(max_bytes=2 * COUNT * ROW_BYTES - 1)
                table.take_all()

        assert [len(table.reads) for table in tables] == [1, 3]
        assert room.used == tables[0].cache.nbytes == COUNT * ROW_BYTES

    def filled(self, tables: int, limit: int) -> list[Table]:
        made = [Table() for _ in range(tables)]
        for table in made:
            table.begin(max_bytes=limit)
            table.take_all()
            table.reads.clear()
        return made

    def test_is_made_by_the_oldest_that_nobody_uses(self, room):
        limit = 3 * COUNT * ROW_BYTES
        used, older, old = self.filled(3, limit)
        older.user = old.user = None

        (new,) = self.filled(1, limit)

        for table in (used, older, old, new):
            table.take([1])
        assert [len(table.reads) for table in (used, older, old, new)] == [0, 1, 0, 0]
        assert room.used == limit

    def test_is_not_made_in_vain(self, room):
        limit = 2 * COUNT * ROW_BYTES
        _used, idle = self.filled(2, limit)
        idle.user = None
        large = TableCache(SCHEMA, 2 * COUNT)

        large.begin(User(), 2 * COUNT, limit, keeps_first=True)

        idle.take([1])
        assert not idle.reads
        assert room.used == limit

    def test_is_made_for_ranges_of_map_datasets(self, room):
        limit = COUNT * ROW_BYTES
        (idle,) = self.filled(1, limit)
        idle.user = None

        rows = RangeCache(idle.storage.take, COUNT, ROW_BYTES, limit)
        for _ in range(3):
            rows.take(np.arange(COUNT))

        assert len(idle.reads) == 1
        assert room.used == idle.rows(list(range(COUNT))).nbytes

    def test_that_the_process_cannot_have_is_not_taken(self, room, monkeypatch):
        def refuse(*_args: int, **_options: int) -> None:
            raise OSError(errno.ENOMEM, "Cannot allocate memory")

        monkeypatch.setattr(table_cache.mmap, "mmap", refuse)
        table = Table()
        for _ in range(3):
            table.begin()
            assert table.take_all().equals(table.rows(list(range(COUNT))))

        assert room.used == 0

    def test_is_taken_page_by_page(self):
        """The first batch of a pass does not wait until the memory of all rows has been cleared."""
        count, width = 2**15, 8192
        schema = pa.schema([("data", pa.binary(width))])
        rows, user = TableCache(schema, count), User()
        rows.begin(user, count, 2**30, keeps_first=True)
        before = resident()

        table = pa.table({"data": pa.array([b"x" * width] * (count // 2**8), pa.binary(width))})
        rows.take(np.arange(0, count, 2**8), SimpleNamespace(take=lambda _rows: table))

        assert resident() - before < 2**25 < rows.nbytes / 4


def resident() -> int:
    """Bytes of this process that are in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def cached_columns() -> list[tuple[str, ...]]:
    """The columns of which rows are in memory."""
    return [key[1:] for key, rows in table_cache._caches.of_tables.items() if rows._memory is not None]


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


def _note_used(batch: dict) -> dict:
    return {**batch, "used": cache_budget.budget.used}


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

    @pytest.mark.parametrize("columns", [["id", "vec"], ["vec", "_rowid", "_fragid", "id"]])
    def test_read_nothing_from_the_second_pass_on(self, table, columns):
        options = {"batch_size": 10, "columns": columns, "shuffle": 3, "tail": "uneven"}
        expected = passes(table, 5, **options, cache_bytes=0)
        dataset = LanceIterableDataset(table, **options, format="arrow")
        got = [list(dataset)]
        self.emptied(table)

        again = LanceIterableDataset(table, **{**options, "shuffle": 5}, format="arrow")  # another order, and object
        rest = sorted(row for batch in again for row in batch["id"].to_pylist())
        got += [list(dataset) for _ in range(4)]

        assert got == expected
        assert rest == sorted(row for batch in expected[0] for row in batch["id"].to_pylist())

    def test_in_order_read_nothing_from_the_third_pass_on(self, table, room):
        options = {"columns": ["vec", "_fragid", "id"], "shuffle": None}
        (expected,) = passes(table, 1, **options, cache_bytes=0)
        got = passes(table, 1, **options)
        assert room.used == 0
        got += passes(table, 1, **options)
        self.emptied(table)

        got += passes(table, 2, **options)

        assert got == [expected] * 4

    @pytest.mark.parametrize("tail", ["pad", "uneven"])
    @pytest.mark.parametrize("deleted", [None, "id % 16 = 5"])
    def test_of_several_reads_are_those_in_storage(self, uri, room, deleted, tail):
        write_fragments(uri, [20_000, 15_000, 30_000], deleted=deleted)
        options = {"batch_size": 1000, "columns": ["vec", "_rowaddr", "id"], "tail": tail, "lanes": 2}

        for got, expected in zip(passes(uri, 3, **options), passes(uri, 3, **options, cache_bytes=0), strict=True):
            assert got == expected

        assert room.used > 0

    def test_go_on_from_a_state(self, table):
        options = {"batch_size": 10, "columns": ["id"], "shuffle": 3}
        plain = LanceIterableDataset(table, **options, cache_bytes=0)
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
        [
            {"cache_bytes": 0},
            {"cache_bytes": 1000},
            {"filter": "id >= 0"},
            {"columns": {"id": "id + 0"}},
            {"columns": {"id": "id", "current_timestamp": "current_timestamp"}},
        ],
    )
    def test_that_may_not_cache_rows_read_them(self, table, options, room):
        passes(table, 3, **{"columns": ["id"], **options})

        assert room.used == 0

    def test_that_live_keep_their_rows_and_others_make_room(self, table, room):
        size = 113 * (8 + 1)
        options = {"batch_size": 10, "tail": "uneven", "shuffle": 3, "cache_bytes": 2 * size - 1}
        first = LanceIterableDataset(table, columns=["id"], **options)
        list(first)
        assert cached_columns() == [("id",)]

        passes(table, 1, columns=["label"], **options)
        assert cached_columns() == [("id",)]

        del first
        gc.collect()
        passes(table, 1, columns=["label"], **options)
        assert cached_columns() == [("label",)]
        assert room.used == size

    def test_leave_nothing_behind_but_rows(self, table):
        """Neither what transforms the batches nor, where that knows it, the dataset."""

        class Trainer:
            def __init__(self) -> None:
                self.dataset = LanceIterableDataset(table, batch_size=10, columns=["id"], transform=self.transform)
                for _ in range(3):
                    list(self.dataset)

            def transform(self, batch: dict) -> dict:
                return batch

        trainer = weakref.ref(Trainer())
        gc.collect()

        assert trainer() is None
        assert cached_columns() == [("id",)]
        assert [rows.is_idle for rows in table_cache._caches.of_tables.values()] == [True]

    def test_of_many_tables_are_forgotten(self, table, monkeypatch, room):
        monkeypatch.setattr(table_cache, "_MAX_TABLES", 3)
        for columns in (["id"], ["label"], ["vec"], ["id", "label"], ["label", "id"]):
            passes(table, 1, columns=columns)
            gc.collect()

        assert cached_columns() == [("vec",), ("id", "label"), ("label", "id")]
        assert room.used == 113 * (16 + 1 + 2 * (16 + 1))

    @pytest.mark.parametrize("options", [{"rank": 0, "world_size": 2}, {"rank": 1, "world_size": 4}])
    def test_of_several_ranks_read_their_rows(self, table, options, room):
        passes(table, 4, columns=["id"], **options)

        assert room.used == 0

    def test_of_workers_of_a_loader_read_their_rows(self, table):
        dataset = LanceIterableDataset(table, batch_size=10, columns=["id"], shuffle=3, transform=_note_used)
        loader = torch.utils.data.DataLoader(dataset, None, num_workers=1, multiprocessing_context="spawn")

        assert [batch["used"] for batch in loader] == [0] * 11

    def test_of_a_part_of_a_table_keep_it(self, table, room):
        part = Permutation(table).split({"most": 0.9, "rest": 0.1}, seed=1)["most"]
        options = {"columns": ["id"], "batch_size": 20}
        expected = passes(part, 4, **options, cache_bytes=0)
        dataset = LanceIterableDataset(part, shuffle=3, tail="uneven", format="arrow", **options)
        got = [list(dataset)]
        self.emptied(table)

        got += [list(dataset) for _ in range(3)]

        assert got == expected

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
