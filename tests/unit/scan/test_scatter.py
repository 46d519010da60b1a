"""Scattered rows: what Arrow's own sort and take would give."""

from __future__ import annotations

import datetime
import decimal
import itertools
import weakref
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from ray_lance.scan.scatter import scatter, sort_rows

DAYS = [datetime.date(2020, 1, day) for day in range(1, 13)]
COLUMNS = {
    "int64": pa.array(range(12)),
    "int8": pa.array(range(12), pa.int8()),
    "half": pa.array(np.arange(12, dtype=np.float16)),
    "bool": pa.array([i % 3 == 0 for i in range(12)]),
    "date": pa.array(DAYS),
    "decimal": pa.array([decimal.Decimal(i) for i in range(12)], pa.decimal128(20, 2)),
    "timestamp": pa.array(DAYS).cast(pa.timestamp("us", "UTC")),
    "binary3": pa.array([b"%03d" % i for i in range(12)], pa.binary(3)),
    "string": pa.array([str(i) * i for i in range(12)]),
    "null": pa.nulls(12),
    "nulls": pa.array([None if i % 4 == 0 else i for i in range(12)]),
    "vector": pa.array([[i, -i, i] for i in range(12)], pa.list_(pa.float32(), 3)),
    "matrix": pa.array([[[i, 1], [2, i]] for i in range(12)], pa.list_(pa.list_(pa.int16(), 2), 2)),
    "null vectors": pa.array([None if i == 5 else [i, i] for i in range(12)], pa.list_(pa.int32(), 2)),
    "nulls in vectors": pa.array([[i, None if i == 7 else 1] for i in range(12)], pa.list_(pa.int32(), 2)),
    "bool vectors": pa.array([[True, i == 1] for i in range(12)], pa.list_(pa.bool_(), 2)),
    "vectors of nothing": pa.array([[]] * 12, pa.list_(pa.int32(), 0)),
    "list": pa.array([list(range(i)) for i in range(12)]),
    "struct": pa.array([{"a": i, "b": str(i)} for i in range(12)]),
    "dictionary": pa.array(list("abcabcabcabc")).dictionary_encode(),
    "tensor": pa.FixedShapeTensorArray.from_numpy_ndarray(np.arange(48, dtype=np.int32).reshape(12, 2, 2)),
}


@pytest.mark.parametrize("name", COLUMNS)
@given(places=st.permutations(range(12)), cuts=st.lists(st.integers(0, 12), max_size=3), start=st.integers(0, 4))
def test_rows_come_to_their_places(name, places, cuts, start):
    padded = pa.concat_arrays([COLUMNS[name].slice(0, start), COLUMNS[name]]).slice(start)
    edges = [0, *sorted(cuts), 12]
    column = pa.chunked_array([padded[left:right] for left, right in itertools.pairwise(edges)])
    field = pa.field("column", column.type, nullable=column.null_count > 0, metadata={"key": "value"})
    table = pa.Table.from_arrays([column], schema=pa.schema([field], {"of": "table"}))

    moved = scatter([table], np.array(places))

    moved.validate(full=True)
    assert moved.schema.equals(table.schema, check_metadata=True)
    values = table["column"].to_pylist()
    assert [moved["column"][place].as_py() for place in places] == values


@pytest.mark.parametrize("name", COLUMNS)
def test_no_rows_have_no_places(name):
    table = pa.table({"column": COLUMNS[name][:0]})
    assert scatter([table], np.empty(0, np.int64)).equals(table)


@pytest.mark.parametrize("name", COLUMNS)
@given(places=st.permutations(range(12)), cuts=st.lists(st.integers(0, 12), max_size=3))
def test_tables_come_one_by_one(name, places, cuts):
    """Among them some whose nulls come only after values that have been copied already."""
    table = pa.table({"column": COLUMNS[name], "row": range(12)})
    edges = [0, *sorted(cuts), 12]
    tables = [table.slice(left, right - left) for left, right in itertools.pairwise(edges)]

    moved = scatter(iter(tables), np.array(places))

    moved.validate(full=True)
    assert moved["row"].take(pa.array(places)).to_pylist() == list(range(12))
    assert moved["column"].take(pa.array(places)).to_pylist() == COLUMNS[name].to_pylist()


def test_no_more_than_two_tables_are_held():
    alive: list[weakref.ref[pa.Table]] = []

    def tables() -> Iterator[pa.Table]:
        for start in (0, 2, 4):
            assert sum(table() is not None for table in alive) < 2
            table = pa.table({"row": [start, start + 1]})
            alive.append(weakref.ref(table))
            yield table
            del table

    assert scatter(tables(), np.array([5, 4, 3, 2, 1, 0]))["row"].to_pylist() == [5, 4, 3, 2, 1, 0]


@given(
    st.sampled_from([np.int64, np.uint64]).flatmap(
        lambda dtype: arrays.arrays(
            dtype, st.integers(1, 50), elements=st.integers(0, 9) | st.integers(0, np.iinfo(dtype).max)
        )
    )
)
def test_rows_are_sorted_and_know_where_they_were(rows):
    ascending, places = sort_rows(rows)
    assert ascending.dtype == rows.dtype
    assert ascending.tolist() == sorted(rows.tolist())
    assert rows[places].tolist() == ascending.tolist()
    assert sorted(places.tolist()) == list(range(len(rows)))


@given(
    clumps=st.lists(st.integers(0, 40), min_size=1, max_size=12, unique=True),
    clump=st.sampled_from([1, 16, 50, 64, 100]),
    first=st.sampled_from([0, 5, 2**40]),
    dropped=st.integers(0, 30),
    seed=st.integers(0, 9),
    dtype=st.sampled_from([np.int64, np.uint64]),
)
def test_rows_of_clumps_are_sorted_block_by_block(clumps, clump, first, dropped, seed, dtype):
    rows = np.concatenate([np.arange(clump) + first + clump * number for number in clumps]).astype(dtype)
    rows = np.random.default_rng(seed).permutation(rows)[dropped:]
    ascending, places = sort_rows(rows)
    assert ascending.dtype == dtype
    assert np.array_equal(ascending, np.sort(rows))
    assert np.array_equal(places, np.argsort(rows))


@pytest.mark.parametrize("values", [["a", "b"], ["a", None]])
def test_pieces_may_have_dictionaries_of_their_own(values):
    """Also such as hold null as a value."""
    codes = pa.array([0, 1], pa.int8())
    pieces = [pa.DictionaryArray.from_arrays(codes, pa.array(texts)) for texts in (values, ["c", "a"])]
    table = pa.table({"column": pa.chunked_array(pieces)})
    moved = scatter([table], np.array([3, 0, 1, 2]))
    assert moved["column"].to_pylist() == [values[1], "c", "a", "a"]
    assert moved.schema == table.schema


@pytest.mark.parametrize("rows", [2, 4])
def test_another_number_of_rows_is_an_error(rows):
    with pytest.raises(IndexError, match=f"{rows} rows were read, and 3 were asked for"):
        scatter([pa.table({"column": [1]}), pa.table({"column": range(rows - 1)})], np.arange(3))


def test_no_table_at_all_is_an_error():
    with pytest.raises(IndexError, match="no table was read for 3 rows"):
        scatter([], np.arange(3))
