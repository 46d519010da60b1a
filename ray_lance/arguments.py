"""Checks of arguments that several modules share.

Each returns the value as the library goes on with it, and says in its error which argument it was, its value (cut
short) and the rule. Values of mappings are never shown, as options of object stores hold credentials.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Collection, Iterable, Mapping, Sequence
from numbers import Real
from typing import Any

from ray_lance.errors import InvalidArgumentError

__all__ = [
    "as_amount",
    "as_choice",
    "as_concurrency",
    "as_count",
    "as_flag",
    "as_integer",
    "as_mapping",
    "as_names",
    "as_options",
    "as_sequence",
    "as_text",
    "either",
    "shown",
]

_MOST_SHOWN = 100
# What Arrow, Lance and numpy count in.
_MOST = 2**63 - 1


def shown(value: object) -> str:
    """``value`` as an error shows it: on one line, and its beginning only where it is long."""
    text = type(value).__name__ if isinstance(value, Mapping) else " ".join(repr(value).split())
    return text if len(text) <= _MOST_SHOWN else f"{text[:_MOST_SHOWN]}..."


def as_integer(name: str, value: object, minimum: int | None = None) -> int:
    """``value`` as a plain Python int (numpy integers are taken, booleans and floats are not).

    Raises:
        InvalidArgumentError: It is not an integer, or less than ``minimum``; with a minimum, also one of more than 64
            bits. Seeds, which have none, may be of any size.
    """
    if (number := _index(value)) is None:
        raise InvalidArgumentError(f"{name}={shown(value)} must be an integer")
    if minimum is not None:
        _check_range(name, number, minimum)
    return number


def as_count(name: str, value: object) -> int:
    """``value``, a number of things of which there must be one, as a plain Python int.

    Raises:
        InvalidArgumentError: It is not an integer, less than 1, or of more than 64 bits.
    """
    number = _index(value)
    if number is None or number < 1:
        raise InvalidArgumentError(f"{name}={shown(value)} must be a whole number of at least 1")
    _check_range(name, number, 1)
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
        raise InvalidArgumentError(
            f"concurrency={shown(value)} must be a number, or two of them: the least and the most"
        )
    return bounds


def as_flag(name: str, value: object) -> bool:
    """``value``, a boolean of Python or numpy, as Python's.

    Raises:
        InvalidArgumentError: It is something else: a text such as ``"false"`` would count as true.
    """
    of_numpy = type(value).__module__ == "numpy" and type(value).__name__ in ("bool", "bool_")
    if not isinstance(value, bool) and not of_numpy:
        raise InvalidArgumentError(f"{name}={shown(value)} must be True or False")
    return bool(value)


def as_amount(name: str, value: Any) -> float | None:
    """``value``, how much of a resource a task reserves; None where nothing was given.

    Raises:
        InvalidArgumentError: It is no number, negative, infinite or NaN.
    """
    if value is None:
        return None
    is_number = isinstance(value, Real) and not isinstance(value, bool)
    if not is_number or not math.isfinite(value) or not 0 <= value <= _MOST:
        raise InvalidArgumentError(f"{name}={shown(value)} must be a number that is not negative")
    return value  # type: ignore[no-any-return]


def as_text(name: str, value: object, example: str) -> str:
    """``value``, a text that is not empty.

    Args:
        name: The argument.
        value: What was given.
        example: What it may be, for the message: ``"a column name"``.

    Raises:
        InvalidArgumentError: It is none.
    """
    if not isinstance(value, str) or not value:
        raise InvalidArgumentError(f"{name}={shown(value)} must be {example}: a string that is not empty")
    return value


def as_choice(name: str, value: object, choices: Collection[str]) -> str:
    """``value``, one of some words.

    Raises:
        InvalidArgumentError: It is none of them.
    """
    if not isinstance(value, str) or value not in choices:
        raise InvalidArgumentError(f"{name}={shown(value)} must be one of {list(choices)}")
    return value


def as_names(name: str, value: object) -> tuple[str, ...]:
    """Names of columns or such: a sequence of strings, or one string for one of them.

    Raises:
        InvalidArgumentError: It is none.
    """
    if isinstance(value, str):
        return (value,)
    names = tuple(value) if isinstance(value, Iterable) and not isinstance(value, (bytes, Mapping)) else (None,)
    if not all(isinstance(each, str) for each in names):
        raise InvalidArgumentError(f"{name}={shown(value)} must be a name or a list of names, which are strings")
    return names


def as_sequence(name: str, value: object) -> tuple[Any, ...]:
    """``value``, a list or another sequence of anything, as a tuple.

    Raises:
        InvalidArgumentError: It is none; of a string or bytes each character would be one.
    """
    if not isinstance(value, Sequence) or isinstance(value, (str, bytes)):
        raise InvalidArgumentError(f"{name}={shown(value)} must be a list or a tuple, such as [value]")
    return tuple(value)


def as_mapping(name: str, value: object) -> dict[str, Any]:
    """``value``, a mapping from names to anything, as a dict of its own; None is an empty one.

    Raises:
        InvalidArgumentError: It is none.
    """
    if value is None:
        return {}
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise InvalidArgumentError(
            f"{name}={type(value).__name__} must be a mapping of names to values, such as a dict"
        )
    return dict(value)


def as_options(name: str, value: object) -> dict[str, str]:
    """``value``, a mapping from names to texts, as a dict of its own; None is an empty one.

    Raises:
        InvalidArgumentError: It is none. Values are not shown.
    """
    options = as_mapping(name, value)
    for key, each in options.items():
        if not isinstance(each, str):
            raise InvalidArgumentError(
                f"{name}[{key!r}]={type(each).__name__} must be a string, as all values of {name} are"
            )
    return options


def either(name: str, argument: Any, option: Any, *, is_secret: bool = False) -> Any:
    """What was given as an argument of our own, or else among the options that are handed on to Lance.

    Args:
        name: The argument, which has the same name as the option.
        argument: Its value, None where it was not given.
        option: The option, None where it was not given.
        is_secret: Whether the values may hold credentials, so that an error must not show them.

    Raises:
        InvalidArgumentError: Both were given, and they differ.
    """
    if argument is not None and option is not None and argument != option:
        if is_secret:
            raise InvalidArgumentError(f"{name} conflicts with dataset_options[{name!r}]: give one of them")
        raise InvalidArgumentError(f"{name}={argument!r} conflicts with {option!r} among the options: give one of them")
    return option if argument is None else argument


def _check_range(name: str, number: int, minimum: int) -> None:
    if number < minimum:
        raise InvalidArgumentError(f"{name}={number} must be at least {minimum}")
    if number > _MOST:
        raise InvalidArgumentError(f"{name}={shown(number)} must be at most {_MOST}, the largest of 64 bits")


def _index(value: Any) -> int | None:
    """The integer that ``value`` is; None for what is none, booleans of Python, numpy and torch included."""
    if isinstance(value, bool) or str(getattr(value, "dtype", "")).endswith("bool"):
        return None
    try:
        return operator.index(value)
    except TypeError:
        return None
