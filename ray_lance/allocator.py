"""Keeps freed memory in the process, so that reading does not wait for the kernel to hand out the same pages again."""

from __future__ import annotations

import ctypes
import platform
from functools import cache

__all__ = ["keep_freed_memory"]

# Parameters of glibc's mallopt, see mallopt(3).
_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3

KEPT_BYTES = 256 * 2**20


@cache
def keep_freed_memory() -> bool:
    """Let glibc keep up to 256 MiB of freed memory for the next allocation. For read and write workers, once each.

    A read task allocates buffers of its size and frees them when its block has been handed over. By default glibc gets
    such buffers from the kernel each time and returns them each time, and every page of a new buffer costs a page
    fault: as much time as reading the data from a warm page cache takes.

    Returns:
        Whether the allocator took the setting; False where the C library is another one.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return bool(mallopt(_M_MMAP_THRESHOLD, KEPT_BYTES) and mallopt(_M_TRIM_THRESHOLD, KEPT_BYTES))
