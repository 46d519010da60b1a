"""Numbers that a training process shares with the workers of its DataLoaders, and with no other process."""

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

    Torch pickles a copy of a dataset for each worker; only tensors stay shared on the way. Spawned ranks get copies in
    the same way, but they train independently and must not see each other's numbers. Only the child process itself can
    tell whether it is a worker or a rank, once it runs: so both the tensor and its values are sent, and the child uses
    whichever it needs.

    Args:
        values: The initial numbers: int64 or float64, shape ``(n,)``.
        inherited: How many of them, from the first on, a rank inherits; the others are zero there.
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
        """In a worker: the number of its copy among all that its training process has made, from 1; else 0."""
        return self._copies if self._sent is not None and get_worker_info() is not None else 0

    def __getstate__(self) -> dict[str, Any]:
        values = self.values
        if is_spawning():
            self._copies += 1
            return {**self.__dict__, "_sent": values[: self._inherited].tolist()}
        # Any other copy counts independently.
        return {**self.__dict__, "_values": values.clone(), "_copies": 0}
