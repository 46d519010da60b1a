"""Paired measurements: every contender runs in turn in each round of one run, and only ratios are compared."""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import version
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

DATA = Path(os.environ.get("RAY_LANCE_BENCH_DATA", Path(__file__).parent / ".data"))
PACKAGES = ("ray", "pylance", "lance-ray", "lancedb", "pyarrow", "torch", "numpy")


@dataclass(frozen=True)
class Ratio:
    """How often faster the subject is than a peer: median, lowest and highest over the rounds."""

    subject: str
    peer: str
    median: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.median:6.2f}x  ({self.low:.2f} to {self.high:.2f})"


def start_ray() -> None:
    """A quiet Ray of four CPUs in this process."""
    import ray

    os.environ["RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"] = "0"
    ray.init(
        num_cpus=4, include_dashboard=False, logging_level="ERROR", log_to_driver=False, object_store_memory=4 * 2**30
    )
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    ray.data.DataContext.get_current().enable_progress_bars = False


def compare(
    question: str,
    contenders: Mapping[str, Callable[[], int | Iterator[int]]],
    *,
    rows: int,
    rounds: int = 5,
    warm_ups: int = 3,
) -> dict:
    """Time each contender once per round, in turn.

    Args:
        question: What is compared, for the table.
        contenders: Name to a function that does the whole work and returns the number of rows it delivered, or yields
            it and then cleans up, which is not timed. The first one is the subject: ratios say how often faster it is
            than each other one.
        rows: Rows that each contender must deliver; another number is an error, not a result.
        rounds: Measured rounds.
        warm_ups: Rounds before, which start worker processes, map the object store into them and fill the page cache.
    """
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for number in range(-warm_ups, rounds):
        # Every contender takes every place in a round.
        turn = number % len(contenders)
        for name, run in [*contenders.items()][turn:] + [*contenders.items()][:turn]:
            delivered, elapsed = _timed(run)
            if delivered != rows:
                raise RuntimeError(f"{question}: {name} delivered {delivered} rows instead of {rows}")
            if number >= 0:
                seconds[name].append(elapsed)
            print(
                f"\r{question}: round {number + 1} of {rounds}, {name}: {elapsed:.2f} s".ljust(100), end="", flush=True
            )
    print("\r" + " " * 100, end="\r")
    subject, *peers = contenders
    ratios = [_ratio(subject, peer, seconds) for peer in peers]
    _print_table(question, seconds, ratios, rows)
    return {
        "question": question,
        "rows": rows,
        "seconds": seconds,
        "ratios": [ratio.__dict__ for ratio in ratios],
    }


def apart(make: Callable[..., Mapping[str, Callable[[], int]]], *arguments: Any) -> dict[str, Callable[[], int]]:
    """The contenders that ``make(*arguments)`` gives, each in a process of its own that stays from round to round.

    What one sets in its process, how memory is allocated for instance, is then not the others'. ``make`` is called in
    each process and has to be a function of a module.
    """
    context = multiprocessing.get_context("spawn")

    def started(name: str) -> Callable[[], int]:
        here, there = context.Pipe()
        context.Process(target=_serve, args=(there, make, arguments, name), daemon=True).start()

        def run() -> int:
            here.send(name)
            return here.recv()

        return run

    return {name: started(name) for name in make(*arguments)}


def _serve(
    connection: Connection, make: Callable[..., Mapping[str, Callable[[], int]]], arguments: tuple[Any, ...], name: str
) -> None:
    run = make(*arguments)[name]
    with suppress(EOFError):  # the measurement is over
        while True:
            connection.recv()
            connection.send(run())


def save(results: list[dict], folder: Path, note: str) -> None:
    """Write results beside their benchmark, with what they were measured on."""
    page = {"note": note, "machine": machine(), "versions": versions(), "results": results}
    path = folder / "results.json"
    path.write_text(json.dumps(page, indent=2) + "\n")
    print(f"written to {path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path}")


def machine() -> dict:
    """The machine, as far as it decides speed."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "cores": os.cpu_count(),
        "memory_gib": round(memory / 2**30),
        "python": sys.version.split()[0],
    }


def versions() -> dict:
    """Versions of the packages that take part."""
    return {package: version(package) for package in PACKAGES}


def _timed(run: Callable[[], int | Iterator[int]]) -> tuple[int, float]:
    begin = time.perf_counter()
    work = run()
    if isinstance(work, int):
        return work, time.perf_counter() - begin
    delivered = next(work)
    elapsed = time.perf_counter() - begin
    for _ in work:
        raise RuntimeError("a contender yields once")
    return delivered, elapsed


def _ratio(subject: str, peer: str, seconds: Mapping[str, list[float]]) -> Ratio:
    ratios = [theirs / ours for ours, theirs in zip(seconds[subject], seconds[peer], strict=True)]
    return Ratio(subject, peer, statistics.median(ratios), min(ratios), max(ratios))


def _print_table(question: str, seconds: Mapping[str, list[float]], ratios: list[Ratio], rows: int) -> None:
    print(f"{question} ({rows:,} rows)")
    for name, times in seconds.items():
        median = statistics.median(times)
        ratio = next((str(ratio) for ratio in ratios if ratio.peer == name), "  (subject)")
        print(f"  {name:<42} {rows / median / 1e6:7.3f} M rows/s   subject is {ratio}")
