from __future__ import annotations

import math

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ray_lance.errors import InvalidArgumentError, SchemaMismatchError, TensorConversionError
from ray_lance.tensors import FixedShape, VariableShape, from_tensors, tensor_kind, to_tensors
from ray_lance.tensors.kinds import is_bfloat16
from tests.unit.tensors.type_cases import plain

DTYPES = [
    torch.int8,
    torch.int16,
    torch.int32,
    torch.int64,
    torch.uint8,
    torch.uint16,
    torch.uint32,
    torch.uint64,
    torch.float16,
    torch.float32,
    torch.float64,
    torch.bool,
    torch.bfloat16,
]


def random(shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    values = torch.arange(math.prod(shape)).reshape(shape) % 100
    return values.to(dtype)


def back(values: object, **options: object) -> torch.Tensor | list:
    return to_tensors(from_tensors({"x": values}), **options)["x"]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@given(shape=st.lists(st.integers(0, 3), min_size=1, max_size=4).map(tuple))
def test_dense_tensors_come_back(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    values = random(shape, dtype)
    result = back(values)
    assert (result.dtype, result.shape) == (dtype, values.shape)
    assert plain(result) == plain(values)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@given(lengths=st.lists(st.integers(0, 3), min_size=1, max_size=5), width=st.sampled_from([(), (2,), (2, 1)]))
def test_lists_of_tensors_come_back(dtype: torch.dtype, lengths: list[int], width: tuple[int, ...]) -> None:
    values = [random((length, *width), dtype) for length in lengths]
    assert plain(back(values, ragged="list")) == plain(values)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@given(shapes=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)) | st.none(), min_size=1, max_size=5))
def test_tensors_ragged_in_every_dimension_come_back(dtype: torch.dtype, shapes: list) -> None:
    values = [None if shape is None else random(shape, dtype) for shape in shapes]
    if (dtype is torch.bool and None in shapes) or len({shape for shape in shapes if shape}) <= 1:
        return
    result = back(values, ragged="list")
    if isinstance(result, list):
        assert plain(result) == plain(values)
        assert [getattr(row, "dtype", None) for row in result] == [None if row is None else dtype for row in values]


class TestTypes:
    """Each layout has one standard Arrow type."""

    def kind(self, values: object) -> pa.DataType:
        return from_tensors({"x": values}).schema.field("x").type

    def test_dense(self) -> None:
        assert self.kind(torch.ones(2)) == pa.float32()
        assert self.kind(np.ones((2, 3), "i2")) == pa.list_(pa.int16(), 3)
        assert self.kind(torch.ones(2, 3, 4)) == pa.fixed_shape_tensor(pa.float32(), [3, 4])
        assert self.kind([np.ones(3), torch.ones(3, dtype=torch.float64)]) == pa.list_(pa.float64(), 3)
        assert self.kind([torch.tensor(1), None]) == pa.int64()

    def test_ragged(self) -> None:
        assert self.kind([torch.ones(1), torch.ones(2)]) == pa.list_(pa.float32())
        assert self.kind([torch.ones(1, 4), torch.ones(2, 4)]) == pa.list_(pa.list_(pa.float32(), 4))
        jagged = torch.nested.nested_tensor([torch.ones(1, 4), torch.ones(2, 4)], layout=torch.jagged)
        assert self.kind(jagged) == pa.list_(pa.list_(pa.float32(), 4))

    def test_variable(self) -> None:
        field = from_tensors({"x": [torch.ones(1, 4), torch.ones(2, 3)]}).schema.field("x")
        assert tensor_kind(field) == VariableShape(pa.field("item", pa.float32()), 2)
        assert field.type == pa.struct([("data", pa.list_(pa.float32())), ("shape", pa.list_(pa.int32(), 2))])

    def test_bfloat16(self) -> None:
        schema = from_tensors(
            {"a": torch.ones(2, dtype=torch.bfloat16), "b": torch.ones(2, 3, dtype=torch.bfloat16)}
        ).schema
        assert is_bfloat16(schema.field("a"))
        kind = tensor_kind(schema.field("b"))
        assert isinstance(kind, FixedShape)
        assert is_bfloat16(kind.value)

    def test_plain_values(self) -> None:
        assert self.kind(["a", None]) == pa.string()
        assert self.kind([b"a", None]) == pa.binary()
        assert self.kind([1, None]) == pa.int64()
        assert self.kind(np.array(["2020-01-01"], "M8[s]")) == pa.timestamp("s")
        assert self.kind(np.array(["a", "b"])) == pa.string()
        assert self.kind([[1, 2], [3]]) == pa.list_(pa.int64())
        assert self.kind([np.array(["a"]), np.array(["b", "c"])]) == pa.list_(pa.string())
        assert self.kind(pa.chunked_array([[1], [2]])) == pa.int64()


