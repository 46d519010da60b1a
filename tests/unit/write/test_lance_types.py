"""What Lance has no type for is stored in the nearest one that holds the same values."""

from __future__ import annotations

from decimal import Decimal

import lance
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from ray_lance.errors import SchemaMismatchError
from ray_lance.write.lance_types import lance_schema, lance_type
from tests.sinks import column_of
from tests.writes import write_tables

WORDS = pa.array(["a", None, "a longer word than fits into a view"] * 2)
BYTES = [None if word is None else word.encode() for word in WORDS.to_pylist()]
OUT_OF_ORDER = pa.ListViewArray.from_arrays([2, 0, 1], [1, 2, 1], pa.array([10, 20, 30]))

CASES = {
    "string_view": (pa.array(WORDS.to_pylist(), pa.string_view()), pa.string()),
    "binary_view": (pa.array(BYTES, pa.binary_view()), pa.binary()),
    "list<string_view>": (pa.array([["a"], None, []], pa.list_(pa.string_view())), pa.list_(pa.string())),
    "struct<string_view>": (
        pa.array([{"f": "a"}, None], pa.struct([("f", pa.string_view())])),
        pa.struct([("f", pa.string())]),
    ),
    "list_view": (OUT_OF_ORDER, pa.list_(pa.int64())),
    "large_list_view": (pa.array([[1], None, [2, 3]], pa.large_list_view(pa.int64())), pa.large_list(pa.int64())),
    "run_end_encoded": (pc.run_end_encode(pa.array(["a", "a", None, "b"])), pa.string()),
    "int8 categories": (
        WORDS.dictionary_encode().cast(pa.dictionary(pa.int8(), pa.string())),
        pa.dictionary(pa.int32(), pa.string()),
    ),
    "uint16 categories": (
        pa.DictionaryArray.from_arrays(pa.array([1, 0, None], pa.uint16()), pa.array(["a", "b"]), ordered=True),
        pa.dictionary(pa.int32(), pa.string()),
    ),
    "categories of dates": (pa.array([0, 1, 0], pa.date32()).dictionary_encode(), pa.date32()),
    "categories of lists": (
        pa.DictionaryArray.from_arrays(pa.array([1, 0, None]), pa.array([["a"], []])),
        pa.list_(pa.string()),
    ),
    "map<string_view, list_view>": (
        pa.array([[("a", [1])], None], pa.map_(pa.string_view(), pa.list_view(pa.int64()))),
        pa.map_(pa.string(), pa.list_(pa.int64())),
    ),
}
if hasattr(pa, "decimal32"):  # pyarrow 19
    CASES |= {
        "decimal32": (pa.array([Decimal("1.5"), None], pa.decimal32(5, 2)), pa.decimal128(5, 2)),
        "decimal64": (pa.array([Decimal("1.5"), None], pa.decimal64(12, 2)), pa.decimal128(12, 2)),
    }


@pytest.mark.parametrize("name", CASES)
def test_values_are_stored_as_they_are_in_the_nearest_type(uri, name):
    array, stored = CASES[name]
    rows = pa.table({"x": array})

    write_tables(uri, [rows, rows.slice(1)])

    assert lance_type(array.type) == stored
    assert lance.dataset(uri).schema.field("x").type == stored
    assert column_of(uri) == array.to_pylist() + array.slice(1).to_pylist()


@pytest.mark.parametrize("name", CASES)
def test_rows_are_added_to_the_nearest_type(uri, name):
    array, stored = CASES[name]
    lance.write_dataset(pa.table({"x": pa.array(array.to_pylist(), stored)}), uri)

    write_tables(uri, [pa.table({"x": array})], mode="append")

    assert column_of(uri) == array.to_pylist() * 2


@pytest.mark.parametrize(
    "dtype",
    [
        pa.int8(),
        pa.timestamp("ns", "Europe/Zurich"),
        pa.dictionary(pa.int64(), pa.large_string()),
        pa.list_(pa.struct([pa.field("a", pa.int8(), nullable=False)])),
        pa.map_(pa.string(), pa.int8()),
        pa.fixed_shape_tensor(pa.int8(), [2, 2]),
        *([pa.uuid()] if hasattr(pa, "uuid") else []),  # pyarrow 18
        pa.decimal256(50, 2),
    ],
    ids=str,
)
def test_types_that_lance_has_stay(dtype):
    field = pa.field("x", dtype, metadata={"k": "v"})

    assert lance_schema(pa.schema([field])).field("x").equals(field, check_metadata=True)


@pytest.mark.parametrize("dtype", [pa.month_day_nano_interval(), pa.dense_union([pa.field("a", pa.int8())])], ids=str)
@pytest.mark.parametrize("nested", [lambda dtype: dtype, pa.list_, lambda dtype: pa.struct([("f", dtype)])])
def test_types_without_a_counterpart_are_refused_by_name(dtype, nested):
    with pytest.raises(SchemaMismatchError, match=r"column 'x' .* Lance has no type"):
        lance_schema(pa.schema([("x", nested(dtype))]))


def categories(prefix: str, count: int, indices: pa.DataType) -> pa.Array:
    return pa.DictionaryArray.from_arrays(
        pa.array(range(count), indices), pa.array([f"{prefix}{i}" for i in range(count)])
    )


@pytest.mark.parametrize("indices", [pa.int8(), pa.uint8(), pa.int16()], ids=str)
@pytest.mark.parametrize("nested", [False, True])
def test_categories_of_many_blocks_are_read_back_and_compacted(uri, indices, nested):
    """More of them than the indices of any one block can tell apart."""
    count = 100 if indices.bit_width == 8 else 12_000
    arrays = [categories(prefix, count, indices) for prefix in "abc"]
    columns = [pa.StructArray.from_arrays([array], ["f"]) if nested else array for array in arrays]

    write_tables(uri, [pa.table({"x": column}) for column in columns])
    write_tables(uri, [pa.table({"x": columns[0].take(pa.array([1]))})], mode="append")
    lance.dataset(uri).optimize.compact_files()

    words = [word for array in arrays for word in array.to_pylist()] + ["a1"]
    assert column_of(uri) == [{"f": word} for word in words] if nested else words
