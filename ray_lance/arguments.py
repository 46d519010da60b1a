"""Checks of arguments that several modules share."""

from __future__ import annotations

import operator
from typing import Any

from ray_lance.errors import InvalidArgumentError

__all__ = ["as_concurrency", "as_count", "as_integer"]


def as_integer(name: str, value: object, minimum: int | None = None) -> int:
    """``value`` as a plain Python int (numpy integers are taken, booleans and floats are not).

    Raises:
        InvalidArgumentError: It is not an integer, or less than ``minimum``.
    """
    if (number := _index(value)) is None:
        raise InvalidArgumentError(f"{name}={value!r} must be an integer")
    if minimum is not None and number < minimum:
        raise InvalidArgumentError(f"{name}={number} must be at least {minimum}")
    return number


def as_count(name: str, value: object) -> int:
    """``value``, a number of things of which there must be one, as a plain Python int.

    Raises:
        InvalidArgumentError: It is not an integer, or less than 1.
    """
    number = _index(value)
    if number is None or number < 1:
        raise InvalidArgumentError(f"{name}={value!r} must be a whole number of at least 1")
    return number


def as_concurrency(value: Any) -> int | tuple[int, int] | None:
    """``value`` as ``map_batches`` takes it: a number of tasks or actors, or the least and the most.

    Raises:
        InvalidArgumentError: It is neither, or the least is more than the most.
    """
    if value is None:
        return None
    if not isinstance(value, (tuple, list)):
        return as_count("concurrency", value)
    bounds = tuple(as_count("concurrency", bound) for bound in value)
    if len(bounds) != 2 or bounds[0] > bounds[1]:
        raise InvalidArgumentError(f"concurrency={value!r} must be a number, or two of them: the least and the most")
    return bounds


def _index(value: Any) -> int | None:
    """The integer that ``value`` is; None for what is none, booleans of Python, numpy and torch included."""
    if isinstance(value, bool) or str(getattr(value, "dtype", "")).endswith("bool"):
        return None
    try:
        return operator.index(value)
    except TypeError:
        return None
