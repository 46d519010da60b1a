from __future__ import annotations

import pickle

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from ray.data._internal.object_extensions.arrow import ArrowPythonObjectArray
from ray.data._internal.tensor_extensions.arrow import ArrowTensorArray, ArrowVariableShapedTensorArray
from ray.data.block import BlockAccessor
from ray.data.extensions import ArrowTensorType, ArrowTensorTypeV2, ArrowVariableShapedTensorType

from ray_lance.errors import SchemaMismatchError, TensorConversionError
from ray_lance.tensors import conform, deliver, delivered_schema, from_tensors, storable, storable_schema, to_tensors
from tests.examples import examples
from tests.ray_collation import rays_collation
from tests.unit.tensors.type_cases import CASES, Case, array_of, plain, tables, without_null_lists

by_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
# Ray's own conversion must be right for these, and may refuse the others.
RAY_CONVERTS = [
    case
    for case in CASES
    if case.name.startswith(("int", "uint", "float", "bool", "fixed_shape", "permuted")) and case.name != "null"
]
DELIVERED_TENSORS = [
    case for case in RAY_CONVERTS if "[" in case.name or case.name in ("fixed_shape_tensor", "permuted")
]


def delivered(table: pa.Table, **options: object) -> pa.Table:
    return deliver(table, delivered_schema(table.schema), **options)


def ray_tensor(table: pa.Table) -> torch.Tensor:
    return rays_collation(num_workers=0)(table)["x"]


def holds_none(row: object) -> bool:
    return row is None or (isinstance(row, list) and any(map(holds_none, row)))


def table_of(array: pa.Array) -> pa.Table:
    return pa.table({"x": array})


