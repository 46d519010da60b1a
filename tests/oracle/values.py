"""Random Arrow types, nested up to a depth, and values of them."""

from __future__ import annotations

import datetime
import decimal
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
from hypothesis import strategies as st
from packaging.version import Version

__all__ = ["as_lance_takes_it", "dtypes", "make_array"]

WORDS = ("cat", "dog", "emu", "fox", "gnu", "", "a word", "Ünïcode")
_EPOCH = datetime.datetime(2020, 1, 1)

# Before pyarrow 25 they cannot be compared.
_VIEWS = (pa.string_view(), pa.binary_view()) if Version(pa.__version__).major >= 25 else ()
_LEAVES = (
    pa.int8(),
    pa.int16(),
    pa.int32(),
    pa.int64(),
    pa.uint8(),
    pa.uint16(),
    pa.uint32(),
    pa.uint64(),
    pa.float16(),
    pa.float32(),
    pa.float64(),
    pa.bool_(),
    pa.string(),
    pa.large_string(),
    pa.binary(),
    pa.large_binary(),
    pa.date32(),
    pa.timestamp("us"),
    pa.timestamp("ns", "UTC"),
    pa.duration("ms"),
    pa.decimal128(12, 3),
    pa.binary(3),
    pa.dictionary(pa.int8(), pa.string()),
    pa.dictionary(pa.int32(), pa.string()),
    *_VIEWS,
)
_VECTOR_VALUES = (pa.float32(), pa.float16(), pa.int8(), pa.uint8(), pa.float64())


def dtypes(depth: int = 3) -> st.SearchStrategy[pa.DataType]:
    """Types nested up to ``depth`` levels, simple ones first."""
    leaves = st.sampled_from(_LEAVES)
    if depth == 0:
        return leaves
    vectors = st.builds(pa.list_, st.sampled_from(_VECTOR_VALUES), st.integers(1, 4))
    tensors = st.builds(
        pa.fixed_shape_tensor, st.sampled_from(_VECTOR_VALUES), st.lists(st.integers(1, 3), min_size=1, max_size=3)
    )
    inner = dtypes(depth - 1).filter(_can_be_inside)
    structs = st.lists(inner, min_size=1, max_size=3).map(
        lambda children: pa.struct([pa.field(f"f{number}", child) for number, child in enumerate(children)])
    )
    return st.one_of(leaves, vectors, tensors, st.builds(pa.list_, inner), st.builds(pa.large_list, inner), structs)


def _can_be_inside(dtype: pa.DataType) -> bool:
    """Whether Arrow makes lists and structs of ``dtype`` from Python values."""
    return not isinstance(dtype, pa.BaseExtensionType) and not pa.types.is_dictionary(dtype)


def make_array(dtype: pa.DataType, rows: int, rng: random.Random, *, nulls: bool) -> pa.Array:
    """``rows`` values of ``dtype``."""
    if isinstance(dtype, pa.FixedShapeTensorType):
        return pa.ExtensionArray.from_storage(dtype, make_array(dtype.storage_type, rows, rng, nulls=False))
    return pa.array([make_value(dtype, rng, nulls=nulls) for _ in range(rows)], dtype)


def make_value(dtype: pa.DataType, rng: random.Random, *, nulls: bool) -> Any:
    """One value of ``dtype``, one time in six None where nulls are allowed."""
    if nulls and rng.random() < 1 / 6:
        return None
    if isinstance(dtype, pa.FixedShapeTensorType):
        return make_value(dtype.storage_type, rng, nulls=False)
    if pa.types.is_struct(dtype):
        return {field.name: make_value(field.type, rng, nulls=nulls) for field in dtype}
    if pa.types.is_fixed_size_list(dtype):
        return [make_value(dtype.value_type, rng, nulls=False) for _ in range(dtype.list_size)]
    if pa.types.is_list(dtype) or pa.types.is_large_list(dtype):
        return [make_value(dtype.value_type, rng, nulls=nulls) for _ in range(rng.randrange(4))]
    return _leaf(dtype, rng)


def as_lance_takes_it(dtype: pa.DataType) -> pa.DataType:
    """``dtype`` with what Lance cannot write in the next type that it can: views as plain strings and bytes."""
    if pa.types.is_string_view(dtype):
        return pa.string()
    if pa.types.is_binary_view(dtype):
        return pa.binary()
    if pa.types.is_struct(dtype):
        return pa.struct([field.with_type(as_lance_takes_it(field.type)) for field in dtype])
    if pa.types.is_list(dtype):
        return pa.list_(as_lance_takes_it(dtype.value_type))
    if pa.types.is_large_list(dtype):
        return pa.large_list(as_lance_takes_it(dtype.value_type))
    if pa.types.is_dictionary(dtype):
        return pa.dictionary(pa.int32(), dtype.value_type)  # of int8 it loses the values when the dictionary grows
    return dtype


def _leaf(dtype: pa.DataType, rng: random.Random) -> Any:
    return next(make(dtype, rng) for is_type, make in _LEAF_VALUES if is_type(dtype))


def _is_bytes(dtype: pa.DataType) -> bool:
    return pa.types.is_binary(dtype) or pa.types.is_large_binary(dtype) or pa.types.is_binary_view(dtype)


def _integer(dtype: pa.DataType, rng: random.Random) -> int:
    bounds = np.iinfo(dtype.to_pandas_dtype())
    return rng.choice((0, 1, bounds.min, bounds.max, rng.randint(bounds.min, bounds.max)))


def _float(dtype: pa.DataType, rng: random.Random) -> Any:
    value = rng.choice((0.0, -1.5, 2.25, float("inf"), float("nan")))
    return np.float16(value) if pa.types.is_float16(dtype) else value  # before pyarrow 21 it takes no others


_LEAF_VALUES: tuple[tuple[Callable[[pa.DataType], bool], Callable[[pa.DataType, random.Random], Any]], ...] = (
    (pa.types.is_boolean, lambda _, rng: rng.random() < 0.5),
    (pa.types.is_integer, _integer),
    (pa.types.is_floating, _float),
    (pa.types.is_fixed_size_binary, lambda dtype, rng: rng.randbytes(dtype.byte_width)),
    (_is_bytes, lambda _, rng: rng.randbytes(rng.randrange(5))),
    (pa.types.is_date, lambda _, rng: (_EPOCH + datetime.timedelta(days=rng.randrange(1000))).date()),
    (pa.types.is_timestamp, lambda _, rng: _EPOCH + datetime.timedelta(microseconds=rng.randrange(10**12))),
    (pa.types.is_duration, lambda _, rng: datetime.timedelta(milliseconds=rng.randrange(10**6))),
    (pa.types.is_decimal, lambda _, rng: decimal.Decimal(rng.randrange(-(10**6), 10**6)).scaleb(-3)),
    (lambda _: True, lambda _, rng: rng.choice(WORDS)),  # strings, and dictionaries of them
)
