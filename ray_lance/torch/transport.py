"""Batches on their way from a DataLoader's worker to its process: one piece of shared memory for all tensors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.utils.data import get_worker_info

__all__ = ["packed"]

_ALIGNMENT = 64


def packed(batch: Any) -> Any:
    """The batch as a DataLoader's worker is to send it; anywhere else, and if it is no dict, as it is."""
    return _SharedBatch(batch) if type(batch) is dict and get_worker_info() is not None else batch


class _SharedBatch(dict[str, Any]):
    """A batch whose tensors share one piece of memory once it is pickled; unpickles as a plain dict.

    Torch sends each tensor's memory as a file descriptor, which the receiver has to ask for over a connection of its
    own: about a millisecond for each column, more than a batch takes to read from memory.
    """

    def __reduce__(self) -> tuple[Callable[..., dict[str, Any]], tuple[Any, ...]]:
        layout: dict[str, tuple[torch.dtype, torch.Size, int]] = {}
        size = 0
        for name, value in self.items():
            if _is_plain(value):
                layout[name] = (value.dtype, value.shape, size)
                size += -(-value.nbytes // _ALIGNMENT) * _ALIGNMENT
        shared = torch.UntypedStorage._new_shared(max(1, size))  # type: ignore[no-untyped-call]
        memory = torch.empty(0, dtype=torch.uint8).set_(shared)
        for name, view in _views(memory, layout).items():
            view.copy_(self[name])
        others = {name: value for name, value in self.items() if name not in layout}
        return _unpacked, (memory, layout, others, list(self))


def _is_plain(value: Any) -> bool:
    return (
        type(value) is torch.Tensor
        and value.layout == torch.strided
        and value.device.type == "cpu"
        and not value.is_nested
        and not value.requires_grad
    )


def _views(memory: torch.Tensor, layout: dict[str, tuple[torch.dtype, torch.Size, int]]) -> dict[str, torch.Tensor]:
    return {
        name: memory[start : start + shape.numel() * dtype.itemsize].view(dtype).view(shape)
        for name, (dtype, shape, start) in layout.items()
    }


def _unpacked(
    memory: torch.Tensor,
    layout: dict[str, tuple[torch.dtype, torch.Size, int]],
    others: dict[str, Any],
    names: list[str],
) -> dict[str, Any]:
    values = {**_views(memory, layout), **others}
    return {name: values[name] for name in names}
