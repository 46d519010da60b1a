"""The type table: for each Arrow type, rows to draw, and what a row is as a tensor. Plain Python, so independent."""

from __future__ import annotations

import datetime
import decimal
import math
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from hypothesis import strategies as st

from ray_lance.tensors.kinds import bfloat16_field, variable_shape_field

NAN = float("nan")


def same(row: Any) -> Any:
    return row


def nan_for_none(row: Any) -> Any:
    if isinstance(row, list):
        return [nan_for_none(item) for item in row]
    return NAN if row is None else row


def fill_for_none(fill: Any) -> Callable[[Any], Any]:
    def replace(row: Any) -> Any:
        return [replace(item) for item in row] if isinstance(row, list) else fill if row is None else row

    return replace


@dataclass(frozen=True)
class Case:
    """One row of the table: ``rows`` draws values without null rows; ``expected`` maps one row to ``tolist()``."""

    name: str
    field: pa.Field
    rows: st.SearchStrategy[Any]
    dtype: torch.dtype | None
    null: Any = None  # what a null row becomes
    expected: Callable[[Any], Any] = same
    fill: Any = None
    options: dict[str, Any] = field(default_factory=dict)


def fixed(size: int, items: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.lists(items, min_size=size, max_size=size)


def integers(bits: int, signed: bool) -> st.SearchStrategy[int]:
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    return st.integers(low, high)


HALVES = np.arange(2**16, dtype=np.uint16).view(np.float16)


def floats(width: int) -> st.SearchStrategy[float]:
    if width == 16:  # hypothesis draws others and throws them away, until it fails its own health check
        return st.sampled_from(HALVES[~np.isnan(HALVES)].tolist())
    return st.floats(width=width, allow_nan=False)


def without_null_lists(case: Case, rows: Any) -> Any:
    """What a read with ``fill=`` makes of rows that :func:`to_tensors` gives: null lists are empty ones."""
    is_list = pa.types.is_list(case.field.type) or pa.types.is_large_list(case.field.type)
    return [[] if row is None else row for row in rows] if is_list and case.fill is not None else rows


def bfloat16_bytes(value: float) -> bytes:
    return struct.pack("<f", value)[2:]


BFLOATS = st.integers(-128, 128).map(float)
_bfloat_rows = BFLOATS.map(bfloat16_bytes)


def _unbfloat(row: bytes | None) -> float:
    return NAN if row is None else struct.unpack("<f", b"\0\0" + row)[0]


def _nested(row: Any, function: Callable[[Any], Any]) -> Any:
    return [_nested(item, function) for item in row] if isinstance(row, list) else function(row)


def column(name: str, dtype: pa.DataType) -> pa.Field:
    return pa.field(name, dtype)


def number_cases() -> list[Case]:
    cases = []
    for bits in (8, 16, 32, 64):
        for signed in (True, False):
            name = f"{'' if signed else 'u'}int{bits}"
            arrow, dtype = getattr(pa, name)(), getattr(torch, name)
            values = integers(bits, signed)
            filled = fill_for_none(3)
            cases += [
                Case(name, column("x", arrow), values, dtype, 3, fill=3),
                Case(
                    f"{name}[2]",
                    column("x", pa.list_(arrow, 2)),
                    fixed(2, values | st.none()),
                    dtype,
                    [3, 3],
                    filled,
                    3,
                ),
            ]
    for width, arrow, dtype in (
        (16, pa.float16(), torch.float16),
        (32, pa.float32(), torch.float32),
        (64, pa.float64(), torch.float64),
    ):
        values = floats(width)
        cases += [
            Case(f"float{width}", column("x", arrow), values, dtype, NAN),
            Case(
                f"float{width}[3]",
                column("x", pa.list_(arrow, 3)),
                fixed(3, values | st.none()),
                dtype,
                [NAN] * 3,
                nan_for_none,
            ),
        ]
    return cases


def tensor_cases() -> list[Case]:
    f32 = floats(32)
    permuted = pa.fixed_shape_tensor(pa.float32(), [2, 3], permutation=[1, 0])

    def transpose(row: list[Any]) -> Any:
        return nan_for_none(np.array(row, object).reshape(2, 3).T.tolist())

    return [
        Case("bool", column("x", pa.bool_()), st.booleans(), torch.bool, True, fill=True),
        Case(
            "bool[3]", column("x", pa.list_(pa.bool_(), 3)), fixed(3, st.booleans()), torch.bool, [True] * 3, fill=True
        ),
        Case(
            "float32[2][2]",
            column("x", pa.list_(pa.list_(pa.float32(), 2), 2)),
            fixed(2, fixed(2, f32 | st.none()) | st.none()),
            torch.float32,
            [[NAN] * 2] * 2,
            lambda row: [[NAN] * 2 if item is None else nan_for_none(item) for item in row],
        ),
        Case(
            "fixed_shape_tensor",
            column("x", pa.fixed_shape_tensor(pa.int16(), [2, 2])),
            fixed(4, integers(16, True)),
            torch.int16,
            [[7, 7]] * 2,
            lambda row: np.reshape(row, (2, 2)).tolist(),
            7,
        ),
        Case("permuted", column("x", permuted), fixed(6, f32 | st.none()), torch.float32, [[NAN] * 2] * 3, transpose),
        Case("bfloat16", bfloat16_field("x"), _bfloat_rows, torch.bfloat16, NAN, _unbfloat),
        Case(
            "bfloat16[2]",
            column("x", pa.list_(bfloat16_field("item"), 2)),
            fixed(2, _bfloat_rows | st.none()),
            torch.bfloat16,
            [NAN] * 2,
            lambda row: _nested(row, _unbfloat),
        ),
    ]


_EPOCH = datetime.datetime(1970, 1, 1)
_days = st.dates(datetime.date(1900, 1, 1), datetime.date(2200, 1, 1))
_micros = st.datetimes(datetime.datetime(1900, 1, 1), datetime.datetime(2200, 1, 1))


def _microseconds(moment: datetime.datetime) -> int:
    return (moment - _EPOCH) // datetime.timedelta(microseconds=1)


def other_cases() -> list[Case]:
    return [
        Case("timestamp", column("x", pa.timestamp("us")), _micros, torch.int64, -1, _microseconds, -1),
        Case("date32", column("x", pa.date32()), _days, torch.int64, -1, lambda day: (day - _EPOCH.date()).days, -1),
        Case(
            "duration",
            column("x", pa.duration("ms")),
            st.integers(-(10**9), 10**9).map(lambda ms: datetime.timedelta(milliseconds=ms)),
            torch.int64,
            -1,
            lambda delta: delta // datetime.timedelta(milliseconds=1),
            -1,
        ),
        Case(
            "time64",
            column("x", pa.time64("us")),
            st.times(),
            torch.int64,
            -1,
            lambda t: ((t.hour * 60 + t.minute) * 60 + t.second) * 10**6 + t.microsecond,
            -1,
        ),
        Case(
            "decimal",
            column("x", pa.decimal128(12, 2)),
            st.integers(-(10**11), 10**11).map(lambda cents: decimal.Decimal(cents).scaleb(-2)),
            torch.float64,
            NAN,
            float,
        ),
        Case("dictionary", column("x", pa.dictionary(pa.int32(), pa.string())), st.sampled_from(["a", "b", ""]), None),
        Case(
            "dictionary of numbers",
            column("x", pa.dictionary(pa.int32(), pa.int64())),
            st.sampled_from([-7, 300, 2**60]),
            torch.int64,
            -1,
            fill=-1,
        ),
        Case(
            "list<dictionary>",
            column("x", pa.list_(pa.dictionary(pa.int32(), pa.string()))),
            st.lists(st.sampled_from(["a", "b"]) | st.none(), max_size=3),
            None,
        ),
        Case("null", column("x", pa.null()), st.none(), torch.float32, NAN, nan_for_none),
        Case("string", column("x", pa.string()), st.text(max_size=5), None),
        Case("large_string", column("x", pa.large_string()), st.text(max_size=5), None),
        Case("binary", column("x", pa.binary()), st.binary(max_size=5), None),
        Case("fixed_size_binary", column("x", pa.binary(2)), st.binary(min_size=2, max_size=2), None),
        Case(
            "list<string>",
            column("x", pa.list_(pa.string())),
            st.lists(st.text(max_size=3) | st.none(), max_size=3),
            None,
        ),
        Case(
            "list<float32>",
            column("x", pa.list_(pa.float32())),
            st.lists(floats(32) | st.none(), max_size=4),
            None,
            expected=nan_for_none,
        ),
        Case(
            "large_list<int64>",
            column("x", pa.large_list(pa.int64())),
            st.lists(integers(64, True) | st.none(), max_size=4),
            None,
            expected=fill_for_none(5),
            fill=5,
        ),
        Case(
            "list<int8[2]>",
            column("x", pa.list_(pa.list_(pa.int8(), 2))),
            st.lists(fixed(2, integers(8, True)), max_size=3),
            None,
        ),
        Case(
            "list<list<int32>>",
            column("x", pa.list_(pa.list_(pa.int32()))),
            st.lists(st.lists(integers(32, True), max_size=3), max_size=3),
            None,
        ),
    ]


@st.composite
def shaped(draw: st.DrawFn) -> dict[str, Any]:
    shape = draw(st.lists(st.integers(0, 3), min_size=2, max_size=2))
    size = math.prod(shape)
    return {"data": draw(fixed(size, integers(16, True))), "shape": shape}


VARIABLE = Case(
    "variable_shape_tensor",
    variable_shape_field(pa.field("x", pa.null()), pa.field("item", pa.int16()), 2),
    shaped(),
    None,
    expected=lambda row: np.reshape(row["data"], row["shape"]).tolist(),
)

CASES = [*number_cases(), *tensor_cases(), *other_cases(), VARIABLE]


def array_of(field: pa.Field, rows: list[Any]) -> pa.Array:
    """``rows`` as an array of the field's type, through its storage type."""
    if isinstance(field.type, pa.BaseExtensionType):
        return pa.ExtensionArray.from_storage(field.type, pa.array(rows, field.type.storage_type))
    if pa.types.is_float16(field.type):
        return pa.array([None if row is None else np.float16(row) for row in rows], field.type)
    if pa.types.is_fixed_size_list(field.type) and pa.types.is_float16(field.type.value_type):
        halves = [None if row is None else [None if i is None else np.float16(i) for i in row] for row in rows]
        return pa.array(halves, field.type)
    return pa.array(rows, field.type)


@st.composite
def tables(draw: st.DrawFn, case: Case, nulls: bool = True) -> tuple[pa.Table, list[Any]]:
    """A table of one column, cut into chunks that are slices of larger arrays, and its rows."""
    strategy = case.rows | st.none() if nulls else case.rows
    parts = draw(st.lists(st.lists(strategy, max_size=4), max_size=3))
    chunks, rows = [], []
    for part in parts:
        around = draw(st.integers(0, 2))
        padding = [part[0] if part else draw(case.rows)] * around
        chunks.append(array_of(case.field, [*padding, *part, *padding]).slice(around, len(part)))
        rows += part
    schema = pa.schema([case.field])
    return pa.Table.from_arrays([pa.chunked_array(chunks, type=case.field.type)], schema=schema), rows


def plain(value: Any) -> Any:
    """Tensors at any depth as lists, and NaN as a word, so that ``==`` compares everything."""
    if isinstance(value, torch.Tensor):
        return plain(value.tolist())
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, (float, np.floating)) and math.isnan(value):
        return "NaN"
    return value
