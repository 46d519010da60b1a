"""Arguments of Ray's methods that iterate in batches: checked, with our collation as the default."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from ray.data.collate_fn import CollateFn

from ray_lance.arguments import as_choice, as_count, as_flag, as_integer, shown
from ray_lance.data.collate import DefaultTensors, TensorCollate, check_device
from ray_lance.errors import InvalidArgumentError
from ray_lance.tensors import Categories

__all__ = ["ARRAY_FORMATS", "check_batching", "own_collation"]

# Formats in which a column of categories is an array, of the values.
ARRAY_FORMATS = ("default", "numpy")
_FORMATS = (*ARRAY_FORMATS, "pandas", "pyarrow", "cudf")


def check_batching(options: Mapping[str, Any]) -> None:
    """Refuse, where an iteration is asked for, what Ray would fail over in the midst of it, or make no batch of.

    Args:
        options: Arguments of ``iter_batches`` by name; those that are missing are not looked at.

    Raises:
        InvalidArgumentError: One of them breaks its rule.
    """
    given = {name: value for name, value in options.items() if value is not None}
    for name, value in given.items():
        if name in ("batch_size", "local_shuffle_buffer_size"):
            as_count(name, value)
    if given.get("device", "auto") != "auto":
        check_device(given["device"])
    if "prefetch_batches" in options:
        as_integer("prefetch_batches", options["prefetch_batches"], 0)
    as_flag("drop_last", options.get("drop_last", False))
    as_choice("batch_format", given.get("batch_format", "default"), _FORMATS)


def own_collation(
    collate_fn: Any, dtypes: Any, pin_memory: bool, categories: Callable[[], Categories]
) -> dict[str, Any]:
    """What is to be passed on for these arguments of ``iter_torch_batches``: by default, a collation of our own.

    Args:
        collate_fn: None for the default.
        dtypes: One dtype for all tensors, or one by column name.
        pin_memory: Whether tensors go through page-locked memory.
        categories: Finds the categories of the dataset.
    """
    pin_memory = as_flag("pin_memory", pin_memory)
    if not isinstance(collate_fn, CollateFn) and not callable(collate_fn) and collate_fn is not None:
        raise InvalidArgumentError(f"collate_fn={shown(collate_fn)} must be a function, or a CollateFn of ray.data")
    if collate_fn is None:
        collate_fn, dtypes = DefaultTensors(dtypes=dtypes), None
    if isinstance(collate_fn, TensorCollate):
        collate_fn = collate_fn.knowing(categories)
        if pin_memory:
            collate_fn, pin_memory = replace(collate_fn, pin_memory=True), False
    return {"collate_fn": collate_fn, "dtypes": dtypes, "pin_memory": pin_memory}
