"""What one training rank reads in the loops that people write, whichever way it was started."""

from __future__ import annotations

import itertools
import json
import sys
from collections.abc import Callable, Iterable
from typing import Any

import torch.distributed
from torch.utils.data import DistributedSampler

from ray_lance.torch import LanceIterableDataset, LanceMapDataset, make_loader

__all__ = ["EPOCHS", "GLOBAL_BATCH", "LANES", "iterable_of", "passes_of_rank", "sampler_of"]

EPOCHS = 3
GLOBAL_BATCH = 12
LANES = 6


def passes_of_rank(uri: str, state: dict[str, Any], shard: Any = None) -> dict[str, Any]:
    """All passes of this rank over each kind of dataset, as JSON.

    Args:
        uri: The table.
        state: A state from another world size, to be resumed.
        shard: Ray Train's, if there is one.
    """
    world_size = torch.distributed.get_world_size()
    dataset = iterable_of(uri, world_size)
    found = {
        "iterable": _passes(dataset, lambda: iter(dataset), state),
        "map": _passes_of_sampler(uri, world_size),
    }
    if shard is not None:
        found["shard"] = _passes(shard, shard.iter_torch_batches, state)
    return found


def iterable_of(uri: str, world_size: int, rank: int | None = None) -> LanceIterableDataset:
    """The dataset whose passes are compared, on a rank that is given or to be found."""
    own: dict[str, Any] = {"shuffle": 7, "columns": ["id"], "lanes": LANES, "tail": "drop"}
    given = {} if rank is None else {"rank": rank, "world_size": world_size}
    return LanceIterableDataset(uri, batch_size=GLOBAL_BATCH // world_size, **own, **given)


def sampler_of(dataset: LanceMapDataset, **options: Any) -> DistributedSampler[Any]:
    """The sampler of the map-style dataset."""
    return DistributedSampler(dataset, shuffle=True, seed=3, **options)


def _passes(reader: Any, batches: Callable[[], Iterable[Any]], state: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {"plain": [_rows(batches()) for _ in range(EPOCHS)], "set": []}
    for epoch in (2, 0):
        reader.set_epoch(epoch)
        found["set"].append(_rows(batches()))
    found["broken off"] = _rows(itertools.islice(batches(), 2))
    found["state"] = reader.state_dict()
    found["after"] = _rows(batches())
    reader.load_state_dict(state)
    found["resumed"] = [_rows(batches()) for _ in range(2)]
    return found


def _passes_of_sampler(uri: str, world_size: int) -> dict[str, Any]:
    dataset = LanceMapDataset(uri, columns=["id"])
    sampler = sampler_of(dataset)
    loader = make_loader(dataset, batch_size=GLOBAL_BATCH // world_size, sampler=sampler, drop_last=True)
    found: dict[str, Any] = {"plain": [_rows(loader)], "set": []}
    for epoch in (2, 0):
        sampler.set_epoch(epoch)
        found["set"].append(_rows(loader))
    found["broken off"] = _rows(itertools.islice(loader, 2))
    found["after"] = _rows(loader)
    return found


def _rows(batches: Iterable[Any]) -> list[list[int]]:
    return [batch["id"].tolist() for batch in batches]


if __name__ == "__main__":  # as torchrun starts it: rank and world size are in the environment
    torch.distributed.init_process_group("gloo")
    sys.stdout.write(json.dumps(passes_of_rank(sys.argv[1], json.loads(sys.argv[2]))))
    torch.distributed.barrier()  # a rank that leaves early would fail others that are still connecting
    torch.distributed.destroy_process_group()
