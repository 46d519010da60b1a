"""Arguments of ``ray.remote`` for the functions of Ray Data, which take each by its own name since Ray 2.60."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ray.data import ActorPoolStrategy

__all__ = ["actor_pool", "flat", "for_read"]

_NAMED = frozenset(
    {
        "accelerator_type",
        "concurrency",
        "fallback_strategy",
        "label_selector",
        "max_calls",
        "memory",
        "num_cpus",
        "num_gpus",
        "resources",
        "runtime_env",
    }
)


def flat(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments that are given, those among ``ray_remote_args`` too, which count less."""
    given = {name: value for name, value in arguments.items() if value is not None}
    return {**given.pop("ray_remote_args", {}), **given}


def for_read(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments for the read functions of Ray Data.

    What they have no name for stays in ``ray_remote_args``, of which Ray says that it is deprecated.

    Args:
        arguments: As :func:`flat` returns them.
    """
    rest = {name: value for name, value in arguments.items() if name not in _NAMED}
    named = {name: value for name, value in arguments.items() if name in _NAMED}
    return {**named, "ray_remote_args": rest} if rest else named


def actor_pool(concurrency: int | tuple[int, int] | None, most: int) -> ActorPoolStrategy:
    """Actors, and how many of them.

    Args:
        concurrency: So many, or from the least to the most; None lets Ray decide.
        most: More of them would find nothing to do.
    """
    if concurrency is None:
        return ActorPoolStrategy(min_size=1, max_size=None)
    least, most_wanted = (concurrency, concurrency) if isinstance(concurrency, int) else concurrency
    return ActorPoolStrategy(min_size=min(least, most), max_size=min(most_wanted, most))
