"""Gathers fragments: indexed blocks in any order in (references and row counts), complete fragments out."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Generic, TypeVar

from ray_lance.backfill.addressed import BlockIndex, shown_address
from ray_lance.backfill.assemble import CompleteFragment
from ray_lance.errors import InvalidArgumentError
from ray_lance.write.column_plan import FragmentWork

__all__ = ["FragmentGatherer"]

B = TypeVar("B")

# A fragment is scattered if its rows lie in more blocks than this, and are less than one in so many of their rows.
_MOST_PARTS = 8


@dataclass
class _Block(Generic[B]):
    """A block and its index, kept while it holds rows of a fragment that waits."""

    block: B
    index: BlockIndex
    waiting: int

    @property
    def num_rows(self) -> int:
        return int(self.index.starts[-1])


@dataclass
class _Waiting:
    rows: int = 0
    blocks: list[int] = field(default_factory=list)


class FragmentGatherer(Generic[B]):
    """Counts the rows of each fragment as blocks come, in whatever order.

    Args:
        works: The fragments to gather, by id, with the rows that each has.
        done: Fragments whose rows are left out.
        most_parts: What makes a fragment scattered.

    Attributes:
        scattered: Fragments whose rows have come, one here and one there: writing one from its blocks would read all
            the others' rows with them. They are gathered again by another gatherer, once the blocks are sorted.
    """

    def __init__(self, works: Mapping[int, FragmentWork], done: Collection[int], most_parts: int = _MOST_PARTS) -> None:
        self._works, self._done, self._most_parts = dict(works), frozenset(done), most_parts
        self._blocks: dict[int, _Block[B]] = {}
        self._waiting: dict[int, _Waiting] = {}
        self._given: set[int] = set()
        self._next = 0
        self.scattered: dict[int, FragmentWork] = {}

    @property
    def held(self) -> list[B]:
        """Blocks that hold rows of fragments that wait, or are scattered."""
        return [each.block for each in self._blocks.values()]

    def missing(self) -> dict[int, int]:
        """How many rows have not come, of each fragment that lacks some."""
        counts = {number: self._waiting[number].rows if number in self._waiting else 0 for number in self._works}
        settled = self._given | self.scattered.keys()
        return {
            number: work.rows - counts[number]
            for number, work in self._works.items()
            if number not in settled and counts[number] < work.rows
        }

    def add(self, block: B, index: BlockIndex) -> list[CompleteFragment[B]]:
        """Take a block; returns the fragments of which the last row has come with it.

        Raises:
            InvalidArgumentError: It holds rows of a fragment that the version lacks, or more than a fragment has.
        """
        ids = [number for number in index.fragment_ids.tolist() if number not in self._done]
        for number in ids:
            self._count(number, index)
        if ids:
            self._blocks[self._next] = _Block(block, index, len(ids))
            for number in ids:
                self._waiting[number].blocks.append(self._next)
            self._next += 1
        return self._handed([number for number in ids if self._waiting[number].rows == self._works[number].rows])

    def rest(self, among: Collection[int] | None = None) -> list[CompleteFragment[B]]:
        """The fragments of which some rows have come, and not all.

        Args:
            among: Ids of fragments to choose from; None for all.
        """
        waiting = [number for number in self._waiting if number not in self.scattered]
        waiting = [number for number in waiting if among is None or number in among]
        for number in waiting:
            self._works[number] = replace(self._works[number], rows=self._waiting[number].rows)
        return self._handed(waiting)

    def _count(self, number: int, index: BlockIndex) -> None:
        rows = index.rows_of(number, None)
        if number not in self._works:
            raise InvalidArgumentError(
                f"the pipeline returned the row address {shown_address(rows.first)}, and the version that was read "
                "has no such fragment: is the pipeline's dataset the one that is written to?"
            )
        come = self._waiting.setdefault(number, _Waiting())
        come.rows += rows.stop - rows.start
        if number in self._given or come.rows > self._works[number].rows:
            raise InvalidArgumentError(
                f"the pipeline returned more rows of fragment {number} than the {self._works[number].rows} that it "
                f"has: row addresses between {shown_address(rows.first)} and {shown_address(rows.last)} came more "
                "than once, or are of deleted rows; nothing says which values are right"
            )

    def _handed(self, numbers: list[int]) -> list[CompleteFragment[B]]:
        """The fragments with what they are made of; those that are scattered are kept back."""
        complete = []
        for number in numbers:
            if self._is_scattered(number):
                self.scattered[number] = self._works[number]
                continue
            blocks = self._waiting.pop(number).blocks
            parts = [self._blocks[at].index.rows_of(number, self._blocks[at].block) for at in blocks]
            parts.sort(key=lambda part: part.first)
            complete.append(CompleteFragment(self._works[number], tuple(parts)))
            self._given.add(number)
            for at in blocks:
                self._release(at)
        return complete

    def _is_scattered(self, number: int) -> bool:
        waiting = self._waiting[number]
        if len(waiting.blocks) <= self._most_parts:
            return False
        return waiting.rows * self._most_parts < sum(self._blocks[at].num_rows for at in waiting.blocks)

    def _release(self, at: int) -> None:
        self._blocks[at].waiting -= 1
        if not self._blocks[at].waiting:
            del self._blocks[at]
