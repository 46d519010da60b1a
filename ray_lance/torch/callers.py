"""Refuses loaders that would stack a dataset's batches, or share them out among ranks once more.

The frame that calls a dataset comes in, an error goes out: nothing else tells a dataset how a loader was made.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from types import FrameType
from typing import Any

from torch.utils.data import default_collate

from ray_lance.errors import InvalidArgumentError

__all__ = ["refuse_batch_sharding", "refuse_sharding_of_part", "refuse_stacking"]

_ACCELERATE = "accelerate.data_loader"
_MODULES = (_ACCELERATE, "transformers.trainer_pt_utils")
_WAY_OUT = (
    "Leave the loader out of accelerator.prepare: each rank then reads its own rows. Or give the dataset rank=0 and "
    "world_size=1 and prepare it with dispatch_batches=True: process 0 then reads for all"
)


def refuse_stacking(caller: FrameType, batch_size: int) -> None:
    """Refuse a ``DataLoader`` that would stack whole batches, as it does unless told otherwise.

    Args:
        caller: The frame that iterates over the dataset.
        batch_size: Rows of the dataset's batches.

    Raises:
        InvalidArgumentError: It is such a loader with torch's own collation, or one of ``transformers.Trainer``.
    """
    if caller.f_globals.get("__name__") != "torch.utils.data._utils.fetch":
        return
    if not caller.f_locals.get("auto_collation"):
        return
    collate_fn = caller.f_locals.get("collate_fn")
    if collate_fn is default_collate:
        raise InvalidArgumentError(
            f"DataLoader(batch_size=...): the dataset's batches of {batch_size} rows are batches already, and the "
            f"loader would stack them to shape (1, {batch_size}, ...). Make it with batch_size=None, or with "
            "ray_lance.torch.make_loader(dataset)"
        )
    if _home(collate_fn).partition(".")[0] == "transformers":
        raise InvalidArgumentError(
            f"transformers.Trainer makes batches of its own, and the dataset's batches of {batch_size} rows are "
            "batches already. Give it a LanceMapDataset, or override its get_train_dataloader and return "
            "ray_lance.torch.make_loader(dataset) as it is, without accelerator.prepare"
        )


def refuse_sharding_of_part(caller: FrameType, world_size: int) -> None:
    """Refuse a framework that shares out among ranks a dataset which reads only its own rank's part.

    Args:
        caller: The frame that iterates over the dataset, or pickles it for workers; other datasets may wrap it.
        world_size: Ranks among which the dataset shares out its rows.

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


def refuse_batch_sharding(caller: FrameType) -> None:
    """Refuse ``accelerator.prepare`` without dispatching, which would take batches for rows and share those out.

    Args:
        caller: The frame that asks for the dataset's ``generator``, as Accelerate does before it shards a dataset.

    Raises:
        InvalidArgumentError: It is Accelerate.
    """
    if caller.f_globals.get("__name__") == _ACCELERATE:
        raise InvalidArgumentError(
            f"accelerator.prepare(loader) with dispatch_batches=False shards the dataset's batches as if they were "
            f"rows. {_WAY_OUT}"
        )


def _home(function: Any) -> str:
    """The module of a function, or of a callable object's class."""
    return str(getattr(function, "__module__", None) or type(function).__module__)


def _callers(frame: FrameType | None) -> Iterator[FrameType]:
    while frame is not None:
        yield frame
        frame = frame.f_back


def _sharder(frame: FrameType) -> Any:
    """The object whose method runs in a frame of the modules that shard; None in other frames."""
    return frame.f_locals.get("self") if frame.f_globals.get("__name__") in _MODULES else None
