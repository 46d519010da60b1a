"""Where the passes over a shard stand: which epoch the next one reads, and what has been returned."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ray_lance.order import Cursor

__all__ = ["PassPosition", "ShardPosition"]


class ShardPosition:
    """What the passes over a shard have returned, and where the next one begins.

    Each pass is the next epoch, whether the one before was read to its end or broken off. Only after :meth:`load` does
    a pass continue an epoch.

    Args:
        start: Where the first pass begins.

    Attributes:
        cursor: After what the pass that began last has returned.
        origin: Where that pass began; stays when it has ended.
    """

    cursor: Cursor
    origin: Cursor
    _upcoming: Cursor
    _current: PassPosition | None
    _after_loaded: Cursor

    def __init__(self, start: Cursor) -> None:
        self._stand_at(start)
        self._loaded: Cursor | None = None

    def begin(self) -> PassPosition:
        """A pass, which takes its epoch."""
        self._loaded = None
        self.cursor = self.origin = start = self._upcoming
        self._upcoming = start.next_epoch()
        self._current = PassPosition(self, start)
        return self._current

    def returned(self, old: PassPosition, cursor: Cursor) -> None:
        """A pass has come to a cursor; one that is not the last to begin no longer counts."""
        if old is self._current:
            self.cursor = cursor

    def load(self, cursor: Cursor, *, is_end: bool) -> None:
        """Let the next pass continue at a cursor.

        Args:
            cursor: Where a state was taken.
            is_end: Whether no rank has a step left after it, so that what follows is the next epoch.
        """
        self._stand_at(cursor.next_epoch() if is_end else cursor)
        self._loaded, self._after_loaded = cursor, self.cursor

    def set_epoch(self, epoch: int) -> None:
        """Let the next pass read an epoch: from its start, or what is left of it after a cursor just loaded."""
        start = replace(self.cursor, epoch=epoch, rows=0)
        if self._loaded is not None and self._loaded.epoch != start.epoch:
            self._loaded = None
        self._stand_at(self._loaded or start)
        if self._loaded is not None:
            self.cursor = self._after_loaded

    def _stand_at(self, cursor: Cursor) -> None:
        self.cursor = self.origin = self._upcoming = cursor
        self._current = None


@dataclass(frozen=True, eq=False)
class PassPosition:
    """Tells a shard's position what one pass has returned.

    Attributes:
        start: Where the pass began.
    """

    _shard: ShardPosition
    start: Cursor

    def returned(self, rows: int) -> None:
        """The pass has come to ``rows`` rows of its epoch, over all ranks."""
        self._shard.returned(self, self.start.advance(rows))

    def ended(self) -> None:
        """No rank has a step left in the pass."""
        self._shard.returned(self, self.start.next_epoch())
