"""Assembles fragments: computed blocks in scan order in (references and row counts), complete fragments out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from ray_lance.errors import RayLanceError
from ray_lance.write.column_plan import FragmentWork

__all__ = ["BlockRows", "CompleteFragment", "FragmentAssembler"]

B = TypeVar("B")


@dataclass(frozen=True)
class BlockRows(Generic[B]):
    """Rows ``[start, stop)`` of a block.

    Attributes:
        block: The block, or a reference to it.
        start: First row.
        stop: One more than the last row.
    """

    block: B
    start: int
    stop: int


@dataclass(frozen=True)
class CompleteFragment(Generic[B]):
    """A fragment all of whose rows have been computed.

    Attributes:
        work: The fragment.
        parts: Where its rows are, in order.
    """

    work: FragmentWork
    parts: tuple[BlockRows[B], ...]


class FragmentAssembler(Generic[B]):
    """Cuts a stream of blocks, whose rows are those of the fragments in order, at the fragments' boundaries.

    Args:
        fragments: What is read, in scan order; each has at least one row.
    """

    def __init__(self, fragments: Sequence[FragmentWork]) -> None:
        self._waiting = list(reversed(fragments))
        self._parts: list[BlockRows[B]] = []
        self._missing = self._waiting[-1].rows if self._waiting else 0

    def add(self, rows: BlockRows[B]) -> list[CompleteFragment[B]]:
        """Take the next rows of the stream; returns the fragments that they complete.

        Raises:
            RayLanceError: There are more rows than the fragments have.
        """
        completed = []
        start, stop = rows.start, rows.stop
        while start < stop:
            if not self._waiting:
                raise RayLanceError(f"the read returned {stop - start} rows more than the fragments have")
            cut = min(stop, start + self._missing)
            self._parts.append(BlockRows(rows.block, start, cut))
            self._missing -= cut - start
            start = cut
            if self._missing == 0:
                completed.append(CompleteFragment(self._waiting.pop(), tuple(self._parts)))
                self._parts = []
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
