"""Hands out epochs: an iteration that begins in, the epoch that it reads out, the same in all workers of a loader."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch

from ray_lance.errors import InvalidArgumentError
from ray_lance.torch.ranks import Worker
from ray_lance.torch.shared import SharedNumbers

__all__ = ["Claim", "EpochCounter"]

_NEXT, _PENDING, _BEGUN, _RESUMES, _REPORTED, _SLOTS = range(6)
_SLOT, _NUM_SLOTS = 3, 256
_NONE = -1
_LARGEST = 2**62
_PATIENCE_S = 300.0


class Claim(NamedTuple):
    """What an iteration reads.

    Attributes:
        epoch: The epoch.
        resumes: Whether it resumes from a loaded state, rather than beginning at the first row.
    """

    epoch: int
    resumes: bool = False


class EpochCounter:
    """Counts the iterations of a dataset, in one process or in all workers of its DataLoaders together.

    The next epoch is in shared memory. Torch keeps the workers' copies of a dataset for the next iteration (persistent
    workers) or makes new ones. Worker 0 takes the epoch and writes which one it took; the others read that. In the same
    way they agree on whether the iteration resumes from a state that the training process has loaded, which happens
    once. For a loader that announces its passes the training process takes the epoch: then several loaders get theirs
    in the order in which they are iterated, whichever of their workers begins first.

    Args:
        epoch: The first epoch.
        step: How much each iteration adds; 0 reads the same epoch each time.
    """

    def __init__(self, epoch: int, step: int = 1) -> None:
        numbers = torch.zeros(_SLOTS + _SLOT * _NUM_SLOTS, dtype=torch.int64)
        numbers[_NEXT], numbers[_BEGUN] = epoch, _NONE
        self._shared = SharedNumbers(numbers, inherited=_SLOTS)
        self._step = step
        self._passes = 0
        self._groups, self._announced_group = 0, 0

    def set_next(self, epoch: int, *, is_loaded: bool = False) -> None:
        """Let the next iteration read ``epoch``, also in running workers; from a loaded state or from its beginning.

        Raises:
            InvalidArgumentError: The number is too large for shared memory.
        """
        if epoch > _LARGEST:
            raise InvalidArgumentError(f"epoch={epoch} must be at most {_LARGEST}")
        numbers = self._shared.values
        numbers[_NEXT], numbers[_PENDING], numbers[_BEGUN] = epoch, is_loaded, _NONE

    @property
    def next(self) -> int:
        """The epoch that the next iteration reads."""
        return int(self._shared.values[_NEXT])

    @property
    def begun(self) -> Claim | None:
        """What the iteration that began last reads; None if the next epoch has been set since."""
        epoch, resumes = self._shared.values[_BEGUN : _RESUMES + 1].tolist()
        return None if epoch == _NONE else Claim(epoch, bool(resumes))

    def after(self, epoch: int) -> int:
        """The epoch that follows."""
        return epoch + self._step

    def claim(self, worker: Worker, *, has_state: bool) -> Claim:
        """What the iteration that begins now reads, the same for all workers.

        Args:
            worker: The worker that asks.
            has_state: Whether this copy of the dataset holds a loaded state.

        Raises:
            InvalidArgumentError: A state was loaded, but not in this copy.
        """
        self._passes += 1
        # Copies are numbered as workers are started, so copy number - worker number is the same in all of a loader.
        group = self._announced_group or self._shared.copy_number - worker.number
        if worker.number == 0 and not self._announced_group:
            self._write(group, self._passes, self._take())
        claim = self._read(group, self._passes)
        if claim.resumes and not has_state:
            raise InvalidArgumentError(
                "load_state_dict was called after the workers of the DataLoader had started, which it does not reach: "
                "load the state first and make the loader then"
            )
        return claim

    def new_group(self) -> int:
        """A number that identifies the workers that a loader is about to start."""
        self._groups += 1
        return -self._groups

    @contextmanager
    def announced(self, group: int, number: int) -> Iterator[None]:
        """Take the epoch for a group of workers, and tell their group to those that are started in this context.

        Args:
            group: What :meth:`new_group` returned.
            number: Number of their pass, from 1; each is announced.
        """
        self._write(group, number, self._take())
        self._announced_group = group
        try:
            yield
        finally:
            self._announced_group = 0

    def follow(self, worker: Worker, epoch: int) -> None:
        """Count an iteration of ``epoch`` for which each worker has loaded its own state."""
        self._passes += 1
        if worker.number == 0:
            self.set_next(self.after(epoch))

    def is_first_report(self, world_size: int) -> bool:
        """Whether this is called for the first time with so many ranks, here or in a worker."""
        numbers = self._shared.values
        is_first = int(numbers[_REPORTED]) != world_size
        numbers[_REPORTED] = world_size
        return is_first

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_passes": 0}

    def _take(self) -> Claim:
        numbers = self._shared.values
        claim = Claim(self.next, bool(numbers[_PENDING]))
        self.set_next(self.after(claim.epoch))
        numbers[_RESUMES], numbers[_BEGUN] = claim.resumes, claim.epoch
        return claim

    def _write(self, group: int, number: int, claim: Claim) -> None:
        numbers, key, slot = self._shared.values, *_slot(group, number)
        numbers[slot + 1], numbers[slot + 2] = claim
        numbers[slot] = key  # last: it tells readers that the other two are there

    def _read(self, group: int, number: int) -> Claim:
        numbers, key, slot = self._shared.values, *_slot(group, number)
        deadline = time.monotonic() + _PATIENCE_S
        while int(numbers[slot]) != key:
            if time.monotonic() > deadline:
                raise RuntimeError(f"worker 0 of the DataLoader has not begun its epoch within {_PATIENCE_S:.0f} s")
            time.sleep(0.001)
        return Claim(int(numbers[slot + 1]), bool(numbers[slot + 2]))


def _slot(group: int, number: int) -> tuple[int, int]:
    """The key of a group's pass, and the index in shared memory where its claim is written."""
    # Not hash((group, number)): hash(-1) is hash(-2), and two loaders would read one claim.
    return (group << 32) + number, _SLOTS + _SLOT * ((31 * group + number) % _NUM_SLOTS)
