"""Tasks of a read as plain data: which rows of a scan, a permutation or a rank's steps one task reads."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ray_lance.order import BatchSchedule

__all__ = ["FragmentRange", "PermutationRange", "StepRange"]


@dataclass(frozen=True)
class FragmentRange:
    """Rows ``[start, stop)`` of the concatenated live rows of some neighbouring fragments of one table.

    Attributes:
        table: Index of the table in the scan.
        fragment_ids: The fragments, in scan order. None stands for the whole dataset.
        start: First row, counted from the start of the first fragment.
        stop: Row after the last, counted likewise.
    """

    table: int
    fragment_ids: tuple[int, ...] | None
    start: int
    stop: int

    @property
    def num_rows(self) -> int:
        """Live rows of the range, before any filter."""
        return self.stop - self.start


@dataclass(frozen=True)
class PermutationRange:
    """Positions ``[start, stop)`` of a permutation."""

    start: int
    stop: int

    @property
    def num_rows(self) -> int:
        """Rows of the range."""
        return self.stop - self.start

    def positions(self) -> npt.NDArray[np.int64]:
        """The positions as an array: int64, shape ``(num_rows,)``."""
        return np.arange(self.start, self.stop, dtype=np.int64)


@dataclass(frozen=True)
class StepRange:
    """Steps ``[first, end)`` of one rank's schedule: the rows of each batch lie together in what the task delivers.

    Attributes:
        schedule: The rank's schedule.
        first: First step.
        end: Step after the last.
    """

    schedule: BatchSchedule
    first: int
    end: int

    @property
    def num_rows(self) -> int:
        """Rows of the steps; only the last step of a schedule may have fewer than ``batch_size``."""
        if self.first == self.end:
            return 0
        last = sum(len(piece) for piece in self.schedule.pieces(self.end - 1))
        return (self.end - 1 - self.first) * self.schedule.batch_size + last

    def positions(self) -> npt.NDArray[np.int64]:
        """Positions in the permutation, batch after batch: int64, shape ``(num_rows,)``."""
        pieces = [piece for step in range(self.first, self.end) for piece in self.schedule.pieces(step)]
        ranges = [np.arange(piece.start, piece.stop, dtype=np.int64) for piece in pieces]
        return np.concatenate(ranges) if ranges else np.empty(0, np.int64)
