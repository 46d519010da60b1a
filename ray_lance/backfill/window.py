"""Bounds what a crash can cost: numbers of committed fragments in, the tasks that may begin out."""

from __future__ import annotations

from collections.abc import Sequence

from ray_lance.write.column_plan import Pass

__all__ = ["Admission", "Window"]

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
        """The most fragments to compute in one task, and the number that is enough for a commit.

        While fewer fragments than this wait for their commit, another task fits into the window: nothing can wait for
        ever.
        """
        return -(-self.size // _PARTS)

    def begin_pass(self, fragments: int) -> None:
        """Continue counting after the last pass; ``fragments``: how many the next one has."""
        self._before, self._in_pass = self._before + self._in_pass, fragments

    def settle(self, fragments: int) -> None:
        """Count fragments that have been committed, or whose values are not needed any more."""
        self._settled += fragments

    def admits(self, fragments: int) -> bool:
        """Whether the first ``fragments`` fragments of the pass may be begun."""
        return self._before + fragments <= self._settled + self.size


class Admission:
    """Tells which read tasks of a pass may begin, by their number.

    Args:
        window: How many fragments may be begun.
        todo: The fragments of the pass, in the order in which the tasks read them.
        last_fragments: Of each task the id of the last fragment that it reads from.
    """

    def __init__(self, window: Window, todo: Pass, last_fragments: Sequence[int]) -> None:
        position = {work.fragment_id: number for number, work in enumerate(todo.fragments, 1)}
        self._fragments_begun = [position[fragment_id] for fragment_id in last_fragments]
        self._window = window

    def admits(self, task: int) -> bool:
        """Whether task ``task`` may begin, given that all tasks before it have begun."""
        return task >= len(self._fragments_begun) or self._window.admits(self._fragments_begun[task])
