"""One execution of a shard's Ray dataset, from where the shard stands to the end of the epoch."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from typing import Any

from ray.data import DataIterator, Dataset
from ray.data.collate_fn import ArrowBatchCollateFn, NumpyBatchCollateFn, PandasBatchCollateFn

# Of the type that Ray's integrations look for, such as ray.train.huggingface.transformers.prepare_trainer, which take
# no other one for batches of a Ray dataset.
from ray.data.iterator import _IterableFromIterator as IterableFromIterator

from ray_lance.ray_internals.batches import placing
from ray_lance.ray_internals.lineage import check_rows
from ray_lance.ray_internals.ways import fast_module

__all__ = ["IterableFromIterator", "ShardIterator", "counted_pass", "gives_blocks"]

_KINDS = (ArrowBatchCollateFn, NumpyBatchCollateFn, PandasBatchCollateFn)
_passes = fast_module("_passes", "a shard's rows are counted as blocks come, and its bytes measured")


def gives_blocks() -> bool:
    """Whether passes give blocks, and take Ray's private options, with which Ray's own methods work."""
    return _passes is not None


def counted_pass(dataset: Dataset, rows: int) -> Any:
    """One execution of ``dataset``, which must deliver so many rows.

    Args:
        dataset: The execution's own Ray dataset; kept, because Ray shuts an execution down with it.
        rows: Rows that are read.

    Returns:
        An object with ``batches``, ``row_bytes``, ``reads_ahead`` and ``stats``.
    """
    return PassIterator(dataset, rows) if _passes is None else _passes.Pass(dataset, rows)


class PassIterator:
    """The public way of a pass: rows are counted in batches, and bytes where batches show them."""

    def __init__(self, dataset: Dataset, rows: int) -> None:
        self._dataset = dataset
        self._expected = rows
        self._done: Dataset | None = None
        self._rows = self._bytes = 0
        self._counting = threading.Lock()

    @property
    def row_bytes(self) -> float:
        """Mean bytes of the rows of the batches so far; of arrays, tensors and Arrow tables only."""
        return self._bytes / max(self._rows, 1)

    def reads_ahead(self) -> int:
        """Unknown: 0."""
        return 0

    def stats(self) -> str:
        """Ray's statistics."""
        return str((self._done or self._dataset).stats())

    def materialize(self) -> Any:
        """The rows as a ``ray.data.MaterializedDataset``."""
        self._done = self._dataset.materialize()
        check_rows(self._done.count(), self._expected)
        return self._done

    def batches(self, *, torch: Mapping[str, Any] | None = None, **options: Any) -> Generator[Any, None, None]:
        """Batches; of tensors where options of ``iter_torch_batches`` are given."""
        for batch in self._counted(options) if torch is None else self._counted_tensors(dict(torch), options):
            if self._rows > self._expected:
                break
            yield batch
        check_rows(self._rows, self._expected)

    def _counted(self, options: Mapping[str, Any]) -> Generator[Any, None, None]:
        for batch in self._dataset.iterator().iter_batches(**options):
            self._count(batch)
            yield batch

    def _counted_tensors(self, torch: dict[str, Any], options: Mapping[str, Any]) -> Iterable[Any]:
        torch = placing(torch)
        torch["collate_fn"] = _counting(torch["collate_fn"], self._count)
        return self._dataset.iterator().iter_torch_batches(**torch, **options)  # type: ignore[no-any-return]

    def _count(self, batch: Any) -> None:
        columns = list(batch.values()) if isinstance(batch, Mapping) else [batch]
        with self._counting:  # Ray may collate in several threads
            self._rows += len(columns[0]) if columns else 0
            self._bytes += sum(getattr(column, "nbytes", 0) for column in columns)


class ShardIterator(DataIterator):
    """A ``DataIterator`` that comes to what it makes batches of through methods of our own names.

    All of Ray's methods that iterate in batches, other than those that a subclass overrides, come through these.
    """

    def _iterate(self, **options: Any) -> Iterable[Any]:
        """Batches, with options of ``iter_batches`` and private ones."""
        raise NotImplementedError

    def _blocks(self) -> tuple[Iterator[Any], Any, Any]:
        """Blocks, statistics and execution, as ``Pass.bundles`` returns them."""
        raise NotImplementedError

    def _tag(self) -> dict[str, Any]:
        """What Ray's metrics are told of."""
        raise NotImplementedError

    def _iter_batches(self, **options: Any) -> Any:
        return self._iterate(**options)

    def _to_ref_bundle_iterator(self) -> tuple[Iterator[Any], Any, Any]:
        return self._blocks()

    def _get_dataset_tag(self) -> dict[str, Any]:
        return self._tag()


def _counting(collate_fn: Any, count: Callable[[Any], None]) -> Any:
    """``collate_fn``, which counts what it is given; of the same kind, by which Ray chooses what to give it."""
    kind = next((kind for kind in _KINDS if isinstance(collate_fn, kind)), object)

    class Counting(kind):  # type: ignore[misc, valid-type]
        def __call__(self, batch: Any) -> Any:
            count(batch)
            return collate_fn(batch)

    return Counting()
