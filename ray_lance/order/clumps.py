"""The arithmetic of a shuffle: positions in, rows out; clumps of neighbours stay together and windows are mixed.

The order of ``count`` rows is built in two steps, both of them arithmetic:

1. *Placing.* ``clump`` neighbouring rows form a clump. The clumps are cut into strata of K neighbouring clumps, K being
   the number of windows, and each stratum sends exactly one clump to each window, by a keyed bijection of its own.
   The grid of strata is turned by a random phase, so that every clump is equally likely to land anywhere (exactly so
   if ``clump`` divides ``count``; else but for the odd size of the window that holds the last, shorter clump).
2. *Mixing.* Inside each window a further keyed bijection mixes single rows.

There are ``ceil(count / window)`` windows, whose sizes differ by at most one clump; none is larger than ``window``. A
read of a whole window touches its clumps whole and no other row, which is what keeps input/output sequential.

Quality. A batch of B rows out of a window of S clumps is a mixture of S clumps. If neighbouring rows tell everything
about each other, the batch's statistics vary as those of B rows drawn from S independent ones:
``sqrt(1 + B / S)`` times as much as a true shuffle's, whatever the clump size. That is the worst case, met when
clumps are independent of their stratum too; for data sorted by label the strata put every label into every window
in its true proportion, and the factor is 1.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from ray_lance.errors import InvalidArgumentError
from ray_lance.order.bijection import MAX_SIZE, Bijection
from ray_lance.order.keys import KeyPart, derive_words, mix64

__all__ = ["ClumpOrder"]

_Words = npt.NDArray[np.uint64]
# Positions per pass: the dozen arrays of a pass stay in the processor's caches.
_CHUNK = 16384


@dataclass(frozen=True)
class _Layout:
    """The numbers that one order's arithmetic needs. Windows before ``long_windows`` hold one clump more."""

    clumps: int
    windows: int
    slots: int
    long_windows: int
    missing: int
    phase: int
    stratum_base: int
    window_base: int
    short_window: int
    short_stratum: int

    def first_slot(self, window: int) -> int:
        """Slots (places for a clump) before the given window."""
        return window * self.slots - max(window - self.long_windows, 0)


