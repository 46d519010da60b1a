"""The fast way of batches: cut from a Ray dataset's blocks in the thread that asks for them. See ``batches.py``.

Ray cuts, collates and hands over each batch in threads of its own, which is right for batches that take long to make. A
batch of tensors that share the memory of a block takes some 30 microseconds, and its way through the threads up to a
millisecond: more than reading it. So the threads fetch whole blocks here, ahead as always, and what is left to do for a
batch is done where it is used. Cutting and converting are Ray's own functions, so the batches are the same.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import replace
from functools import partial
from typing import Any

import pyarrow as pa
import torch
from ray.data._internal.arrow_ops.transform_pyarrow import try_combine_chunked_columns
from ray.data._internal.batcher import Batcher
from ray.data._internal.block_batching.interfaces import FinalizedBatch, FinalizedData
from ray.data._internal.block_batching.iter_batches import BatchIterator
from ray.data._internal.block_batching.util import blocks_to_batches
from ray.data._internal.iterator.iterator_impl import DataIteratorImpl
from ray.data._internal.utils.torch_utils import DefaultFinalizeFn
from ray.data.block import Block, BlockAccessor

from ray_lance.data.batching import ARRAY_FORMATS, check_batching, own_collation
from ray_lance.data.collate import TensorCollate, as_dict, moved
from ray_lance.data.datasource import without_stub
from ray_lance.data.plan import categories_read
from ray_lance.ray_internals.ways import needs
from ray_lance.tensors.categories import with_values

__all__ = ["BlockwiseIterator"]

needs(DataIteratorImpl, "_base_dataset", "_iter_batches", "_create_batch_iterator", "_to_ref_bundle_iterator")
needs(DataIteratorImpl, "_on_iteration_end")
needs(BatchIterator, "_iter_batches", "_format_batches", "_blocks_to_batches", "_finalize_batches")
needs(BatchIterator, "_prefetcher", "_attribute_blocked_time", "_stats", "_batch_size", "_batch_format")
needs(DefaultFinalizeFn, "_device")

_CPU = torch.device("cpu")


class BlockwiseIterator(DataIteratorImpl):
    """Ray's iterator over a Ray dataset; cuts batches of CPU tensors in the thread that asks for them.

    Batches that are more work go through Ray's threads as before: those that go to another device or through pinned
    memory, are converted or padded, are shuffled locally or are made by a ``collate_fn`` of the caller's.
    """

    def iter_torch_batches(
        self, *, dtypes: Any = None, collate_fn: Any = None, pin_memory: bool = False, **options: Any
    ) -> Iterable[Any]:
        """Batches of tensors, and lists where no tensor exists; see ``ray.data.DataIterator.iter_torch_batches``.

        Args:
            dtypes: One dtype for all tensors, or one by column name. Not together with ``collate_fn``.
            collate_fn: Makes a batch; of any kind that Ray accepts. Default: all types become what
                :func:`ray_lance.tensors.to_tensors` makes of them.
            pin_memory: Whether tensors go through page-locked memory, which needs CUDA.
            **options: Ray's other arguments.
        """
        check_batching(options)
        categories = partial(categories_read, self._base_dataset)
        own = own_collation(collate_fn, dtypes, pin_memory, categories)
        return super().iter_torch_batches(**own, **options)  # type: ignore[no-any-return]

    def _iter_batches(self, **options: Any) -> Any:
        # Every way that Ray has to iterate in batches comes through here.
        check_batching(options)
        return super()._iter_batches(**options)

    def _create_batch_iterator(
        self, ref_bundles_iter: Iterator[Any], prefetch_bytes_callback: Any = None, **kwargs: Any
    ) -> BatchIterator:
        # Every way that Ray has to iterate in batches comes through here.
        kwargs["prefetch_bytes_callback"] = prefetch_bytes_callback
        collate, finalize = kwargs["collate_fn"], kwargs["finalize_fn"]
        if not isinstance(collate, TensorCollate):
            return _Batches(ref_bundles_iter, **kwargs)
        own = _OwnTensors(collate, finalize)
        kwargs["collate_fn"], kwargs["finalize_fn"] = own.collate, own.finalize
        if not own.is_short or kwargs["batch_size"] is None or kwargs["shuffle_buffer_min_size"] is not None:
            return _Batches(ref_bundles_iter, **kwargs)
        return _BatchesOfBlocks(ref_bundles_iter, **kwargs)


class _OwnTensors:
    """Makes and places batches without Ray's finalization, which would join lists of tensors."""

    def __init__(self, collate: TensorCollate, finalize: Any) -> None:
        is_changed = type(collate).__call__ is not TensorCollate.__call__
        # A collation that moves tensors by itself has decided where they stay.
        self._device = finalize._device if isinstance(finalize, DefaultFinalizeFn) and collate.device is None else None
        self.collate: Callable[[pa.Table], Any] = collate if is_changed else collate.tensors
        self.is_short = collate.is_short and not is_changed and self._device in (None, _CPU)

    def finalize(self, batch: Any) -> FinalizedData:
        """The batch where it is wanted."""
        batch = as_dict(batch)
        return FinalizedData(batch if self._device in (None, _CPU) else moved(batch, self._device))


