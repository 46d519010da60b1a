"""A keyed pseudo-random bijection: numbers in ``[0, size)`` in, others out, in memory of the request alone.

Construction. A value is a pair (high, low) in ``[0, a) x [0, 2**k)`` with ``2**k`` near the square root of ``size`` and
``a`` the smallest number with ``a * 2**k >= size``. Rounds of an alternating Feistel network (Luby and Rackoff,
"How to construct pseudorandom permutations from pseudorandom functions", SIAM J. Computing 1988) change the two in
turn: ``high += F(low) mod a``, ``low ^= F(high)``. That is the generalised Feistel cipher of Black and Rogaway,
"Ciphers with arbitrary finite domains", CT-RSA 2002, and so is cycle walking, which handles the few values (about one
in ``sqrt(size)``) that land outside ``[0, size)``: they go through the network again until they are inside.

Round ``r`` takes ``F(x)`` from the highest bits of ``(f ^ (f >> 32)) * C`` where ``f = (x + key[r]) * multiplier[r]``,
all modulo 2**64; ``C`` is the first constant of SplitMix64's finaliser and the multipliers are odd. Each round can be
undone, so the inverse runs them backwards. Eight rounds pass statistical tests of positions and of pairs (six fail);
domains of less than 64 values, whose halves are a few bits, need sixteen.

A family of bijections that share a size and a key is told apart by tweaks: one 64-bit word per value, which takes the
place of ``key[r]``. So thousands of windows, each with a bijection of its own, are evaluated in one pass.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from ray_lance.errors import InvalidArgumentError
from ray_lance.order.keys import KeyPart, derive_words

__all__ = ["MAX_SIZE", "Bijection"]

MAX_SIZE = 2**62
"""Largest domain: two halves of 31 bits."""

_ROUNDS = 8
_SMALL_SIZE = 64
_SMALL_ROUNDS = 16
# Values per pass: the working set of a pass stays in the processor's second-level cache.
_CHUNK = 16384
_CONSTANT = np.uint64(0xBF58476D1CE4E5B9)
_HALF_WORD = np.uint64(32)

_Words = npt.NDArray[np.uint64]
_Integer = TypeVar("_Integer", np.int64, np.uint64)


@dataclass(frozen=True)
class Bijection:
    """A keyed pseudo-random bijection on ``[0, size)``.

    Attributes:
        size: Size of the domain, from 0 to 2**62.
        key: What the bijection is derived from: integers of any size and names.
    """

    size: int
    key: tuple[KeyPart, ...]

    def __post_init__(self) -> None:
        if not 0 <= self.size <= MAX_SIZE:
            raise InvalidArgumentError(f"size={self.size} must be from 0 to 2**62")

    def forward(self, values: npt.NDArray[_Integer], tweaks: _Words | None = None) -> npt.NDArray[_Integer]:
        """Send each value to its image, in memory proportional to ``len(values)``.

        Args:
            values: int64 or uint64 array of shape ``(k,)``, each in ``[0, size)``, in any order.
            tweaks: uint64 array of shape ``(k,)`` that chooses, value by value, the member of the family.

        Returns:
            The images, of the same shape and dtype.

        Raises:
            IndexError: A value is outside ``[0, size)``.
        """
        return self._apply(values, tweaks, range(self._rounds))

    def inverse(self, values: npt.NDArray[_Integer], tweaks: _Words | None = None) -> npt.NDArray[_Integer]:
        """Send each image back to its value: ``inverse(forward(x)) == x``. Arguments as in ``forward``."""
        return self._apply(values, tweaks, range(self._rounds - 1, -1, -1))

    @property
    def _rounds(self) -> int:
        return _SMALL_ROUNDS if self.size < _SMALL_SIZE else _ROUNDS

    def _apply(self, values: npt.NDArray[_Integer], tweaks: _Words | None, rounds: range) -> npt.NDArray[_Integer]:
        words = values.view(np.uint64)
        if len(words) == 0:
            return values.copy()
        if int(words.max()) >= self.size:  # negative values are the largest words
            raise IndexError(f"values must be in [0, {self.size}), got {values.min()} to {values.max()}")
        if self.size == 1:
            return np.zeros_like(values)
        result = self._network(words, tweaks, rounds)
        outside = np.flatnonzero(result >= np.uint64(self.size))
        while len(outside):
            again = self._network(result[outside], None if tweaks is None else tweaks[outside], rounds)
            result[outside] = again
            outside = outside[again >= np.uint64(self.size)]
        return result.view(values.dtype)

    def _network(self, words: _Words, tweaks: _Words | None, rounds: range) -> _Words:
        """One pass of the network over every value, in chunks that stay in the processor's cache."""
        if len(words) <= _CHUNK:
            return self._pass(words, tweaks, rounds)
        result = np.empty_like(words)
        for first in range(0, len(words), _CHUNK):
            chunk = slice(first, first + _CHUNK)
            result[chunk] = self._pass(words[chunk], None if tweaks is None else tweaks[chunk], rounds)
        return result

    def _pass(self, words: _Words, tweaks: _Words | None, rounds: range) -> _Words:
        low_bits = max(1, (self.size - 1).bit_length() // 2)
        radix = np.uint64(-(-self.size >> low_bits))
        low_shift = np.uint64(64 - low_bits)
        keys = derive_words(self.key, 2 * len(rounds))
        multipliers = keys[len(rounds) :] | np.uint64(1)
        low, high = words & np.uint64((1 << low_bits) - 1), words >> np.uint64(low_bits)
        mixed, scratch = np.empty_like(words), np.empty_like(words)
        for number in rounds:
            changes_low = number & 1
            np.add(high if changes_low else low, keys[number] if tweaks is None else tweaks, out=mixed)
            _scramble(mixed, multipliers[number], scratch)
            if changes_low:
                np.right_shift(mixed, low_shift, out=mixed)
                np.bitwise_xor(low, mixed, out=low)
                continue
            np.right_shift(mixed, _HALF_WORD, out=mixed)
            np.multiply(mixed, radix, out=mixed)
            np.right_shift(mixed, _HALF_WORD, out=mixed)
            # Of a sum and the same sum reduced, the one in [0, radix) is the smaller word: the other has wrapped.
            if rounds.step > 0:
                np.add(high, mixed, out=high)
                np.subtract(high, radix, out=scratch)
            else:
                np.subtract(high, mixed, out=high)
                np.add(high, radix, out=scratch)
            np.minimum(high, scratch, out=high)
        np.left_shift(high, np.uint64(low_bits), out=high)
        np.bitwise_or(low, high, out=low)
        return low


def _scramble(words: _Words, multiplier: np.uint64, scratch: _Words) -> None:
    """The round function's hash, in place: its highest bits depend on every bit of ``words``."""
    np.multiply(words, multiplier, out=words)
    np.right_shift(words, _HALF_WORD, out=scratch)
    np.bitwise_xor(words, scratch, out=words)
    np.multiply(words, _CONSTANT, out=words)
