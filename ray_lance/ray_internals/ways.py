"""Which fast ways into Ray are open: each is probed once, when it is first wanted."""

from __future__ import annotations

import importlib
import inspect
import os
from dataclasses import dataclass
from types import ModuleType
from typing import Any

__all__ = ["MissingNameError", "Way", "fast_module", "needs", "probed_ways"]

PLAIN_RAY = "RAY_LANCE_PLAIN_RAY"


class MissingNameError(ImportError):
    """The installed Ray lacks a private name, or has it in another shape."""


@dataclass(frozen=True)
class Way:
    """A fast way into Ray.

    Attributes:
        gives: What it makes fast.
        closed: Why the public way is taken instead; empty where it is not.
    """

    gives: str
    closed: str = ""

    def __str__(self) -> str:
        return f"{self.gives}: {'off, ' + self.closed if self.closed else 'on'}"


_ways: dict[str, Way] = {}


def fast_module(name: str, gives: str) -> ModuleType | Any:
    """The module of a fast way; None where the public way is to be taken.

    Args:
        name: Its name in this package.
        gives: What it makes fast, for ``explain``.
    """
    if os.environ.get(PLAIN_RAY, "0") not in ("", "0"):
        _ways[name] = Way(gives, f"{PLAIN_RAY} is set")
        return None
    try:
        module = importlib.import_module(f"{__package__}.{name}")
    except ImportError as error:
        _ways[name] = Way(gives, str(error))
        return None
    _ways[name] = Way(gives)
    return module


def probed_ways() -> list[Way]:
    """The fast ways that have been probed, open or closed."""
    return list(_ways.values())


def needs(owner: Any, *names: str) -> None:
    """Refuse a class of Ray whose code does not know an attribute.

    Instances get most attributes in methods, so that a class alone does not show them.

    Raises:
        MissingNameError: ``owner`` neither has the attribute nor uses one of its name.
    """
    for name in names:
        if not hasattr(owner, name) and name not in _names_used(owner):
            raise MissingNameError(f"Ray's {owner.__name__} has no {name}")


def _names_used(owner: type) -> set[str]:
    functions = [value for base in owner.__mro__ for value in vars(base).values() if inspect.isfunction(value)]
    return {name for function in functions for name in function.__code__.co_names}
