"""Finds who reads: arguments, a mesh or the process group in, rank and world size (and the loader's worker) out."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch.distributed
from torch.utils.data import get_worker_info

from ray_lance.arguments import as_integer, shown
from ray_lance.errors import InvalidArgumentError
from ray_lance.forks import check_process, is_refused
from ray_lance.parallel import DataParallel, check_data_parallel, data_parallel_ranks
from ray_lance.torch.callers import refuse_sharding_of_part
from ray_lance.torch.shared import is_spawning

__all__ = ["Placement", "Placing", "Worker", "current_worker", "find_placement", "given_placement", "mesh_placement"]


class Placement(NamedTuple):
    """One training process among all of them."""

    rank: int = 0
    world_size: int = 1


class Worker(NamedTuple):
    """One process of a DataLoader among its ``size`` workers, or (not ``of_loader``) the training process itself."""

    number: int = 0
    size: int = 1
    of_loader: bool = False


def given_placement(rank: int | None, world_size: int | None) -> Placement | None:
    """The placement that the arguments give, if they do.

    Raises:
        InvalidArgumentError: Only one of them is given, or the rank is not less than the world size.
    """
    if rank is None and world_size is None:
        return None
    if rank is None or world_size is None:
        raise InvalidArgumentError(
            f"rank={shown(rank)}, world_size={shown(world_size)}: give both, or neither to have them found"
        )
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


def mesh_placement(mesh: Any, dims: str | int | Sequence[str | int] | None) -> Placement:
    """The placement of this rank along some dimensions of a ``torch.distributed.DeviceMesh``.

    Args:
        mesh: The mesh, of which this process is a rank.
        dims: Names or numbers of the dimensions whose ranks read different rows, the outermost first; None if the mesh
            has only one.

    Raises:
        InvalidArgumentError: There are no such dimensions, or this process is not a rank of the mesh.
    """
    if not callable(getattr(mesh, "get_coordinate", None)):
        raise InvalidArgumentError(f"device_mesh={mesh!r} must be a torch.distributed.DeviceMesh")
    coordinate = mesh.get_coordinate()
    if coordinate is None:
        raise InvalidArgumentError(f"device_mesh={mesh!r}: this process is not a rank of the mesh")
    rank, size = 0, 1
    for dim in _dims_of(mesh, dims):
        rank, size = rank * mesh.size(dim) + coordinate[dim], size * mesh.size(dim)
    return Placement(rank, size)


def _dims_of(mesh: Any, dims: str | int | Sequence[str | int] | None) -> list[int]:
    if dims is None and mesh.ndim == 1:
        return [0]
    names = list(mesh.mesh_dim_names or ())
    by_name: dict[Any, int] = {number: number for number in range(mesh.ndim)}
    by_name |= {name: number for number, name in enumerate(names)}
    wanted = [dims] if isinstance(dims, (str, int)) or dims is None else list(dims)
    numbers = [by_name[dim] for dim in wanted if dim in by_name]
    if not numbers or len(set(numbers)) < len(wanted):
        raise InvalidArgumentError(
            f"dp_dim={shown(dims)} must name the dimensions of device_mesh along which ranks read different rows, such "
            f"as 'dp' or ('replicate', 'shard'): it has {names or mesh.ndim}"
        )
    return numbers


class Placing:
    """Finds the rank for which a dataset reads, in the process that reads.

    Args:
        given: The rank, if the caller has given it.
        data_parallel: Which ranks read the same rows.

    Raises:
        InvalidArgumentError: ``data_parallel`` is no grouping of the ranks.
    """

    def __init__(self, given: Placement | None, data_parallel: DataParallel | None) -> None:
        check_data_parallel(data_parallel)
        self._data_parallel = data_parallel
        self._given = None if given is None else self._among_groups(given)
        self._of_trainer: Placement | None = None

    @property
    def is_given(self) -> bool:
        """Whether the caller has given the rank, so that it is the same in every process."""
        return self._given is not None

    def find(self) -> Placement | None:
        """This process among those that read different rows; None where no others are known."""
        if self._given is not None:
            return self._given
        if self._of_trainer is not None and get_worker_info() is not None:
            return self._of_trainer
        found = find_placement()
        return None if found is None else self._among_groups(found)

    def _among_groups(self, placement: Placement) -> Placement:
        if self._data_parallel is None:
            return placement
        ranks = data_parallel_ranks(self._data_parallel, placement.world_size)
        return Placement(ranks[placement.rank], max(ranks) + 1)

    def __getstate__(self) -> dict[str, Any]:
        # Workers of a loader have no process group and are told the rank; spawned ranks have one and ask that.
        found = self.find() if is_spawning() else None
        refuse_sharding_of_part(sys._getframe(1), (found or Placement()).world_size)
        return {**self.__dict__, "_of_trainer": found}


def current_worker() -> Worker:
    """The DataLoader worker that this process is.

    Raises:
        InvalidArgumentError: The process was forked, and Lance's threads do not survive a fork.
    """
    info = get_worker_info()
    if info is None:
        check_process()
        return Worker()
    if is_refused():
        raise InvalidArgumentError(
            "multiprocessing_context='fork': Lance's threads do not survive a fork, and the worker would hang. Use "
            "ray_lance.torch.make_loader, DataLoader(..., multiprocessing_context='spawn') or "
            'torch.multiprocessing.set_start_method("spawn")'
        )
    return Worker(info.id, info.num_workers, of_loader=True)
