"""Derives keys: seeds of any size in, 64-bit words out, the same on every platform and in every version."""

from __future__ import annotations

import functools
import hashlib

import numpy as np
import numpy.typing as npt

__all__ = ["KeyPart", "derive_words", "mix64"]

KeyPart = int | str
"""One part of a key: a seed, an epoch, or the name of what the key is for."""

_NAMESPACE = "ray_lance/order/1"
_GOLDEN_GAMMA = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)
_SHIFT_30, _SHIFT_27, _SHIFT_31 = np.uint64(30), np.uint64(27), np.uint64(31)


@functools.lru_cache(maxsize=1024)
def derive_words(parts: tuple[KeyPart, ...], count: int) -> npt.NDArray[np.uint64]:
    """Expand a key into ``count`` independent 64-bit words.

    SHAKE-256 (FIPS 202) over a canonical text of the parts: any Python integer is a valid seed, negative and
    very large ones included, and seeds that are near each other give unrelated words.

    Args:
        parts: The key.
        count: Number of words.

    Returns:
        uint64 array of shape ``(count,)``, read-only.
    """
    # Every part is tagged with its kind, and numpy integers give the text of the same Python integer.
    tagged = (f"s:{part}" if isinstance(part, str) else f"i:{int(part)}" for part in parts)
    text = "|".join((_NAMESPACE, *tagged))
    digest = hashlib.shake_256(text.encode()).digest(8 * count)
    return np.frombuffer(digest, dtype="<u8").astype(np.uint64, copy=False)


def mix64(values: npt.NDArray[np.uint64], base: np.uint64 | int = 0) -> npt.NDArray[np.uint64]:
    """Hash 64-bit values one by one: the output of SplitMix64 at states ``base + (value + 1) * gamma``.

    Steele, Lea and Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014, with the finaliser they
    publish (Stafford's variant 13). For one ``base`` it is a bijection of the 64-bit integers.

    Args:
        values: uint64 array of any shape.
        base: Key, added to every state.

    Returns:
        uint64 array of the same shape.
    """
    state = (values + np.uint64(1)) * _GOLDEN_GAMMA
    state += np.uint64(base)
    state ^= state >> _SHIFT_30
    state *= _MIX_1
    state ^= state >> _SHIFT_27
    state *= _MIX_2
    state ^= state >> _SHIFT_31
    return state
