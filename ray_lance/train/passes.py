"""What a shard's methods return: an iterable whose every iteration is a pass."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any

from ray_lance.ray_internals.passes import IterableFromIterator
from ray_lance.train.closing import ClosedElsewhere

__all__ = ["Passes"]


class Passes(IterableFromIterator):
    """What a shard's methods return: each iteration over it is a pass, which begins with its first item.

    Of the type that Ray's integrations look for, such as ``ray.train.huggingface.transformers.prepare_trainer``.

    Args:
        start: Makes the generator of a pass.
        length: Counts the items of a whole epoch.
    """

    def __init__(self, start: Callable[[], Generator[Any, None, None]], length: Callable[[], int]) -> None:
        super().__init__(lambda: ClosedElsewhere(start()))
        self._length = length

    def __len__(self) -> int:
        # Of a whole epoch in the middle of one too: trainers ask once, before they resume, and count on from there.
        return self._length()
