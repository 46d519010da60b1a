"""How Ray Train shares Lance datasets among its workers."""

from __future__ import annotations

import difflib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

from ray.data import DataIterator, Dataset, ExecutionOptions
from ray.train import DataConfig

from ray_lance.arguments import as_integer
from ray_lance.errors import InvalidArgumentError
from ray_lance.order import BatchSchedule, Tail
from ray_lance.train.resources import check_cpus_left
from ray_lance.train.shard import LanceShard, ShardLayout
from ray_lance.train.source import read_cpus, scheduled_source, with_source

__all__ = ["DatasetOptions", "LanceDataConfig"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class DatasetOptions:
    """How one dataset is shared; None leaves it to the :class:`LanceDataConfig`.

    Attributes:
        global_batch_size: Rows of a step over all ranks, the same at every world size.
        batch_size: Rows of a step per rank, instead.
        lanes: Ranges of the order that each step takes rows from; see :class:`LanceDataConfig`.
        tail: ``"drop"``, ``"pad"`` or ``"uneven"``.
    """

    global_batch_size: int | None = None
    batch_size: int | None = None
    lanes: int | None = None
    tail: Tail | None = None

    def __post_init__(self) -> None:
        for name in ("global_batch_size", "batch_size", "lanes"):
            if (value := getattr(self, name)) is not None:
                object.__setattr__(self, name, as_integer(name, value, 1))
        if self.global_batch_size is not None and self.batch_size is not None:
            raise InvalidArgumentError(
                f"global_batch_size={self.global_batch_size} and batch_size={self.batch_size}: give one of them; the "
                "first is over all ranks, the second per rank"
            )
        if self.tail is not None and self.tail not in get_args(Tail):
            raise InvalidArgumentError(f"tail={self.tail!r} must be one of {list(get_args(Tail))}")
        if self.global_batch_size is not None and self.lanes is not None and self.global_batch_size % self.lanes:
            raise InvalidArgumentError(
                f"lanes={self.lanes} does not divide global_batch_size={self.global_batch_size}: each step takes the "
                "same number of rows from every lane"
            )

    def over(self, default: DatasetOptions) -> DatasetOptions:
        """These options, with what is None taken from ``default``."""
        has_batch = self.global_batch_size is not None or self.batch_size is not None
        return DatasetOptions(
            global_batch_size=self.global_batch_size if has_batch else default.global_batch_size,
            batch_size=self.batch_size if has_batch else default.batch_size,
            lanes=default.lanes if self.lanes is None else self.lanes,
            tail=default.tail if self.tail is None else self.tail,
        )

    def layouts(self, name: str, world_size: int) -> list[ShardLayout]:
        """The layout of each rank.

        Args:
            name: Name of the dataset, for messages.
            world_size: Number of ranks.

        Raises:
            InvalidArgumentError: There is no batch size, or the ranks or lanes cannot share it.
        """
        if self.global_batch_size is None and self.batch_size is None:
            raise InvalidArgumentError(
                f"dataset {name!r} has no batch size: give LanceDataConfig(global_batch_size=...), which stays the "
                "same at every world size, or batch_size= per rank"
            )
        batch = self.global_batch_size or world_size * (self.batch_size or 0)
        for what, parts in (("world_size", world_size), ("lanes", self.lanes or world_size)):
            if batch % parts:
                lower = batch // parts * parts
                nearest = f"{lower} or {lower + parts}" if lower else f"{parts}"
                raise InvalidArgumentError(
                    f"dataset {name!r}: a global batch of {batch} rows does not divide by {what}={parts}: every rank "
                    f"and every lane has the same share of a step. Nearest global_batch_size: {nearest}"
                )
        return [ShardLayout(batch, world_size, rank, self.lanes, self.tail or "drop") for rank in range(world_size)]


class LanceDataConfig(DataConfig):
    """``dataset_config=`` of a Ray trainer: exact, elastic and resumable shards of datasets that ray_lance reads.

    Each rank reads its own range of the order, with its own streaming execution and without a coordinator. The rows of
    each global step, and their order, are the same at every world size that divides the global batch, whatever the
    size of tasks, the prefetching and the number of reading workers. ``ray.train.get_dataset_shard`` returns a
    :class:`LanceShard`, whose state continues in the middle of an epoch at another world size.

    A read in scan order counts as the permutation that changes nothing; the rows that its SQL filter lets through are
    looked up when training starts. Transformations that keep the number of rows (``map_batches``, ``map``,
    ``with_column``, ``select_columns``) may follow the read.

    Args:
        global_batch_size: Rows of a step over all ranks. Needed where the world size may change.
        batch_size: Rows of a step per rank, instead.
        lanes: Equal contiguous ranges of the order; each step takes the same number of rows from every one, and a rank
            reads whole lanes if their number is a multiple of the world size. Part of the order: it must stay the same
            for a state to be loaded. Default: the world size of the first start, taken over from loaded states.
        tail: What happens to rows that do not fill a step: ``"drop"`` them, ``"pad"`` the last step with rows from
            elsewhere, or an ``"uneven"`` last step, for evaluation.
        datasets: What differs for single datasets, by their names in the trainer. Ray Train asks for one dataset at a
            time and tells no other name: one that is like an unused name here is warned of, not refused.
        execution_options: Options of Ray Data, for all or by dataset name. Order is preserved in any case.

    Raises:
        InvalidArgumentError: An option breaks its rule.

    Example:
        >>> config = LanceDataConfig(global_batch_size=1024, datasets={"val": DatasetOptions(tail="uneven")})
        >>> TorchTrainer(train, datasets={"train": ..., "val": ...}, dataset_config=config)  # doctest: +SKIP
    """

    def __init__(
        self,
        global_batch_size: int | None = None,
        batch_size: int | None = None,
        lanes: int | None = None,
        tail: Tail = "drop",
        datasets: Mapping[str, DatasetOptions] | None = None,
        execution_options: ExecutionOptions | dict[str, ExecutionOptions] | None = None,
    ) -> None:
        # With nothing to split Ray adds no coordinator, and no worker waits for the others.
        super().__init__(datasets_to_split=[], execution_options=execution_options)
        self._default = DatasetOptions(global_batch_size, batch_size, lanes, tail)
        self._options = {name: options.over(self._default) for name, options in (datasets or {}).items()}

    def configure(
        self,
        datasets: dict[str, Dataset],
        world_size: int,
        worker_handles: list[Any] | None,  # noqa: ARG002  of Ray's interface
        worker_node_ids: list[str] | None,  # noqa: ARG002
        **kwargs: Any,  # noqa: ARG002
    ) -> list[dict[str, DataIterator]]:
        """The shards of every rank; called by Ray Train.

        Args:
            datasets: The trainer's datasets, by name; Ray Train may pass them one by one.
            world_size: Number of ranks.
            worker_handles: Not used.
            worker_node_ids: Not used.
            **kwargs: Not used.

        Returns:
            A dict of :class:`LanceShard` by dataset name for each rank.

        Raises:
            InvalidArgumentError: A dataset is not read through ray_lance or changes its rows after the read; a batch
                cannot be shared by the ranks; the trainers leave no CPU for reading; several datasets were passed, and
                options name another one.
        """
        self._check_names(list(datasets))
        shards: list[dict[str, DataIterator]] = [{} for _ in range(world_size)]
        for name, dataset in datasets.items():
            layouts = self._options.get(name, self._default).layouts(name, world_size)
            source = scheduled_source(name, dataset)
            check_cpus_left(read_cpus(dataset))
            own = with_source(dataset, source)
            own.set_name(dataset.name or name)
            own.context.execution_options = self._resolve_execution_options(name)
            own.context.execution_options.preserve_order = True
            for rank, layout in enumerate(layouts):
                shards[rank][name] = LanceShard(own, source, layout)
            _report(name, shards[0][name].schedule)
        return shards

    def _check_names(self, names: Sequence[str]) -> None:
        unused = [name for name in self._options if name not in names]
        if unused and len(names) > 1:
            raise InvalidArgumentError(
                f"LanceDataConfig(datasets=) has options for {unused}, and the trainer's datasets are {sorted(names)}: "
                "use their names"
            )
        for name in set(names) - self._options.keys():
            for like in difflib.get_close_matches(name, unused):
                logger.warning(
                    "dataset %r has no options of its own in LanceDataConfig(datasets=), but there are some for %r: "
                    "is it meant?",
                    name,
                    like,
                )


def _report(name: str, schedule: BatchSchedule) -> None:
    text = (
        f"dataset {name!r}: {schedule.rows} rows, {schedule.steps} steps of {schedule.global_batch} rows in an epoch, "
        f"{schedule.dropped} rows dropped, {schedule.padded} repeated"
    )
    if schedule.steps == 0 and schedule.rows:
        logger.warning("%s: no step at all. tail='pad' or 'uneven' would make one", text)
    else:
        logger.info(text)
