"""Shares positions out among sources: weights in, position -> (source, its how many-th row) out, by exact arithmetic.

A binary tree halves the problem until one source is left. A node whose left side has the share ``a / d`` of its
weight gives it ``floor(t * a / d + 1/2)`` of its first ``t`` positions, and the rest to the right side. Both counts
grow by 0 or 1 with each position, and so do those of the sources, which are counts of counts. So a position belongs
to the source whose count it raises, which is found on one way down the tree, and a source's row on the way up: no
state, no period, no array. Each halving is off by half a row at most, of which a source inherits its share of the
node: see :attr:`Shares.bound`. The tree is that of Huffman ("A method for the construction of minimum-redundancy
codes", 1952), where heavy sources are near the root, or one that divides the weight evenly, whichever has the smaller
bound.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from ray_lance.order.bijection import MAX_SIZE

__all__ = ["MAX_POSITION", "MAX_WEIGHT", "Shares", "whole_numbers"]

MAX_POSITION = MAX_SIZE
"""Positions and counts are below this."""

MAX_WEIGHT = 2**47
"""Sums of weights are below this."""

# Long division by digits of so many bits stays below 2**64, as the divisor is at most twice the sum of the weights.
_DIGIT_BITS = 15
_Integers: TypeAlias = npt.NDArray[np.int64]


def whole_numbers(weights: Sequence[int | float | Fraction]) -> tuple[int, ...]:
    """Weights as integers in the same proportions, whose sum is below 2**47.

    A float counts as the decimal that it is written as, so that 0.7, 0.2 and 0.1 are 7, 2 and 1. Where the smallest
    such integers are larger, they are rounded to parts of 2**46, which changes a weight by 3e-14 of the sum at most.

    Args:
        weights: Not negative, finite, one of them positive.
    """
    exact = [Fraction(repr(float(weight))) if isinstance(weight, float) else Fraction(weight) for weight in weights]
    total = sum(exact)
    scale = math.lcm(*((weight / total).denominator for weight in exact))
    if scale < MAX_WEIGHT:
        return tuple(int(weight * scale / total) for weight in exact)
    parts = [max(int(weight * (MAX_WEIGHT // 2) / total), int(weight > 0)) for weight in exact]
    parts[parts.index(max(parts))] += MAX_WEIGHT // 2 - sum(parts)
    return whole_numbers(parts)


@dataclass(frozen=True)
class _Node:
    """A source, or two nodes between which positions are divided.

    Attributes:
        weight: Weight of its sources together.
        source: The source; -1 where there are two nodes.
        below: The two nodes.
    """

    weight: int
    source: int = -1
    below: tuple[_Node, ...] = ()

    @cached_property
    def ratio(self) -> tuple[int, int]:
        """``(a, d)``: twice the left side's share, in lowest terms of the half; ``d`` is even."""
        common = math.gcd(self.below[0].weight, self.weight)
        return 2 * (self.below[0].weight // common), 2 * (self.weight // common)

    def left_of(self, positions: int) -> int:
        """How many of the first positions the left side gets."""
        a, d = self.ratio
        return (a * positions + d // 2) // d

    def leaves(self, inherited: Fraction = Fraction(0), *, is_root: bool = True) -> Iterator[tuple[int, Fraction]]:
        """Each source with the sum of its shares of the nodes above it, less the root, and of itself."""
        if not self.below:
            yield self.source, Fraction(0) if is_root else self.weight * inherited + 1
            return
        for node in self.below:
            yield from node.leaves(inherited + (0 if is_root else Fraction(1, self.weight)), is_root=False)


@dataclass(frozen=True)
class Shares:
    """Positions 0, 1, 2 and so on, shared out among sources.

    Attributes:
        weights: As of :func:`whole_numbers`, one for each source; a source of weight 0 gets nothing.
    """

    weights: tuple[int, ...]

    @property
    def bound(self) -> float:
        """After any number n of positions each source has ``n * weight / sum(weights)`` of them, plus or minus this.

        Half a row for two sources, at most 1 for three, at most 1.68 whatever the weights are.
        """
        return float(_bound(self._tree))

    def counts(self, positions: int) -> list[int]:
        """How many of the first positions each source gets."""
        found = [0] * len(self.weights)
        waiting = [(self._tree, positions)]
        while waiting:
            node, count = waiting.pop()
            if not node.below:
                found[node.source] = count
                continue
            left = node.left_of(count)
            waiting += [(node.below[0], left), (node.below[1], count - left)]
        return found

    def locate(self, positions: _Integers) -> tuple[_Integers, _Integers]:
        """Find what positions hold, in memory proportional to their number.

        Args:
            positions: Any positions, int64, shape ``(k,)``, each from 0 to 2**62.

        Returns:
            The source of each, and how many earlier positions are of the same source.
        """
        sources, numbers = np.empty_like(positions), np.empty_like(positions)
        waiting: list[tuple[_Node, _Integers | slice, _Integers]] = [(self._tree, slice(None), positions)]
        while waiting:
            node, places, counts = waiting.pop()
            if not node.below:
                sources[places], numbers[places] = node.source, counts
                continue
            a, d = node.ratio
            left, rest = _divided(counts, a, d)
            is_left = rest >= d - a  # one position more raises the quotient
            for below, chosen, inside in zip(node.below, (is_left, ~is_left), (left, counts - left), strict=True):
                if len(found := np.flatnonzero(chosen)):
                    waiting.append((below, found if isinstance(places, slice) else places[found], inside[found]))
        return sources, numbers

    def position(self, source: int, number: int) -> int:
        """The position of a source's row, by how many earlier rows of it there are: the inverse of :meth:`locate`."""
        for node, is_left in self._way(source):
            a, d = node.ratio
            # The right side gets t - floor((a*t + d/2) / d) = floor(((d - a)*t + d/2 - 1) / d).
            share, offset = (a, d // 2) if is_left else (d - a, d // 2 - 1)
            number = -(-((number + 1) * d - offset) // share) - 1
        return number

    def _way(self, source: int) -> list[tuple[_Node, bool]]:
        """The nodes above a source, the nearest first, with whether it is on the left of each."""

        def find(node: _Node) -> list[tuple[_Node, bool]] | None:
            for below, is_left in zip(node.below, (True, False), strict=False):
                if below.source == source:
                    return [(node, is_left)]
                if (way := find(below)) is not None:
                    return [*way, (node, is_left)]
            return None

        return find(self._tree) or []

    @cached_property
    def _tree(self) -> _Node:
        leaves = [_Node(weight, source) for source, weight in enumerate(self.weights) if weight]
        return min((_huffman(leaves), _halved(leaves)), key=_bound)

    def __getstate__(self) -> dict[str, object]:
        return {"weights": self.weights}


def _bound(tree: _Node) -> Fraction:
    return max(total for _, total in tree.leaves()) / 2


def _huffman(leaves: Sequence[_Node]) -> _Node:
    """Join the two lightest nodes until one is left."""
    heap = [(node.weight, number, node) for number, node in enumerate(leaves)]
    heapq.heapify(heap)
    for number in range(len(leaves), 2 * len(leaves) - 1):
        (_, _, light), (_, _, heavy) = heapq.heappop(heap), heapq.heappop(heap)
        joined = _Node(light.weight + heavy.weight, below=(light, heavy))
        heapq.heappush(heap, (joined.weight, number, joined))
    return heap[0][2]


def _halved(leaves: Sequence[_Node]) -> _Node:
    """Deal the sources out to two sides, the heaviest first and each to the lighter side, and so on."""
    if len(leaves) == 1:
        return leaves[0]
    sides: tuple[list[_Node], list[_Node]] = ([], [])
    sums = [0, 0]
    for leaf in sorted(leaves, key=lambda leaf: -leaf.weight):
        side = int(sums[1] < sums[0])
        sides[side].append(leaf)
        sums[side] += leaf.weight
    return _Node(sum(sums), below=(_halved(sides[0]), _halved(sides[1])))


def _divided(counts: _Integers, a: int, d: int) -> tuple[_Integers, npt.NDArray[np.uint64]]:
    """Quotients and remainders of ``a * counts + d // 2`` by ``d``, exactly, where ``a <= d < 2**48``."""
    most = int(counts.max(initial=0))
    words = counts.view(np.uint64)
    if a * most + d < 2**64:
        quotients, rest = _by(words * np.uint64(a) + np.uint64(d // 2), d)
        return quotients.view(np.int64), rest
    mask = np.uint64(2**_DIGIT_BITS - 1)
    quotients, rest = np.zeros_like(words), np.zeros_like(words)
    for digit in reversed(range(-(-most.bit_length() // _DIGIT_BITS))):
        digits = words >> np.uint64(digit * _DIGIT_BITS) & mask
        total = (rest << np.uint64(_DIGIT_BITS)) + digits * np.uint64(a)
        if not digit:
            total += np.uint64(d // 2)
        more, rest = _by(total, d)
        quotients = (quotients << np.uint64(_DIGIT_BITS)) + more
    return quotients.view(np.int64), rest


def _by(words: npt.NDArray[np.uint64], divisor: int) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint64]]:
    quotients = words // np.uint64(divisor)  # by one number numpy divides without a division, which divmod does not
    return quotients, words - quotients * np.uint64(divisor)
