"""Fixtures for tests of the torch datasets."""

from __future__ import annotations

import pytest

from ray_lance.torch import cache, kept
from ray_lance.torch.budget import Budget


@pytest.fixture(autouse=True)
def room(monkeypatch) -> Budget:
    """A process in which nothing is kept in memory yet."""
    room = Budget()
    monkeypatch.setattr(kept, "budget", room)
    monkeypatch.setattr(cache, "budget", room)
    monkeypatch.setattr(kept, "_tables", kept._Tables())
    return room