class _Batches(BatchIterator):
    """Ray's batch iterator, whose prefetching ends with it: Ray leaves a thread behind for each that is left early.

    And whose batches have no columns where the rows have none, and no other values than the rows.
    """

    def __iter__(self) -> Generator[Any, None, None]:
        try:
            yield from self._iter_batches()
        finally:
            self._prefetcher.stop()

    def _format_batches(self, batches: Iterator[Any]) -> Iterator[Any]:
        return super()._format_batches(  # type: ignore[no-any-return]
            replace(batch, data=self._prepared(batch.data)) for batch in batches
        )

    def _prepared(self, rows: Block) -> Block:
        rows = without_stub(rows)
        return with_values(rows) if self._batch_format in ARRAY_FORMATS and isinstance(rows, pa.Table) else rows


class _BatchesOfBlocks(_Batches):
    """Ray's batch iterator with blocks in the place of batches, which are cut here."""

    def __init__(
        self, ref_bundles: Iterator[Any], *, collate_fn: Callable[[Any], Any], drop_last: bool, **options: Any
    ) -> None:
        super().__init__(ref_bundles, **options)
        self._collate, self._drops_last = collate_fn, drop_last

    def __iter__(self) -> Generator[Any, None, None]:
        assert self._batch_size is not None
        with closing(super().__iter__()) as blocks, closing(_cut(blocks, self._batch_size)) as batches:
            for rows in batches:
                if rows.num_rows() == self._batch_size or not self._drops_last:
                    self._count(1)
                    yield self._tensors(rows)

    def _tensors(self, rows: BlockAccessor) -> Any:
        with torch.inference_mode(False):  # as in Ray's threads, whatever the thread that asks has set
            return self._collate(without_stub(rows.to_batch_format("pyarrow")))

    def _blocks_to_batches(self, blocks: Iterator[Any]) -> Iterator[Any]:
        whole: Iterator[Any] = blocks_to_batches(blocks, stats=self._stats)
        return whole

    def _format_batches(self, blocks: Iterator[Any]) -> Iterator[Any]:
        return (replace(block, data=_in_one_chunk(block.data)) for block in blocks)

    def _finalize_batches(self, blocks: Iterator[Any]) -> Iterator[Any]:
        return (FinalizedBatch(block.metadata, block.data) for block in blocks)

    def _attribute_blocked_time(self, *block_and_times: Any) -> None:
        super()._attribute_blocked_time(*block_and_times)
        self._count(-1)  # it has counted a block

    def _count(self, batches: int) -> None:
        if self._stats is not None:
            self._stats.iter_batches_total += batches


def _cut(blocks: Iterator[Block], size: int) -> Generator[BlockAccessor, None, None]:
    """The rows of all blocks in runs of ``size``; a block is copied only where a run begins in one and ends in another.

    Ray's own batcher puts the rest of a block back for each batch. It is left what it is for: joining rows of blocks
    whose types may differ.
    """
    joined = Batcher(size)
    waiting = 0
    for block in blocks:
        rows = BlockAccessor.for_block(block)
        start = 0
        if waiting:
            start = min(size - waiting, rows.num_rows())
            joined.add(rows.slice(0, start, copy=False))
            waiting += start
        if waiting == size:
            yield BlockAccessor.for_block(joined.next_batch())
            waiting = 0
        while rows.num_rows() - start >= size:
            yield BlockAccessor.for_block(rows.slice(start, start + size, copy=False))
            start += size
        if start < rows.num_rows():
            joined.add(rows.slice(start, rows.num_rows(), copy=False))
            waiting += rows.num_rows() - start
        del block, rows  # not to be held while the next one is waited for
    if waiting:
        joined.done_adding()
        yield BlockAccessor.for_block(joined.next_batch())


def _in_one_chunk(block: Block) -> Block:
    """Slices of a table of many chunks would look through all of them each time."""
    return try_combine_chunked_columns(block, min_chunks_to_combine=1) if isinstance(block, pa.Table) else block
