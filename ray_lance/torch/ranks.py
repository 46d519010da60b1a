"""Who reads: the rank among the training processes, and the worker among those of a DataLoader."""

from __future__ import annotations

import os
import sys
from typing import NamedTuple

import torch.distributed
from torch.utils.data import get_worker_info

from ray_lance.arguments import as_integer
from ray_lance.errors import InvalidArgumentError

__all__ = ["Placement", "Worker", "current_worker", "find_placement", "given_placement"]


class Placement(NamedTuple):
    """One training process among all of them."""

    rank: int = 0
    world_size: int = 1


class Worker(NamedTuple):
    """One process of a DataLoader among its ``size`` workers; the training process itself is the only one of one."""

    number: int = 0
    size: int = 1


def given_placement(rank: int | None, world_size: int | None) -> Placement | None:
    """The placement that the arguments name, if they name one.

    Raises:
        InvalidArgumentError: Only one of both is given, or the rank is not among the world.
    """
    if rank is None and world_size is None:
        return None
    if rank is None or world_size is None:
        raise InvalidArgumentError(f"rank={rank}, world_size={world_size}: give both, or neither to have them found")
    rank, world_size = as_integer("rank", rank), as_integer("world_size", world_size, 1)
    if not 0 <= rank < world_size:
        raise InvalidArgumentError(f"rank={rank} must be from 0 to world_size - 1 = {world_size - 1}")
    return Placement(rank, world_size)


def find_placement() -> Placement | None:
    """The placement in an initialised ``torch.distributed``, else in a Ray Train worker, else None. Imports no Ray."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return Placement(torch.distributed.get_rank(), torch.distributed.get_world_size())
    train = sys.modules.get("ray.train")
    if train is None:
        return None
    try:
        context = train.get_context()
        world_size, rank = context.get_world_size(), context.get_world_rank()
    except RuntimeError:  # not in a train worker
        return None
    return None if world_size is None or rank is None else Placement(int(rank), int(world_size))


def current_worker() -> Worker:
    """The DataLoader worker that this process is.

    Raises:
        InvalidArgumentError: The worker was forked, and Lance does not survive a fork.
    """
    info = get_worker_info()
    if info is None:
        return Worker()
    if _fork.happened:
        raise InvalidArgumentError(
            "multiprocessing_context='fork': Lance's threads do not survive a fork, and the worker would hang. Use "
            "ray_lance.torch.make_loader, or DataLoader(..., multiprocessing_context='spawn')"
        )
    return Worker(info.id, info.num_workers)


class _Fork:
    """Whether this process is a fork of one that had this module loaded."""

    happened = False

    def mark(self) -> None:
        self.happened = True


_fork = _Fork()
os.register_at_fork(after_in_child=_fork.mark)
