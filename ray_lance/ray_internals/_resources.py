"""The fast way of resources: Ray Data's question whether an autoscaler runs. See ``resources.py``."""

from __future__ import annotations

from ray.data._internal.cluster_autoscaler.util import is_autoscaling_enabled

__all__ = ["is_autoscaling_enabled"]
