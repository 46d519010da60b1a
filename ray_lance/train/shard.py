"""One rank's share of a Ray dataset, as an iterator that knows where it stands."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from ray.data import DataContext, DataIterator, Dataset
from ray.data.block import BlockAccessor

from ray_lance.data.permuted import PermutationDatasource
from ray_lance.errors import InvalidArgumentError
from ray_lance.order import BatchSchedule, Cursor, Tail
from ray_lance.order.rows import digest_of
from ray_lance.train.collate import torch_collate
from ray_lance.train.passes import Pass, Restartable
from ray_lance.train.source import with_source

__all__ = ["LanceShard", "ShardLayout"]


@dataclass(frozen=True)
class ShardLayout:
    """How the ranks share a step.

    Attributes:
        global_batch: Rows of a step over all ranks.
        world_size: Number of ranks.
        rank: This rank, from 0.
        lanes: Lanes of the schedule. None takes those of the cursor that is loaded, or else ``world_size``.
        tail: What happens to rows that do not fill a step.
    """

    global_batch: int
    world_size: int
    rank: int
    lanes: int | None = None
    tail: Tail = "drop"

    def schedule(self, rows: int, lanes: int, consumed: int = 0) -> BatchSchedule:
        """The steps of this rank through an epoch, or through what is left of it after ``consumed`` rows."""
        return BatchSchedule(rows, lanes, self.global_batch, self.world_size, self.rank, self.tail, consumed)


class LanceShard(DataIterator):
    """What ``ray.train.get_dataset_shard`` returns under :class:`~ray_lance.train.LanceDataConfig`.

    A ``ray.data.DataIterator`` with a state. Each pass over it goes from where it stands to the end of the epoch, and
    leaves it at the start of the next one; a loop over epochs needs no :meth:`set_epoch`. A pass that is broken off is
    continued by the next one. The batch size is the config's, so no method needs to be given one.

    What the state counts are rows that were returned to the caller, by all ranks together; never rows that were
    prefetched. It is the same on every rank, so saving it once, say with rank 0's checkpoint, is enough.

    Args:
        dataset: A read of one Lance table, with any transformations that keep rows and their order.
        source: What it reads, as a permutation.
        layout: How the ranks share a step.

    Example:
        >>> shard = ray.train.get_dataset_shard("train")  # doctest: +SKIP
        >>> if checkpoint:
        ...     shard.load_state_dict(state)  # doctest: +SKIP
        >>> for batch in shard.iter_torch_batches():
        ...     state = shard.state_dict()  # doctest: +SKIP
    """

    def __init__(self, dataset: Dataset, source: PermutationDatasource, layout: ShardLayout) -> None:
        self._dataset = dataset
        self._source = source
        self._layout = layout
        self._description = source.description
        if source.fixed_epoch:
            self._description["epoch"] = source.order.epoch_number
        lanes = layout.lanes or layout.world_size
        self._cursor = Cursor.at_start(digest_of(self._description), lanes, self._description)
        self._is_loaded = False
        self._last_pass: Dataset | None = None

    @property
    def batch_size(self) -> int:
        """Rows of this rank's batches; fewer only in the last one, under ``tail="uneven"``."""
        return self.schedule.batch_size

    @property
    def schedule(self) -> BatchSchedule:
        """This rank's steps through a whole epoch; tells what its end drops or repeats."""
        return self._layout.schedule(len(self._source.order), self._cursor.lanes)

    @property
    def steps_per_epoch(self) -> int:
        """Batches of this rank in a whole epoch; under ``drop`` and ``pad`` the same for every rank."""
        return self.schedule.rank_steps

    def state_dict(self) -> dict[str, Any]:
        """Where all ranks stand, in plain JSON types: epoch, rows returned, lanes, and what identifies the order."""
        return self._cursor.to_json()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where a state was taken, whatever the world size was there.

        Args:
            state: What :meth:`state_dict` returned, on any rank.

        Raises:
            CursorMismatchError: It belongs to another dataset, version, filter, shuffle or number of lanes.
            InvalidArgumentError: It is no state of a shard.
        """
        cursor = Cursor.from_json(state)
        own = self._cursor
        cursor.check(own.fingerprint, self._layout.lanes or cursor.lanes, own.order)
        self._layout.schedule(len(self._source.order), cursor.lanes, cursor.rows)
        self._cursor = cursor
        self._is_loaded = True

    def set_epoch(self, epoch: int) -> None:
        """Stand at the start of an epoch.

        Directly after :meth:`load_state_dict` the loaded position is kept if it lies in that epoch, so that a loop
        which sets the epoch each time goes on correctly.

        Raises:
            InvalidArgumentError: ``epoch`` is no whole number of at least 0.
        """
        start = Cursor.at_start(self._cursor.fingerprint, self._cursor.lanes, self._cursor.order, epoch)
        if not (self._is_loaded and start.epoch == self._cursor.epoch):
            self._cursor = start
            self._is_loaded = False

    def iter_batches(
        self,
        *,
        prefetch_batches: int = 1,
        batch_size: int | None = None,
        batch_format: str | None = "default",
        drop_last: bool = False,
        local_shuffle_buffer_size: int | None = None,
        local_shuffle_seed: int | None = None,
    ) -> Iterable[Any]:
        """The rest of the epoch in batches; see ``ray.data.DataIterator.iter_batches``.

        Args:
            prefetch_batches: Batches to prepare ahead.
            batch_size: Must be the config's, if given.
            batch_format: ``"default"``, ``"numpy"``, ``"pandas"``, ``"pyarrow"`` or None.
            drop_last: Refused under ``tail="uneven"``; otherwise every batch is full.
            local_shuffle_buffer_size: Refused: the order is the permutation's.
            local_shuffle_seed: Refused likewise.

        Raises:
            InvalidArgumentError: An argument contradicts the config.
        """
        return self._iter_batches(
            prefetch_batches=prefetch_batches,
            batch_size=batch_size,
            batch_format=batch_format,
            drop_last=drop_last,
            local_shuffle_buffer_size=local_shuffle_buffer_size,
            local_shuffle_seed=local_shuffle_seed,
        )

    def iter_torch_batches(
        self,
        *,
        prefetch_batches: int = 1,
        batch_size: int | None = None,
        dtypes: Any = None,
        device: Any = "auto",
        collate_fn: Any = None,
        drop_last: bool = False,
        local_shuffle_buffer_size: int | None = None,
        local_shuffle_seed: int | None = None,
        pin_memory: bool = False,
    ) -> Iterable[Any]:
        """The rest of the epoch in batches of tensors; see ``ray.data.DataIterator.iter_torch_batches``.

        Unlike Ray's, batches may hold every type that Lance stores: what is no tensor comes as a list (see
        :func:`ray_lance.tensors.to_tensors`). On the CPU the tensors may share memory with Ray's object store: treat
        them as read-only, and ``clone()`` before writing.

        Args:
            prefetch_batches: Batches to prepare ahead.
            batch_size: Must be the config's, if given.
            dtypes: One dtype for all tensors, or one by column name. Not together with ``collate_fn``.
            device: Where the tensors go; ``"auto"`` is the device that Ray Train gave this worker, or else the CPU.
            collate_fn: Makes a batch; of any kind that Ray accepts.
            drop_last: Refused under ``tail="uneven"``; otherwise every batch is full.
            local_shuffle_buffer_size: Refused: the order is the permutation's.
            local_shuffle_seed: Refused likewise.
            pin_memory: Whether tensors go through page-locked memory, which needs CUDA.

        Raises:
            InvalidArgumentError: An argument contradicts the config.
        """
        options: dict[str, Any] = {
            "prefetch_batches": prefetch_batches,
            "batch_size": batch_size,
            "drop_last": drop_last,
            "local_shuffle_buffer_size": local_shuffle_buffer_size,
            "local_shuffle_seed": local_shuffle_seed,
        }
        if collate_fn is None:
            collate_fn, dtypes, pin_memory = torch_collate(dtypes, device, pin_memory), None, False
        return super().iter_torch_batches(  # type: ignore[no-any-return]
            collate_fn=collate_fn, dtypes=dtypes, device=device, pin_memory=pin_memory, **options
        )

    def iter_rows(self) -> Iterable[dict[str, Any]]:
        """The rest of the epoch row by row. The state moves with the last row of each batch, so by whole steps."""
        return Restartable(self._rows)

    def schema(self) -> Any:
        """The ``ray.data.Schema`` of the rows."""
        return self._dataset.schema()

    def stats(self) -> str:
        """Ray's statistics of the last pass; empty before the first."""
        return "" if self._last_pass is None else str(self._last_pass.stats())

    def get_context(self) -> DataContext:
        """The settings that passes run with."""
        return self._dataset.context

    def __repr__(self) -> str:
        schedule = self.schedule
        return (
            f"LanceShard({self._dataset.name!r}, rank={schedule.rank}, world_size={schedule.world_size}, "
            f"batch_size={schedule.batch_size}, steps_per_epoch={schedule.rank_steps}, dropped={schedule.dropped}, "
            f"padded={schedule.padded}, epoch={self._cursor.epoch}, rows={self._cursor.rows})"
        )

    def _iter_batches(
        self,
        *,
        batch_size: int | None = None,
        drop_last: bool = False,
        local_shuffle_buffer_size: int | None = None,
        local_shuffle_seed: int | None = None,
        **options: Any,
    ) -> Iterable[Any]:
        # Every way that Ray has to iterate in batches comes through here.
        if batch_size not in (None, self.batch_size):
            raise InvalidArgumentError(
                f"batch_size={batch_size}: this rank's batches have {self.batch_size} rows, which is {self._layout}. "
                f"Leave it out or pass {self.batch_size}; to change it, change LanceDataConfig"
            )
        if drop_last and self._layout.tail == "uneven":
            raise InvalidArgumentError(
                "drop_last=True contradicts tail='uneven', which gives every row once: leave it out, or set "
                "tail='drop' in LanceDataConfig"
            )
        if local_shuffle_buffer_size is not None or local_shuffle_seed is not None:
            raise InvalidArgumentError(
                f"local_shuffle_buffer_size={local_shuffle_buffer_size}, local_shuffle_seed={local_shuffle_seed}: the "
                "order is the permutation's; shuffle with read_lance(..., shuffle=seed)"
            )
        return Restartable(lambda: self._batches(options))

    def _batches(self, options: Mapping[str, Any]) -> Iterator[Any]:
        for cursor, batch in self._steps(options):
            self._cursor = cursor
            yield batch

    def _rows(self) -> Iterator[dict[str, Any]]:
        for cursor, batch in self._steps({"batch_format": None, "prefetch_batches": 1}):
            block = BlockAccessor.for_block(BlockAccessor.batch_to_block(batch))
            *rows, last = block.iter_rows(public_row_format=True)
            yield from rows
            self._cursor = cursor
            yield last

    def _steps(self, options: Mapping[str, Any]) -> Iterator[tuple[Cursor, Any]]:
        """Each batch of a pass with the cursor after it; moves on to the next epoch at the end."""
        schedule, start = self._begin()
        if schedule.rank_steps:
            run = Pass(self._pass_dataset(schedule, start), schedule)
            batches = run._iter_batches(batch_size=schedule.batch_size, drop_last=False, **options)
            with closing(iter(batches)) as steps:
                for step, batch in enumerate(steps, 1):
                    yield start.advance(schedule.consumed_after(step)), batch
        self._cursor = start.next_epoch()

    def _to_ref_bundle_iterator(self) -> tuple[Iterator[Any], Any, Any]:
        schedule, start = self._begin()
        run = Pass(self._pass_dataset(schedule, start), schedule)
        bundles, stats, executor = run._to_ref_bundle_iterator()

        def moving_on() -> Iterator[Any]:
            yield from bundles
            assert run is not None  # kept: Ray shuts an execution down with its Ray dataset
            self._cursor = start.next_epoch()

        return moving_on(), stats, executor

    def _begin(self) -> tuple[BatchSchedule, Cursor]:
        self._is_loaded = False
        cursor = self._cursor
        return self._layout.schedule(len(self._source.order), cursor.lanes, cursor.rows), cursor

    def _pass_dataset(self, schedule: BatchSchedule, cursor: Cursor) -> Dataset:
        dataset = with_source(self._dataset, self._source.scheduled(schedule, cursor.epoch))
        dataset.context._execution_idx = cursor.epoch  # what random expressions of Ray Data vary with
        self._last_pass = dataset
        return dataset

    def _get_dataset_tag(self) -> dict[str, Any]:
        return {"dataset": self._dataset.get_dataset_id(), "split_index": self._layout.rank}

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_last_pass": None}
