"""One execution of a shard's Ray dataset, from where the shard stands to the end of the epoch."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from typing import Any

import ray
from ray.data import Dataset
from ray.data.iterator import _IterableFromIterator

from ray_lance.data.execution import reads_ahead
from ray_lance.data.iterator import BlockwiseIterator
from ray_lance.errors import InvalidArgumentError
from ray_lance.order import BatchSchedule
from ray_lance.scan.tasks import StepRange
from ray_lance.train.closing import ClosedElsewhere

__all__ = ["Pass", "Passes"]


class Pass(BlockwiseIterator):
    """One execution, which must deliver as many rows as were read.

    Args:
        dataset: The execution's own Ray dataset; kept, because Ray shuts an execution down with it.
        schedule: The steps that it reads.

    Raises:
        InvalidArgumentError: While iterating: a transformation has made more or fewer rows of them.
    """

    def __init__(self, dataset: Dataset, schedule: BatchSchedule) -> None:
        super().__init__(dataset)
        self._rows = StepRange(schedule, 0, schedule.rank_steps).num_rows
        self._delivered = _Delivered()
        self._executor: Any = None

    @property
    def row_bytes(self) -> float:
        """Mean bytes of the rows that came so far, as Arrow tables."""
        return self._delivered.bytes / max(self._delivered.rows, 1)

    def reads_ahead(self) -> int:
        """Reads that have begun, and that nobody has asked for."""
        return 0 if self._executor is None else reads_ahead(self._executor)

    def _to_ref_bundle_iterator(self) -> tuple[Iterator[Any], Any, Any]:
        bundles, stats, self._executor = super()._to_ref_bundle_iterator()
        return _counted(bundles, self._rows, self._delivered), stats, self._executor

    def _on_iteration_end(self, executor: Any) -> None:
        if executor is not None and not ray.is_initialized():
            # Its cluster is gone. Shutting down, it would have another one started to cancel its tasks there.
            executor._shutdown = True
        super()._on_iteration_end(executor)


class Passes(_IterableFromIterator):
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


@dataclass
class _Delivered:
    """What an execution has delivered so far."""

    rows: int = 0
    bytes: int = 0


def _counted(bundles: Iterator[Any], rows: int, delivered: _Delivered) -> Iterator[Any]:
    for bundle in bundles:
        delivered.rows += bundle.num_rows()
        delivered.bytes += bundle.size_bytes()
        if delivered.rows > rows:
            break
        yield bundle
    if delivered.rows != rows:
        raise InvalidArgumentError(
            f"the transformations after the read made {'more than ' if delivered.rows > rows else ''}"
            f"{min(delivered.rows, rows)} rows of {rows}: batches can only be counted where they keep the number of "
            "rows. Choose rows with Permutation(source, filter=...) and let map_batches return as many as it gets"
        )
