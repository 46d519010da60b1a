"""How far a computation may be ahead of its commits, which bounds what a kill can cost."""

from __future__ import annotations

__all__ = ["Window"]

# One part is committed while another is written and a third is computed.
_PARTS = 3


class Window:
    """Counts the fragments that are computed, wholly or in part, and not committed.

    Args:
        size: The most that there may be.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self._settled = 0
        self._in_pass = 0
        self._before = 0

    @property
    def part(self) -> int:
        """The most fragments to compute in one task, and how many are enough for a commit.

        With fewer than that waiting for their commit, there is room for a task, so that nothing waits for ever.
        """
        return -(-self.size // _PARTS)

    def begin_pass(self, fragments: int) -> None:
        """Count on from the end of the last pass; ``fragments``: how many the next one has."""
        self._before, self._in_pass = self._before + self._in_pass, fragments

    def settle(self, fragments: int) -> None:
        """Count fragments that have been committed, or whose values are of no use any more."""
        self._settled += fragments

    def admits(self, fragments: int) -> bool:
        """Whether the first ``fragments`` fragments of the pass may be begun."""
        return self._before + fragments <= self._settled + self.size
