from __future__ import annotations

import gc
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import ray_lance
from ray_lance.errors import InvalidArgumentError, TensorConversionError, UnknownColumnError
from ray_lance.tensors import to_tensors
from ray_lance.tensors.kinds import bfloat16_field
from ray_lance.tensors.memory import combine
from tests.examples import examples
from tests.unit.tensors.type_cases import CASES, NAN, VARIABLE, Case, array_of, plain, tables

by_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)


def one(array: pa.Array, **options: object) -> torch.Tensor | list:
    return to_tensors(pa.table({"x": array}), **options)["x"]


@by_case
@settings(max_examples=examples(25))
@given(data=st.data())
def test_every_type_with_nulls_in_sliced_chunks(case: Case, data: st.DataObject) -> None:
    table, rows = data.draw(tables(case))
    fill = None if case.fill is None else {"x": case.fill}

    result = to_tensors(table, ragged="list", fill=fill)["x"]

    expected = [case.null if row is None else case.expected(row) for row in rows]
    assert plain(result) == plain(expected)
    if case.dtype is not None:
        assert result.dtype == case.dtype


@by_case
def test_no_rows_keep_dtype_and_trailing_shape(case: Case) -> None:
    for chunks in ([], [array_of(case.field, [])]):
        column = pa.chunked_array(chunks, type=case.field.type)
        result = to_tensors(pa.Table.from_arrays([column], schema=pa.schema([case.field])), ragged="list")["x"]
        assert len(result) == 0
        if case.dtype is not None:
            null = np.asarray(case.null)
            assert (result.dtype, tuple(result.shape)) == (case.dtype, (0, *null.shape))


@pytest.mark.parametrize("case", [case for case in CASES if case.fill is not None], ids=lambda case: case.name)
def test_nulls_without_a_value_name_the_column_and_the_way_out(case: Case) -> None:
    rows = [None] if not case.name.startswith("large_list") else [[None]]
    with pytest.raises(TensorConversionError, match=r"column 'x'.*fill=\{'x': value\}"):
        to_tensors(pa.table([array_of(case.field, rows)], schema=pa.schema([case.field])))


