"""How much memory the rows that are kept in this process may take, over all of its datasets."""

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
    """Bytes that this process may keep, in the caches of all its datasets together.

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
    """Who holds memory that others may have when nobody uses it."""

    @property
    def nbytes(self) -> int:
        """Bytes that it holds."""

    @property
    def is_idle(self) -> bool:
        """Whether nobody uses them."""

    def clear(self) -> None:
        """Give them back."""


class Budget:
    """Bytes that all caches of this process keep."""

    def __init__(self) -> None:
        self._used = 0
        self._holders: list[Holder] = []
        self._released: deque[int] = deque()
        self.after_fork()

    def after_fork(self) -> None:
        """Begin with a lock of its own, where the parent may have held the other one."""
        self._lock = threading.RLock()  # holders that are cleared give memory back

    @property
    def used(self) -> int:
        """Bytes that are kept."""
        with self._lock:
            while self._released:
                self._used -= self._released.popleft()
            return self._used

    def reserve(self, size: int, limit: int, holder: Holder | None = None) -> bool:
        """Whether ``size`` bytes more stay within ``limit``; they count from now on if so.

        Holders that are idle are cleared for that, the first one first, if it helps.

        Args:
            size: Bytes.
            limit: Bytes that may be kept in all.
            holder: Who gives them back when it is idle and others need them.
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
        """Give back what was reserved without a holder."""
        with self._lock:
            self._used -= size

    def release_later(self, size: int) -> None:
        """Like :meth:`release`, for finalizers: these run at any moment in any thread, and must not wait for a lock."""
        self._released.append(size)

    def release_all(self, holder: Holder) -> None:
        """Give back what was reserved for a holder, if it still is."""
        with self._lock:
            if holder in self._holders:
                self._holders.remove(holder)
                self._used -= holder.nbytes


budget = Budget()
os.register_at_fork(after_in_child=budget.after_fork)
