"""Whatever the layout of the arrays, Lance is given one that it takes."""

from __future__ import annotations

from decimal import Decimal

import lance
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ray_lance.errors import LancePanicError
from ray_lance.write.data_file import WatchedBatches, write_data_file
from tests.examples import examples
from tests.orphans import leftovers
from tests.writes import write_tables

LEAVES = {
    "int": pa.array([1, None, 3, 4] * 3),
    "text": pa.array(["a", None, "ccc", "d" * 20] * 3),
    "flags": pa.array([True, None, False, True] * 3),
    "lists": pa.array([[1], None, [], [2, 3]] * 3),
    "vectors": pa.array([[1, 2], None, [3, 4], [5, 6]] * 3, pa.list_(pa.int32(), 2)),
    "decimals": pa.array([Decimal("1.5"), None, Decimal("2.5"), Decimal("3")] * 3, pa.decimal128(5, 2)),
    "categories": pa.array(["a", None, "b", "a"] * 3).dictionary_encode(),
    "maps": pa.array([[("a", 1)], None, [], [("b", None)]] * 3, pa.map_(pa.string(), pa.int32())),
}
SLICES = [(0, 12), (0, 5), (1, 11), (5, 4), (7, 1)]


def struct(array: pa.Array, nulls: bool = False) -> pa.Array:
    mask = pa.array([row % 3 == 1 for row in range(len(array))]) if nulls else None
    return pa.StructArray.from_arrays([array], ["f"], mask=mask)


def lists(array: pa.Array) -> pa.Array:
    return pa.ListArray.from_arrays(pa.array(np.arange(len(array) + 1, dtype=np.int32)), array)


NESTINGS = {
    "struct": struct,
    "struct with nulls": lambda array: struct(array, nulls=True),
    "structs in structs": lambda array: struct(struct(struct(array, nulls=True)), nulls=True),
    "lists of structs": lambda array: lists(struct(struct(array))),
    "structs of lists": lambda array: struct(lists(struct(array, nulls=True))),
}


@pytest.mark.parametrize("nesting", NESTINGS)
@pytest.mark.parametrize("leaf", LEAVES)
def test_slices_of_nested_columns_are_written(tmp_path, leaf, nesting):
    whole = pa.table({"x": NESTINGS[nesting](LEAVES[leaf])})
    for number, (start, length) in enumerate(SLICES):
        rows = whole.slice(start, length)

        write_tables(str(tmp_path / str(number)), [rows])

        assert lance.dataset(str(tmp_path / str(number))).to_table()["x"].to_pylist() == rows["x"].to_pylist()


@settings(max_examples=examples(10))
@given(start=st.integers(0, 99), length=st.integers(1, 100))
def test_blocks_that_are_written_in_pieces_are_written_whole(tmp_path_factory, start, length):
    """A block above some megabytes is cut into batches, which are slices of it."""
    uri = str(tmp_path_factory.mktemp("pieces") / "t.lance")
    texts = pa.array([bytes([65 + row % 26]).decode() * 100_000 for row in range(200)])
    rows = pa.table({"x": struct(struct(texts)), "row": range(200)}).slice(start, length)

    write_tables(uri, [rows])

    assert lance.dataset(uri).to_table().equals(rows)


def test_columns_without_structs_are_not_copied():
    batch = pa.record_batch({"x": pa.array(np.arange(100.0))}).slice(10)

    (given,) = WatchedBatches(iter([batch]))

    assert given.column(0).buffers()[1].address == batch.column(0).buffers()[1].address


class PanicException(BaseException):
    """As Lance raises it: no Exception."""


def test_a_panic_is_an_error_that_is_cleaned_up_after_and_not_tried_again(uri, tmp_path, monkeypatch):
    def panic(*arguments: object, **options: object) -> None:
        calls.append(1)
        raise PanicException("assertion failed: end <= self.len()")

    calls: list[int] = []
    monkeypatch.setattr("ray_lance.write.data_file.write_fragments", panic)

    with pytest.raises(LancePanicError, match=r"panicked.*end <= self\.len\(\)"):
        write_tables(uri, [pa.table({"x": [1]})])

    assert calls == [1]
    assert leftovers(tmp_path) == []


def test_one_file_is_one_fragment(tmp_path):
    batches = iter(pa.table({"x": [1, 2]}).to_batches())

    operation = write_data_file(batches, pa.schema([("x", pa.int64())]), dataset_uri=str(tmp_path / "t"), mode="create")

    assert [fragment.physical_rows for fragment in operation.fragments] == [2]
