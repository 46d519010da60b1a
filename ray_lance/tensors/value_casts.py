"""Casts plain values: an array and a type in, the array as that type out, or an error where a value would change."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from ray_lance.errors import SchemaMismatchError
from ray_lance.tensors.kinds import is_numeric

__all__ = ["cast_values", "family", "time_zone", "to_categories"]

_FAMILIES: dict[str, Any] = {
    "number": lambda dtype: is_numeric(dtype) or pa.types.is_decimal(dtype),
    "bool": pa.types.is_boolean,
    "text": lambda dtype: (
        pa.types.is_string(dtype) or pa.types.is_large_string(dtype) or pa.types.is_string_view(dtype)
    ),
    "bytes": lambda dtype: (
        pa.types.is_binary(dtype)
        or pa.types.is_large_binary(dtype)
        or pa.types.is_binary_view(dtype)
        or pa.types.is_fixed_size_binary(dtype)
    ),
    "timestamp": pa.types.is_timestamp,
    "date": pa.types.is_date,
    "time": pa.types.is_time,
    "duration": pa.types.is_duration,
}


def family(dtype: pa.DataType) -> str | None:
    """The kind of values that ``dtype`` holds; casts stay within a kind. None for nested types and others."""
    if pa.types.is_dictionary(dtype):
        return family(dtype.value_type)
    return next((name for name, holds in _FAMILIES.items() if holds(dtype)), None)


def time_zone(dtype: pa.DataType) -> str | None:
    """The time zone of timestamps; None for those without one, and for all other types."""
    if pa.types.is_dictionary(dtype):
        return time_zone(dtype.value_type)
    return dtype.tz if pa.types.is_timestamp(dtype) else None


def cast_values(name: str, array: pa.Array, dtype: pa.DataType) -> pa.Array:
    """``array`` as ``dtype``, of the same family and time zone; checked by casting back.

    Raises:
        SchemaMismatchError: A value would change; the message names the column ``name`` and the first such value.
    """
    try:
        cast, lost = _cast_and_check(array, dtype)
    except pa.ArrowException:
        lost = _first_failure(array, dtype)
    if lost is None:
        return cast
    raise SchemaMismatchError(
        f"column {name!r}: {array[lost].as_py()!r} in row {lost} cannot be held exactly by {dtype} (the column is "
        f"{array.type}): convert the column first if the loss is intended"
    )


def to_categories(name: str, array: pa.Array, dtype: pa.DictionaryType) -> pa.DictionaryArray:
    """``array``, of the same family and time zone, as categories ``dtype``.

    Raises:
        SchemaMismatchError: A value would change, or there are more of them than the indices can tell apart.
    """
    if pa.types.is_dictionary(array.type):
        categories = cast_values(name, array.dictionary, dtype.value_type)
        array = pa.DictionaryArray.from_arrays(array.indices, categories)
    else:
        array = cast_values(name, array, dtype.value_type).dictionary_encode()
    try:
        indices = array.indices.cast(dtype.index_type)
    except pa.ArrowInvalid:  # unless most of the categories are not used
        array = array.dictionary.take(array.indices).dictionary_encode()
        if len(array.dictionary) > 2 ** (dtype.index_type.bit_width - pa.types.is_signed_integer(dtype.index_type)):
            raise _too_many(name, dtype) from None
        indices = array.indices.cast(dtype.index_type)
    return pa.DictionaryArray.from_arrays(indices, array.dictionary, ordered=dtype.ordered)


def _too_many(name: str, dtype: pa.DataType) -> SchemaMismatchError:
    return SchemaMismatchError(
        f"column {name!r} has more categories than the indices of {dtype} can tell apart: write the dataset again, "
        'which stores wider ones, with write_lance(read_lance(uri), uri, mode="overwrite")'
    )


def _cast_and_check(array: pa.Array, dtype: pa.DataType) -> tuple[pa.Array, int | None]:
    """The cast array, and the position of the first value that it does not hold exactly (None: it holds all)."""
    source = array.type
    # pyarrow's safe casts between integers and floats refuse exact values beyond 2**53.
    mixed = is_numeric(source) and is_numeric(dtype) and pa.types.is_integer(source) != pa.types.is_integer(dtype)
    safe = not mixed
    cast = array.cast(dtype, safe=safe)
    back = cast.cast(source, safe=safe)
    same = pc.equal(_comparable(array), _comparable(back))
    if pa.types.is_floating(source):
        same = pc.or_(same, pc.is_nan(_comparable(back)))
    if pa.types.is_floating(source) and pa.types.is_integer(dtype):
        same = pc.and_(same, _within_limit(array, dtype))
    elif pa.types.is_integer(source) and pa.types.is_floating(dtype):
        same = pc.and_(same, _within_limit(cast, source))
    position = pc.index(same, False).as_py()
    return cast, None if position < 0 else int(position)


def _comparable(array: pa.Array) -> pa.Array:
    if pa.types.is_dictionary(array.type):
        return array.dictionary_decode()
    return array.cast(pa.float32()) if pa.types.is_float16(array.type) else array


def _within_limit(floats: pa.Array, integer: pa.DataType) -> pa.Array:
    """Whether values are finite and lie under the first power of two above ``integer``.

    Processors cast that power, and infinities, to the largest or the smallest integer; those would pass the
    comparison after casting back.
    """
    limit = 2.0 ** (integer.bit_width - pa.types.is_signed_integer(integer))
    wide = _comparable(floats).cast(pa.float64())
    return pc.and_(pc.is_finite(wide), pc.less(wide, limit))


def _first_failure(array: pa.Array, dtype: pa.DataType) -> int:
    for position in range(len(array)):
        try:
            lost = _cast_and_check(array.slice(position, 1), dtype)[1]
        except pa.ArrowException:
            return position
        if lost is not None:
            return position
    return 0
