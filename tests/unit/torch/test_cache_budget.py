"""How much memory a process may keep rows in."""

from __future__ import annotations

import pytest

from ray_lance.errors import InvalidArgumentError
from ray_lance.torch import cache_budget
from ray_lance.torch.cache_budget import Budget, cache_limit
from ray_lance.torch.ranks import Worker


def test_no_more_is_reserved_than_the_limit_and_what_is_released_counts_no_more():
    room = Budget()

    assert room.reserve(6, limit=10)
    assert not room.reserve(5, limit=10)
    assert room.reserve(4, limit=10)
    room.release(6)

    assert room.used == 4
    assert room.reserve(5, limit=10)


def test_a_number_of_ranks_that_is_none_is_refused(monkeypatch):
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "two")

    with pytest.raises(InvalidArgumentError, match="LOCAL_WORLD_SIZE='two'"):
        cache_limit("auto")
    assert cache_limit(12) == 12


@pytest.mark.parametrize(
    ("memory", "processes", "limit"),
    [(2**40, "", 512 * 2**20), (2**30, "0", 2**26), (2**34, "4", 2**28)],
)
def test_auto_is_a_share_of_the_memory(monkeypatch, memory, processes, limit):
    monkeypatch.setattr(cache_budget, "_memory", lambda: memory)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", processes)

    assert cache_limit("auto") == limit
    monkeypatch.setattr(cache_budget, "current_worker", lambda: Worker(1, 64))
    assert cache_limit("auto") == min(limit, memory // 16 // max(1, int(processes or 1)) // 64)
    assert cache_limit(12) == 12


def test_a_containers_limit_counts(monkeypatch, tmp_path):
    limit = tmp_path / "memory.max"
    monkeypatch.setattr(cache_budget, "_CGROUP_LIMITS", (str(limit), str(tmp_path / "none")))

    limit.write_text("max\n")
    machine = cache_budget._memory()
    limit.write_text(f"{2**28}\n")

    assert cache_budget._memory() == 2**28 < machine
