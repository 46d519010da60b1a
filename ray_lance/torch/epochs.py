"""Which epoch an iteration reads, agreed on between a training process and the workers of its DataLoader."""

from __future__ import annotations

import multiprocessing.context
import time
from typing import Any

import torch

from ray_lance.errors import InvalidArgumentError
from ray_lance.torch.ranks import Worker

__all__ = ["EpochCounter", "is_spawning"]

_PASSES = 64
_NEXT, _PENDING, _FIRST_SLOT, _SLOT = 0, 1, 2, 3
_PATIENCE_S = 300.0


def is_spawning() -> bool:
    """Whether this process is pickling something for a child process that it starts."""
    return multiprocessing.context.get_spawning_popen() is not None


class EpochCounter:
    """Counts the iterations of a dataset, in one process or in all workers of its DataLoader together.

    Torch gives each worker its own copy of the dataset, kept for the next iteration (persistent workers) or made anew.
    A tensor is the one thing that keeps its memory shared on the way, so the next epoch stands in one. Worker 0 takes
    it and writes down which one it took; the others read that. The same way they agree on whether the iteration goes on
    from a state that the training process has loaded, which happens once.

    Args:
        epoch: The first one.
        step: What each iteration adds; 0 reads one epoch again and again.
    """

    def __init__(self, epoch: int, step: int = 1) -> None:
        self._cells = torch.zeros(_FIRST_SLOT + _SLOT * _PASSES, dtype=torch.int64)
        self._cells[_NEXT] = epoch
        self._step = step
        self._tickets = 0
        self._passes = 0

    def set_next(self, epoch: int, *, is_loaded: bool = False) -> None:
        """Let the next iteration read ``epoch``, in workers that run already too; from a loaded state or from 0."""
        self._cells[_NEXT] = epoch
        self._cells[_PENDING] = is_loaded

    @property
    def next(self) -> int:
        """What the next iteration reads."""
        return int(self._cells[_NEXT])

    def claim(self, worker: Worker, *, has_state: bool) -> tuple[int, bool]:
        """The epoch of the iteration that begins now, the same one for all workers.

        Args:
            worker: Who asks.
            has_state: Whether this copy of the dataset holds a loaded state.

        Returns:
            The epoch, and whether to go on from the loaded state.

        Raises:
            InvalidArgumentError: A state was loaded, but not in this copy.
        """
        self._passes += 1
        # Workers are started one after another: their tickets less their numbers name the iteration they are for.
        key = (self._tickets - worker.number) * 2**32 + self._passes
        slot = _FIRST_SLOT + _SLOT * (self._passes % _PASSES)
        if worker.number:
            return self._wait(slot, key)
        epoch, is_pending = self.next, bool(self._cells[_PENDING])
        if is_pending and not has_state:
            raise InvalidArgumentError(
                "load_state_dict was called after the workers of the DataLoader had started, which it does not reach: "
                "load the state first and make the loader then"
            )
        self.set_next(epoch + self._step)
        self._cells[slot + 1], self._cells[slot + 2] = epoch, is_pending
        self._cells[slot] = key
        return epoch, is_pending

    def follow(self, worker: Worker, epoch: int) -> None:
        """Count an iteration of ``epoch`` for which every worker has loaded a state of its own."""
        self._passes += 1
        if worker.number == 0:
            self.set_next(epoch + self._step)

    def _wait(self, slot: int, key: int) -> tuple[int, bool]:
        deadline = time.monotonic() + _PATIENCE_S
        while int(self._cells[slot]) != key:
            if time.monotonic() > deadline:
                raise RuntimeError(f"worker 0 of the DataLoader has not begun its epoch within {_PATIENCE_S:.0f} s")
            time.sleep(0.001)
        return int(self._cells[slot + 1]), bool(self._cells[slot + 2])

    def __getstate__(self) -> dict[str, Any]:
        if is_spawning():
            self._tickets += 1
            return {**self.__dict__, "_passes": 0}
        # A copy for another place counts on its own.
        return {**self.__dict__, "_cells": self._cells.clone(), "_tickets": 0, "_passes": 0}
