"""An order over the rows of several orders, mixed in exact proportions: positions in, sources and their rows out.

The mixture is a stream of rows: each stage of its schedule shares positions out among the sources
(``order/shares.py``), and the counts of earlier stages are carried on. Source k's rows in the stream are its epochs,
one after another, each in the order of that epoch. An epoch of the mixture is a run of the stream. With ``restarts``
each epoch is the beginning of a stream of its own, whose sources begin with the epoch that the one before has not
begun; otherwise epochs follow each other in one stream, and the sources go on where they were.

Rows are known by numbers: those of the first source's row set come first, in its order, then those of the second's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from ray_lance.arguments import as_integer
from ray_lance.errors import InvalidArgumentError
from ray_lance.order.permutation import ORDER_VERSION, RowPermutation, as_positions, sliced
from ray_lance.order.rows import digest_of
from ray_lance.order.shares import MAX_POSITION, Shares

__all__ = [
    "MIXTURE_VERSION",
    "MixedPermutation",
    "MixedRows",
    "MixedSource",
    "Stage",
    "Stopping",
    "check_stages",
    "epoch_rows",
]

MIXTURE_VERSION = 1
"""Version of the arithmetic. Part of every fingerprint: it changes when the same settings give another order."""

Stopping = Literal["first_exhausted", "all_exhausted", "repeat"]

_Integers: TypeAlias = npt.NDArray[np.int64]


@dataclass(frozen=True)
class MixedSource:
    """One of the orders that are mixed.

    Attributes:
        order: The order, with its first epoch.
        fixed_epoch: Whether every pass over it is in the order of that epoch.
    """

    order: RowPermutation
    fixed_epoch: bool = False

    def __len__(self) -> int:
        return len(self.order)

    def indices(self, epochs: _Integers, positions: _Integers) -> _Integers:
        """Indices into the row set at positions of epochs, counted from the first one, both of shape ``(k,)``."""
        order = self.order
        if len(order) == 1 or self.fixed_epoch or order.mixing is None:
            return order.indices_at(positions)
        found = np.empty_like(positions)
        for epoch in np.unique(epochs).tolist():
            chosen = epochs == epoch
            found[chosen] = order.epoch(order.epoch_number + epoch).indices_at(positions[chosen])
        return found


@dataclass(frozen=True)
class Stage:
    """Part of the stream in which proportions stay the same.

    Attributes:
        from_row: Its first row in the stream.
        shares: The proportions.
    """

    from_row: int
    shares: Shares


class MixedRows(NamedTuple):
    """What a mixture has at some positions; int64 arrays of shape ``(k,)``.

    Attributes:
        sources: Numbers of the sources.
        epochs: How many epochs of the source come before, from its first one on.
        positions: Positions in that epoch of the source.
    """

    sources: _Integers
    epochs: _Integers
    positions: _Integers


@dataclass(frozen=True)
class MixedPermutation:
    """An order over the rows of several orders. Frozen: every method that changes something returns a new one.

    Attributes:
        sources: What is mixed; none is empty.
        stages: Proportions from a row of the stream on; the first from row 0. Several only without ``restarts``.
        count: Rows of an epoch.
        restarts: Whether each epoch is mixed from the beginning, or goes on where the one before has stopped.
        epoch_number: Which epoch this is, at least 0.
        start: First position of this slice of the epoch.
        stop: Position after its last; None means the end.
    """

    sources: tuple[MixedSource, ...]
    stages: tuple[Stage, ...]
    count: int
    restarts: bool
    epoch_number: int = 0
    start: int = 0
    stop: int | None = None

    def __post_init__(self) -> None:
        epoch = as_integer("epoch", self.epoch_number, minimum=0)
        if not self.restarts and (epoch + 1) * self.count >= MAX_POSITION:
            raise InvalidArgumentError(f"epoch={epoch} of {self.count} rows is beyond row 2**62 of the mixture")
        object.__setattr__(self, "epoch_number", epoch)
        object.__setattr__(self, "stop", self.count if self.stop is None else self.stop)

    def __len__(self) -> int:
        return self._stop - self.start

    def __getitem__(self, positions: slice) -> MixedPermutation:
        """A run of this order, by Python's slice rules with a step of 1."""
        start, stop = sliced(positions, len(self))
        return replace(self, start=self.start + start, stop=self.start + stop)

    def epoch(self, number: int) -> MixedPermutation:
        """The same positions of another epoch."""
        return replace(self, epoch_number=number)

    def shard(self, rank: int, world_size: int) -> MixedPermutation:
        """The ``rank``-th of ``world_size`` contiguous runs: disjoint, complete, sizes differ by at most one row."""
        rank, world_size = as_integer("rank", rank), as_integer("world_size", world_size, minimum=1)
        if not 0 <= rank < world_size:
            raise InvalidArgumentError(f"rank={rank} must be from 0 to world_size - 1 = {world_size - 1}")
        return self[rank * len(self) // world_size : (rank + 1) * len(self) // world_size]

    def rows(self, start: int = 0, stop: int | None = None) -> _Integers:
        """Numbers of the rows at positions ``[start, stop)``, in time and memory proportional to ``stop - start``.

        Raises:
            IndexError: The positions are not within ``[0, len(self)]``.
        """
        return self._numbers(self._range(start, stop))

    def take(self, positions: npt.ArrayLike) -> _Integers:
        """Numbers of the rows at any positions, int64 of shape ``(k,)``; negative positions count from the end.

        Raises:
            IndexError: A position is not in ``[-len(self), len(self))``.
        """
        return self._numbers(as_positions(positions, len(self)) + self.start)

    def located(self, start: int = 0, stop: int | None = None) -> MixedRows:
        """Which row of which epoch of which source stands at each of the positions ``[start, stop)``."""
        return self._located(self._range(start, stop))

    def counts(self, stop: int | None = None) -> list[int]:
        """How many rows of each source are at the first positions of this order, all by default."""
        first = self._origin + self.start
        last = first + (len(self) if stop is None else stop)
        return [after - before for before, after in zip(self._counts(first), self._counts(last), strict=True)]

    def window_edges(self, start: int = 0, stop: int | None = None) -> _Integers:
        """Where to cut ``[start, stop)`` into reads: windows of sources overlap, so that any cut is as good."""
        return np.array([start, len(self) if stop is None else stop], dtype=np.int64)

    @property
    def window(self) -> int:
        """Positions within which rows are mixed: 1, as any cut is as good as another."""
        return 1

    @property
    def is_shuffled(self) -> bool:
        """Whether some of the sources are."""
        return any(source.order.is_shuffled for source in self.sources)

    @cached_property
    def firsts(self) -> tuple[int, ...]:
        """Number of the first row of each source, and the number after all rows."""
        firsts = [0]
        for source in self.sources:
            firsts.append(firsts[-1] + len(source.order.row_set))
        return tuple(firsts)

    @property
    def bound(self) -> float:
        """How many rows a source may be off its share after any number of rows of a stage."""
        return max(stage.shares.bound for stage in self.stages)

    def describe(self) -> dict[str, Any]:
        """Everything that makes this order what it is, except the epoch, in plain JSON types."""
        return {
            "order_version": ORDER_VERSION,
            "mixture_version": MIXTURE_VERSION,
            "sources": [
                {**source.order.describe(), "first_epoch": source.order.epoch_number, "fixed_epoch": source.fixed_epoch}
                for source in self.sources
            ],
            **self.proportions(),
        }

    def proportions(self) -> dict[str, Any]:
        """The description of the mixture without its sources."""
        return {
            "weights": [[stage.from_row, list(stage.shares.weights)] for stage in self.stages],
            "rows": self.count,
            "restarts": self.restarts,
            "positions": [self.start, self._stop],
        }

    @property
    def fingerprint(self) -> str:
        """32 hexadecimal characters, equal for equal orders. Covers ``describe()``, so not the epoch."""
        return digest_of(self.describe())

    @property
    def _stop(self) -> int:
        assert self.stop is not None  # set in __post_init__
        return self.stop

    @property
    def _origin(self) -> int:
        """Where this epoch begins in its stream."""
        return 0 if self.restarts else self.epoch_number * self.count

    def _range(self, start: int, stop: int | None) -> _Integers:
        start, stop = as_integer("start", start), len(self) if stop is None else as_integer("stop", stop)
        if not 0 <= start <= stop <= len(self):
            raise IndexError(f"positions [{start}, {stop}) are not within [0, {len(self)})")
        return np.arange(self.start + start, self.start + stop, dtype=np.int64)

    def _counts(self, rows: int) -> list[int]:
        """How many of the first rows of the stream each source has."""
        counts = [0] * len(self.sources)
        for stage, end in zip(self.stages, self._ends, strict=True):
            inside = stage.shares.counts(max(0, min(rows, end) - stage.from_row))
            counts = [before + more for before, more in zip(counts, inside, strict=True)]
        return counts

    @property
    def _ends(self) -> list[int]:
        return [*(stage.from_row for stage in self.stages[1:]), MAX_POSITION]

    @cached_property
    def _passes(self) -> list[int]:
        """Epochs that each source begins in an epoch of the mixture."""
        return [
            max(1, -(-count // len(source)))
            for count, source in zip(self._counts(self.count), self.sources, strict=True)
        ]

    def _located(self, positions: _Integers) -> MixedRows:
        sources, numbers = self._shared_out(positions + self._origin)
        lengths = np.array([len(source) for source in self.sources], dtype=np.int64)[sources]
        epochs = numbers // lengths
        found = numbers - epochs * lengths
        if self.restarts and self.epoch_number:
            epochs += np.array([self.epoch_number * passes for passes in self._passes], dtype=np.int64)[sources]
        return MixedRows(sources, epochs, found)

    def _shared_out(self, rows: _Integers) -> tuple[_Integers, _Integers]:
        """The source of each row of the stream, and how many of its rows come before."""
        if len(self.stages) == 1:
            return self.stages[0].shares.locate(rows)
        sources, numbers = np.empty_like(rows), np.empty_like(rows)
        for stage, end in zip(self.stages, self._ends, strict=True):
            chosen = np.flatnonzero((rows >= stage.from_row) & (rows < end))
            if len(chosen):
                before = np.array(self._counts(stage.from_row), dtype=np.int64)
                sources[chosen], inside = stage.shares.locate(rows[chosen] - stage.from_row)
                numbers[chosen] = inside + before[sources[chosen]]
        return sources, numbers

    def _numbers(self, positions: _Integers) -> _Integers:
        located = self._located(positions)
        numbers = np.empty_like(positions)
        for number, (source, first) in enumerate(zip(self.sources, self.firsts, strict=False)):
            chosen = np.flatnonzero(located.sources == number)
            if len(chosen):
                numbers[chosen] = source.indices(located.epochs[chosen], located.positions[chosen]) + first
        return numbers

    def __getstate__(self) -> dict[str, Any]:
        cached = ("firsts", "_passes")
        return {name: value for name, value in self.__dict__.items() if name not in cached}


def epoch_rows(shares: Shares, lengths: Sequence[int], stopping: Stopping) -> int:
    """Rows from the beginning to where a source is exhausted and would begin again, or to where all of them have been.

    Args:
        shares: The proportions; every source has a part.
        lengths: Rows of the sources, none of them 0.
        stopping: ``"first_exhausted"`` or ``"all_exhausted"``; ``"repeat"`` never stops, and is as many rows as the
            sources have together.
    """
    if stopping == "repeat":
        return sum(lengths)
    if stopping == "first_exhausted":
        return min(shares.position(source, length) for source, length in enumerate(lengths))
    return max(shares.position(source, length - 1) for source, length in enumerate(lengths)) + 1


def check_stages(stages: Sequence[Stage]) -> None:
    """Refuse a schedule whose stages do not follow each other from row 0 on."""
    rows = [stage.from_row for stage in stages]
    if not rows or rows[0] != 0 or any(after <= before for before, after in pairwise(rows)):
        raise InvalidArgumentError(
            f"weights: the stages begin at rows {rows}, and must begin at row 0 and at larger and larger ones after it"
        )
