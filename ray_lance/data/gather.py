"""Which rows of which blocks make up a fragment: bookkeeping on the driver, which never sees the rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from ray_lance.errors import RayLanceError
from ray_lance.write.column_plan import FragmentWork

__all__ = ["Gathered", "Gatherer", "Piece"]

B = TypeVar("B")


@dataclass(frozen=True)
class Piece(Generic[B]):
    """Rows ``[start, stop)`` of a block.

    Attributes:
        block: The block, or a reference to it.
        start: First row.
        stop: Behind the last row.
    """

    block: B
    start: int
    stop: int


@dataclass(frozen=True)
class Gathered(Generic[B]):
    """A fragment all of whose rows have been computed.

    Attributes:
        work: The fragment.
        pieces: Where its rows are, in order.
    """

    work: FragmentWork
    pieces: tuple[Piece[B], ...]


class Gatherer(Generic[B]):
    """Cuts a stream of blocks, whose rows are those of the fragments in order, at the borders of the fragments.

    Args:
        fragments: What is read, in scan order; each has at least one row.
    """

    def __init__(self, fragments: Sequence[FragmentWork]) -> None:
        self._waiting = list(reversed(fragments))
        self._pieces: list[Piece[B]] = []
        self._missing = self._waiting[-1].rows if self._waiting else 0

    def add(self, piece: Piece[B]) -> list[Gathered[B]]:
        """Take the next rows of the stream; returns the fragments that they complete.

        Raises:
            RayLanceError: There are more rows than the fragments have.
        """
        completed = []
        start, stop = piece.start, piece.stop
        while start < stop:
            if not self._waiting:
                raise RayLanceError(f"{stop - start} rows more were read than the fragments have")
            cut = min(stop, start + self._missing)
            self._pieces.append(Piece(piece.block, start, cut))
            self._missing -= cut - start
            start = cut
            if self._missing == 0:
                completed.append(Gathered(self._waiting.pop(), tuple(self._pieces)))
                self._pieces = []
                self._missing = self._waiting[-1].rows if self._waiting else 0
        return completed

    def finish(self) -> None:
        """Check that every fragment was completed.

        Raises:
            RayLanceError: Rows are missing.
        """
        if self._waiting:
            ids = [work.fragment_id for work in reversed(self._waiting)]
            raise RayLanceError(f"the read ended {self._missing} rows before the end of fragment {ids[0]} of {ids}")
