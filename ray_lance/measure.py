"""Measures reads in this process: a permutation and options in; speed and mixing, in order and shuffled, out."""

from __future__ import annotations

import itertools
import math
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, TypeAlias

from ray_lance.ahead import await_reads
from ray_lance.arguments import as_integer
from ray_lance.errors import InvalidArgumentError, TensorConversionError
from ray_lance.formats import Format
from ray_lance.order import Shuffle, ShuffleQuality
from ray_lance.permutation import Permutation
from ray_lance.scan.pushdown import build_scan
from ray_lance.scan.size import row_bytes
from ray_lance.torch.iterable import LanceIterableDataset

__all__ = ["MeasureOptions", "Measurement", "Report", "Size", "Speed", "bytes_per_row", "measure"]

Size: TypeAlias = int | Literal["auto"]
Report: TypeAlias = Callable[[int, int, str, float], None]
"""Called with the number of measurements, the one that runs (from 0), its name, and how much of it is done (0 to 1)."""


@dataclass(frozen=True)
class MeasureOptions:
    """What is measured, and for how long.

    Attributes:
        columns: Columns to read; None for all.
        batch_size: Rows per batch.
        format: What batches are turned into, one of the nine of :func:`ray_lance.formats.convert`.
        prefetch: Reads begun ahead; see :class:`ray_lance.torch.LanceIterableDataset`.
        clumps: Clumps of the shuffles to measure, in rows.
        windows: Windows of the shuffles to measure, in rows; each is measured with each clump.
        seconds: Time for all measurements together, in equal shares.
        seed: Seed of the shuffles.

    Raises:
        InvalidArgumentError: A value breaks its rule.
    """

    columns: tuple[str, ...] | None = None
    batch_size: int = 1024
    format: Format = "torch"
    prefetch: int = 3
    clumps: tuple[Size, ...] = ("auto", 1, 16, 64, 256)
    windows: tuple[Size, ...] = ("auto",)
    seconds: float = 20.0
    seed: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "batch_size", as_integer("batch_size", self.batch_size, 1))
        if not (0 < self.seconds < math.inf):
            raise InvalidArgumentError(f"seconds={self.seconds} must be a time of more than 0, such as 20")
        for name in ("clumps", "windows"):
            if not getattr(self, name):
                raise InvalidArgumentError(f"{name}=() must hold at least one number of rows, or 'auto'")


@dataclass(frozen=True)
class Speed:
    """How fast rows came.

    Attributes:
        rows: Rows delivered.
        seconds: Time that took, the first batch included.
        first_batch_s: Seconds until the first batch; the median over the passes that were begun.
    """

    rows: int
    seconds: float
    first_batch_s: float

    @property
    def rows_per_second(self) -> float:
        """Rows delivered per second."""
        return self.rows / max(self.seconds, 1e-9)


@dataclass(frozen=True)
class Measurement:
    """What one way of reading did.

    Attributes:
        name: The way of reading, for people.
        shuffle: How rows were shuffled; None where they came in order.
        is_auto: Whether this is the shuffle that ``"auto"`` chooses.
        speed: How fast rows came.
        quality: How well they were mixed; None where they came in order.
        is_filled: Whether nulls were read as 0, because the columns hold some that tensors cannot.
    """

    name: str
    shuffle: Shuffle | None
    is_auto: bool
    speed: Speed
    quality: ShuffleQuality | None
    is_filled: bool = False


def measure(
    permutation: Permutation,
    options: MeasureOptions,
    report: Report = lambda *_: None,
    clock: Callable[[], float] = time.perf_counter,
) -> list[Measurement]:
    """Read the rows of a permutation in order, and then at every shuffle that is asked for.

    Each way of reading gets an equal share of the time: it reads, pass after pass, until its share is over. The clock
    is looked at between batches, so that a read that has begun is finished.

    Args:
        permutation: The rows, not shuffled.
        options: What is measured.
        report: Told how far the measurements are.
        clock: Tells the time in seconds.

    Raises:
        InvalidArgumentError: There is no row, or a window is no multiple of a clump.
        UnknownColumnError: There is no such column.
        TensorConversionError: A column cannot become what ``options.format`` asks for.
    """
    if len(permutation) == 0:
        raise InvalidArgumentError("there is no row to read: choose a dataset, a version or a filter that has rows")
    try:
        return _measured(permutation, options, None, report, clock)
    except TensorConversionError:
        if options.format != "torch":
            raise
        return _measured(permutation, options, 0, report, clock)


def _measured(
    permutation: Permutation, options: MeasureOptions, fill: int | None, report: Report, clock: Callable[[], float]
) -> list[Measurement]:
    ways = [permutation, *_shuffles(permutation, options)]
    passes = [_Passes(way, options, fill) for way in ways]
    passes[0].run(0.0, clock, lambda _: None)  # opens files, loads libraries: what only the first one would pay
    auto = permutation.shuffle(options.seed).order.mixing
    measurements: list[Measurement] = []
    for number, (way, reading) in enumerate(zip(ways, passes, strict=True)):
        name, mixing = _name(way), way.order.mixing
        speed = reading.run(options.seconds / len(ways), clock, partial(report, len(ways), number, name))
        quality = None if mixing is None else way.quality(options.batch_size)
        is_auto = mixing is not None and mixing == auto
        measurements.append(Measurement(name, mixing, is_auto, speed, quality, fill is not None))
    return measurements


def bytes_per_row(permutation: Permutation, columns: tuple[str, ...] | None) -> float:
    """Mean bytes of a row of the columns, in memory.

    Raises:
        UnknownColumnError: There is no such column.
    """
    return row_bytes(build_scan([permutation.table], columns, None, [], {}))


def _shuffles(permutation: Permutation, options: MeasureOptions) -> list[Permutation]:
    """The shuffles of every clump and window, each order once."""
    pairs = itertools.product(options.clumps, options.windows)
    found = [permutation.shuffle(options.seed, clump, window) for clump, window in pairs]
    return list({way.order.mixing: way for way in found}.values())


def _name(way: Permutation) -> str:
    mixing = way.order.mixing
    return "sequential" if mixing is None else f"shuffled, clump {mixing.clump:,}, window {mixing.window:,}"


class _Passes:
    """Passes over the rows of a permutation, one after another, for a time."""

    def __init__(self, way: Permutation, options: MeasureOptions, fill: int | None) -> None:
        self._rows = len(way)
        self._batch_size = min(options.batch_size, self._rows)
        self._dataset = LanceIterableDataset(
            way,
            batch_size=self._batch_size,
            columns=options.columns,
            format=options.format,
            fill=fill,
            prefetch=options.prefetch,
            rank=0,
            world_size=1,
            tail="uneven",
            cache_bytes=0,
        )

    def run(self, share: float, clock: Callable[[], float], report: Callable[[float], None]) -> Speed:
        """Read until ``share`` seconds are over; at least one batch."""
        rows, firsts = 0, list[float]()
        report(0.0)
        started = now = clock()
        while not firsts or now - started < share:
            begun = now
            for number, count in enumerate(self._counts()):
                now = clock()
                rows += count
                if number == 0:
                    firsts.append(now - begun)
                if now - started >= share:
                    break
                report((now - started) / share)
        await_reads()  # so that they do not slow down the next measurement
        return Speed(rows, now - started, statistics.median(firsts))

    def _counts(self) -> Iterator[int]:
        """The number of rows of each batch of the next pass."""
        pass_: Any = iter(self._dataset)
        with closing(pass_) as batches:
            for number, _ in enumerate(batches):
                yield min(self._batch_size, self._rows - number * self._batch_size)
