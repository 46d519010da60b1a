"""What all orders have in common, over one table or several: positions in, numbers of rows out."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from ray_lance.order.rows import RowArray

__all__ = ["RowOrder"]


class RowOrder(Protocol):
    """An order over rows. Frozen: every method that changes something returns a new one."""

    @property
    def epoch_number(self) -> int:
        """Which of its orders this is."""
        ...

    @property
    def is_shuffled(self) -> bool:
        """Whether epochs differ in the order of their rows."""
        ...

    @property
    def window(self) -> int:
        """Positions within which rows are mixed, so that reads are better cut at ``window_edges``; 1 for any cut."""
        ...

    @property
    def fingerprint(self) -> str:
        """Equal for equal orders, whatever the epoch."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, positions: slice) -> RowOrder:
        """A run of this order."""
        ...

    def epoch(self, number: int) -> RowOrder:
        """The same positions of another epoch."""
        ...

    def shard(self, rank: int, world_size: int) -> RowOrder:
        """The ``rank``-th of ``world_size`` contiguous runs."""
        ...

    def rows(self, start: int = 0, stop: int | None = None) -> RowArray:
        """Numbers of the rows at positions ``[start, stop)``."""
        ...

    def take(self, positions: npt.ArrayLike) -> RowArray:
        """Numbers of the rows at any positions; negative ones count from the end."""
        ...

    def window_edges(self, start: int = 0, stop: int | None = None) -> npt.NDArray[np.int64]:
        """Where to cut ``[start, stop)`` into reads."""
        ...

    def describe(self) -> dict[str, Any]:
        """Everything that makes this order what it is, except the epoch, in plain JSON types."""
        ...