class TestDelivered:
    @pytest.mark.parametrize("case", RAY_CONVERTS, ids=lambda case: case.name)
    @settings(max_examples=examples(20))
    @given(data=st.data())
    def test_ray_converts_it_as_we_do(self, case: Case, data: st.DataObject) -> None:
        table, _ = data.draw(tables(case, nulls=False))
        fill = None if case.fill is None else {"x": case.fill}
        if len(table) == 0:
            return
        ours = to_tensors(table, fill=fill)["x"]
        rays = ray_tensor(delivered(table, fill=fill))
        assert (rays.dtype, rays.shape) == (ours.dtype, ours.shape)
        assert plain(rays) == plain(ours)

    @by_case
    @settings(max_examples=examples(20))
    @given(data=st.data())
    def test_never_silently_wrong(self, case: Case, data: st.DataObject) -> None:
        """Whatever nulls there are, Ray either converts to the same values or raises."""
        # Of a null code Arrow's to_numpy makes the last category: what converts batches to arrays decodes them first.
        table, rows = data.draw(tables(case, nulls=not case.name.startswith("dictionary")))
        try:
            rays = ray_tensor(delivered(table))
        except Exception:
            return
        expected = [case.null if row is None else case.expected(row) for row in rows]
        if case.fill is not None and not rays.dtype.is_floating_point:
            assert None not in rows
        else:  # Ray makes floats with NaN of integers with nulls
            expected = [
                case.expected(row) if row is not None else np.full(np.shape(case.null), np.nan).tolist() for row in rows
            ]
        if case.fill is None or not rays.dtype.is_floating_point:
            assert plain(rays) == plain(expected)

    @by_case
    @settings(max_examples=examples(20))
    @given(data=st.data())
    def test_our_conversion_sees_the_same_before_and_after(self, case: Case, data: st.DataObject) -> None:
        table, _ = data.draw(tables(case, nulls=case.name not in ("variable_shape_tensor",)))
        fill = None if case.fill is None else {"x": case.fill}
        before = to_tensors(table, ragged="list", fill=fill)["x"]
        after = to_tensors(delivered(table, fill=fill), ragged="list", fill=fill)["x"]
        assert plain(after) == without_null_lists(case, plain(before))

    @by_case
    @settings(max_examples=examples(20))
    @given(data=st.data())
    def test_reading_and_writing_back_loses_nothing(self, case: Case, data: st.DataObject) -> None:
        nulls = case.name != "variable_shape_tensor"
        table, rows = data.draw(tables(case, nulls=nulls))
        if "list<" not in case.name and any(row is not None and holds_none(row) for row in rows):
            return  # null elements become NaN, and only null rows are told from NaN again
        block = pickle.loads(pickle.dumps(delivered(table)))
        again = conform(storable(block), table.schema)
        assert again["x"].to_pylist() == table["x"].to_pylist()

    @by_case
    def test_the_schema_depends_on_no_data(self, case: Case) -> None:
        schema = pa.schema([case.field], metadata={"k": "v"})
        result = delivered_schema(schema)
        assert result.metadata == {b"k": b"v"}
        assert pickle.loads(pickle.dumps(result)) == result
        empty = pa.Table.from_arrays([array_of(case.field, [])], schema=schema)
        assert deliver(empty, result).schema.equals(result, check_metadata=True)
        assert deliver(empty.select([]), pa.schema([])).num_columns == 0

    @pytest.mark.parametrize(
        ("stored", "type_"),
        [
            (pa.list_(pa.float32(), 3), pa.fixed_shape_tensor(pa.float32(), [3])),
            (pa.list_(pa.list_(pa.uint8(), 3), 2), pa.fixed_shape_tensor(pa.uint8(), [2, 3])),
            (pa.list_(pa.bool_(), 3), pa.list_(pa.bool_(), 3)),
            (pa.list_(pa.list_(pa.bool_(), 3), 2), ArrowTensorTypeV2((2, 3), pa.bool_())),
            (pa.fixed_shape_tensor(pa.bool_(), [2, 3]), ArrowTensorTypeV2((2, 3), pa.bool_())),
            (ArrowTensorType((2, 3), pa.int8()), pa.fixed_shape_tensor(pa.int8(), [2, 3])),
            (ArrowTensorTypeV2((3,), pa.int8()), pa.fixed_shape_tensor(pa.int8(), [3])),
            (ArrowVariableShapedTensorType(pa.int8(), 1), pa.list_(pa.int8())),
            (ArrowVariableShapedTensorType(pa.int8(), 2), ArrowVariableShapedTensorType(pa.int8(), 2)),
            (pa.list_(pa.float32()), pa.list_(pa.float32())),
            (pa.list_(pa.string(), 2), pa.list_(pa.string(), 2)),
        ],
        ids=str,
    )
    def test_types(self, stored: pa.DataType, type_: pa.DataType) -> None:
        assert delivered_schema(pa.schema([("x", stored)])).field("x").type == type_

    def test_vectors_are_not_copied(self) -> None:
        vectors = pa.FixedSizeListArray.from_arrays(pa.array(np.arange(8.0)), 2)
        address = vectors.values.buffers()[1].address
        assert ray_tensor(delivered(table_of(vectors))).data_ptr() == address
        assert ray_tensor(delivered(table_of(vectors[1:]))).data_ptr() == address + 16

    def test_values_with_an_offset_of_their_own(self) -> None:
        """pyarrow ignores it when it converts a fixed-shape tensor."""
        vectors = pa.FixedSizeListArray.from_arrays(pa.array(np.arange(8.0))[2:], 2)
        tensor = pa.ExtensionArray.from_storage(pa.fixed_shape_tensor(pa.float64(), [2]), vectors)
        for array in (vectors, tensor, vectors[1:], tensor[1:]):
            assert plain(ray_tensor(delivered(table_of(array)))) == array.to_pylist()

    def test_integer_nulls_are_filled_or_refused(self) -> None:
        inside = table_of(pa.array([[1, None]], pa.list_(pa.int32(), 2)))
        with pytest.raises(TensorConversionError, match=r"'x'.*fill="):
            delivered(inside)
        assert plain(ray_tensor(delivered(inside, fill=7))) == [[1, 7]]
        masks = table_of(pa.array([None], pa.list_(pa.list_(pa.bool_(), 1), 2)))
        with pytest.raises(TensorConversionError, match=r"'x'.*fill="):
            delivered(masks)
        assert plain(ray_tensor(delivered(masks, fill={"x": True}))) == [[[True], [True]]]

    def test_a_null_vector_shows_as_nan_everywhere_in_ray(self) -> None:
        block = delivered(table_of(pa.array([[1.0, 2.0], None], pa.list_(pa.float32(), 2))))
        accessor = BlockAccessor.for_block(block)
        shuffled = BlockAccessor.for_block(accessor.take([1, 0]))
        assert plain(accessor.to_batch_format("numpy")["x"].tolist()) == [[1.0, 2.0], ["NaN", "NaN"]]
        assert plain([row["x"].tolist() for row in accessor.iter_rows(True)]) == [[1.0, 2.0], ["NaN", "NaN"]]
        assert storable(shuffled.to_arrow())["x"].to_pylist() == [None, [1.0, 2.0]]
        assert plain(to_tensors(block, fill={"x": 0})["x"]) == [[1.0, 2.0], [0.0, 0.0]]

    def test_nan_of_the_user_stays_nan(self) -> None:
        table = from_tensors({"x": torch.full((2, 2), float("nan"))})
        assert storable(delivered(table))["x"].null_count == 0

    def test_variable_shapes_are_arrays_in_numpy_batches(self) -> None:
        rows = [torch.ones(2, 3), torch.zeros(1, 2)]
        block = delivered(from_tensors({"x": rows}))
        batch = BlockAccessor.for_block(block).to_batch_format("numpy")["x"]
        assert plain([row.tolist() for row in batch]) == plain(rows)

    def test_null_variable_shapes_need_fill(self) -> None:
        table = from_tensors({"x": [torch.ones(2, 3), None, torch.zeros(1, 2)]})
        with pytest.raises(TensorConversionError, match=r"'x'.*fill="):
            delivered(table)
        rows = to_tensors(delivered(table, fill=0))["x"]
        assert [tuple(row.shape) for row in rows] == [(2, 3), (0, 0), (1, 2)]

    def test_a_column_the_scan_lacks_is_null(self) -> None:
        schema = delivered_schema(pa.schema([("a", pa.int64()), ("x", pa.list_(pa.float32(), 2)), ("s", pa.string())]))
        result = deliver(pa.table({"a": [1]}), schema)
        assert result.schema == schema
        assert plain(ray_tensor(result.select(["x"]))) == [["NaN", "NaN"]]
        assert result["s"].to_pylist() == [None]

    def test_other_widths_are_cast_exactly_or_refused(self) -> None:
        schema = pa.schema([("x", pa.fixed_shape_tensor(pa.float32(), [2]))])
        assert deliver(table_of(pa.array([[1.0, 2.0]], pa.list_(pa.float64(), 2))), schema).schema == schema
        with pytest.raises(SchemaMismatchError, match=r"'x'.*0\.1"):
            deliver(table_of(pa.array([[1.0, 0.1]], pa.list_(pa.float64(), 2))), schema)

    def test_pickled_objects_are_refused(self) -> None:
        with pytest.raises(TensorConversionError, match="pickled"):
            delivered_schema(table_of(ArrowPythonObjectArray.from_objects([object()])).schema)


