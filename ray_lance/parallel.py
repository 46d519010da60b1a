"""Groups ranks that read the same rows: a grouping and the world size in, the data-parallel rank of each rank out.

Tensor, context and pipeline parallelism split a model over several ranks. The ranks of such a group get equal batches,
and the data is shared out among groups.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence, Sized
from numbers import Integral
from typing import TypeAlias

import numpy as np

from ray_lance.arguments import as_count, as_integer, shown
from ray_lance.errors import InvalidArgumentError

__all__ = ["DataParallel", "check_data_parallel", "data_parallel_ranks"]

DataParallel: TypeAlias = int | Sequence[int] | Mapping[int, int] | Callable[[int, int], int]
"""The number of data-parallel ranks, each of them a run of neighbouring ranks; or the data-parallel rank of each rank:
a list, a dict by rank, or a function of rank and world size."""


def check_data_parallel(data_parallel: object) -> None:
    """Refuse a grouping that is wrong for any world size, before that is known.

    Raises:
        InvalidArgumentError: It is of another type, less than 1, or its entries leave out a data-parallel rank.
    """
    if data_parallel is None or callable(data_parallel):
        return
    if isinstance(data_parallel, Integral) and not isinstance(data_parallel, bool):
        as_count("data_parallel", data_parallel)
        return
    size = len(data_parallel) if isinstance(data_parallel, Sized) else 1
    data_parallel_ranks(data_parallel, max(size, 1))  # type: ignore[arg-type]


def data_parallel_ranks(data_parallel: DataParallel, world_size: int) -> tuple[int, ...]:
    """The data-parallel rank of every rank.

    Args:
        data_parallel: How ranks are grouped.
        world_size: Number of ranks.

    Returns:
        One entry for each rank: 0 to the number of groups - 1, each of which occurs.

    Raises:
        InvalidArgumentError: It does not have one entry for each rank, or leaves out a data-parallel rank.
    """
    ranks = _ranks(data_parallel, world_size)
    groups = set(ranks)
    if groups != set(range(len(groups))):
        raise InvalidArgumentError(
            f"data_parallel={shown(data_parallel)} gives ranks 0 to {world_size - 1} the data-parallel ranks "
            f"{list(ranks)}: these must be 0 to their number - 1, with none left out"
        )
    return ranks


def _ranks(data_parallel: DataParallel, world_size: int) -> tuple[int, ...]:
    if callable(data_parallel):
        return tuple(_as_rank(rank, data_parallel(rank, world_size)) for rank in range(world_size))
    if isinstance(data_parallel, Integral) and not isinstance(data_parallel, bool):
        return _neighbours(int(data_parallel), world_size)
    if isinstance(data_parallel, str) or not isinstance(data_parallel, (Sequence, Mapping, np.ndarray)):
        raise InvalidArgumentError(
            f"data_parallel={shown(data_parallel)} must be the number of data-parallel ranks, or the data-parallel "
            "rank of each rank: a list such as [0, 0, 1, 1], a dict by rank, or a function of rank and world size"
        )
    keys = set(data_parallel) if isinstance(data_parallel, Mapping) else set(range(len(data_parallel)))
    if keys != set(range(world_size)):
        raise InvalidArgumentError(
            f"data_parallel={shown(data_parallel)} must have one entry for each of the {world_size} ranks, 0 to "
            f"{world_size - 1}"
        )
    return tuple(_as_rank(rank, data_parallel[rank]) for rank in range(world_size))


def _neighbours(groups: int, world_size: int) -> tuple[int, ...]:
    if groups < 1 or world_size % groups:
        raise InvalidArgumentError(
            f"data_parallel={groups} must divide world_size={world_size}: it is the number of data-parallel ranks, "
            "which have equally many ranks. Where these are not neighbours, give the data-parallel rank of each rank"
        )
    return tuple(rank // (world_size // groups) for rank in range(world_size))


def _as_rank(rank: int, value: object) -> int:
    return as_integer(f"data_parallel of rank {rank}", value)
