"""The cluster that work runs on: started where there is none, and asked whether it has what a task needs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import ray

from ray_lance.errors import InvalidArgumentError
from ray_lance.ray_internals.resources import may_grow

__all__ = ["check_resources", "cluster_cpus", "ensure_started", "unmet"]

_ARGUMENTS = {"CPU": "num_cpus", "GPU": "num_gpus", "memory": "memory"}


def ensure_started() -> None:
    """Connect to a cluster, or start one on this machine, as Ray's own functions do."""
    if not ray.is_initialized():
        ray.init()


def cluster_cpus() -> int:
    """CPUs of the whole cluster, at least one."""
    ensure_started()
    return max(1, int(ray.cluster_resources().get("CPU", 1)))


def check_resources(arguments: Mapping[str, Any]) -> None:
    """Refuse to wait for ever for a node that has what one task or actor reserves.

    A cluster that can grow is never refused: it may start such a node.

    Args:
        arguments: Arguments of ``ray.remote``.

    Raises:
        InvalidArgumentError: No node has it.
    """
    ensure_started()
    if may_grow():
        return
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    missing = unmet(_needs(arguments), nodes)
    if not missing or not nodes:
        return
    asked = ", ".join(f"{name}={value:g}" for name, value in missing.items())
    there = ", ".join(f"{name}={max(node.get(name, 0) for node in nodes):g}" for name in missing)
    raise InvalidArgumentError(
        f"{_shown(arguments, missing)}: a task needs {asked} on one node, and the cluster has no node with that: its "
        f"{len(nodes)} nodes have at most {there}. It would wait for ever. Ask for less, or start Ray with more "
        "(ray.init(num_cpus=..., num_gpus=..., resources=...)) or on more machines"
    )


def unmet(needs: Mapping[str, float], nodes: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """What of ``needs`` is missing where most of it is there; empty where one of ``nodes`` has all of it."""
    missing = [{name: need for name, need in needs.items() if node.get(name, 0) < need} for node in nodes]
    return min(missing, key=len, default={})


def _needs(arguments: Mapping[str, Any]) -> dict[str, float]:
    needs = {resource: arguments.get(name) or 0 for resource, name in _ARGUMENTS.items()}
    needs |= dict(arguments.get("resources") or {})
    if accelerator := arguments.get("accelerator_type"):
        needs[f"accelerator_type:{accelerator}"] = 0.001  # as Ray does
    return {name: float(value) for name, value in needs.items() if value}


def _shown(arguments: Mapping[str, Any], missing: Mapping[str, float]) -> str:
    """The arguments that ask for what is missing."""
    names = [_ARGUMENTS.get(name) or ("resources" if ":" not in name else "accelerator_type") for name in missing]
    return ", ".join(f"{name}={arguments.get(name)!r}" for name in dict.fromkeys(names))
