"""Frameworks that share out batches among ranks, which a dataset that knows its rank has done already.

Nothing tells a dataset how a loader was made, so it looks at who calls it.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from types import FrameType

from ray_lance.errors import InvalidArgumentError

__all__ = ["refuse_dispatch", "refuse_second_shard"]

_ACCELERATE = "accelerate.data_loader"
_WAY_OUT = (
    "Leave the loader out of accelerator.prepare: each rank then reads its own rows. Or give the dataset rank=0 and "
    "world_size=1 and prepare it with dispatch_batches=True: process 0 then reads for all"
)


def refuse_dispatch(caller: FrameType, world_size: int) -> None:
    """Refuse a loader of Accelerate that hands out what process 0 reads, where that is only its own part.

    Args:
        caller: Who iterates over the dataset, or sends it to workers.
        world_size: Ranks among which the dataset has shared out its rows.

    Raises:
        InvalidArgumentError: It is such a loader, and there are several ranks.
    """
    if world_size > 1 and _ACCELERATE in sys.modules and any(map(_is_dispatcher, _callers(caller))):
        raise InvalidArgumentError(
            f"accelerator.prepare(loader) with dispatch_batches hands out what process 0 reads, and this dataset reads "
            f"one of {world_size} parts there: the others would be lost. {_WAY_OUT}"
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


def _is_dispatcher(frame: FrameType) -> bool:
    return (
        frame.f_globals.get("__name__") == _ACCELERATE
        and type(frame.f_locals.get("self")).__name__ == "DataLoaderDispatcher"
    )