@pytest.mark.parametrize(
    "dtype", ["int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "float16", "float32", "float64"]
)
def test_numbers_share_memory(dtype: str) -> None:
    array = pa.array(np.arange(12).astype(dtype))
    address, width = array.buffers()[1].address, np.dtype(dtype).itemsize
    vectors = pa.FixedSizeListArray.from_arrays(array, 3)
    tensor = pa.ExtensionArray.from_storage(pa.fixed_shape_tensor(array.type, [3, 1]), vectors)

    assert one(array).data_ptr() == address
    assert one(array.slice(5)).data_ptr() == address + 5 * width
    assert one(vectors.slice(2)).data_ptr() == address + 6 * width
    assert one(tensor.slice(1)).data_ptr() == address + 3 * width
    ragged = pa.ListArray.from_arrays(pa.array([0, 2, 12], pa.int32()), array)
    assert one(ragged).values().data_ptr() == address
    assert one(ragged, ragged="list")[1].data_ptr() == address + 2 * width


def test_times_and_bfloat16_share_memory() -> None:
    stamps = pa.array([1, 2], pa.timestamp("ns"))
    assert one(stamps).data_ptr() == stamps.buffers()[1].address
    halves = pa.array([b"ab", b"cd"], pa.binary(2))
    field = pa.field("x", halves.type, metadata={"ARROW:extension:name": "lance.bfloat16"})
    result = to_tensors(pa.table([halves], schema=pa.schema([field])))["x"]
    assert (result.dtype, result.data_ptr()) == (torch.bfloat16, halves.buffers()[1].address)


@pytest.mark.parametrize(
    ("kind", "row"),
    [
        (lambda item: pa.list_(item, 1), [b"\x80\x3f"]),
        (pa.list_, [b"\x80\x3f"]),
        (lambda item: pa.struct([item]), {"item": b"\x80\x3f"}),
    ],
    ids=["vector", "list", "struct"],
)
def test_the_schema_tells_what_values_inside_are_where_the_arrays_do_not(kind, row) -> None:
    """Ray's object store keeps the metadata of schemas, not that of all types of arrays."""
    plain_type, meant = kind(pa.field("item", pa.binary(2))), kind(bfloat16_field("item"))
    schema = pa.schema([pa.field("x", meant)])

    (found,) = to_tensors(pa.Table.from_arrays([pa.array([row], plain_type)], schema=schema), ragged="list").values()

    assert found[0].dtype is torch.bfloat16


def test_tensors_outlive_the_table() -> None:
    def make() -> torch.Tensor:
        return one(pa.array(np.arange(100_000)))

    tensor = make()
    gc.collect()
    others = [np.full(100_000, -1) for _ in range(5)]
    assert tensor.sum() == sum(range(100_000))
    assert len(others) == 5


def test_read_only_memory_causes_no_warning() -> None:
    buffer = pa.py_buffer(np.arange(4, dtype="i8").tobytes())
    assert not buffer.is_mutable
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert one(pa.Array.from_buffers(pa.int64(), 4, [None, buffer])).tolist() == [0, 1, 2, 3]


def test_a_copy_is_made_before_nulls_are_filled() -> None:
    array = pa.array([1.0, None, 3.0])
    before = array.to_pylist()
    assert plain(one(array)) == [1.0, "NaN", 3.0]
    assert plain(one(array, fill=9)) == [1.0, 9.0, 3.0]
    assert array.to_pylist() == before


def test_record_batches_are_taken_as_tables_are() -> None:
    batch = pa.record_batch({"a": [1, 2], "b": ["x", None]})
    assert plain(to_tensors(batch)["a"]) == [1, 2]
    assert to_tensors(batch)["b"] == ["x", None]


class TestRagged:
    rows = pa.array([[1, 2, 3], [], [4]])

    def test_nested_is_jagged(self) -> None:
        result = one(self.rows)
        assert result.layout is torch.jagged
        assert plain(list(result.unbind())) == [[1, 2, 3], [], [4]]
        assert result.offsets().tolist() == [0, 3, 3, 4]

    def test_nested_vectors_keep_their_width(self) -> None:
        result = one(pa.array([[[1, 2]], [], [[3, 4], [5, 6]]], pa.list_(pa.list_(pa.float32(), 2))))
        assert [tuple(row.shape) for row in result.unbind()] == [(1, 2), (0, 2), (2, 2)]

    def test_pad_comes_with_lengths(self) -> None:
        result = to_tensors(pa.table({"x": self.rows}), ragged="pad")
        assert plain(result["x"]) == [[1, 2, 3], [0, 0, 0], [4, 0, 0]]
        assert (result["x.lengths"].dtype, plain(result["x.lengths"])) == (torch.int64, [3, 0, 1])
        assert plain(one(self.rows, ragged="pad", fill=-1)) == [[1, 2, 3], [-1, -1, -1], [4, -1, -1]]

    @pytest.mark.parametrize("dtype", ["uint16", "uint64", "bool", "float16"])
    def test_pad_for_dtypes_torch_cannot_index(self, dtype: str) -> None:
        values = pa.array(np.array([1, 0, 1]).astype(dtype))
        lists = pa.ListArray.from_arrays(pa.array([0, 1, 3], pa.int32()), values)
        assert plain(one(lists, ragged="pad")) == plain([[1, 0], [0, 1]])

    def test_pad_of_bfloat16(self) -> None:
        item = pa.field("item", pa.binary(2), metadata={"ARROW:extension:name": "lance.bfloat16"})
        lists = pa.array([[b"\x80\x3f"], [b"\x00\x40", b"\x40\x40"]], pa.list_(pa.binary(2))).cast(pa.list_(item))
        assert plain(one(lists, ragged="pad", fill=0.5)) == [[1.0, 0.5], [2.0, 3.0]]

    @pytest.mark.parametrize("ragged", ["nested", "pad"])
    def test_null_rows_need_fill_and_become_empty(self, ragged: str) -> None:
        rows = pa.array([[1.0], None])
        with pytest.raises(TensorConversionError, match="no null row"):
            one(rows, ragged=ragged)
        assert [len(row) for row in one(rows, fill=7.0).unbind()] == [1, 0]
        padded = one_table(rows, ragged="pad", fill=7.0)
        assert padded == {"x": [[1.0], [7.0]], "x.lengths": [1, 0]}

    def test_null_row_that_hides_values(self) -> None:
        hidden = pa.ListArray.from_arrays(
            pa.array([0, 2, 4], pa.int32()), pa.array([1, 2, 3, 4]), mask=pa.array([True, False])
        )
        assert plain(one(hidden, ragged="list")) == [None, [3, 4]]
        assert plain(one(hidden, ragged="pad", fill=0)) == [[0, 0], [3, 4]]

    def test_variable_shapes_padded(self) -> None:
        rows = [{"data": [1, 2], "shape": [2, 1]}, None, {"data": [3, 4, 5], "shape": [1, 3]}]
        table = pa.table([array_of(VARIABLE.field, rows)], schema=pa.schema([VARIABLE.field]))
        result = to_tensors(table, ragged="pad", fill=0)
        assert plain(result["x"]) == [[[1, 0, 0], [2, 0, 0]], [[0] * 3] * 2, [[3, 4, 5], [0, 0, 0]]]
        assert plain(result["x.shape"]) == [[2, 1], [0, 0], [1, 3]]

    def test_a_shape_that_does_not_fit_its_data_is_refused(self) -> None:
        table = pa.table(
            [array_of(VARIABLE.field, [{"data": [1, 2], "shape": [2, 2]}])], schema=pa.schema([VARIABLE.field])
        )
        with pytest.raises(TensorConversionError, match=r"'x'.*damaged"):
            to_tensors(table)


class TestStruct:
    def test_one_entry_per_leaf_and_nulls_reach_the_leaves(self) -> None:
        rows = [{"a": 1.5, "b": {"c": "x", "d": [1, 2]}}, None, {"a": None, "b": None}]
        inner = pa.struct([("c", pa.string()), ("d", pa.list_(pa.int32(), 2))])
        result = one_table(pa.array(rows, pa.struct([("a", pa.float32()), ("b", inner)])), fill={"x.b.d": 0})
        assert plain(result) == {
            "x.a": [1.5, "NaN", "NaN"],
            "x.b.c": ["x", None, None],
            "x.b.d": [[1, 2], [0, 0], [0, 0]],
        }

    def test_two_columns_with_one_name_are_refused(self) -> None:
        with pytest.raises(TensorConversionError, match=r"'x\.a'"):
            to_tensors(pa.table({"x": [{"a": 1}], "x.a": [2]}))


def one_table(array: pa.Array, **options: object) -> dict:
    return {name: plain(value) for name, value in to_tensors(pa.table({"x": array}), **options).items()}


class TestFill:
    def test_by_column_and_for_all(self) -> None:
        table = pa.table({"a": [1, None], "b": [None, True], "c": [None, "t"], "d": pa.nulls(2)})
        result = to_tensors(table, fill={"a": 5, "b": False, "c": "none"})
        assert plain(result["a"]) == [1, 5]
        assert plain(result["b"]) == [False, True]
        assert result["c"] == ["none", "t"]
        assert plain(result["d"]) == ["NaN", "NaN"]
        assert to_tensors(table, fill=1)["c"] == [None, "t"]
        assert (to_tensors(table, fill=1)["d"].dtype, plain(to_tensors(table, fill=1)["d"])) == (torch.int64, [1, 1])

    def test_a_value_the_dtype_cannot_hold(self) -> None:
        for fill in (256, -1, 0.5, NAN, "x"):
            with pytest.raises(TensorConversionError, match=r"fill=.*'x'.*uint8"):
                one(pa.array([1, None], pa.uint8()), fill={"x": fill})

    def test_a_column_that_does_not_exist(self) -> None:
        with pytest.raises(UnknownColumnError, match="Did you mean 'label'"):
            to_tensors(pa.table({"label": [1]}), fill={"lable": 0})


def test_nulls_in_structs_in_lists_need_no_fill() -> None:
    rows = [[{"a": 1, "b": [2]}, {"a": None, "b": None}, None], None, []]
    inner = pa.struct([("a", pa.int32()), ("b", pa.list_(pa.int8()))])
    assert one(pa.array(rows, pa.list_(inner))) == rows
    assert one(pa.array([rows], pa.list_(pa.list_(inner)))) == [rows]


class TestMoreThanOneArrayHolds:
    def test_lists_of_more_values_than_offsets_of_32_bits_reach(self) -> None:
        chunk = pa.ListArray.from_arrays(pa.array([0, 2**30], pa.int32()), pa.nulls(2**30))
        combined = combine(pa.chunked_array([chunk] * 3), "x")
        assert combined.type == pa.large_list(pa.null())
        assert combined.value_lengths().to_pylist() == [2**30] * 3

    def test_codes_of_8_bits(self) -> None:
        words = [f"{i}" for i in range(200)]
        parts = [words[:100], words[100:]]
        codes = pa.array(range(100), pa.int8())
        chunks = [pa.DictionaryArray.from_arrays(codes, pa.array(part)) for part in parts]
        assert one(pa.chunked_array(chunks)) == words
        nested = [pa.StructArray.from_arrays([chunk], names=["c"]) for chunk in chunks]
        assert one_table(pa.chunked_array(nested)) == {"x.c": words}

    def test_what_has_no_wider_type_is_refused_by_name(self) -> None:
        keys = pa.array(np.zeros(2**30, np.int8))  # memory that is never written takes no room
        chunk = pa.MapArray.from_arrays(pa.array([0, 2**30], pa.int32()), keys, pa.nulls(2**30))
        with pytest.raises(TensorConversionError, match=r"column 'x' \(map.*smaller batches"):
            combine(pa.chunked_array([chunk] * 3), "x")

    @pytest.mark.slow
    def test_two_gibibytes_of_strings(self) -> None:
        text = pa.py_buffer(np.full(2**26, ord("a"), np.uint8))
        offsets = pa.py_buffer(np.array([0, 2**26], np.int32))
        chunk = pa.Array.from_buffers(pa.string(), 1, [None, offsets, text])
        lists = pa.ListArray.from_arrays(pa.array([0, 1], pa.int32()), chunk)
        assert combine(pa.chunked_array([lists] * 33), "x").type == pa.large_list(pa.large_string())


def test_unknown_ragged() -> None:
    with pytest.raises(InvalidArgumentError, match="ragged='jagged'"):
        to_tensors(pa.table({"x": [1]}), ragged="jagged")


def test_blob_descriptors_are_refused() -> None:
    field = pa.field("x", pa.struct([("position", pa.uint64())]), metadata={"lance-encoding:blob": "true"})
    with pytest.raises(TensorConversionError, match="blob_handling"):
        to_tensors(pa.table([pa.array([{"position": 1}], field.type)], schema=pa.schema([field])))


def stored(name: str, metadata: str, array: pa.Array) -> pa.Table:
    """A column as Lance returns it where the extension type is not registered."""
    keys = {"ARROW:extension:name": name, "ARROW:extension:metadata": metadata}
    return pa.table([array], schema=pa.schema([pa.field("x", array.type, metadata=keys)]))


class TestRayTypesInStorage:
    lists = pa.array([[1.0, 2.0, 3.0, 4.0], None], pa.large_list(pa.float32()))

    def test_fixed_shape(self) -> None:
        result = to_tensors(stored("ray.data.arrow_tensor_v2", "[2, 2]", self.lists))["x"]
        assert plain(result) == plain([[[1.0, 2.0], [3.0, 4.0]], [[NAN] * 2] * 2])

    def test_variable_shape(self) -> None:
        storage = pa.struct([("data", pa.large_list(pa.float64())), ("shape", pa.list_(pa.int64()))])
        rows = [{"data": [1.0, 2.0], "shape": [2, 1]}, None]
        result = to_tensors(stored("ray.data.arrow_variable_shaped_tensor", "2", pa.array(rows, storage)))["x"]
        assert plain(result) == [[[1.0], [2.0]], None]

    @pytest.mark.parametrize("metadata", ["\x80\x05K\x02\x85\x94.", "", "{", '"2"', "[-1]", "[2.5]", "null"])
    def test_metadata_that_is_no_json_shape_is_refused_and_never_unpickled(self, metadata: str) -> None:
        with pytest.raises(TensorConversionError, match="column 'x'"):
            to_tensors(stored("ray.data.arrow_tensor_v2", metadata, self.lists))

    def test_rows_of_another_length_are_refused(self) -> None:
        with pytest.raises(TensorConversionError, match="row 0 has 4 elements"):
            to_tensors(stored("ray.data.arrow_tensor", "[3]", self.lists))

    def test_pickled_objects_are_refused(self) -> None:
        with pytest.raises(TensorConversionError, match="pickled"):
            to_tensors(stored("ray.data.arrow_pickled_object", "", pa.array([b"x"], pa.large_binary())))


def test_it_needs_neither_ray_nor_lance() -> None:
    # The package above is replaced by an empty one, as its front page re-exports what does need Ray.
    check = f"""
import sys, types
package = types.ModuleType("ray_lance")
package.__path__ = [{str(Path(ray_lance.__file__).parent)!r}]
sys.modules["ray_lance"] = package
import torch
from ray_lance.tensors import from_tensors, to_tensors
table = from_tensors({{"h": torch.ones(2, dtype=torch.bfloat16), "r": [torch.ones(1, 2), torch.ones(2, 3)]}})
assert to_tensors(table)["h"].dtype is torch.bfloat16
print([name for name in ("ray", "lance") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
