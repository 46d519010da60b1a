"""The fast way of a shard's passes: executions whose blocks are counted as they come. See ``passes.py``."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import ray
from ray.data import Dataset
from ray.data._internal.execution.streaming_executor import StreamingExecutor

from ray_lance.ray_internals._batches import BlockwiseIterator
from ray_lance.ray_internals.executions import reads_ahead
from ray_lance.ray_internals.lineage import check_rows
from ray_lance.ray_internals.ways import needs

__all__ = ["Pass"]

needs(BlockwiseIterator, "_to_ref_bundle_iterator", "_on_iteration_end")
needs(StreamingExecutor, "_shutdown")


class Pass(BlockwiseIterator):
    """One execution, which must deliver as many rows as were read.

    Args:
        dataset: The execution's own Ray dataset; kept, because Ray shuts an execution down with it.
        rows: Rows that are read.

    Raises:
        InvalidArgumentError: While iterating: a transformation has made more or fewer rows of them.
    """

    def __init__(self, dataset: Dataset, rows: int) -> None:
        super().__init__(dataset)
        self._rows = rows
        self._delivered = _Delivered()
        self._executor: Any = None

    @property
    def row_bytes(self) -> float:
        """Mean bytes of the rows that came so far, as Arrow tables."""
        return self._delivered.bytes / max(self._delivered.rows, 1)

    def batches(self, **options: Any) -> Iterable[Any]:
        """Batches; see ``ray.data.DataIterator.iter_batches``. Ray's private options are passed on as well."""
        return self._iter_batches(**options)  # type: ignore[no-any-return]

    def bundles(self) -> tuple[Iterator[Any], Any, Any]:
        """Blocks, Ray's statistics of the execution, and the execution."""
        return self._to_ref_bundle_iterator()

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
    check_rows(delivered.rows, rows)
