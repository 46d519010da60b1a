"""The memory that row caches of this process may take together: cache_bytes in, room granted or refused out."""

from __future__ import annotations

import os
import threading
from collections import deque
from pathlib import Path
from typing import Literal, Protocol, TypeAlias

from ray_lance.arguments import as_integer, shown
from ray_lance.errors import InvalidArgumentError
from ray_lance.torch.ranks import current_worker

__all__ = ["Budget", "CacheBytes", "budget", "cache_limit", "check_cache_bytes"]

CacheBytes: TypeAlias = int | Literal["auto"]

_AUTO_BYTES = 512 * 2**20
_AUTO_SHARE = 16
_CGROUP_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


def check_cache_bytes(cache_bytes: CacheBytes) -> None:
    """Raise InvalidArgumentError unless ``cache_bytes`` is ``"auto"`` or a number of bytes."""
    if isinstance(cache_bytes, str) and cache_bytes == "auto":
        return
    try:
        as_integer("cache_bytes", cache_bytes, 0)
    except InvalidArgumentError:
        raise InvalidArgumentError(
            f"cache_bytes={shown(cache_bytes)} must be 'auto' or a whole number of bytes of this process, 0 for none"
        ) from None


def cache_limit(cache_bytes: CacheBytes) -> int:
    """Bytes that this process may use for the row caches of all its datasets together.

    ``"auto"`` is 512 MiB, but no more than a sixteenth of the memory for all workers of a loader, on all ranks of the
    machine as far as ``LOCAL_WORLD_SIZE`` tells their number.

    Raises:
        InvalidArgumentError: ``LOCAL_WORLD_SIZE`` is no number.
    """
    if cache_bytes != "auto":
        return int(cache_bytes)
    ranks = os.environ.get("LOCAL_WORLD_SIZE") or "1"
    if not ranks.isdecimal():
        raise InvalidArgumentError(
            f"LOCAL_WORLD_SIZE={ranks!r} must be the number of ranks on this machine: correct the environment, or give "
            "cache_bytes as a number"
        )
    return min(_AUTO_BYTES, _memory() // _AUTO_SHARE // (current_worker().size * max(1, int(ranks))))


def _memory() -> int:
    """Bytes of memory of the machine or of the container."""
    limits = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    for path in map(Path, _CGROUP_LIMITS):
        text = path.read_text().strip() if path.exists() else "max"
        if text != "max":
            limits.append(int(text))
    return min(limits)


class Holder(Protocol):
    """A cache whose memory others may have while nobody uses it."""

    @property
    def nbytes(self) -> int:
        """Bytes that it holds."""

    @property
    def is_idle(self) -> bool:
        """Whether nobody uses them."""

    def clear(self) -> None:
        """Release them."""


class Budget:
    """Counts the bytes of all row caches of this process."""

    def __init__(self) -> None:
        self._used = 0
        self._holders: list[Holder] = []
        self._released: deque[int] = deque()
        self.after_fork()

    def after_fork(self) -> None:
        """Begin with a new lock: the parent may have held the other one."""
        self._lock = threading.RLock()  # reentrant, for holders that are cleared release their memory

    @property
    def used(self) -> int:
        """Bytes in use."""
        with self._lock:
            while self._released:
                self._used -= self._released.popleft()
            return self._used

    def reserve(self, size: int, limit: int, holder: Holder | None = None) -> bool:
        """Reserve ``size`` more bytes if all caches then stay within ``limit``.

        Idle holders are cleared for that, the oldest first, if it helps.

        Args:
            size: Bytes.
            limit: Bytes that all caches may use together.
            holder: The cache that may be cleared when it is idle and others need the memory.

        Returns:
            Whether they were reserved.
        """
        with self._lock:
            idle = [each for each in self._holders if each.is_idle]
            if self.used + size - sum(each.nbytes for each in idle) > limit:
                return False
            for each in idle:
                if self.used + size > limit:
                    each.clear()
            self._used += size
            if holder is not None:
                self._holders.append(holder)
            return True

    def release(self, size: int) -> None:
        """Release what was reserved without a holder."""
        with self._lock:
            self._used -= size

    def release_later(self, size: int) -> None:
        """Like :meth:`release`, for finalizers: these run at any moment in any thread, and must not wait for a lock."""
        self._released.append(size)

    def release_all(self, holder: Holder) -> None:
        """Release what was reserved for a holder, if it still is."""
        with self._lock:
            if holder in self._holders:
                self._holders.remove(holder)
                self._used -= holder.nbytes


budget = Budget()
os.register_at_fork(after_in_child=budget.after_fork)
