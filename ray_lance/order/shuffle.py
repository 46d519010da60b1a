"""Settings of a shuffle: seed, clump and window in, checked or chosen from rows and bytes, a Shuffle out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from ray_lance.arguments import as_integer, shown
from ray_lance.errors import InvalidArgumentError

__all__ = ["CLUMPS_PER_WINDOW", "CLUMP_BYTES", "Auto", "Shuffle", "auto_clump", "auto_window", "choose_shuffle"]

Auto: TypeAlias = Literal["auto"]

CLUMP_BYTES = 64 * 1024
"""Bytes of the projected columns that a clump of "auto" size holds at most: large enough for sequential reads."""

CLUMPS_PER_WINDOW = 1024
"""Clumps in a window of "auto" size. In batches of 1024 rows the distance of label histograms from uniform is at most
about sqrt(1 + 1024 / 1024) = 1.41 times a true shuffle's, for the worst data; measured by ``order.quality``."""

# A dataset is never cut into fewer clumps than this, so that it has several windows: shards and lanes then begin at
# or near a window, and memory and the time to the first batch are those of a part of it. Twice as many would read
# tables of 20,000 rows a little slower, and mix no better that one could see (docs/tuning.md has the figures).
_MIN_CLUMPS = 4 * CLUMPS_PER_WINDOW


@dataclass(frozen=True)
class Shuffle:
    """How rows are shuffled.

    Attributes:
        seed: Any integer.
        clump: Neighbouring rows that move together, at least 1. With 1 every row is placed on its own.
        window: Upper bound in positions of the runs inside which single rows are mixed: a multiple of ``clump``. A
            window of at least the number of rows mixes everything. With ``clump=1, window=1`` the placing alone is
            already a true shuffle.
    """

    seed: int
    clump: int
    window: int

    def __post_init__(self) -> None:
        for name in ("seed", "clump", "window"):
            object.__setattr__(self, name, as_integer(name, getattr(self, name)))
        for name, value in (("clump", self.clump), ("window", self.window)):
            if not 1 <= value <= 2**62:
                raise InvalidArgumentError(
                    f'{name}={value} must be from 1 to 2**62 rows; leave it at "auto" if in doubt'
                )
        if self.window % self.clump:
            lower = self.window // self.clump * self.clump
            nested = f"window={lower} or {lower + self.clump}" if lower else f"window={self.clump}"
            raise InvalidArgumentError(
                f"window={self.window} is not nested with clump={self.clump}: a window holds whole clumps, so it must "
                f"be a multiple of the clump, for instance {nested}"
            )

    def describe(self) -> dict[str, object]:
        """The settings in plain JSON types."""
        return {"seed": self.seed, "clump": self.clump, "window": self.window}


def choose_shuffle(
    seed: int, clump: int | Auto, window: int | Auto, rows: int, row_bytes: Callable[[], float]
) -> Shuffle:
    """Settings with ``"auto"`` replaced by what suits the rows.

    Args:
        seed: Any integer.
        clump: Rows per clump; ``"auto"`` also divides a window that is given.
        window: Positions per window.
        rows: Number of rows.
        row_bytes: Tells the mean bytes of a row; called only where the clump depends on them.

    Raises:
        InvalidArgumentError: A setting breaks its rule.
    """
    clump, window = _rows_or_auto("clump", clump), _rows_or_auto("window", window)
    if clump == "auto":
        clump = auto_clump(int(row_bytes()), rows)
        while window != "auto" and clump > 1 and window % clump:
            clump //= 2
    if window == "auto":
        Shuffle(seed, clump, clump)  # refuses a clump that no window fits
        window = auto_window(rows, clump)
    return Shuffle(seed, clump, window)


def _rows_or_auto(name: str, value: Any) -> int | Auto:
    if isinstance(value, str):
        if value != "auto":
            raise InvalidArgumentError(f"{name}={shown(value)} must be a number of rows or 'auto'")
        return "auto"
    return as_integer(name, value)


def auto_clump(row_bytes: int, n: int) -> int:
    """Rows per clump: the power of two that makes a clump at most about 64 KiB of the projected columns.

    Rows of more than 32 KiB are clumps of their own, and so are the rows of small datasets (below 8192 rows), which
    always have at least 4096 clumps otherwise.

    Args:
        row_bytes: Average bytes of a row in the projected columns; 0 or less means unknown and counts as 1.
        n: Number of rows.

    Returns:
        A power of two, at least 1.
    """
    by_bytes = CLUMP_BYTES // max(int(row_bytes), 1)
    return _power_of_two(min(by_bytes, n // _MIN_CLUMPS))


def auto_window(n: int, clump: int) -> int:
    """Positions per window: 1024 clumps, but 1 for clumps of one row, whose placing is a true shuffle already.

    Args:
        n: Number of rows.
        clump: Rows per clump.

    Returns:
        A multiple of ``clump``; not larger than it takes to hold all ``n`` rows.
    """
    if clump == 1:
        return 1
    clumps = max(1, -(-n // clump))
    return clump * min(CLUMPS_PER_WINDOW, clumps)


def _power_of_two(bound: int) -> int:
    return 1 << (max(bound, 1).bit_length() - 1)
