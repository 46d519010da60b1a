"""The fast way of errors: both ways in which Ray executes a dataset. See ``errors.py``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

from ray.data import Dataset

from ray_lance.ray_internals.ways import needs

__all__ = ["raise_while_executing"]

needs(Dataset, "_execute", "_execute_to_iterator")


def raise_while_executing(kind: Any, own_errors: Callable[[], AbstractContextManager[None]]) -> None:
    """Override what Ray calls to execute a dataset of class ``kind``."""

    def execute(self: Dataset, *args: Any, **kwargs: Any) -> Any:
        with own_errors():
            return Dataset._execute(self, *args, **kwargs)

    def execute_to_iterator(self: Dataset, *args: Any, **kwargs: Any) -> Any:
        with own_errors():
            bundles, *rest = Dataset._execute_to_iterator(self, *args, **kwargs)
        return (within(bundles), *rest)

    def within(bundles: Iterator[Any]) -> Iterator[Any]:
        with own_errors():
            yield from bundles

    kind._execute, kind._execute_to_iterator = execute, execute_to_iterator
