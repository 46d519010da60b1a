"""Unifies number types: two types in, the narrowest one that holds the values of both out."""

from __future__ import annotations

import pyarrow as pa

__all__ = ["unify_numbers"]

# Bits of the integers that a type holds exactly, one after the other from zero.
_FLOATS = [(11, pa.float16()), (24, pa.float32()), (53, pa.float64())]
_SIGNED = [pa.int8(), pa.int16(), pa.int32(), pa.int64()]
_MOST_DIGITS = {128: 38, 256: 76}
_DIGITS = {8: 3, 16: 5, 32: 10, 64: 19}


def unify_numbers(left: pa.DataType, right: pa.DataType) -> pa.DataType | None:
    """The narrowest type of integers, floats or decimals for the values of two; None where there is none.

    For 64-bit integers and floats it is float64, and for int64 and uint64 it is uint64: only the values themselves tell
    whether it holds them.
    """
    if pa.types.is_decimal(left) or pa.types.is_decimal(right):
        return _decimal(left, right)
    if pa.types.is_floating(left) or pa.types.is_floating(right):
        bits = max(_exact_bits(left), _exact_bits(right))
        return next((dtype for held, dtype in _FLOATS if bits <= held), pa.float64())
    return _integer(left, right)


def _integer(left: pa.DataType, right: pa.DataType) -> pa.DataType:
    signed = [pa.types.is_signed_integer(dtype) for dtype in (left, right)]
    if signed[0] == signed[1]:
        return max(left, right, key=lambda dtype: dtype.bit_width)
    if pa.uint64() in (left, right):
        return pa.uint64()
    bits = max(
        dtype.bit_width * (1 if is_signed else 2) for dtype, is_signed in zip((left, right), signed, strict=True)
    )
    return next(dtype for dtype in _SIGNED if dtype.bit_width >= bits)


def _exact_bits(dtype: pa.DataType) -> int:
    for bits, floating in _FLOATS:
        if dtype == floating:
            return bits
    return int(dtype.bit_width) - bool(pa.types.is_signed_integer(dtype))


def _decimal(left: pa.DataType, right: pa.DataType) -> pa.DataType | None:
    sizes = [_digits(dtype) for dtype in (left, right)]
    if None in sizes:
        return None
    before, after = (max(part) for part in zip(*sizes, strict=True))
    wide = any(pa.types.is_decimal256(dtype) for dtype in (left, right)) or before + after > _MOST_DIGITS[128]
    if before + after > _MOST_DIGITS[256]:
        return None
    return pa.decimal256(before + after, after) if wide else pa.decimal128(before + after, after)


def _digits(dtype: pa.DataType) -> tuple[int, int] | None:
    """Decimal digits before and after the point; None for floats, which have no bound."""
    if pa.types.is_decimal(dtype):
        return dtype.precision - dtype.scale, dtype.scale
    if pa.types.is_floating(dtype):
        return None
    return _DIGITS[dtype.bit_width] + (dtype == pa.uint64()), 0
