"""Rows added to categories with narrow indices, as datasets have them that others wrote, can be read back."""

from __future__ import annotations

import lance
import numpy as np
import pyarrow as pa
import pytest

from ray_lance.errors import SchemaMismatchError
from tests.orphans import orphans
from tests.sinks import column_of
from tests.writes import write_tables

INT8 = pa.int8()
NESTINGS = {
    "plain": lambda array: array,
    "structs in structs": lambda array: struct(struct(array)),
    "lists": lambda array: pa.ListArray.from_arrays(pa.array(np.arange(len(array) + 1, dtype=np.int32)), array),
}


def struct(array: pa.Array) -> pa.Array:
    return pa.StructArray.from_arrays([array], ["f"])


def categories(prefix: str, count: int, dtype: pa.DataType = INT8) -> pa.Array:
    return pa.DictionaryArray.from_arrays(
        pa.array(range(count), dtype), pa.array([f"{prefix}{i}" for i in range(count)])
    )


@pytest.mark.parametrize("version", ["2.0", None])
@pytest.mark.parametrize("nesting", NESTINGS)
def test_blocks_that_share_categories_are_added(uri, nesting, version):
    """Hundreds of small dictionaries, which have fewer values together than the indices can tell apart."""
    nested = NESTINGS[nesting]
    lance.write_dataset(pa.table({"x": nested(categories("a", 5))}), uri, data_storage_version=version)
    arrays = [nested(categories("b", count)) for count in (60, 100, 120)] + [nested(categories("b", 30))] * 200

    write_tables(uri, [pa.table({"x": array}) for array in arrays], mode="append")

    expected = nested(categories("a", 5)).to_pylist() + [row for array in arrays for row in array.to_pylist()]
    assert column_of(uri) == expected
    assert lance.dataset(uri).take([len(expected) - 1])["x"].to_pylist() == expected[-1:]
    assert orphans(uri) == []


def test_null_may_be_a_category(uri):
    with_null = pa.DictionaryArray.from_arrays(pa.array([0, 1, None], pa.int8()), pa.array(["b", None]))
    lance.write_dataset(pa.table({"x": categories("a", 1)}), uri)

    write_tables(uri, [pa.table({"x": with_null}), pa.table({"x": categories("c", 1)})], mode="append")

    assert column_of(uri) == ["a0", "b", None, None, "c0"]


@pytest.mark.parametrize("nesting", NESTINGS)
@pytest.mark.parametrize("dtype", [pa.int8(), pa.uint8()], ids=str)
def test_more_categories_than_the_indices_tell_apart_are_refused(uri, nesting, dtype):
    nested = NESTINGS[nesting]
    lance.write_dataset(pa.table({"x": nested(categories("a", 1, dtype))}), uri)
    rows = [pa.table({"x": nested(categories(prefix, 128, dtype))}) for prefix in "bcd"]

    with pytest.raises(SchemaMismatchError, match=r'more categories .*write_lance\(read_lance.*"overwrite"'):
        write_tables(uri, rows, mode="append")

    assert column_of(uri) == nested(categories("a", 1)).to_pylist()
    assert orphans(uri) == []
    write_tables(uri, [lance.dataset(uri).to_table(), *rows], mode="overwrite")
    assert len(column_of(uri)) == 1 + 3 * 128


def test_words_that_are_too_many_categories_are_refused_by_name(uri):
    lance.write_dataset(pa.table({"x": categories("a", 1)}), uri)

    with pytest.raises(SchemaMismatchError, match=r"column 'x' has more categories than the indices"):
        write_tables(uri, [pa.table({"x": [f"word {row}" for row in range(200)]})], mode="append")
