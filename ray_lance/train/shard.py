"""One rank's share of a Ray dataset, as an iterator that knows where it stands."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import replace
from functools import partial
from numbers import Integral
from typing import Any

from ray.data import DataContext, Dataset
from ray.data.block import BlockAccessor

from ray_lance.arguments import as_integer, shown
from ray_lance.data.batching import check_batching, own_collation
from ray_lance.data.permuted import PermutationDatasource
from ray_lance.errors import InvalidArgumentError
from ray_lance.metrics import LoaderMetrics
from ray_lance.notebook import Facts
from ray_lance.order import BatchSchedule, Cursor
from ray_lance.order.rows import digest_of
from ray_lance.ray_internals.passes import ShardIterator, counted_pass, gives_blocks
from ray_lance.ray_internals.tasks import number_execution
from ray_lance.scan.dictionaries import categories_of
from ray_lance.tensors import Categories
from ray_lance.train.closing import ClosedElsewhere, close_abandoned
from ray_lance.train.layout import ShardLayout
from ray_lance.train.meter import ShardMeter, rows_of
from ray_lance.train.passes import Passes
from ray_lance.train.position import PassPosition, ShardPosition
from ray_lance.train.source import with_source

__all__ = ["LanceShard", "ShardLayout"]


class LanceShard(Facts, ShardIterator):
    """What ``ray.train.get_dataset_shard`` returns under :class:`~ray_lance.train.LanceDataConfig`.

    A ``ray.data.DataIterator`` with a state. Each pass over it is the next epoch, whether the one before was read to
    its end or broken off; a loop over epochs needs no :meth:`set_epoch`. Only the first pass after
    :meth:`load_state_dict` continues an epoch. A pass begins, and takes its epoch, when its first batch is asked for.
    The batch size is the config's, so no method needs to be given one.

    What the state counts are rows that were returned to the caller, by all ranks together; never rows that were
    prefetched. It is that of the pass that began last; when no step is left, that of the next epoch, even if nobody has
    asked for the end of the pass. It is the same on every rank, so saving it once, say with rank 0's checkpoint, is
    enough.

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
        start = Cursor.at_start(digest_of(self._description), lanes, self._description)
        self._position = ShardPosition(replace(start, global_batch=layout.global_batch))
        self._meter = ShardMeter()
        self._last_pass: Any = None

    @property
    def batch_size(self) -> int:
        """Rows of this rank's batches; fewer only in the last one, under ``tail="uneven"``."""
        return self.schedule.batch_size

    @property
    def schedule(self) -> BatchSchedule:
        """This rank's steps through a whole epoch; tells what its end drops or repeats."""
        return self._schedule(self._position.cursor.advance(0))

    @property
    def steps_per_epoch(self) -> int:
        """Batches of this rank in a whole epoch; under ``drop`` and ``pad`` the same for every rank."""
        return self.schedule.rank_steps

    @property
    def categories(self) -> Categories:
        """The categories of dictionary-encoded columns, by column; see :attr:`ray_lance.TensorCollate.categories`."""
        return categories_of(self._source.scan)

    def __len__(self) -> int:
        """Batches of this rank in a whole epoch, also where the next pass continues one."""
        return self.steps_per_epoch

    def state_dict(self) -> dict[str, Any]:
        """Where all ranks stand, in plain JSON types: epoch, rows returned, lanes, and what identifies the order."""
        return self._position.cursor.to_json()

    def state_after(self, steps: int) -> dict[str, Any]:
        """The state after so many steps of the pass that began last, counted by the caller from where it began.

        For frameworks that ask for batches before they train on them, so that :meth:`state_dict` runs ahead. The pass
        may have ended.

        Raises:
            IndexError: The pass has fewer steps.
            InvalidArgumentError: ``steps`` is no whole number of at least 0.
        """
        origin = self._position.origin
        schedule, steps = self._schedule(origin), as_integer("steps", steps, 0)
        rows = schedule.consumed_after(steps)
        return (origin.next_epoch() if steps == schedule.steps else origin.advance(rows)).to_json()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Let the next pass continue where a state was taken, whatever the world size was there.

        Where no rank has a step left, the next pass is the next epoch.

        Args:
            state: What :meth:`state_dict` returned, on any rank.

        Raises:
            CursorMismatchError: It belongs to another dataset, version, filter, shuffle, global batch or number of
                lanes.
            InvalidArgumentError: It is no state of a shard.
        """
        cursor = Cursor.from_json(state)
        own, layout = self._position.cursor, self._layout
        cursor.check(own.fingerprint, layout.lanes or cursor.lanes, own.order, layout.global_batch)
        cursor = replace(cursor, global_batch=layout.global_batch)
        self._position.load(cursor, is_end=self._schedule(cursor).steps == 0)

    def set_epoch(self, epoch: int) -> None:
        """Let the next pass read an epoch.

        Directly after :meth:`load_state_dict` the loaded position is kept if it lies in that epoch, so that a loop
        which sets the epoch each time continues correctly: at the very end of the epoch with a pass of no batch.

        Raises:
            InvalidArgumentError: ``epoch`` is no whole number of at least 0.
        """
        self._position.set_epoch(epoch)

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
        return self._iterate(
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
        check_batching({"device": device})
        own = own_collation(collate_fn, dtypes, pin_memory, lambda: self.categories)
        if gives_blocks():
            return super().iter_torch_batches(device=device, **own, **options)  # type: ignore[no-any-return]
        return self._iterate(torch={"device": device, **own}, **options)

    def iter_rows(self) -> Iterable[dict[str, Any]]:
        """The rest of the epoch row by row. The state moves with the last row of each batch, so by whole steps."""
        return Passes(self._rows, lambda: rows_of(self.schedule))

    def materialize(self) -> Any:
        """The rest of the epoch as a ``ray.data.MaterializedDataset``."""
        if gives_blocks():
            return super().materialize()
        position, schedule = self._begin()
        materialized = self._new_pass(schedule, position.start).materialize()
        position.ended()
        return materialized

    def schema(self) -> Any:
        """The ``ray.data.Schema`` of the rows."""
        return self._dataset.schema()

    def stats(self) -> str:
        """Ray's statistics of the last pass; empty before the first."""
        return "" if self._last_pass is None else self._last_pass.stats()

    def metrics(self) -> LoaderMetrics:
        """What this shard has delivered since the worker got it; see :class:`~ray_lance.metrics.LoaderMetrics`.

        Bytes are those of the rows as they come out of the transformations. Rows never come from memory, and faults of
        the storage are retried, and logged, in the read tasks: those are not counted here.
        """
        return self._meter.metrics(self._last_pass)

    def get_context(self) -> DataContext:
        """The settings that passes run with."""
        return self._dataset.context

    def _facts(self) -> dict[str, Any]:
        schedule, cursor = self.schedule, self._position.cursor
        return {
            "name": self._dataset.name,
            "rank": schedule.rank,
            "world_size": schedule.world_size,
            "batch_size": schedule.batch_size,
            "steps_per_epoch": schedule.rank_steps,
            "dropped": schedule.dropped,
            "padded": schedule.padded,
            "epoch": cursor.epoch,
            "rows_read": cursor.rows,
        }

    def _iterate(
        self,
        *,
        batch_size: int | None = None,
        drop_last: bool = False,
        local_shuffle_buffer_size: int | None = None,
        local_shuffle_seed: int | None = None,
        prefetch_batches: int = 1,
        **options: Any,
    ) -> Iterable[Any]:
        """Batches, by whichever of Ray's methods; see :meth:`iter_batches`."""
        options["prefetch_batches"] = prefetch_batches
        check_batching({**options, "drop_last": drop_last})
        is_own = isinstance(batch_size, Integral) and int(batch_size) == self.batch_size
        if batch_size is not None and not is_own:
            raise InvalidArgumentError(
                f"batch_size={shown(batch_size)}: this rank's batches have {self.batch_size} rows, which is "
                f"{self._layout}. Leave it out or pass {self.batch_size}; to change it, change LanceDataConfig"
            )
        if drop_last and self._layout.tail == "uneven":
            raise InvalidArgumentError(
                "drop_last=True contradicts tail='uneven', which gives every row once: leave it out, or set "
                "tail='drop' in LanceDataConfig"
            )
        if local_shuffle_buffer_size is not None or local_shuffle_seed is not None:
            raise InvalidArgumentError(
                f"local_shuffle_buffer_size={shown(local_shuffle_buffer_size)}, local_shuffle_seed="
                f"{shown(local_shuffle_seed)}: the "
                "order is the permutation's; shuffle with read_lance(..., shuffle=seed)"
            )
        return Passes(lambda: self._batches(options), self.__len__)

    def _batches(self, options: Mapping[str, Any]) -> Generator[Any, None, None]:
        for moved, batch in self._steps(options):
            moved()
            yield batch

    def _rows(self) -> Generator[dict[str, Any], None, None]:
        for moved, batch in self._steps({"batch_format": None, "prefetch_batches": 1}):
            block = BlockAccessor.for_block(BlockAccessor.batch_to_block(batch))
            *rows, last = block.iter_rows(public_row_format=True)
            yield from rows
            moved()
            yield last

    def _steps(self, options: Mapping[str, Any]) -> Generator[tuple[Callable[[], None], Any], None, None]:
        """Each batch of a pass, with what moves the state behind it."""
        position, schedule = self._begin()
        if schedule.rank_steps:
            run = self._new_pass(schedule, position.start)
            batches = run.batches(batch_size=schedule.batch_size, drop_last=False, **options)
            with closing(iter(batches)) as steps:
                for step, batch in enumerate(self._meter.timed(run, schedule, steps), 1):
                    returned = partial(position.returned, schedule.consumed_after(step))
                    yield position.ended if step == schedule.steps else returned, batch
        position.ended()

    def _blocks(self) -> tuple[Iterator[Any], Any, Any]:
        """The blocks of a pass; see :meth:`materialize`, which Ray makes of them."""
        position, schedule = self._begin()
        run = self._new_pass(schedule, position.start)
        bundles, stats, executor = run.bundles()

        def moving_on() -> Generator[Any, None, None]:
            yield from bundles
            assert run is not None  # kept: Ray shuts an execution down with its Ray dataset
            position.ended()

        return ClosedElsewhere(moving_on()), stats, executor

    def _begin(self) -> tuple[PassPosition, BatchSchedule]:
        close_abandoned()
        position = self._position.begin()
        return position, self._schedule(position.start)

    def _schedule(self, cursor: Cursor) -> BatchSchedule:
        """The steps of this rank through the epoch of a cursor, from there on."""
        return self._layout.schedule(len(self._source.order), cursor.lanes, cursor.rows)

    def _new_pass(self, schedule: BatchSchedule, cursor: Cursor) -> Any:
        dataset = with_source(self._dataset, self._source.scheduled(schedule, cursor.epoch))
        number_execution(dataset.context, cursor.epoch)
        self._last_pass = counted_pass(dataset, rows_of(schedule))
        return self._last_pass

    def _tag(self) -> dict[str, Any]:
        """What Ray's metrics are told of."""
        return {"dataset": self._dataset.get_dataset_id(), "split_index": self._layout.rank}

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_last_pass": None}
