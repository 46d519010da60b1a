"""Checks of arguments that several modules share."""

from __future__ import annotations

import operator
from typing import SupportsIndex, cast

from ray_lance.errors import InvalidArgumentError

__all__ = ["as_integer"]


def as_integer(name: str, value: object, minimum: int | None = None) -> int:
    """``value`` as a plain Python int (numpy integers are taken, booleans and floats are not).

    Raises:
        InvalidArgumentError: It is not an integer, or less than ``minimum``.
    """
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise InvalidArgumentError(f"{name}={value!r} must be an integer")
    number = operator.index(cast(SupportsIndex, value))
    if minimum is not None and number < minimum:
        raise InvalidArgumentError(f"{name}={number} must be at least {minimum}")
    return number
