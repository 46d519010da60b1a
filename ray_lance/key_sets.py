"""Sets of keys: rows of key columns in, which other rows have one of these keys out. Exact, whatever their hashes.

A set holds 64-bit hashes in ascending order and the keys in the order of their hashes, as Arrow arrays. A row is first
looked for by its hash, and then compared by value. Of a single column of integers or times the hash is a bijection, so
that the hashes are enough.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from ray_lance.errors import InvalidArgumentError
from ray_lance.order.hashing import hash_slices
from ray_lance.order.keys import mix64
from ray_lance.tensors.kinds import extension_name

__all__ = ["KeySet", "comparable_schema", "hash_keys", "in_types", "is_bijective"]

_Words = npt.NDArray[np.uint64]
_Mask = npt.NDArray[np.bool_]

# Of longer values the beginning and the end are hashed; equal hashes cost a comparison and nothing else.
_HASHED_BYTES = 64


class KeySet:
    """The keys of some rows.

    Args:
        rows: Rows of key columns without nulls, in tables of ``schema``; gone through once.
        schema: As :func:`comparable_schema` gives it.
    """

    def __init__(self, rows: Iterable[pa.Table], schema: pa.Schema) -> None:
        none = np.empty(0, np.uint64)
        self._keys: pa.Table | None = None
        if is_bijective(schema):
            self._hashes = np.concatenate([none, *map(hash_keys, rows)])
            self._hashes.sort()
        else:
            keys = pa.concat_tables([schema.empty_table(), *rows])
            hashes = hash_keys(keys)
            order = np.argsort(hashes)
            self._hashes, self._keys = hashes[order], keys.take(order).combine_chunks()

    @property
    def nbytes(self) -> int:
        """Bytes that the set holds."""
        return int(self._hashes.nbytes) + (0 if self._keys is None else int(self._keys.nbytes))

    def holds(self, keys: pa.Table, hashes: _Words) -> _Mask:
        """Which of ``keys`` are in the set; ``hashes``: what :func:`hash_keys` says of them."""
        at = np.searchsorted(self._hashes, hashes)
        found = self._agree(at, hashes)
        if self._keys is None:
            return found
        left = np.flatnonzero(found)
        found[:] = False
        at = at[left]
        while len(left):
            same = _equal(keys.take(left), self._keys.take(at))
            found[left[same]] = True
            # Keys that differ may have one hash: look at the next one.
            left, at = left[~same], at[~same] + 1
            goes_on = self._agree(at, hashes[left])
            left, at = left[goes_on], at[goes_on]
        return found

    def _agree(self, at: npt.NDArray[np.intp], hashes: _Words) -> _Mask:
        if not len(self._hashes):
            return np.zeros(len(hashes), bool)
        inside = np.minimum(at, len(self._hashes) - 1)
        agree: _Mask = (at < len(self._hashes)) & (self._hashes[inside] == hashes)
        return agree


def comparable_schema(ours: pa.Schema, theirs: pa.Schema) -> pa.Schema:
    """The types in which keys of two tables are compared; the columns have the same names in both.

    Raises:
        InvalidArgumentError: A column is of a type that has no exact equality, or of types that cannot be compared.
    """
    fields = []
    for mine, other in zip(ours, theirs, strict=True):
        found = _common(_value_type(mine), _value_type(other))
        if found is None or extension_name(mine) or extension_name(other):
            raise InvalidArgumentError(
                f"on: column {mine.name!r} is {mine.type} here and {other.type} in the other table; keys must be "
                "integers, strings, bytes, booleans, decimals or times, and of one kind"
            )
        fields.append(pa.field(mine.name, found))
    return pa.schema(fields)


def is_bijective(schema: pa.Schema) -> bool:
    """Whether rows that differ have hashes that differ."""
    return len(schema) == 1 and not _is_bytes(schema.field(0).type) and not pa.types.is_boolean(schema.field(0).type)


def hash_keys(keys: pa.Table) -> _Words:
    """Hash rows of keys without nulls: uint64, shape ``(rows,)``."""
    chunks = [_hash_batch(batch) for batch in keys.to_batches()]
    return np.concatenate([np.empty(0, np.uint64), *chunks])


def _hash_batch(keys: pa.RecordBatch) -> _Words:
    hashes = _hash_column(keys.column(0))
    for column in keys.columns[1:]:
        hashes = mix64(mix64(hashes) ^ _hash_column(column))
    return hashes


def _hash_column(column: pa.Array) -> _Words:
    dtype = column.type
    if _is_bytes(dtype):
        return _hash_bytes(column)
    if pa.types.is_boolean(dtype):
        words = column.cast(pa.int8()).to_numpy().astype(np.int64)
    else:
        narrow = dtype.bit_width == 32  # a date, or a time of day
        integers = column if pa.types.is_integer(dtype) else column.view(pa.int32() if narrow else pa.int64())
        words = integers.to_numpy()
        words = words.astype(np.int64) if words.dtype != np.uint64 else words
    return mix64(words.view(np.uint64))


def _hash_bytes(column: pa.Array) -> _Words:
    if not len(column):
        return np.empty(0, np.uint64)
    data = np.frombuffer(column.buffers()[-1] or b"", np.uint8)
    if pa.types.is_fixed_size_binary(column.type) or pa.types.is_decimal(column.type):
        width = column.type.byte_width
        starts = (np.arange(len(column), dtype=np.int64) + column.offset) * width
        sizes = np.full(len(column), width, np.int64)
    else:
        ends = np.frombuffer(column.buffers()[1], np.int64)[column.offset : column.offset + len(column) + 1]
        starts, sizes = ends[:-1], np.diff(ends)
    first, last = int(starts[0]), int(starts[-1] + sizes[-1])
    data, starts = data[first:last], starts - first
    hashed = np.minimum(sizes, _HASHED_BYTES)
    state = hash_slices(data, starts, hashed, mix64(sizes.view(np.uint64)))
    return hash_slices(data, starts + sizes - hashed, hashed, state)


def _equal(ours: pa.Table, theirs: pa.Table) -> _Mask:
    same = np.ones(len(ours), bool)
    for mine, other in zip(ours.columns, theirs.columns, strict=True):
        same &= pc.equal(mine, other).to_numpy()
    return same


def _value_type(field: pa.Field) -> pa.DataType:
    return field.type.value_type if pa.types.is_dictionary(field.type) else field.type


def _common(ours: pa.DataType, theirs: pa.DataType) -> pa.DataType | None:
    """One type for both that no two values are equal in that differ; None where there is none."""
    types = (ours, theirs)
    if all(map(pa.types.is_integer, types)):
        if pa.uint64() not in types:
            return pa.int64()
        is_signed = any(map(pa.types.is_signed_integer, types))
        return pa.decimal128(20, 0) if is_signed else pa.uint64()
    if all(map(_is_text, types)):
        return pa.large_string()
    if ours == theirs and (pa.types.is_boolean(ours) or pa.types.is_decimal(ours) or pa.types.is_temporal(ours)):
        return None if pa.types.is_interval(ours) else ours
    if all(map(_is_binary, types)):
        return pa.large_binary()
    return None


def _is_text(dtype: pa.DataType) -> bool:
    return bool(pa.types.is_string(dtype) or pa.types.is_large_string(dtype) or pa.types.is_string_view(dtype))


def _is_binary(dtype: pa.DataType) -> bool:
    varying = pa.types.is_binary(dtype) or pa.types.is_large_binary(dtype) or pa.types.is_binary_view(dtype)
    return bool(varying or pa.types.is_fixed_size_binary(dtype))


def _is_bytes(dtype: pa.DataType) -> bool:
    return bool(pa.types.is_large_string(dtype) or pa.types.is_large_binary(dtype) or pa.types.is_decimal(dtype))


def in_types(rows: pa.Table, schema: pa.Schema) -> pa.Table:
    """The columns of ``schema`` among ``rows``, in its types."""
    return pa.Table.from_arrays([_cast(rows[field.name], field.type) for field in schema], schema=schema)


def _cast(column: pa.ChunkedArray, dtype: pa.DataType) -> pa.ChunkedArray:
    values = column.cast(column.type.value_type) if pa.types.is_dictionary(column.type) else column
    return values.cast(dtype)
