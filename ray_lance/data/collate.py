"""Batches of a Ray dataset as tensors, for every type that Lance stores."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import pyarrow as pa
import torch
from ray.data.collate_fn import ArrowBatchCollateFn

from ray_lance.arguments import as_flag, shown
from ray_lance.errors import InvalidArgumentError, UnknownColumnError
from ray_lance.tensors import Categories, CategoryOption, FillValue, Ragged, Tensors, to_tensors
from ray_lance.tensors.categories import as_categories
from ray_lance.tensors.tensor_options import check_fill, check_ragged

__all__ = ["DefaultTensors", "PlacingCollate", "TensorCollate", "as_dict", "check_device", "moved"]


@dataclass(frozen=True)
class TensorCollate(ArrowBatchCollateFn):
    """A ``collate_fn`` for ``iter_torch_batches`` around :func:`ray_lance.tensors.to_tensors`.

    Needed where something other than the default is wanted, and for Ray datasets that :func:`ray_lance.read_lance` did
    not make, whose own collation carries neither strings, lists, times, decimals, categories, bfloat16 and structs nor
    nulls of integers. Zero-copy where the memory layout allows, so treat its tensors as read-only. Safe to call from
    several threads.

    Other Ray datasets move a batch to the training device only where all of its columns are tensors; a batch that holds
    lists (strings, say) is moved by ``device`` here. Where all of its columns are lists of tensors, theirs is no dict,
    but behaves like one: of a dict of such lists Ray would make one tensor for each list.

    Attributes:
        ragged: What ragged columns become: ``"nested"``, ``"pad"`` or ``"list"``.
        fill: What replaces nulls: one value, or one by column name.
        dtypes: What tensors are converted to: one dtype for all floating-point tensors, or one by column name for
            tensors of any dtype.
        device: Where tensors are moved; None leaves it to Ray.
        pin_memory: Whether CPU tensors are copied to page-locked memory first, which needs CUDA.
        categories: What dictionary-encoded columns become: ``"values"``, or ``"codes"``, which are of one dictionary
            for the whole pinned version (``dataset.categories``) and the same in every batch. Or lists of categories by
            column, whose codes columns become, whether they are dictionary-encoded or not.

    Example:
        >>> ds.iter_torch_batches(batch_size=1024, collate_fn=TensorCollate(ragged="pad"))  # doctest: +SKIP
    """

    ragged: Ragged = "nested"
    fill: FillValue | Mapping[str, FillValue] | None = None
    dtypes: torch.dtype | Mapping[str, torch.dtype] | None = None
    device: str | torch.device | None = None
    pin_memory: bool = False
    categories: CategoryOption = "values"

    def __post_init__(self) -> None:
        check_ragged(self.ragged)
        check_fill(self.fill)
        _check_dtypes(self.dtypes)
        check_device(self.device)
        object.__setattr__(self, "pin_memory", as_flag("pin_memory", self.pin_memory))
        if self.pin_memory and not torch.cuda.is_available():
            raise InvalidArgumentError("pin_memory=True needs CUDA, and this process sees no CUDA device: leave it out")
        object.__setattr__(self, "categories", as_categories(self.categories))

    @property
    def is_short(self) -> bool:
        """Whether collating is little work: tensors are neither converted nor padded nor moved."""
        return self.dtypes is None and self.ragged != "pad" and self.device is None and not self.pin_memory

    def __call__(self, batch: pa.Table) -> Tensors:
        """Tensors and lists by column name (see :func:`ray_lance.tensors.to_tensors`).

        Raises:
            TensorConversionError: A column that cannot become a tensor the way it was asked for.
            UnknownColumnError: ``dtypes``, ``fill`` or ``categories`` names a column that the batch does not have.
            InvalidArgumentError: ``categories="codes"`` for batches of a Ray dataset that does not know them.
        """
        tensors = self.tensors(batch)
        return _Unjoined(tensors) if _is_joined_by_ray(tensors) else tensors  # type: ignore[return-value]

    def tensors(self, batch: pa.Table) -> Tensors:
        """As calling it; a dict in any case."""
        if self.categories == "codes":
            raise InvalidArgumentError(
                "categories='codes': a batch alone does not tell which categories there are. Give those of the dataset "
                "that was read, categories=ray_lance.read_lance(...).categories, or lists by column"
            )
        tensors = to_tensors(batch, ragged=self.ragged, fill=self.fill, categories=self.categories)
        if self.dtypes is not None:
            self._check_dtypes(tensors)
            tensors = {name: _mapped(value, partial(self._converted, name)) for name, value in tensors.items()}
        if self.pin_memory:
            tensors = _mapped(tensors, lambda each: each.pin_memory() if each.device.type == "cpu" else each)
        return tensors if self.device is None else moved(tensors, self.device, non_blocking=self.pin_memory)

    def knowing(self, categories: Callable[[], Categories]) -> TensorCollate:
        """The same with the categories of a dataset, if it needs them."""
        return replace(self, categories=categories()) if self.categories == "codes" else self

    def _check_dtypes(self, tensors: Tensors) -> None:
        held = [name for name, value in tensors.items() if isinstance(value, torch.Tensor)]
        for name in self.dtypes if isinstance(self.dtypes, Mapping) else ():
            if name not in held:
                raise UnknownColumnError("dtypes", name, held)

    def _converted(self, name: str, tensor: torch.Tensor) -> torch.Tensor:
        if isinstance(self.dtypes, Mapping):
            return tensor.to(self.dtypes[name]) if name in self.dtypes else tensor
        return tensor.to(self.dtypes) if self.dtypes is not None and tensor.is_floating_point() else tensor


@dataclass(frozen=True)
class DefaultTensors(TensorCollate):
    """What is collated where no ``collate_fn`` is given: one dtype converts integers too, as in Ray's own collation."""

    def _converted(self, name: str, tensor: torch.Tensor) -> torch.Tensor:
        return tensor.to(self.dtypes) if isinstance(self.dtypes, torch.dtype) else super()._converted(name, tensor)


