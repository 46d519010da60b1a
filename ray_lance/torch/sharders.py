"""Frameworks that share out batches among ranks, which a dataset that knows its rank has done already.

Nothing tells a dataset how a loader was made, so it looks at who calls it.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from types import FrameType
from typing import Any

from ray_lance.errors import InvalidArgumentError

__all__ = ["refuse_second_shard", "refuse_shard_of_a_part"]

_ACCELERATE = "accelerate.data_loader"
_MODULES = (_ACCELERATE, "transformers.trainer_pt_utils")
_WAY_OUT = (
    "Leave the loader out of accelerator.prepare: each rank then reads its own rows. Or give the dataset rank=0 and "
    "world_size=1 and prepare it with dispatch_batches=True: process 0 then reads for all"
)


def refuse_shard_of_a_part(caller: FrameType, world_size: int) -> None:
    """Refuse to be shared out among ranks by a framework, where the dataset reads only its own rank's part.

    Args:
        caller: Who iterates over the dataset, or sends it to workers; datasets that wrap it may lie between.
        world_size: Ranks among which the dataset has shared out its rows.

    Raises:
        InvalidArgumentError: A loader of Accelerate hands out what process 0 reads, or an ``IterableDatasetShard`` of
            Accelerate or Transformers takes each rank's share; and there are several ranks.
    """
    if world_size == 1 or sys.modules.keys().isdisjoint(_MODULES):
        return
    for sharder in map(_sharder, _callers(caller)):
        kind = type(sharder).__name__
        if kind == "DataLoaderDispatcher":
            raise InvalidArgumentError(
                f"accelerator.prepare(loader) with dispatch_batches hands out what process 0 reads, and this dataset "
                f"reads one of {world_size} parts there: the others would be lost. {_WAY_OUT}"
            )
        if kind == "IterableDatasetShard" and sharder.num_processes > 1:
            raise InvalidArgumentError(
                f"{type(sharder).__module__}.{kind}, by which accelerator.prepare(loader) with dispatch_batches=False "
                f"shares out what each process reads, would keep one of {sharder.num_processes} shares of what is one "
                f"of {world_size} parts already: the rest would be lost. {_WAY_OUT}"
            )


def refuse_second_shard(caller: FrameType) -> None:
    """Refuse ``accelerator.prepare`` without dispatching, which takes each rank's part of the batches' rows once more.

    Args:
        caller: Who asks for the dataset's ``generator``, as Accelerate does where it is about to do that.

    Raises:
        InvalidArgumentError: It is Accelerate.
    """
    if caller.f_globals.get("__name__") == _ACCELERATE:
        raise InvalidArgumentError(
            f"accelerator.prepare(loader) with dispatch_batches=False shards the dataset's batches as if they were "
            f"rows. {_WAY_OUT}"
        )


def _callers(frame: FrameType | None) -> Iterator[FrameType]:
    while frame is not None:
        yield frame
        frame = frame.f_back


def _sharder(frame: FrameType) -> Any:
    """The object whose method runs in a frame of the modules that shard; None in other frames."""
    return frame.f_locals.get("self") if frame.f_globals.get("__name__") in _MODULES else None
