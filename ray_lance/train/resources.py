"""Whether a cluster has anything left to read with once the trainers have what they asked for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import ray
from ray.util import placement_group_table

from ray_lance.errors import InvalidArgumentError
from ray_lance.ray_internals.resources import may_grow

__all__ = ["check_cpus_for", "check_cpus_left", "reserved_cpus"]


def check_cpus_for(trainers: float, needed: float) -> None:
    """Refuse to start trainers that would hold every CPU.

    A cluster that can grow is never refused, nor is one that has not been started.

    Args:
        trainers: CPUs that all trainers together are going to reserve.
        needed: CPUs that one read task reserves.

    Raises:
        InvalidArgumentError: Less than that would be left.
    """
    if not ray.is_initialized() or may_grow():
        return
    total = float(ray.cluster_resources().get("CPU", 0))
    if total - trainers < needed:
        raise InvalidArgumentError(_none_left(total, f"{trainers:g} go to ScalingConfig's workers", needed))


def check_cpus_left(needed: float) -> None:
    """Refuse to wait for ever for a CPU that the trainers hold.

    A cluster that can grow is never refused: it may start a node for the reads.

    Args:
        needed: CPUs that one read task reserves.

    Raises:
        InvalidArgumentError: Less than that is outside of placement groups.
    """
    if not ray.is_initialized() or may_grow():
        return
    total = float(ray.cluster_resources().get("CPU", 0))
    reserved = reserved_cpus(placement_group_table())
    if total - reserved < needed:
        raise InvalidArgumentError(_none_left(total, f"{reserved:g} are reserved by placement groups", needed))


def _none_left(total: float, taken: str, needed: float) -> str:
    return (
        f"the trainers leave no CPU for reading: of the cluster's {total:g} CPUs {taken}, and a read task needs "
        f"{needed:g}. Take fewer workers, give each less in ScalingConfig(resources_per_worker={{'CPU': ...}}), add "
        "CPUs, or let reads reserve less with read_lance(..., num_cpus=...)"
    )


def reserved_cpus(groups: Mapping[str, Mapping[str, Any]]) -> float:
    """CPUs of all placement groups that exist.

    Args:
        groups: What ``ray.util.placement_group_table()`` returns.
    """
    created = [group for group in groups.values() if group["state"] == "CREATED"]
    return float(sum(bundle.get("CPU", 0) for group in created for bundle in group["bundles"].values()))
