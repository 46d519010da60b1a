"""Splits rows: fractions in, ranges or indices of the parts out, for random, sequential and hash splits."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from fractions import Fraction
from numbers import Real
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from ray_lance.errors import InvalidArgumentError
from ray_lance.order.hashing import mix_seed

__all__ = ["Fractions", "cumulative_fractions", "hash_split", "split_bounds", "split_clump"]

Fractions: TypeAlias = Mapping[str, float] | Sequence[float]

_NAMES = ("train", "val", "test")
_MAX_CLUMP = 64
_ROWS_PER_UNIT_OF_CLUMP = 16384
# Three thirds as floats do not add up to one.
_TOLERANCE = Fraction(1, 10**9)


def cumulative_fractions(fractions: Fractions) -> dict[str, tuple[Fraction, Fraction]]:
    """Where each part begins and ends in [0, 1], exactly: 0.1 is one tenth.

    Args:
        fractions: Part name -> share; or shares alone, of up to three parts ``"train"``, ``"val"`` and ``"test"``, or
            of any number of parts ``"0"``, ``"1"`` and so on.

    Raises:
        InvalidArgumentError: There is no part, a fraction is not positive, or they add up to more than 1.
    """
    fractions = _named(fractions)
    edges: dict[str, tuple[Fraction, Fraction]] = {}
    total = Fraction(0)
    for name, value in fractions.items():
        if not isinstance(value, Real) or isinstance(value, bool) or not math.isfinite(value) or value <= 0:
            raise InvalidArgumentError(f"fractions[{name!r}]={value!r} must be a positive number")
        begin, total = total, total + Fraction(str(value))
        edges[name] = (begin, total)
    if total > 1 + _TOLERANCE:
        raise InvalidArgumentError(
            f"fractions={dict(fractions)} add up to {float(total):.9g}, which is more than 1: lower one of them"
        )
    if abs(total - 1) <= _TOLERANCE:
        edges[name] = (edges[name][0], Fraction(1))
    return edges


def _named(fractions: Any) -> Mapping[str, float]:
    if isinstance(fractions, (list, tuple, np.ndarray)):
        shares = list(fractions)
        names = _NAMES[: len(shares)] if len(shares) <= len(_NAMES) else map(str, range(len(shares)))
        fractions = dict(zip(names, shares, strict=True))
    if not isinstance(fractions, Mapping) or not fractions:
        raise InvalidArgumentError(
            f"fractions{' is empty' if isinstance(fractions, Mapping) else f'={fractions!r}'}: name at least one part, "
            'for instance {"train": 0.9, "val": 0.1}, or list shares, such as [0.9, 0.1]'
        )
    return fractions


def split_clump(count: int) -> int:
    """Neighbouring rows that a random split keeps together: ``count // 16384``, down to a power of two from 1 to 64.

    So datasets below 32768 rows split row by row, and larger ones in runs short enough that the parts' statistics
    are those of thousands of independent draws.
    """
    bound = min(max(count // _ROWS_PER_UNIT_OF_CLUMP, 1), _MAX_CLUMP)
    return 1 << (bound.bit_length() - 1)


def split_bounds(count: int, fractions: Fractions, clump: int) -> dict[str, tuple[int, int]]:
    """Ranges of ``[0, count)`` for the named parts, cut at multiples of ``clump``, disjoint, complete if the sum is 1.

    A part's size differs from ``fraction * count`` by at most ``clump`` rows.
    """

    def row(edge: Fraction) -> int:
        return min(round(edge * count / clump) * clump, count) if edge < 1 else count

    return {name: (row(begin), row(end)) for name, (begin, end) in cumulative_fractions(fractions).items()}


def hash_split(hashes: npt.NDArray[np.uint64], fractions: Fractions, seed: int = 0) -> dict[str, npt.NDArray[np.int64]]:
    """Assign rows to named parts by the hash of their key, so that equal keys stay together.

    A row's part depends only on its own hash: rows appended later change nothing for existing ones. Sizes
    are as the hashes fall, not exact.

    Args:
        hashes: uint64 array of shape ``(n,)``, as ``stable_hash64`` gives.
        fractions: Part name -> share, or shares alone; rows beyond a sum below 1 are in no part.
        seed: Any integer; another seed gives an independent split.

    Returns:
        Part name -> int64 array of row indices, ascending.

    Raises:
        InvalidArgumentError: As ``cumulative_fractions``.
    """
    edges = cumulative_fractions(fractions)
    mixed = mix_seed(hashes, seed)
    # A bound of 2**64 is out of reach for a uint64, so intervals are closed at their last member.
    bounds = {name: (math.ceil(begin * 2**64), math.ceil(end * 2**64) - 1) for name, (begin, end) in edges.items()}
    return {
        name: np.flatnonzero((mixed >= np.uint64(first)) & (mixed <= np.uint64(last)))
        if first <= last
        else np.empty(0, dtype=np.int64)
        for name, (first, last) in bounds.items()
    }
