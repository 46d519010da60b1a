"""Watches a job from outside: the memory of its processes over time, and what of its data the page cache holds."""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.page_cache import drop_from_page_cache

MIB = 2**20
EVERY_S = 0.05
DROP_EVERY_S = 0.25
ROLES = ("driver", "task workers", "train workers")
# Ray's own actors: they run beside any job and hold nothing of its data.
_ACTORS_OF_RAY = re.compile(r"ray::(_StatsActor|AutoscalingRequester|\w*Autoscaling\w*|TrainController|\w*StateActor)")
_FIELDS = re.compile(r"^(RssAnon|RssShmem|RssFile):\s+(\d+) kB", re.MULTILINE)


@dataclass(frozen=True)
class Memory:
    """Resident bytes of all processes of one role at one time.

    Attributes:
        own: Private memory: heap and stacks. It belongs to one process, and is what grows when something leaks.
        total: With the pages of the object store, which all processes share and which count in each that has touched
            them, and with those of libraries.
    """

    own: int = 0
    total: int = 0

    def __add__(self, other: Memory) -> Memory:
        return Memory(self.own + other.own, self.total + other.total)


@dataclass
class Timeline:
    """The memory of each role, in the order of time.

    Attributes:
        samples: Seconds of the machine's monotonic clock, and the memory by role.
        cached: Seconds, and bytes of the data in the page cache, just before they were dropped.
    """

    samples: list[tuple[float, dict[str, Memory]]] = field(default_factory=list)
    cached: list[tuple[float, int]] = field(default_factory=list)

    def peaks(self, role: str, kind: str, begin: float, end: float, parts: int = 10) -> list[int]:
        """The largest sum over the processes of a role in each of so many equal parts of the time.

        Args:
            role: One of ``ROLES``.
            kind: ``"own"`` or ``"total"``.
            begin: Seconds of the monotonic clock.
            end: Likewise.
            parts: How many.
        """
        peaks = [0] * parts
        for at, memory in self.samples:
            if begin <= at < end and role in memory:
                part = int((at - begin) / (end - begin) * parts)
                peaks[part] = max(peaks[part], getattr(memory[role], kind))
        return peaks

    def most_cached(self, begin: float, end: float) -> int:
        """The most bytes of the data that the page cache held."""
        return max((size for at, size in self.cached if begin <= at < end), default=0)


@contextmanager
def watching(driver: int, data: Sequence[Path]) -> Iterator[Timeline]:
    """Sample the memory of a driver and of the processes of its session, and keep its data out of the page cache.

    Args:
        driver: Process id of the driver, which leads a session of its own.
        data: Folders whose files are dropped from the page cache again and again.
    """
    timeline, ended = Timeline(), threading.Event()
    threads = [
        threading.Thread(target=_sample, args=(driver, timeline, ended)),
        threading.Thread(target=_drop, args=(data, timeline, ended)),
    ]
    for thread in threads:
        thread.start()
    try:
        yield timeline
    finally:
        ended.set()
        for thread in threads:
            thread.join()


def _sample(driver: int, timeline: Timeline, ended: threading.Event) -> None:
    roles: dict[int, str] = {}
    while not ended.wait(EVERY_S):
        found: dict[str, Memory] = {}
        for pid in _session(driver):
            try:
                role = _role(pid, driver, roles)
                memory = resident(pid)
            except OSError:
                continue  # it has ended
            if role is not None:
                found[role] = found.get(role, Memory()) + memory
        timeline.samples.append((time.monotonic(), found))


def _session(leader: int) -> Iterator[int]:
    for entry in os.scandir("/proc"):
        if entry.name.isdigit():
            try:
                session = Path(entry.path, "stat").read_text().rpartition(")")[2].split()[3]
            except OSError:
                continue
            if int(session) == leader:
                yield int(entry.name)


def _role(pid: int, driver: int, known: dict[int, str]) -> str | None:
    """What a process is there for; a worker is named after what it does, and idle in between."""
    if pid == driver:
        return "driver"
    name = Path(f"/proc/{pid}/cmdline").read_text()
    if name.startswith("ray::") and not _ACTORS_OF_RAY.match(name):
        if "TrainWorker" in name:
            known[pid] = "train workers"
        elif not name.startswith("ray::IDLE"):
            known.setdefault(pid, "task workers")
    return known.get(pid)


def resident(pid: int) -> Memory:
    """What of the memory of a process is in RAM."""
    parts = {name: int(kib) * 1024 for name, kib in _FIELDS.findall(Path(f"/proc/{pid}/status").read_text())}
    return Memory(parts.get("RssAnon", 0), sum(parts.values()))


def _drop(folders: Sequence[Path], timeline: Timeline, ended: threading.Event) -> None:
    while not ended.wait(DROP_EVERY_S):
        timeline.cached.append((time.monotonic(), drop_from_page_cache(folders)))