def test_memory_is_shared() -> None:
    for values in (torch.arange(6.0), torch.arange(6.0).view(2, 3), np.arange(6.0).reshape(1, 2, 3)):
        address = values.data_ptr() if isinstance(values, torch.Tensor) else values.ctypes.data
        assert back(values).data_ptr() == address


def test_views_gradients_and_jagged_tensors() -> None:
    assert plain(back(torch.arange(6.0).view(2, 3).T)) == [[0.0, 3.0], [1.0, 4.0], [2.0, 5.0]]
    assert plain(back(np.arange(6.0)[::-2])) == [5.0, 3.0, 1.0]
    assert plain(back(np.arange(2, dtype=">i4"))) == [0, 1]
    assert plain(back(torch.ones(2, requires_grad=True))) == [1.0, 1.0]
    jagged = torch.nested.nested_tensor([torch.ones(1), torch.zeros(2)], layout=torch.jagged)
    assert plain(list(back(jagged).unbind())) == [[1.0], [0.0, 0.0]]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_tensors_on_the_gpu_are_copied() -> None:
    assert plain(back(torch.ones(2, 2, device="cuda", dtype=torch.bfloat16))) == [[1.0, 1.0]] * 2


def test_null_rows() -> None:
    assert plain(back([torch.ones(2), None])) == [[1.0, 1.0], ["NaN", "NaN"]]
    assert plain(back([torch.ones(1), None, torch.ones(2)], ragged="list")) == [[1.0], None, [1.0, 1.0]]
    assert plain(back([torch.ones(1, 1), None, torch.ones(2, 3)], ragged="list")) == [[[1.0]], None, [[1.0] * 3] * 2]
    assert plain(back([torch.tensor(1), None], fill=0)) == [1, 0]


@pytest.mark.parametrize(
    ("values", "error", "message"),
    [
        (torch.tensor(1), InvalidArgumentError, "single value"),
        (torch.ones(2, dtype=torch.complex64), TensorConversionError, "complex64"),
        (torch.ones(2).to_sparse(), TensorConversionError, "to_dense"),
        ([torch.ones(1), torch.ones(1, 1)], TensorConversionError, r"\[1, 2\] dimensions"),
        ([torch.ones(1), torch.ones(2, dtype=torch.int8)], TensorConversionError, "float32.*int8"),
        (3, TensorConversionError, "a int is no column"),
        ([1, "a"], TensorConversionError, "cannot be stored"),
    ],
)
def test_what_cannot_be_stored_names_the_column(values: object, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=f"'x'.*{message}"):
        from_tensors({"x": values})


def test_columns_of_different_lengths() -> None:
    with pytest.raises(InvalidArgumentError, match=r"\{'a': 1, 'b': 2\}"):
        from_tensors({"a": torch.ones(1), "b": torch.ones(2)})


class TestSchema:
    def test_types_order_and_metadata_are_the_schemas(self) -> None:
        schema = pa.schema(
            [
                ("t", pa.fixed_shape_tensor(pa.float32(), [2])),
                pa.field("i", pa.int8(), metadata={"k": "v"}),
                ("missing", pa.string()),
            ],
            metadata={"s": "t"},
        )
        table = from_tensors({"i": torch.tensor([1, 2]), "t": np.ones((2, 2))}, schema)
        assert table.schema.equals(schema, check_metadata=True)
        assert plain(to_tensors(table)["t"]) == [[1.0, 1.0]] * 2

    def test_python_numbers_take_the_width_of_the_schema(self) -> None:
        assert from_tensors({"x": [0.1, None]}, pa.schema([("x", pa.float32())]))["x"].type == pa.float32()
        with pytest.raises(SchemaMismatchError, match=r"'x'.*uint8"):
            from_tensors({"x": [300]}, pa.schema([("x", pa.uint8())]))

    def test_equal_shapes_fit_a_ragged_column(self) -> None:
        variable = from_tensors({"x": [torch.ones(1, 4), torch.ones(2, 3)]}).schema
        rows = [torch.ones(2, 2), torch.zeros(2, 2)]
        assert plain(to_tensors(from_tensors({"x": rows}, variable))["x"]) == plain(rows)
        lists = pa.schema([("x", pa.list_(pa.float32()))])
        assert from_tensors({"x": torch.ones(2, 2)}, lists)["x"].to_pylist() == [[1.0, 1.0]] * 2