class PlacingCollate(ArrowBatchCollateFn):
    """A collation that moves what another makes, so that Ray has nothing to move.

    Ray leaves batches where they are that hold anything other than tensors, and before 2.58 it takes no device together
    with a ``collate_fn``. :func:`as_dict` gives the batch back.
    """

    def __init__(self, collate: TensorCollate, device: Any) -> None:
        self._collate = collate
        self._device = device if collate.device is None else None  # else it has decided where its tensors stay

    def __call__(self, batch: pa.Table) -> Any:
        """The batch where it is wanted, which Ray does not take for tensors."""
        made = as_dict(self._collate(batch))
        return _Unjoined(made if self._device is None else moved(made, self._device))


def _check_dtypes(dtypes: Any) -> None:
    for dtype in dtypes.values() if isinstance(dtypes, Mapping) else (dtypes,):
        if not isinstance(dtype, torch.dtype | None):
            raise InvalidArgumentError(
                f"dtypes={shown(dtype)} must be a torch.dtype such as torch.float16, or a dict of them by column"
            )


def check_device(device: Any) -> None:
    """Raise InvalidArgumentError where ``device`` is neither a device, nor the name of one, nor None."""
    try:
        if device is not None:
            torch.device(device)
    except (RuntimeError, TypeError, OverflowError, ValueError):
        raise InvalidArgumentError(
            f"device={shown(device)} must be a torch.device, or the name of one such as 'cuda:0'"
        ) from None


def moved(batch: Any, device: Any, *, non_blocking: bool = True) -> Any:
    """``batch`` with every tensor in it on ``device``; lists stay lists."""
    return _mapped(batch, lambda tensor: tensor.to(device, non_blocking=non_blocking))


def _mapped(value: Any, change: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    """``value`` with every tensor in it, at any depth, changed."""
    if isinstance(value, torch.Tensor):
        return change(value)
    if isinstance(value, list):
        return [_mapped(item, change) for item in value]
    if isinstance(value, dict):
        return {name: _mapped(item, change) for name, item in value.items()}
    return value


def as_dict(batch: Any) -> Any:
    """A dict again of what :class:`TensorCollate` keeps Ray from taking for one; anything else as it is."""
    return batch._batch if isinstance(batch, _Unjoined) else batch


def _is_joined_by_ray(batch: Tensors) -> bool:
    """Whether all columns are lists of tensors, which Ray takes for parts of one tensor for each column."""
    lists = [values for values in batch.values() if isinstance(values, list)]
    all_lists = len(lists) == len(batch) > 0
    return all_lists and all(isinstance(value, torch.Tensor) for values in lists for value in values)


class _Unjoined:
    """A dict that is no ``Mapping`` to Ray, which takes lists of tensors in a mapping for parts of one tensor each."""

    def __init__(self, batch: Tensors) -> None:
        self._batch = batch

    def __getattr__(self, name: str) -> Any:
        if name == "_batch":  # not yet there: it is being unpickled
            raise AttributeError(name)
        return getattr(self._batch, name)

    def __getitem__(self, name: str) -> Any:
        return self._batch[name]

    def __setitem__(self, name: str, value: Any) -> None:
        self._batch[name] = value

    def __delitem__(self, name: str) -> None:
        del self._batch[name]

    def __contains__(self, name: object) -> bool:
        return name in self._batch

    def __iter__(self) -> Iterator[str]:
        return iter(self._batch)

    def __len__(self) -> int:
        return len(self._batch)

    def __repr__(self) -> str:
        return repr(self._batch)
