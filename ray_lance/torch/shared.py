"""Numbers that a training process has in common with the workers of its DataLoaders, and with nobody else."""

from __future__ import annotations

import multiprocessing.context
from typing import Any

import torch
from torch.utils.data import get_worker_info

__all__ = ["SharedNumbers", "is_spawning"]


def is_spawning() -> bool:
    """Whether this process is pickling something for a child process that it starts."""
    return multiprocessing.context.get_spawning_popen() is not None


class SharedNumbers:
    """A row of numbers in shared memory.

    Torch gives each worker its own copy of a dataset. A tensor is the one thing that keeps its memory shared on the
    way. Ranks are spawned like workers, and the same happens to what they are given; but they train on their own, and
    what they do is not to be seen in others. Only in the child itself can the two be told apart, once it has begun: so
    the tensor and its values both travel, and the child takes whichever it needs.

    Args:
        values: What the numbers are to begin with; int64 or float64, shape ``(n,)``.
        inherited: How many of them, the first ones, a rank takes over; the others are zero there.
    """

    def __init__(self, values: torch.Tensor, inherited: int) -> None:
        self._values, self._inherited = values, inherited
        self._sent: list[Any] | None = None
        self._copies = 0

    @property
    def values(self) -> torch.Tensor:
        """The numbers, to be read and written."""
        if self._sent is not None and get_worker_info() is None:
            self._values = torch.zeros_like(self._values)
            self._values[: self._inherited] = torch.tensor(self._sent, dtype=self._values.dtype)
            self._sent, self._copies = None, 0
        return self._values

    @property
    def copy_number(self) -> int:
        """In a worker: its copy among all that its training process has made, from 1 in their order; else 0."""
        return self._copies if self._sent is not None and get_worker_info() is not None else 0

    def __getstate__(self) -> dict[str, Any]:
        values = self.values
        if is_spawning():
            self._copies += 1
            return {**self.__dict__, "_sent": values[: self._inherited].tolist()}
        # A copy for another place counts on its own.
        return {**self.__dict__, "_values": values.clone(), "_copies": 0}
