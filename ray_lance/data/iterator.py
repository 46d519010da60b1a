"""Batches of tensors from a Ray dataset's blocks, cut in the thread that asks for them.

Ray cuts, collates and hands over each batch in threads of its own, which is right for batches that take long to make. A
batch of tensors that share the memory of a block takes some 30 microseconds, and its way through the threads up to a
millisecond: more than reading it. So the threads fetch whole blocks here, ahead as always, and what is left to do for a
batch is done where it is used. Cutting and converting are Ray's own functions, so the batches are the same.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import replace
from typing import Any

import pyarrow as pa
import torch
from ray.data._internal.arrow_ops.transform_pyarrow import try_combine_chunked_columns
from ray.data._internal.batcher import Batcher
from ray.data._internal.block_batching.interfaces import FinalizedBatch
from ray.data._internal.block_batching.iter_batches import BatchIterator
from ray.data._internal.block_batching.util import blocks_to_batches
from ray.data._internal.iterator.iterator_impl import DataIteratorImpl
from ray.data._internal.utils.torch_utils import DefaultFinalizeFn
from ray.data.block import Block, BlockAccessor
from ray.data.collate_fn import DefaultCollateFn

from ray_lance.data.collate import TensorCollate

__all__ = ["BlockwiseIterator"]

_CPU = torch.device("cpu")


class BlockwiseIterator(DataIteratorImpl):
    """Ray's iterator over a Ray dataset; cuts batches of CPU tensors in the thread that asks for them.

    Batches that are more work go through Ray's threads as ever: those that go to another device or through pinned
    memory, are converted or padded, are shuffled locally or are made by a ``collate_fn`` of the caller's.
    """

    def _create_batch_iterator(
        self, ref_bundles_iter: Iterator[Any], prefetch_bytes_callback: Any = None, **kwargs: Any
    ) -> BatchIterator:
        # Every way that Ray has to iterate in batches comes through here.
        kwargs["prefetch_bytes_callback"] = prefetch_bytes_callback
        collate = _short_collation(kwargs["collate_fn"], kwargs["finalize_fn"])
        if collate is None or kwargs["batch_size"] is None or kwargs["shuffle_buffer_min_size"] is not None:
            return _Batches(ref_bundles_iter, **kwargs)
        return _BatchesOfBlocks(ref_bundles_iter, **{**kwargs, "collate_fn": collate})


def _short_collation(collate: Any, finalize: Any) -> Callable[[Any], Any] | None:
    """What collates a batch in little time, because the tensors share its memory; None for anything else."""
    if not isinstance(finalize, DefaultFinalizeFn) or finalize._device != _CPU:
        return None
    if type(collate) is DefaultCollateFn and collate.dtypes is None:
        # Its threads, one per column, cost five times what they do.
        default: Callable[[Any], Any] = DefaultCollateFn(combine_chunks=collate.combine_chunks, num_workers=0)
        return default
    if isinstance(collate, TensorCollate) and type(collate).__call__ is TensorCollate.__call__ and collate.is_short:
        return collate
    return None


class _Batches(BatchIterator):
    """Ray's batch iterator, whose prefetching ends with it: Ray leaves a thread behind for each that is left early."""

    def __iter__(self) -> Generator[Any, None, None]:
        try:
            yield from self._iter_batches()
        finally:
            self._prefetcher.stop()


class _BatchesOfBlocks(_Batches):
    """Ray's batch iterator with blocks in the place of batches, which are cut here."""

    def __init__(
        self,
        ref_bundles: Iterator[Any],
        *,
        collate_fn: Callable[[Any], Any],
        finalize_fn: Callable[[Any], Any],
        drop_last: bool,
        **options: Any,
    ) -> None:
        super().__init__(ref_bundles, **options)
        self._collate, self._finalize, self._drops_last = collate_fn, finalize_fn, drop_last

    def __iter__(self) -> Generator[Any, None, None]:
        assert self._batch_size is not None
        with closing(super().__iter__()) as blocks, closing(_cut(blocks, self._batch_size)) as batches:
            for rows in batches:
                if rows.num_rows() == self._batch_size or not self._drops_last:
                    self._count(1)
                    yield self._tensors(rows)

    def _tensors(self, rows: BlockAccessor) -> Any:
        with torch.inference_mode(False):  # as in Ray's threads, whatever the thread that asks has set
            batch = self._collate(rows.to_batch_format("pyarrow"))
            # Ray's function takes longer to find that nothing is left to do than the tensors took to make.
            return batch if _is_final(batch) else self._finalize(batch).data

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


def _is_final(batch: Any) -> bool:
    """Whether all that a batch holds are tensors on the CPU."""
    return isinstance(batch, dict) and all(
        type(value) is torch.Tensor and value.device == _CPU for value in batch.values()
    )


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
