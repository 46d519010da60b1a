"""Sets of keys, and the rows of a table whose key is not in another one."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal

import lance
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ray_lance import key_sets
from ray_lance.errors import InvalidArgumentError, UnknownColumnError
from ray_lance.key_sets import KeySet, comparable_schema, hash_keys, in_types
from ray_lance.row_choice import Absent
from ray_lance.table import TableRef


def held(keys: pa.Table, rows: pa.Table) -> list[bool]:
    schema = comparable_schema(rows.schema, keys.schema)
    rows = in_types(rows, schema)
    return KeySet([in_types(keys, schema)], schema).holds(rows, hash_keys(rows)).tolist()


def of_type(dtype: pa.DataType, values: list) -> pa.Table:
    return pa.table({"k": pa.array(values, dtype)})


LONG = "x" * 200
WORDS = ["", "a", "ab", LONG, LONG + "y"]
TIMES = [datetime(2020, 1, day) for day in range(1, 6)]
TYPES = [
    (pa.int8(), pa.int64(), [-1, 0, 1, 2, 127]),
    (pa.uint64(), pa.int8(), [0, 1, 2, 3, 4]),
    (pa.uint64(), pa.uint64(), [0, 1, 2, 3, 2**64 - 1]),
    (pa.bool_(), pa.bool_(), [True, False, True, False, True]),
    (pa.string(), pa.large_string(), WORDS),
    (pa.dictionary(pa.int32(), pa.string()), pa.string(), WORDS),
    (pa.binary(), pa.large_binary(), [word.encode() for word in WORDS]),
    (pa.binary(2), pa.binary(), [b"ab", b"cd", b"ef", b"gh", b"ij"]),
    (pa.decimal128(9, 2), pa.decimal128(9, 2), [Decimal(n) for n in range(5)]),
    (pa.timestamp("us"), pa.timestamp("us"), TIMES),
    (pa.date32(), pa.date32(), TIMES),
]


@pytest.mark.parametrize(("ours", "theirs", "values"), TYPES, ids=lambda value: str(value)[:20])
def test_keys_are_found_by_value_in_every_type(ours, theirs, values):
    found = held(of_type(theirs, values[:2] * 2), of_type(ours, values).slice(0))

    assert found == [value in values[:2] for value in values]


def test_a_number_is_not_another_one_of_the_same_bits():
    assert held(of_type(pa.uint64(), [2**64 - 1, 7]), of_type(pa.int64(), [-1, 7])) == [False, True]


@settings(max_examples=50)
@given(st.lists(st.text(max_size=3)), st.lists(st.text(max_size=3)), st.integers(1, 5))
def test_hashes_that_collide_are_told_apart(keys, rows, hashes):
    few = {"_hash_column": lambda column: np.array([len(value) % hashes for value in column.to_pylist()], np.uint64)}

    with pytest.MonkeyPatch.context() as patch:
        for name, function in few.items():
            patch.setattr(key_sets, name, function)
        found = held(of_type(pa.string(), keys), of_type(pa.string(), rows))

    assert found == [row in keys for row in rows]


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [(pa.int64(), pa.string()), (pa.float64(), pa.float64()), (pa.list_(pa.int8()), pa.list_(pa.int8())),
     (pa.timestamp("us"), pa.timestamp("ms"))],
    ids=str,
)  # fmt: skip
def test_keys_that_cannot_be_compared_exactly_are_refused(ours, theirs):
    with pytest.raises(InvalidArgumentError, match="on: column 'k' is"):
        comparable_schema(pa.schema([("k", ours)]), pa.schema([("k", theirs)]))


KEYS = st.lists(st.tuples(st.none() | st.integers(0, 6), st.sampled_from(["a", "b", None])), min_size=1, max_size=20)


def two_tables(folder, source: list, target: list) -> tuple[TableRef, TableRef]:
    tables = []
    for name, rows in (("source", source), ("target", target)):
        table = pa.table(
            {"k": pa.array([k for k, _ in rows], pa.int32()), "s": pa.array([s for _, s in rows], pa.string())}
        )
        lance.write_dataset(table, folder / name, max_rows_per_file=4)
        tables.append(TableRef.of(folder / name).pin())
    return tables[0], tables[1]


@settings(max_examples=25)
@given(KEYS, KEYS, st.sampled_from([("k",), ("k", "s"), ("s",)]), st.sampled_from([64, 2**30]))
def test_absent_rows_are_those_of_an_anti_join_in_sql(tmp_path_factory, source, target, on, pass_bytes):
    ours, theirs = two_tables(tmp_path_factory.mktemp("join"), source, target)

    row_ids = Absent(ours, theirs, on, pass_bytes).row_ids()

    columns = ["ks".index(name) for name in on]
    keys = [tuple(row[column] for column in columns) for row in source]
    there = {tuple(row[column] for column in columns) for row in target}
    wanted = [row for row, key in enumerate(keys) if None in key or key not in there]
    found = ours.open().to_table(columns=[], with_row_id=True)["_rowid"].to_pylist()
    assert (found if row_ids is None else row_ids.tolist()) == [found[row] for row in wanted]


def test_absent_rows_pass_the_filter_and_are_of_the_fragments(tmp_path):
    ours, theirs = two_tables(tmp_path, [(i, "a") for i in range(12)], [(5, "a"), (9, "b")])
    absent = Absent(ours, theirs, ("k",))

    assert [row & 0xFFFF for row in absent.row_ids("k >= 4", [1]).tolist()] == [0, 2, 3]
    assert absent.row_ids("k < 5") is None
    with pytest.raises(UnknownColumnError, match="'z'"):
        Absent(ours, theirs, ("z",)).row_ids()


def test_memory_of_a_set_per_key():
    ids = np.arange(2**16)

    def per_key(keys: pa.Table) -> float:
        schema = comparable_schema(keys.schema, keys.schema)
        return KeySet([in_types(keys, schema)], schema).nbytes / len(ids)

    assert per_key(of_type(pa.int64(), ids)) == 8
    assert per_key(of_type(pa.string(), [f"{i:036d}" for i in ids])) < 8 + 36 + 8 + 1
