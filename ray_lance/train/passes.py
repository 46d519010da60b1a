"""One execution of a shard's Ray dataset, from where the shard stands to the end of the epoch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from ray.data import Dataset

from ray_lance.data.iterator import BlockwiseIterator
from ray_lance.errors import InvalidArgumentError
from ray_lance.order import BatchSchedule
from ray_lance.scan.steps import StepRange

__all__ = ["Pass", "Restartable"]


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

    def _to_ref_bundle_iterator(self) -> tuple[Iterator[Any], Any, Any]:
        bundles, stats, executor = super()._to_ref_bundle_iterator()
        return _counted(bundles, self._rows), stats, executor


class Restartable:
    """Makes a new iterator each time it is iterated over."""

    def __init__(self, start: Callable[[], Iterator[Any]]) -> None:
        self._start = start

    def __iter__(self) -> Iterator[Any]:
        return self._start()


def _counted(bundles: Iterator[Any], rows: int) -> Iterator[Any]:
    delivered = 0
    for bundle in bundles:
        delivered += bundle.num_rows()
        if delivered > rows:
            break
        yield bundle
    if delivered != rows:
        raise InvalidArgumentError(
            f"the transformations after the read made {'more than ' if delivered > rows else ''}"
            f"{min(delivered, rows)} rows of {rows}: batches can only be counted where they keep the number of rows. "
            "Choose rows with Permutation(source, filter=...) and let map_batches return as many as it gets"
        )
