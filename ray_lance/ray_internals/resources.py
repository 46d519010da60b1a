"""Whether the cluster may grow."""

from __future__ import annotations

from ray_lance.ray_internals.ways import fast_module

__all__ = ["may_grow"]

_resources = fast_module("_resources", "what no node can give is refused before it is waited for")


def may_grow() -> bool:
    """Whether an autoscaler may start nodes; by the public way, which cannot tell, it may."""
    return True if _resources is None else bool(_resources.is_autoscaling_enabled())
