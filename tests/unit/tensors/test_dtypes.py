from __future__ import annotations

import itertools

import numpy as np
import pyarrow as pa
import pytest
import torch

from ray_lance.errors import TensorConversionError
from ray_lance.formats import convert
from ray_lance.tensors.dtypes import as_one_dtype

I8, I16, I32, I64 = torch.int8, torch.int16, torch.int32, torch.int64
U8, U16, U32, U64 = torch.uint8, torch.uint16, torch.uint32, torch.uint64
F16, BF16, F32, F64 = torch.float16, torch.bfloat16, torch.float32, torch.float64

COMMON = [
    ((I64,), I64),
    ((torch.bool, torch.bool), torch.bool),
    ((torch.bool, I8), I8),
    ((I8, U8), I16),
    ((U16, I16), I32),
    ((U32, I8), I64),
    ((U32, U64), U64),
    ((I8, F16), F16),
    ((I16, F16), F32),
    ((U8, BF16), BF16),
    ((F16, BF16), F32),
    ((I16, F32), F32),
    ((I32, F32), F64),
    ((U32, F16), F64),
    ((F32, F64), F64),
    # by what they hold
    ((I64, F32), F64),
    ((I64, F16), F64),
    ((U64, F64), F64),
    ((U64, I64), I64),
]


@pytest.mark.parametrize(("dtypes", "expected"), COMMON, ids=str)
def test_the_common_dtype_does_not_depend_on_order(dtypes: tuple[torch.dtype, ...], expected: torch.dtype) -> None:
    for order in itertools.permutations(dtypes):
        columns = {str(number): torch.tensor([0, 1]).to(dtype) for number, dtype in enumerate(order)}
        assert {column.dtype for column in as_one_dtype(columns)} == {expected}


@pytest.mark.parametrize("format", ["torch_col", "torch_row"])
@pytest.mark.parametrize("beside", [pa.float16(), pa.float32(), pa.float64()])
def test_integers_beside_floats_are_exact_or_refused(format: str, beside: pa.DataType) -> None:
    floats = pa.array(np.array([0.5, 1.5]).astype(beside.to_pandas_dtype()))

    exact = convert(pa.table({"id": [2**24 + 1, -(2**53)], "x": floats}), format)
    rows = exact if format == "torch_row" else exact.T
    assert [row.tolist() for row in rows] == [[2**24 + 1, 0.5], [-(2**53), 1.5]]
    assert convert(pa.table({"id": [2**60, 0], "x": floats}), format)[0].dtype == F64  # a power of two is exact

    for value in (2**53 + 1, -(2**53) - 1, 2**63 - 1):
        with pytest.raises(TensorConversionError, match=f"column 'id' .*holds {value}"):
            convert(pa.table({"id": [0, value], "x": floats}), format)


def test_unsigned_beside_signed() -> None:
    def table(value: int) -> pa.Table:
        return pa.table({"a": pa.array([value], pa.uint64()), "b": [-1]})

    assert convert(table(2**63 - 1), "torch_col").tolist() == [[2**63 - 1], [-1]]
    with pytest.raises(TensorConversionError, match=f"column 'a' .*holds {2**63}"):
        convert(table(2**63), "torch_col")
