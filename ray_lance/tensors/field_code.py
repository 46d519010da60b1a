"""Writes fields as Python code: fields in, the expression that makes them out, for errors that say what to write."""

from __future__ import annotations

from collections.abc import Iterable

import pyarrow as pa

from ray_lance.tensors.kinds import child_fields, is_list

__all__ = ["fields_code"]

_NAMES = {"halffloat": "float16", "float": "float32", "double": "float64", "bool": "bool_"}
_NAMES |= {"date32[day]": "date32", "date64[ms]": "date64"}


def fields_code(fields: Iterable[pa.Field]) -> str:
    """The argument ``schema=[...]`` that gives ``fields`` their types; ``string`` where a type is not known."""
    return "schema=[" + ", ".join(f"pyarrow.field({field.name!r}, {_code(field.type)})" for field in fields) + "]"


def _code(dtype: pa.DataType) -> str:
    if pa.types.is_null(dtype):
        return "pyarrow.string()"
    if pa.types.is_fixed_size_list(dtype):
        return f"pyarrow.list_({_code(dtype.value_type)}, {dtype.list_size})"
    if is_list(dtype):
        return f"pyarrow.{'large_list' if pa.types.is_large_list(dtype) else 'list_'}({_code(dtype.value_type)})"
    if pa.types.is_struct(dtype):
        inner = ", ".join(f"({child.name!r}, {_code(child.type)})" for child in child_fields(dtype))
        return f"pyarrow.struct([{inner}])"
    if pa.types.is_map(dtype):
        return f"pyarrow.map_({_code(dtype.key_type)}, {_code(dtype.item_type)})"
    if pa.types.is_dictionary(dtype):
        return f"pyarrow.dictionary({_code(dtype.index_type)}, {_code(dtype.value_type)})"
    return _plain(dtype)


def _plain(dtype: pa.DataType) -> str:
    if isinstance(dtype, pa.FixedShapeTensorType):
        return f"pyarrow.fixed_shape_tensor({_code(dtype.value_type)}, {list(dtype.shape)})"
    if pa.types.is_decimal(dtype):
        return f"pyarrow.decimal{dtype.bit_width}({dtype.precision}, {dtype.scale})"
    if pa.types.is_timestamp(dtype):
        return (
            f"pyarrow.timestamp({dtype.unit!r})" if dtype.tz is None else f"pyarrow.timestamp{(dtype.unit, dtype.tz)}"
        )
    if pa.types.is_time(dtype) or pa.types.is_duration(dtype):
        return f"pyarrow.{str(dtype).partition('[')[0]}({dtype.unit!r})"
    if pa.types.is_fixed_size_binary(dtype):
        return f"pyarrow.binary({dtype.byte_width})"
    return f"pyarrow.{_NAMES.get(str(dtype), str(dtype))}()"
