"""Batches of a Ray dataset as tensors, for every type that Lance stores."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import torch
from ray.data.collate_fn import ArrowBatchCollateFn

from ray_lance.errors import InvalidArgumentError, UnknownColumnError
from ray_lance.tensors import FillValue, Ragged, Tensors, to_tensors

__all__ = ["TensorCollate"]


@dataclass(frozen=True)
class TensorCollate(ArrowBatchCollateFn):
    """A ``collate_fn`` for ``iter_torch_batches`` around :func:`ray_lance.tensors.to_tensors`.

    Needed for columns that Ray's own collation cannot carry: strings, binary, ragged lists, times, decimals,
    dictionaries, bfloat16, structs, and nulls that need ``fill``. Zero-copy where the memory layout allows, so
    treat its tensors as read-only. Safe to call from several threads.

    Ray moves a batch to the training device only where all of its columns are tensors; a batch that holds lists
    (strings, say) is moved by ``device`` here.

    Attributes:
        ragged: What ragged columns become: ``"nested"``, ``"pad"`` or ``"list"``.
        fill: What replaces nulls: one value, or one by column name.
        dtypes: What tensors are converted to: one dtype for all floating-point tensors, or one by column name for
            tensors of any dtype.
        device: Where tensors are moved; None leaves it to Ray.
        pin_memory: Whether CPU tensors are copied to page-locked memory first, which needs CUDA.

    Example:
        >>> ds.iter_torch_batches(batch_size=1024, collate_fn=TensorCollate(ragged="pad"))  # doctest: +SKIP
    """

    ragged: Ragged = "nested"
    fill: FillValue | Mapping[str, FillValue] | None = None
    dtypes: torch.dtype | Mapping[str, torch.dtype] | None = None
    device: str | torch.device | None = None
    pin_memory: bool = False

    def __post_init__(self) -> None:
        if self.ragged not in ("nested", "pad", "list"):
            raise InvalidArgumentError(f"ragged={self.ragged!r} must be 'nested', 'pad' or 'list'")
        if self.pin_memory and not torch.cuda.is_available():
            raise InvalidArgumentError("pin_memory=True needs CUDA, and this process sees no CUDA device: leave it out")

    @property
    def is_short(self) -> bool:
        """Whether collating is little work: tensors are neither converted nor padded nor moved."""
        return self.dtypes is None and self.ragged != "pad" and self.device is None and not self.pin_memory

    def __call__(self, batch: pa.Table) -> Tensors:
        """Tensors and lists by column name (see :func:`ray_lance.tensors.to_tensors`).

        Raises:
            TensorConversionError: A column that cannot become a tensor the way it was asked for.
            UnknownColumnError: ``dtypes`` or ``fill`` names a column that the batch does not have.
        """
        tensors = to_tensors(batch, ragged=self.ragged, fill=self.fill)
        if isinstance(self.dtypes, Mapping):
            for name in self.dtypes:
                if not isinstance(tensors.get(name), torch.Tensor):
                    held = [key for key, value in tensors.items() if isinstance(value, torch.Tensor)]
                    raise UnknownColumnError("dtypes", name, held)
        if self.dtypes is None and self.device is None and not self.pin_memory:
            return tensors
        return {name: self._placed(name, value) for name, value in tensors.items()}

    def _placed(self, name: str, value: Any) -> Any:
        """``value``, or every tensor in it at any depth, in the dtype and the place asked for."""
        if isinstance(value, list):
            return [self._placed(name, item) for item in value]
        if not isinstance(value, torch.Tensor):
            return value
        value = self._converted(name, value)
        if self.pin_memory and value.device.type == "cpu":
            value = value.pin_memory()
        return value if self.device is None else value.to(self.device, non_blocking=self.pin_memory)

    def _converted(self, name: str, tensor: torch.Tensor) -> torch.Tensor:
        if isinstance(self.dtypes, Mapping):
            return tensor.to(self.dtypes[name]) if name in self.dtypes else tensor
        return tensor.to(self.dtypes) if self.dtypes is not None and tensor.is_floating_point() else tensor
