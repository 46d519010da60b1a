"""Tensors of a shard's batches, converted and placed as ``iter_torch_batches`` of Ray Data does."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from ray.train.torch import get_device
from ray.train.utils import _in_ray_train_worker

from ray_lance.data.collate import TensorCollate

__all__ = ["torch_collate"]


def torch_collate(dtypes: Any, device: Any, pin_memory: bool) -> TensorCollate:
    """A ``collate_fn`` for the arguments of ``iter_torch_batches``.

    Args:
        dtypes: One dtype for all tensors, or one by column name.
        device: Where tensors go; ``"auto"`` is the device that Ray Train gave this worker, or else the CPU.
        pin_memory: Whether tensors go through page-locked memory.
    """
    return _ShardCollate(dtypes=dtypes, device=_transfer_device(device), pin_memory=pin_memory)


def _transfer_device(device: Any) -> torch.device | None:
    """The device that batches must be moved to; None for the CPU, where they are made."""
    if device == "auto":
        device = get_device() if _in_ray_train_worker() else "cpu"
    device = torch.device(device)
    if device.type == "cuda" and device.index is None:
        # Without an index it would be the current device of whichever thread collates.
        return torch.device("cuda", torch.cuda.current_device())
    return None if device.type == "cpu" else device


@dataclass(frozen=True)
class _ShardCollate(TensorCollate):
    """As ``TensorCollate``, but one dtype converts integers too, as Ray's own collation does."""

    def _converted(self, name: str, tensor: torch.Tensor) -> torch.Tensor:
        return tensor.to(self.dtypes) if isinstance(self.dtypes, torch.dtype) else super()._converted(name, tensor)
