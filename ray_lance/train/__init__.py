"""Ray Train: exact, elastic and resumable shards."""

from __future__ import annotations

from ray_lance.train.config import LanceDataConfig
from ray_lance.train.options import DatasetOptions
from ray_lance.train.shard import LanceShard

__all__ = ["DatasetOptions", "LanceDataConfig", "LanceShard"]
