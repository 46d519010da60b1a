"""Encodes sets of rows: row addresses in, the bytes that Lance's scanner takes out, a Roaring bitmap per fragment.

Lance has a function for that, which goes through the rows one Python integer at a time: a fifth of the time of reading
them. A set is the number of fragments and, for each, its id, the length of its bitmap and the bitmap; integers have 32
bits and are little-endian. Bitmaps follow the Roaring format (https://github.com/RoaringBitmap/RoaringFormatSpec). All
containers are runs, which are the shortest form for rows that lie in clumps, and correct for any others.
"""

from __future__ import annotations

import struct

import numpy as np
import numpy.typing as npt

from ray_lance.order.rows import RowArray

__all__ = ["bitmap", "number_of_runs", "row_set"]

_Integers = npt.NDArray[np.uint64]

_COOKIE = 12347  # says that there are containers of runs
_OFFSETS_FROM = 4  # bitmaps of at least so many containers begin with their offsets


def row_set(addresses: _Integers) -> bytes:
    """Encode a set of rows.

    Args:
        addresses: Distinct row addresses, ascending: uint64, shape ``(k,)``.
    """
    bitmaps = [(int(part[0]) >> 32, bitmap(part)) for part in _split(addresses, addresses >> np.uint64(32))]
    parts = [struct.pack("<II", fragment, len(bitmap)) + bitmap for fragment, bitmap in bitmaps]
    return struct.pack("<I", len(parts)) + b"".join(parts)


def number_of_runs(rows: RowArray) -> int:
    """Count the runs of neighbours in ascending ``rows``."""
    return int(np.count_nonzero(np.diff(rows) != 1)) + 1


def bitmap(addresses: _Integers) -> bytes:
    """Encode the rows of one fragment as offsets: a container for each value of the upper 16 of their 32 bits.

    Args:
        addresses: Distinct row addresses, ascending: uint64, shape ``(k,)``.
    """
    containers = [
        (int(part[0]) >> 16 & 0xFFFF, len(part), _runs(part)) for part in _split(addresses, addresses >> np.uint64(16))
    ]
    count = len(containers)
    have_runs = (1 << count) - 1
    start = struct.pack("<I", _COOKIE | (count - 1) << 16) + have_runs.to_bytes(-(-count // 8), "little")
    start += b"".join(struct.pack("<HH", key, rows - 1) for key, rows, _ in containers)
    lengths = [len(runs) for _, _, runs in containers]
    if count >= _OFFSETS_FROM:
        offsets = len(start) + 4 * count + np.cumsum([0, *lengths[:-1]])
        start += offsets.astype("<u4").tobytes()
    return start + b"".join(runs for _, _, runs in containers)


def _runs(addresses: _Integers) -> bytes:
    """A container: the number of runs, and for each its first value and how many follow it."""
    ends = np.append(np.flatnonzero(np.diff(addresses) != 1), len(addresses) - 1)
    starts = np.append(0, ends[:-1] + 1)
    runs = np.stack([addresses[starts] & np.uint64(0xFFFF), (ends - starts).astype(np.uint64)], axis=1)
    return struct.pack("<H", len(runs)) + runs.astype("<u2").tobytes()


def _split(addresses: _Integers, keys: _Integers) -> list[_Integers]:
    """The parts of ``addresses``, ascending, that agree in their key."""
    return np.split(addresses, np.flatnonzero(np.diff(keys)) + 1)