class TestStorable:
    @pytest.mark.parametrize("dtype", ["float16", "float32", "int64", "uint8", "bool"])
    @pytest.mark.parametrize("shape", [(3, 2), (3, 2, 4), (3, 1, 2, 2)])
    def test_rays_tensors(self, shape: tuple[int, ...], dtype: str) -> None:
        values = np.arange(np.prod(shape)).reshape(shape).astype(dtype)
        field = pa.field("x", ArrowTensorArray.from_numpy(values).type, metadata={"k": "v"})
        block = pa.table([ArrowTensorArray.from_numpy(values)[1:]], schema=pa.schema([field], metadata={"m": "n"}))

        result = storable(block)

        value_type = pa.from_numpy_dtype(values.dtype)
        kind = pa.list_(value_type, shape[1]) if len(shape) == 2 else pa.fixed_shape_tensor(value_type, shape[1:])
        expected = pa.schema([pa.field("x", kind, metadata={"k": "v"})], metadata={"m": "n"})
        assert result.schema.equals(expected, check_metadata=True)
        assert plain(to_tensors(result)["x"]) == values[1:].tolist()

    def test_rays_variable_shapes(self) -> None:
        for rows in ([np.ones(2), np.zeros(3)], [np.ones((2, 3)), np.zeros((1, 2))]):
            result = storable(table_of(ArrowVariableShapedTensorArray.from_numpy(rows)))
            assert not isinstance(result.schema.field("x").type, pa.BaseExtensionType)
            assert plain(to_tensors(result, ragged="list")["x"]) == [row.tolist() for row in rows]

    def test_null_rows_are_kept(self) -> None:
        tensors = ArrowTensorArray.from_numpy(np.arange(6.0).reshape(3, 2))
        block = table_of(pa.concat_arrays([tensors.take(pa.array([0, None, 2]))]))
        assert storable(block)["x"].to_pylist() == [[0.0, 1.0], None, [4.0, 5.0]]

    def test_what_is_standard_already_is_the_same_object(self) -> None:
        table = pa.table({"a": [1], "s": [{"b": 1}], "v": pa.array([[1.0]], pa.list_(pa.float32(), 1))})
        assert storable(table) is table
        tensors = from_tensors({"t": torch.ones(2, 3, 4), "v": [torch.ones(1, 2), torch.ones(2, 3)]})
        assert storable(tensors) is tensors

    def test_pickled_objects_are_refused(self) -> None:
        array = ArrowPythonObjectArray.from_objects([object()])
        with pytest.raises(SchemaMismatchError, match=r"'x'.*pickled"):
            storable(table_of(array))
        with pytest.raises(SchemaMismatchError, match=r"'x'.*pickled"):
            storable_schema(pa.schema([("x", pa.struct([("a", array.type)]))]))

    def test_rays_tensors_inside_other_types_are_refused(self) -> None:
        inner = ArrowTensorTypeV2((2,), pa.float32())
        with pytest.raises(SchemaMismatchError, match=r"'x'.*inside"):
            storable_schema(pa.schema([("x", pa.struct([("a", inner)]))]))
