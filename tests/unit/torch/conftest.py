"""Fixtures for tests of the torch datasets."""

from __future__ import annotations

import pytest

from ray_lance.torch import range_cache, table_cache
from ray_lance.torch.cache_budget import Budget


@pytest.fixture(autouse=True)
def room(monkeypatch) -> Budget:
    """A process in which nothing is cached in memory yet."""
    room = Budget()
    monkeypatch.setattr(table_cache, "budget", room)
    monkeypatch.setattr(range_cache, "budget", room)
    monkeypatch.setattr(table_cache, "_caches", table_cache._Caches())
    return room
