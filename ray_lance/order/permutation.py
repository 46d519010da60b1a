"""An order over a row set: positions in, rows out, by arithmetic."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from ray_lance.arguments import as_integer
from ray_lance.errors import InvalidArgumentError
from ray_lance.order.clumps import ClumpOrder
from ray_lance.order.rows import RowArray, RowSet, ShuffledRows, SlicedRows, digest_of
from ray_lance.order.shuffle import Shuffle
from ray_lance.order.split import Fractions, split_bounds, split_clump

__all__ = ["ORDER_VERSION", "RowPermutation", "as_positions", "sliced"]

ORDER_VERSION = 1
"""Version of the arithmetic. Part of every fingerprint: it changes when the same settings give another order."""

_Positions: TypeAlias = npt.NDArray[np.int64]


@dataclass(frozen=True)
class RowPermutation:
    """An order over the rows of a row set. Frozen: every method that changes something returns a new one.

    Built by the methods, not by setting fields: ``RowPermutation(DenseRows(n)).shuffle(7, clump=64, window=65536)``.

    Attributes:
        row_set: The rows.
        mixing: How they are shuffled; None keeps the row set's own order.
        epoch_number: Which of the shuffle's orders this is, at least 0.
        start: First position of this slice of the whole order.
        stop: Position after its last; None means the end.
    """

    row_set: RowSet
    mixing: Shuffle | None = None
    epoch_number: int = 0
    start: int = 0
    stop: int | None = None

    def __post_init__(self) -> None:
        count = len(self.row_set)
        start = as_integer("start", self.start)
        stop = count if self.stop is None else as_integer("stop", self.stop)
        if not 0 <= start <= stop <= count:
            raise InvalidArgumentError(f"start={start}, stop={stop} must satisfy 0 <= start <= stop <= {count}")
        object.__setattr__(self, "start", start)
        object.__setattr__(self, "stop", stop)
        object.__setattr__(self, "epoch_number", as_integer("epoch", self.epoch_number, minimum=0))

    def __len__(self) -> int:
        return self._stop - self.start

    def __getitem__(self, positions: slice) -> RowPermutation:
        """A run of this order, by Python's slice rules with a step of 1."""
        return self._slice(*sliced(positions, len(self)))

    def shuffle(self, seed: int, clump: int, window: int) -> RowPermutation:
        """Shuffle the rows; see ``Shuffle`` for the settings. Replaces a shuffle that was set before.

        Raises:
            InvalidArgumentError: A setting is out of range or the window is not a multiple of the clump; or this is a
                slice of a shuffled order, whose rows change with the epoch.
        """
        return replace(
            self, row_set=self._fixed_rows("shuffle"), mixing=Shuffle(seed, clump, window), start=0, stop=None
        )

    def epoch(self, number: int) -> RowPermutation:
        """The same rows in the order of another epoch (positions of a slice stay, so its rows change)."""
        return replace(self, epoch_number=number)

    def shard(self, rank: int, world_size: int) -> RowPermutation:
        """The ``rank``-th of ``world_size`` contiguous runs: disjoint, complete, sizes differ by at most one row."""
        rank, world_size = as_integer("rank", rank), as_integer("world_size", world_size, minimum=1)
        if not 0 <= rank < world_size:
            raise InvalidArgumentError(f"rank={rank} must be from 0 to world_size - 1 = {world_size - 1}")
        return self._slice(rank * len(self) // world_size, (rank + 1) * len(self) // world_size)

    def split(self, fractions: Fractions, seed: int | None = 0) -> dict[str, RowPermutation]:
        """Split the rows into named parts that are the same in every epoch; each part keeps this order's shuffle.

        Random parts are arithmetic too: no array, whatever their size. So that reading a part is not one random access
        per row, runs of neighbouring rows go to the same part: ``split_clump(len(self))`` of them, from 1 (below 32768
        rows) to 64 (from 2**20 rows).

        Args:
            fractions: Part name -> share, positive, at most 1 together, or a list of shares; see
                :func:`~ray_lance.order.split.cumulative_fractions`. Rows beyond the sum are in no part.
            seed: Any integer for a random split; None cuts the rows in their own order.

        Returns:
            Part name -> permutation, in the order of ``fractions``; disjoint, complete if they add up to 1.

        Raises:
            InvalidArgumentError: The fractions break a rule, or this is a slice of a shuffled order.
        """
        rows = self._fixed_rows("split")
        seed = None if seed is None else as_integer("seed", seed)
        count = len(rows)
        clump = 1 if seed is None else split_clump(count)
        parts: dict[str, RowPermutation] = {}
        for name, (start, stop) in split_bounds(count, fractions, clump).items():
            part: RowSet
            part = SlicedRows(rows, start, stop) if seed is None else ShuffledRows(rows, seed, clump, start, stop)
            parts[name] = replace(self, row_set=part, start=0, stop=None)
        return parts

    def rows(self, start: int = 0, stop: int | None = None) -> RowArray:
        """Rows at positions ``[start, stop)``, in time and memory proportional to ``stop - start``, wherever they are.

        Returns:
            Array of shape ``(stop - start,)``: int64 offsets for dense rows, row ids for explicit ones.

        Raises:
            IndexError: The positions are not within ``[0, len(self)]``.
        """
        return self.row_set.take(self.indices(start, stop))

    def indices(self, start: int = 0, stop: int | None = None) -> _Positions:
        """Like ``rows``, but indices into ``row_set``, which ascend in the order on disk; row ids are not needed."""
        start, stop = as_integer("start", start), len(self) if stop is None else as_integer("stop", stop)
        if not 0 <= start <= stop <= len(self):
            raise IndexError(f"positions [{start}, {stop}) are not within [0, {len(self)})")
        return self._order(np.arange(self.start + start, self.start + stop, dtype=np.int64))

    def take(self, positions: npt.ArrayLike) -> RowArray:
        """Rows at any positions; negative ones count from the end.

        Args:
            positions: Integers, shape ``(k,)``.

        Returns:
            Array of shape ``(k,)``, as ``rows``.

        Raises:
            IndexError: A position is not in ``[-len(self), len(self))``.
        """
        return self.row_set.take(self.indices_at(as_positions(positions, len(self))))

    def indices_at(self, positions: _Positions) -> _Positions:
        """Indices into ``row_set`` at any positions in ``[0, len(self))``."""
        return self._order(positions + self.start)

    def window_edges(self, start: int = 0, stop: int | None = None) -> _Positions:
        """Where to cut ``[start, stop)`` into reads so that no two of them read the same clump.

        Returns:
            int64 array of positions, from ``start`` to ``stop``; only these two where any cut is as good as another.
        """
        stop = len(self) if stop is None else stop
        if self.mixing is None:
            return np.array([start, stop], dtype=np.int64)
        return self.clump_order.window_edges(self.start + start, self.start + stop) - self.start

    @property
    def window(self) -> int:
        """Positions within which rows are mixed, so that reads are better cut at ``window_edges``; 1 for any cut."""
        return 1 if self.mixing is None else self.clump_order.clumps_per_window * self.mixing.clump

    @property
    def is_shuffled(self) -> bool:
        """Whether epochs differ in the order of their rows."""
        return self.mixing is not None

    @property
    def clump_order(self) -> ClumpOrder:
        """The arithmetic of the whole order (positions are not those of this slice): ``mixing`` must be set."""
        if self.mixing is None:
            raise InvalidArgumentError("mixing=None: an order that is not shuffled has no clumps")
        key = ("shuffle", self.mixing.seed, self.epoch_number)
        return ClumpOrder(len(self.row_set), self.mixing.clump, self.mixing.window, key)

    @property
    def base(self) -> RowSet:
        """The innermost row set: the one that may hold row ids."""
        return self.row_set.base

    def with_base(self, base: RowSet) -> RowPermutation:
        """The same order over another base of the same content: ``ExplicitRows`` for ``DetachedRows`` or back."""
        return replace(self, row_set=self.row_set.with_base(base))

    def describe(self) -> dict[str, Any]:
        """Everything that makes this order what it is, except the epoch, in plain JSON types."""
        return {
            "order_version": ORDER_VERSION,
            "rows": self.row_set.describe(),
            "shuffle": None if self.mixing is None else self.mixing.describe(),
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

    def _slice(self, start: int, stop: int) -> RowPermutation:
        return replace(self, start=self.start + start, stop=self.start + stop)

    def _fixed_rows(self, action: str) -> RowSet:
        """The rows as a row set, if they are the same in every epoch."""
        if len(self) == len(self.row_set):
            return self.row_set
        if self.mixing is None:
            return SlicedRows(self.row_set, self.start, self._stop)
        raise InvalidArgumentError(
            f"cannot {action} positions [{self.start}, {self.stop}) of a shuffled order: which rows they are changes "
            f"with the epoch. Call {action} before slicing, or choose a fixed subset with "
            'split({"part": 0.1}, seed=0)["part"]'
        )

    def _order(self, positions: _Positions) -> _Positions:
        return positions if self.mixing is None else self.clump_order.rows_at(positions)


def sliced(positions: slice, count: int) -> tuple[int, int]:
    """The run ``[start, stop)`` of ``count`` positions that a slice takes.

    Raises:
        InvalidArgumentError: It is no slice, or has a step.
    """
    if not isinstance(positions, slice):
        raise InvalidArgumentError(f"positions={positions!r} must be a slice such as [10:20]; see take([3])")
    if positions.step not in (None, 1):
        raise InvalidArgumentError(f"positions={positions!r} has a step: only runs of neighbours can be sliced")
    try:
        start, stop, _ = positions.indices(count)
    except TypeError as error:
        raise InvalidArgumentError(f"positions={positions!r} must be a slice of integers") from error
    return start, max(start, stop)


def as_positions(positions: npt.ArrayLike, count: int) -> _Positions:
    """Any positions as int64 in ``[0, count)``; negative ones count from the end.

    Raises:
        InvalidArgumentError: They are no one-dimensional sequence of integers.
        IndexError: A position is not in ``[-count, count)``.
    """
    wanted = np.asarray(positions)
    if wanted.ndim != 1 or (wanted.dtype.kind not in "iu" and len(wanted)):
        raise InvalidArgumentError(
            f"positions must be a one-dimensional sequence of integers, got {wanted.dtype} of shape {wanted.shape}"
        )
    outside = (wanted < -count) | (wanted >= count)
    if outside.any():
        raise IndexError(f"position {wanted[outside][0]} is out of range for {count} rows")
    signed = wanted.astype(np.int64)
    signed[signed < 0] += count
    return signed