@dataclass(frozen=True)
class ClumpOrder:
    """An order over ``count`` rows: position to row and back, in memory of the request alone.

    Attributes:
        count: Number of rows, from 0 to 2**62.
        clump: Rows per clump, at least 1. The last clump may be shorter.
        window: Upper bound of a window in rows, a multiple of ``clump``; None places clumps and mixes no rows.
        key: What the order is derived from.
    """

    count: int
    clump: int
    window: int | None
    key: tuple[KeyPart, ...]

    def __post_init__(self) -> None:
        if not 0 <= self.count <= MAX_SIZE:
            raise InvalidArgumentError(f"count={self.count} must be from 0 to 2**62")
        if not 1 <= self.clump <= MAX_SIZE:
            raise InvalidArgumentError(f"clump={self.clump} must be from 1 to 2**62 rows")
        if self.window is not None and (self.window < 1 or self.window % self.clump):
            raise InvalidArgumentError(f"window={self.window} must be a positive multiple of clump={self.clump}")

    def rows_at(self, positions: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Rows at the given positions.

        Args:
            positions: int64 array of shape ``(k,)``, each in ``[0, count)``, in any order.

        Returns:
            int64 array of shape ``(k,)``.

        Raises:
            IndexError: A position is outside ``[0, count)``.
        """
        self._check("positions", positions)
        rows = np.empty_like(positions)
        if len(positions):
            words = positions.view(np.uint64)
            table = self._placement_table(words)
            for first in range(0, len(words), _CHUNK):
                chunk = slice(first, first + _CHUNK)
                rows.view(np.uint64)[chunk] = self._rows_at(words[chunk], table)
        return rows

    def positions_of(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Positions of the given rows: the inverse of ``rows_at``, with the same contract."""
        self._check("rows", rows)
        positions = np.empty_like(rows)
        words = rows.view(np.uint64)
        for first in range(0, len(rows), _CHUNK):
            chunk = slice(first, first + _CHUNK)
            positions.view(np.uint64)[chunk] = self._positions_of(words[chunk])
        return positions

    def window_edges(self, start: int, stop: int) -> npt.NDArray[np.int64]:
        """Where to cut ``[start, stop)`` so that no piece reads a clump that another piece reads.

        Returns:
            int64 array that begins with ``start``, ends with ``stop`` and has every position between them at which
            a window begins. An order whose windows are single rows can be cut anywhere: only the ends come back.
        """
        layout = _layout(self)
        if stop - start < 2 or layout.slots * self.clump == 1:
            return np.array([start, stop], dtype=np.int64)
        ends = np.array([start, stop - 1], dtype=np.uint64)
        first, last = (int(window) for window in self._locate(self._with_gap(ends), self.clump)[0])
        windows = np.arange(first + 1, last + 1, dtype=np.int64)
        slots = windows * layout.slots - np.maximum(windows - layout.long_windows, 0)
        edges = slots * self.clump - layout.missing * (windows > layout.short_window)
        return np.concatenate(([start], edges, [stop])).astype(np.int64)

    @property
    def clumps_per_window(self) -> int:
        """Clumps in a (largest) window: what the quality of the shuffle depends on."""
        return _layout(self).slots if self.count else 0

    def _check(self, name: str, values: npt.NDArray[np.int64]) -> None:
        if len(values) and int(values.view(np.uint64).max()) >= self.count:
            raise IndexError(f"{name} must be in [0, {self.count}), got {values.min()} to {values.max()}")

    def _rows_at(self, positions: _Words, table: tuple[int, _Words] | None) -> _Words:
        layout, clump = _layout(self), np.uint64(self.clump)
        window, inside = self._locate(self._with_gap(positions), self.clump)
        if self.window is not None:
            inside = self._mix(window, inside, forward=True)
        if layout.missing:
            gap = layout.short_stratum * self.clump + self.clump - layout.missing
            inside += ((window == layout.short_window) & (inside >= gap)) * np.uint64(layout.missing)
        stratum = inside // clump
        if table is None:
            placed = self._place(window, stratum)
        else:
            first_slot, clumps = table
            placed = clumps[self._slot(window) + stratum - np.uint64(first_slot)]
        rows: _Words = placed * clump + (inside - stratum * clump)
        return rows

    def _positions_of(self, rows: _Words) -> _Words:
        layout, clump = _layout(self), np.uint64(self.clump)
        windows = np.uint64(layout.windows)
        source = rows // clump
        turned = source - np.uint64(layout.phase)
        turned = np.minimum(turned, turned + np.uint64(layout.clumps))
        stratum = turned // windows
        window = self._strata(stratum, turned - stratum * windows, forward=False)
        inside = stratum * clump + (rows - source * clump)
        if layout.missing:
            behind = (window == layout.short_window) & (stratum > layout.short_stratum)
            inside -= behind * np.uint64(layout.missing)
        if self.window is not None:
            inside = self._mix(window, inside, forward=False)
        after_gap = (window > layout.short_window) * np.uint64(layout.missing)
        positions: _Words = self._slot(window) * clump + inside - after_gap
        return positions

    def _with_gap(self, positions: _Words) -> _Words:
        """Positions in the order as it would be if the last clump of the rows were a full one."""
        layout = _layout(self)
        if not layout.missing:
            return positions
        edge = layout.first_slot(layout.short_window + 1) * self.clump - layout.missing
        return positions + (positions >= edge) * np.uint64(layout.missing)

    def _locate(self, indices: _Words, unit: int) -> tuple[_Words, _Words]:
        """Split indices over all windows into (window, index inside it), where a slot has ``unit`` indices."""
        layout = _layout(self)
        long_size, short_size = layout.slots * unit, max(layout.slots - 1, 1) * unit
        boundary = layout.long_windows * long_size
        window = indices // np.uint64(long_size)
        if layout.long_windows < layout.windows and int(indices.max()) >= boundary:
            beyond = np.flatnonzero(indices >= np.uint64(boundary))
            short = (indices[beyond] - np.uint64(boundary)) // np.uint64(short_size)
            window[beyond] = short + np.uint64(layout.long_windows)
        return window, indices - self._slot(window) * np.uint64(unit)

    def _slot(self, window: _Words) -> _Words:
        """First slot of each window."""
        layout = _layout(self)
        first = window * np.uint64(layout.slots)
        if layout.long_windows < layout.windows:
            long_windows = np.uint64(layout.long_windows)
            first -= np.maximum(window, long_windows) - long_windows
        return first

    def _place(self, window: _Words, stratum: _Words) -> _Words:
        """The clump that a stratum sends to a window."""
        layout = _layout(self)
        clump = stratum * np.uint64(layout.windows) + self._strata(stratum, window, forward=True)
        clump += np.uint64(layout.phase)
        np.minimum(clump, clump - np.uint64(layout.clumps), out=clump)
        return clump

    def _strata(self, stratum: _Words, values: _Words, forward: bool) -> _Words:
        """Each stratum's bijection between its clumps and the windows, which for the last one are the long windows."""
        layout, key = _layout(self), (*self.key, "strata")
        if layout.slots == 1:
            return _apply(Bijection(layout.windows, key), values, None, forward)
        tweaks = mix64(stratum, layout.stratum_base)
        if layout.long_windows == layout.windows:
            return _apply(Bijection(layout.windows, key), values, tweaks, forward)
        result = np.empty_like(values)
        is_last = stratum == layout.slots - 1
        for size, members in ((layout.windows, ~is_last), (layout.long_windows, is_last)):
            chosen = np.flatnonzero(members)
            result[chosen] = _apply(Bijection(size, key), values[chosen], tweaks[chosen], forward)
        return result

    def _mix(self, window: _Words, inside: _Words, forward: bool) -> _Words:
        """Each window's bijection over its rows, for the two sizes of windows and the one with the short clump."""
        layout, key = _layout(self), (*self.key, "window")
        long_size = layout.slots * self.clump
        if long_size == 1:
            return inside
        tweaks = mix64(window, layout.window_base)
        first, last = int(window.min()), int(window.max())
        has_short_clump = bool(layout.missing) and first <= layout.short_window <= last
        if not has_short_clump and (last < layout.long_windows or first >= layout.long_windows):
            size = long_size - (self.clump if first >= layout.long_windows else 0)
            return _apply(Bijection(size, key), inside, tweaks, forward)
        result = np.empty_like(inside)
        special = (window == layout.short_window) if has_short_clump else np.zeros(len(window), dtype=np.bool_)
        is_long = window < layout.long_windows
        short_is_long = layout.short_window < layout.long_windows
        special_size = long_size - layout.missing - (0 if short_is_long else self.clump)
        sizes = (
            (long_size, is_long & ~special),
            (long_size - self.clump, ~is_long & ~special),
            (special_size, special),
        )
        for size, members in sizes:
            chosen = np.flatnonzero(members)
            if len(chosen):
                result[chosen] = _apply(Bijection(size, key), inside[chosen], tweaks[chosen], forward)
        return result

    def _placement_table(self, positions: _Words) -> tuple[int, _Words] | None:
        """The clumps of all windows that a request touches, where computing them once is cheaper than row by row."""
        layout = _layout(self)
        if self.clump == 1 or layout.slots == 1:
            return None
        ends = np.array([positions.min(), positions.max()], dtype=np.uint64)
        first, last = (int(window) for window in self._locate(self._with_gap(ends), self.clump)[0])
        first_slot, end_slot = layout.first_slot(first), layout.first_slot(last + 1)
        if end_slot - first_slot > len(positions):
            return None
        return first_slot, self._place(*self._locate(np.arange(first_slot, end_slot, dtype=np.uint64), 1))


def _apply(bijection: Bijection, values: _Words, tweaks: _Words | None, forward: bool) -> _Words:
    return bijection.forward(values, tweaks) if forward else bijection.inverse(values, tweaks)


@functools.lru_cache(maxsize=256)
def _layout(order: ClumpOrder) -> _Layout:
    words = derive_words((*order.key, "layout"), 3)
    clumps = -(-order.count // order.clump)
    target = 1 if order.window is None else min(order.window // order.clump, max(clumps, 1))
    windows = max(1, -(-clumps // target))
    slots = max(1, -(-clumps // windows))
    layout = _Layout(
        clumps=clumps,
        windows=windows,
        slots=slots,
        long_windows=windows - (slots * windows - clumps if clumps else 0),
        missing=clumps * order.clump - order.count,
        phase=int(words[0]) % clumps if clumps else 0,
        stratum_base=int(words[1]),
        window_base=int(words[2]),
        short_window=windows,
        short_stratum=0,
    )
    if not layout.missing:
        return layout
    return _locate_short_clump(order, layout)


def _locate_short_clump(order: ClumpOrder, layout: _Layout) -> _Layout:
    turned = (layout.clumps - 1 - layout.phase) % layout.clumps
    stratum, index = divmod(turned, layout.windows)
    size = layout.long_windows if stratum == layout.slots - 1 else layout.windows
    tweak = None if layout.slots == 1 else mix64(np.array([stratum], dtype=np.uint64), layout.stratum_base)
    window = Bijection(size, (*order.key, "strata")).inverse(np.array([index], dtype=np.uint64), tweak)
    return replace(layout, short_window=int(window[0]), short_stratum=stratum)
