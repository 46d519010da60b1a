"""What glibc does with freed memory in processes that read: how much of it is kept, and in how many places."""

from __future__ import annotations

import ctypes
import os
import platform
from functools import cache

__all__ = ["BUFFER_BESIDE_OTHERS", "KEPT_BESIDE_OTHERS", "keep_freed_memory", "share_arenas"]

# Parameters of glibc's mallopt, see mallopt(3).
_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
_M_ARENA_MAX = -8

_THRESHOLDS = frozenset(("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_"))  # as glibc spells them

KEPT_BYTES = 256 * 2**20
# What glibc itself comes to in a process that frees large buffers, see M_MMAP_THRESHOLD in mallopt(3): settings below
# that would take from the rest of a process what it had before.
KEPT_BESIDE_OTHERS = 64 * 2**20
BUFFER_BESIDE_OTHERS = 32 * 2**20
MOST_ARENAS = min(8, max(1, (os.cpu_count() or 1) // 2))


@cache
def keep_freed_memory(kept_bytes: int = KEPT_BYTES, buffer_bytes: int = KEPT_BYTES) -> bool:
    """Let glibc keep freed memory for the next allocation. For processes that stream, once each.

    A read allocates buffers of its size and frees them when its rows have been handed over. By default glibc gets such
    buffers from the kernel each time and returns them each time, and every page of a new buffer costs a page fault: as
    much time as reading the data from a warm page cache takes.

    Args:
        kept_bytes: How many freed bytes at the end of an arena are kept.
        buffer_bytes: Up to what size buffers come from an arena; larger ones come from the kernel each time. Ray's
            workers, which do little else, may keep all. A training process reads in many threads, whose buffers end
            up anywhere in an arena: over its first epochs it grew by up to a third with buffers of 256 MiB in it.

    Returns:
        Whether the allocator took the setting; False where the C library is another one, or where
        ``MALLOC_MMAP_THRESHOLD_`` or ``MALLOC_TRIM_THRESHOLD_`` in the environment has decided it.
    """
    if platform.libc_ver()[0] != "glibc" or not _THRESHOLDS.isdisjoint(os.environ):
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return bool(mallopt(_M_MMAP_THRESHOLD, buffer_bytes) and mallopt(_M_TRIM_THRESHOLD, kept_bytes))


@cache
def share_arenas() -> bool:
    """Let the threads of a process share a few of glibc's arenas. Call it before Lance starts its threads.

    One for every two cores, eight at most. By default there are up to eight for each core, and each keeps what was
    freed in it. Lance reads in many threads that come and go, so that over some epochs the buffers of reads end up in
    every arena: with four of them on two cores a process still grew by up to 1.4 times, with one by 1.14. What is
    allocated often is small and comes from a cache of each thread, so that threads seldom wait for an arena.

    glibc asks for the number only until the process has more than eight arenas. Ray's workers have that from their
    start: there ``MALLOC_ARENA_MAX`` in the environment does the same.

    Returns:
        Whether the allocator took the setting; False where the C library is another one, or where
        ``MALLOC_ARENA_MAX`` has set another number.
    """
    if platform.libc_ver()[0] != "glibc" or "MALLOC_ARENA_MAX" in os.environ:
        return False
    return bool(ctypes.CDLL(None).mallopt(_M_ARENA_MAX, MOST_ARENAS))
