"""Ray's own collation, as each of its releases is asked for one tensor per column."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from ray.data.collate_fn import DefaultCollateFn

__all__ = ["rays_collation"]


def rays_collation(**options: Any) -> DefaultCollateFn:
    """Make tensors of all chunks of a column together, which Ray 2.56 does where tensors stay on the CPU."""
    if "combine_chunks" in inspect.signature(DefaultCollateFn).parameters:
        return DefaultCollateFn(combine_chunks=True, **options)
    return DefaultCollateFn(device=torch.device("cpu"), **options)
