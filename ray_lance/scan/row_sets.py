"""Sets of row addresses as Lance's scanner takes them: a Roaring bitmap for each fragment.

Written here because the function that Lance has for it goes through the rows one Python integer at a time, which takes
a fifth of the time of reading them. A set is the number of fragments and, for each of them, its number, the length of
its bitmap, and the bitmap: 32-bit integers, as all others little-endian. A bitmap is as the Roaring format
specification has it (https://github.com/RoaringBitmap/RoaringFormatSpec), its containers all runs: of rows that lie in
clumps, runs are the shortest form, and of any others they are correct.
"""

from __future__ import annotations

import struct

import numpy as np
import numpy.typing as npt

from ray_lance.order.rows import RowArray

__all__ = ["number_of_runs", "row_set"]

_Integers = npt.NDArray[np.uint64]

_COOKIE = 12347  # says that there are containers of runs
_OFFSETS_FROM = 4  # bitmaps of so many containers begin with the offsets of these


def row_set(addresses: _Integers) -> bytes:
    """The set of some rows.

    Args:
        addresses: Distinct row addresses, ascending: uint64, shape ``(k,)``.
    """
    bitmaps = [(int(part[0]) >> 32, _bitmap(part)) for part in _split(addresses, addresses >> np.uint64(32))]
    parts = [struct.pack("<II", fragment, len(bitmap)) + bitmap for fragment, bitmap in bitmaps]
    return struct.pack("<I", len(parts)) + b"".join(parts)


def number_of_runs(rows: RowArray) -> int:
    """How many runs of neighbours there are in ``rows``, which are ascending."""
    return int(np.count_nonzero(np.diff(rows) != 1)) + 1


def _bitmap(addresses: _Integers) -> bytes:
    """The lower 32 bits of addresses that agree in the others, which are split by the upper half of these."""
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
    """A container: the number of runs, and of each its first value and the number of those that follow."""
    ends = np.append(np.flatnonzero(np.diff(addresses) != 1), len(addresses) - 1)
    starts = np.append(0, ends[:-1] + 1)
    runs = np.stack([addresses[starts] & np.uint64(0xFFFF), (ends - starts).astype(np.uint64)], axis=1)
    return struct.pack("<H", len(runs)) + runs.astype("<u2").tobytes()


def _split(addresses: _Integers, keys: _Integers) -> list[_Integers]:
    """The parts of ``addresses``, ascending, that agree in their key."""
    return np.split(addresses, np.flatnonzero(np.diff(keys)) + 1)
