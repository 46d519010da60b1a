"""Hashes values: columns in, 64-bit hashes of their rows out, the same on every platform and in every version."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from ray_lance.errors import InvalidArgumentError
from ray_lance.order.keys import derive_words, mix64

__all__ = ["hash_slices", "mix_seed", "stable_hash64"]

_Words = npt.NDArray[np.uint64]
_KINDS = {"integer": 0x1, "text": 0x2, "bytes": 0x3, "null": 0x4}
_LONG_VALUE_BYTES = 256
_GATHER_PAD = 8


def stable_hash64(*columns: npt.NDArray[np.generic] | Sequence[str | bytes | None]) -> _Words:
    """Hash rows by the values of one or more columns.

    Integers (and booleans) hash by value, so the width of the type does not matter. Text hashes as UTF-8, and differs
    from the same bytes; None is a value of its own. The order of the columns matters.

    Args:
        columns: Each an integer or boolean array of shape ``(n,)``, or a sequence of n str, bytes or None (a list, or
            an object, str or bytes array).

    Returns:
        uint64 array of shape ``(n,)``.

    Raises:
        InvalidArgumentError: There is no column, their lengths differ, or a value is of another type (floats have no
            stable equality: round them to integers, or hash another column).
    """
    if not columns:
        raise InvalidArgumentError("columns is empty: pass at least one column to hash by")
    lengths = [len(column) for column in columns]
    if len(set(lengths)) > 1:
        raise InvalidArgumentError(f"columns have {lengths} values: they must all have the same number")
    combined = _hash_column(columns[0])
    for column in columns[1:]:
        combined = mix64(mix64(combined) ^ _hash_column(column))
    return combined


def mix_seed(hashes: _Words, seed: int) -> _Words:
    """Hashes that are independent for every seed, uint64 of the same shape."""
    return mix64(hashes, int(derive_words(("hash", seed), 1)[0]))


def _hash_column(column: npt.NDArray[np.generic] | Sequence[str | bytes | None]) -> _Words:
    if isinstance(column, np.ndarray) and column.dtype.kind in "iub":
        # Through int64, so that a negative number is the same word in every width.
        words = column.astype(np.uint64) if column.dtype.kind == "u" else column.astype(np.int64).view(np.uint64)
        return mix64(words, _KINDS["integer"])
    if isinstance(column, np.ndarray) and column.dtype.kind not in "OUS":
        raise InvalidArgumentError(f"columns: cannot hash {column.dtype}: pass integers, booleans, text or bytes")
    if isinstance(column, (str, bytes)):
        raise InvalidArgumentError(f"columns: a column is a sequence of values, got one {type(column).__name__}")
    values = list(column)
    if any(isinstance(value, (int, np.integer)) for value in values):
        return _hash_integers(values)
    return _hash_values(values)


def _hash_integers(values: Sequence[object]) -> _Words:
    is_null = np.array([value is None for value in values])
    numbers = np.array([0 if value is None else value for value in values])
    if numbers.dtype.kind not in "iub":
        raise InvalidArgumentError(
            "columns: a column of integers may hold integers of up to 64 bits and None, and nothing else"
        )
    hashes = _hash_column(numbers)
    hashes[is_null] = _hash_values([None])[0]
    return hashes


def _hash_values(values: Sequence[object]) -> _Words:
    kinds = np.empty(len(values), dtype=np.uint64)
    lengths = np.empty(len(values), dtype=np.int64)
    parts: list[bytes] = []
    for row, value in enumerate(values):
        kind, data = _encode(value)
        kinds[row], lengths[row] = kind, len(data)
        # Few long values would otherwise cost one vector operation for every eight of their bytes.
        parts.append(data if len(data) <= _LONG_VALUE_BYTES else hashlib.blake2b(data, digest_size=32).digest())
    return _hash_bytes(parts, mix64(kinds, 0) ^ mix64(lengths.view(np.uint64), 0x10))


def _encode(value: object) -> tuple[int, bytes]:
    if isinstance(value, str):
        return _KINDS["text"], value.encode("utf-8", "surrogatepass")
    if isinstance(value, bytes):
        return _KINDS["bytes"], value
    if value is None:
        return _KINDS["null"], b""
    raise InvalidArgumentError(
        f"columns: cannot hash the value {value!r} of type {type(value).__name__}: pass integers, text or bytes"
    )


def _hash_bytes(parts: list[bytes], state: _Words) -> _Words:
    sizes = np.fromiter(map(len, parts), dtype=np.int64, count=len(parts))
    starts = np.concatenate(([0], np.cumsum(sizes)))[:-1]
    return hash_slices(np.frombuffer(b"".join(parts), dtype=np.uint8), starts, sizes, state)


def hash_slices(
    data: npt.NDArray[np.uint8], starts: npt.NDArray[np.int64], sizes: npt.NDArray[np.int64], state: _Words
) -> _Words:
    """Absorb values into the states of their hashes, eight bytes at a time, the k-th word of all values in one step.

    Args:
        data: The bytes of all values.
        starts: Where each value begins, shape ``(n,)``.
        sizes: Bytes of each value, shape ``(n,)``.
        state: uint64, shape ``(n,)``; changed in place.

    Returns:
        ``state``.
    """
    buffer = np.concatenate([data, np.zeros(_GATHER_PAD, np.uint8)])
    columns = np.arange(8, dtype=np.int64)
    for word in range(int(-(-sizes.max(initial=0) // 8))):
        active = np.flatnonzero(sizes > 8 * word)
        left = sizes[active] - 8 * word
        chars = buffer[(starts[active] + 8 * word)[:, None] + columns]
        chars[columns >= left[:, None]] = 0
        state[active] = mix64(state[active] ^ chars.view("<u8")[:, 0].astype(np.uint64, copy=False))
    return state
