"""Batches on their way from a DataLoader's worker to its process: few pieces of shared memory for many tensors."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch.utils.data import get_worker_info

__all__ = ["packed"]

_ALIGNMENT = 64
# What is larger travels alone: the way costs little beside it, and it would be held by whoever holds another column.
_LARGEST_BYTES = 2**20
# What is smaller is copied where it arrives, for the same reason: labels are often kept for a whole epoch.
_COPIED_BYTES = 2**16


class _Place(NamedTuple):
    """Where a tensor lies in a piece of memory."""

    dtype: torch.dtype
    shape: torch.Size
    start: int

    def tensor(self, memory: torch.Tensor) -> torch.Tensor:
        """It, with a storage of its own extent: pickling it does not pickle its neighbours."""
        flat = torch.frombuffer(memory.numpy(), dtype=self.dtype, count=self.shape.numel(), offset=self.start)
        return flat.view(self.shape)


def packed(batch: Any) -> Any:
    """The batch as a DataLoader's worker is to send it; anywhere else, and if it is no dict, as it is."""
    return _PackedBatch(batch) if type(batch) is dict and get_worker_info() is not None else batch


class _PackedBatch(dict[str, Any]):
    """A batch whose smaller tensors travel in one piece of memory; arrives as a plain dict.

    Torch sends each tensor's memory as a file descriptor, which the receiver has to ask for over a connection of its
    own: about a millisecond for each column, more than a batch takes to read from memory.
    """

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        places: dict[str, _Place] = {}
        size = 0
        for name, value in self.items():
            if _can_be_packed(value):
                places[name] = _Place(value.dtype, value.shape, size)
                size += -(-value.nbytes // _ALIGNMENT) * _ALIGNMENT
        if not places:
            return dict, (dict(self),)
        shared = torch.UntypedStorage._new_shared(size)  # type: ignore[no-untyped-call]
        memory = torch.empty(0, dtype=torch.uint8).set_(shared)
        for name, place in places.items():
            place.tensor(memory).copy_(self[name])
        others = {name: value for name, value in self.items() if name not in places}
        return _unpacked, (memory, places, others, list(self))


def _can_be_packed(value: Any) -> bool:
    return (
        type(value) is torch.Tensor
        and value.layout == torch.strided
        and value.device.type == "cpu"
        and not (value.is_nested or value.is_quantized or value.requires_grad or value.is_conj() or value.is_neg())
        and value.is_contiguous()
        and 0 < value.nbytes <= _LARGEST_BYTES
    )


def _unpacked(
    memory: torch.Tensor, places: dict[str, _Place], others: dict[str, Any], names: list[str]
) -> dict[str, Any]:
    tensors = {name: place.tensor(memory) for name, place in places.items()}
    for name, tensor in tensors.items():
        if tensor.nbytes < _COPIED_BYTES:
            tensors[name] = tensor.clone()
    return {name: tensors.get(name, others.get(name)) for name in names}
