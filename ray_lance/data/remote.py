"""Checks arguments of ``ray.remote``: as users give them in, as the functions of Ray Data take them out."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import ray
from ray.data import ActorPoolStrategy

from ray_lance.arguments import as_amount, as_count, as_integer, as_mapping, as_options, as_sequence, as_text
from ray_lance.errors import InvalidArgumentError
from ray_lance.masking import cause

__all__ = ["actor_pool", "checked", "flat", "for_read"]

_CHECKS: Mapping[str, Callable[[str, Any], Any]] = {
    "accelerator_type": lambda name, value: as_text(name, value, "the name of an accelerator, such as 'A100'"),
    "concurrency": as_count,
    "fallback_strategy": lambda name, value: [as_mapping(name, each) for each in as_sequence(name, value)],
    "label_selector": as_options,
    "max_calls": lambda name, value: as_integer(name, value, 0),
    "memory": as_amount,
    "num_cpus": as_amount,
    "num_gpus": as_amount,
    "ray_remote_args": as_mapping,
    "resources": lambda name, value: {key: as_amount(name, each) for key, each in as_mapping(name, value).items()},
    "runtime_env": as_mapping,
}
# Before 2.59 Ray's read functions silently drop by name what they take in ray_remote_args only, such as resources.
_NAMED = _CHECKS.keys() & inspect.signature(ray.data.read_datasource).parameters.keys() - {"ray_remote_args"}


def checked(arguments: Mapping[str, Any], *, of_actors: bool = False) -> dict[str, Any]:
    """The arguments that are given, each as its rule wants it.

    Args:
        arguments: By name; ``ray_remote_args`` among them has further ones.
        of_actors: Whether they are for actors rather than tasks.

    Raises:
        InvalidArgumentError: One breaks its rule, or Ray does not know it.
    """
    given = {name: value for name, value in arguments.items() if value is not None}
    given = {name: _CHECKS[name](name, value) for name, value in given.items()}
    _let_check("ray_remote_args", given.get("ray_remote_args", {}), of_actors)
    for name in given.keys() - {"ray_remote_args", "concurrency"}:
        _let_check(name, {name: given[name]}, of_actors)
    return given


def _let_check(name: str, arguments: Mapping[str, Any], of_actors: bool) -> None:
    """Let Ray check what only it knows; nothing is started for that."""
    arguments = {key: value for key, value in arguments.items() if key != "concurrency"}
    if not arguments:
        return
    try:
        ray.remote(**arguments)(type("Actor", (), {}) if of_actors else _task)
    except (TypeError, ValueError) as error:
        raise InvalidArgumentError(f"{name}: Ray refuses it: {cause(error)}") from None


def _task() -> None:
    """Stand in for a task; never run."""


def flat(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments that are given, also those in ``ray_remote_args``, unless they are given by name too."""
    given = {name: value for name, value in arguments.items() if value is not None}
    return {**given.pop("ray_remote_args", {}), **given}


def for_read(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments for the read functions of Ray Data.

    What they have no argument for stays in ``ray_remote_args``, which Ray calls deprecated.

    Args:
        arguments: As :func:`flat` returns them.
    """
    rest = {name: value for name, value in arguments.items() if name not in _NAMED}
    named = {name: value for name, value in arguments.items() if name in _NAMED}
    return {**named, "ray_remote_args": rest} if rest else named


def actor_pool(concurrency: int | tuple[int, int] | None, most: int) -> ActorPoolStrategy:
    """Actors, and how many of them.

    Args:
        concurrency: Their number, or the least and the most; None lets Ray decide.
        most: More actors than this would have nothing to do.
    """
    if concurrency is None:
        return ActorPoolStrategy(min_size=1, max_size=None)
    least, most_wanted = (concurrency, concurrency) if isinstance(concurrency, int) else concurrency
    return ActorPoolStrategy(min_size=min(least, most), max_size=min(most_wanted, most))
