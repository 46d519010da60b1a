"""Sends batches from a DataLoader's worker: a dict of tensors in, one piece of shared memory for many of them out."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch.utils.data import get_worker_info

__all__ = ["packed"]

_ALIGNMENT = 64
# Larger tensors are sent alone: sending costs little in comparison, and whoever kept another column would keep them.
_LARGEST_BYTES = 2**20
# Smaller tensors are copied where they arrive, for the same reason: labels are often kept for a whole epoch.
_COPIED_BYTES = 2**16


class _Location(NamedTuple):
    """Where a tensor is in a piece of memory."""

    dtype: torch.dtype
    shape: torch.Size
    start: int

    def tensor(self, memory: torch.Tensor) -> torch.Tensor:
        """The tensor, with a storage of only its bytes: pickling it does not pickle its neighbours."""
        flat = torch.frombuffer(memory.numpy(), dtype=self.dtype, count=self.shape.numel(), offset=self.start)
        return flat.view(self.shape)


def packed(batch: Any) -> Any:
    """The batch as a DataLoader's worker should send it; elsewhere, and if it is no dict, the batch itself."""
    return _PackedBatch(batch) if type(batch) is dict and get_worker_info() is not None else batch


class _PackedBatch(dict[str, Any]):
    """A batch whose smaller tensors are sent in one piece of memory; it arrives as a plain dict.

    Torch sends the memory of each tensor as a file descriptor, for which the receiver opens a connection: about a
    millisecond for each column, more than reading a batch from memory takes.
    """

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        locations: dict[str, _Location] = {}
        size = 0
        for name, value in self.items():
            if _can_be_packed(value):
                locations[name] = _Location(value.dtype, value.shape, size)
                size += -(-value.nbytes // _ALIGNMENT) * _ALIGNMENT
        if not locations:
            return dict, (dict(self),)
        shared = torch.UntypedStorage._new_shared(size)  # type: ignore[no-untyped-call]
        memory = torch.empty(0, dtype=torch.uint8).set_(shared)
        for name, location in locations.items():
            location.tensor(memory).copy_(self[name])
        others = {name: value for name, value in self.items() if name not in locations}
        return _unpacked, (memory, locations, others, list(self))


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
    memory: torch.Tensor, locations: dict[str, _Location], others: dict[str, Any], names: list[str]
) -> dict[str, Any]:
    tensors = {name: location.tensor(memory) for name, location in locations.items()}
    for name, tensor in tensors.items():
        if tensor.nbytes < _COPIED_BYTES:
            tensors[name] = tensor.clone()
    return {name: tensors.get(name, others.get(name)) for name in names}
