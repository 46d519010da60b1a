"""How much memory the rows that are kept in this process may take, over all of its datasets."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Literal, TypeAlias

from ray_lance.errors import InvalidArgumentError
from ray_lance.torch.ranks import current_worker

__all__ = ["Budget", "CacheBytes", "budget", "cache_limit", "check_cache_bytes"]

CacheBytes: TypeAlias = int | Literal["auto"]

_AUTO_BYTES = 512 * 2**20
_AUTO_SHARE = 16
_CGROUP_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


def check_cache_bytes(cache_bytes: CacheBytes) -> None:
    """Raise InvalidArgumentError unless ``cache_bytes`` is ``"auto"`` or a number of bytes."""
    is_size = isinstance(cache_bytes, int) and not isinstance(cache_bytes, bool) and cache_bytes >= 0
    if not is_size and cache_bytes != "auto":
        raise InvalidArgumentError(
            f"cache_bytes={cache_bytes!r} must be 'auto' or a whole number of bytes for this process, 0 for no cache"
        )


def cache_limit(cache_bytes: CacheBytes) -> int:
    """Bytes that this process may keep, in the caches of all its datasets together.

    ``"auto"`` is 512 MiB, but no more than a sixteenth of the memory for all workers of a loader, on all ranks of the
    machine as far as ``LOCAL_WORLD_SIZE`` tells their number.
    """
    if cache_bytes != "auto":
        return cache_bytes
    ranks = max(1, int(os.environ.get("LOCAL_WORLD_SIZE") or 1))
    return min(_AUTO_BYTES, _memory() // _AUTO_SHARE // (current_worker().size * ranks))


def _memory() -> int:
    """Bytes of memory of the machine or of the container."""
    limits = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    for path in map(Path, _CGROUP_LIMITS):
        text = path.read_text().strip() if path.exists() else "max"
        if text != "max":
            limits.append(int(text))
    return min(limits)


class Budget:
    """Bytes that all caches of this process keep."""

    def __init__(self) -> None:
        self.used = 0
        self._lock = threading.RLock()  # what is released may be released by a finalizer, at any moment

    def reserve(self, size: int, limit: int) -> bool:
        """Whether ``size`` bytes more stay within ``limit``; they count from now on if so."""
        with self._lock:
            fits = self.used + size <= limit
            self.used += size * fits
            return fits

    def release(self, size: int) -> None:
        """Give back what was reserved."""
        with self._lock:
            self.used -= size


budget = Budget()
