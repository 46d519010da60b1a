"""How Ray Train shares Lance datasets among its workers."""

from __future__ import annotations

import copy
import difflib
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from typing import Any

from ray.data import DataContext, DataIterator, Dataset, ExecutionOptions
from ray.train import DataConfig

from ray_lance.errors import InvalidArgumentError
from ray_lance.notebook import Facts
from ray_lance.order import BatchSchedule, Tail
from ray_lance.parallel import DataParallel, check_data_parallel, data_parallel_ranks
from ray_lance.ray_internals.executions import silenced
from ray_lance.ray_internals.plans import read_cpus
from ray_lance.train.layout import ShardLayout
from ray_lance.train.options import DatasetOptions
from ray_lance.train.resources import check_cpus_for, check_cpus_left
from ray_lance.train.shard import LanceShard
from ray_lance.train.source import check_source, scheduled_source, with_source
from ray_lance.train.trainer import building_trainer

__all__ = ["DatasetOptions", "LanceDataConfig"]

logger = logging.getLogger(__name__)


class LanceDataConfig(Facts, DataConfig):
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
        datasets: What differs for single datasets, by their names in the trainer: :class:`DatasetOptions`, or dicts of
            them. A name that the trainer does not have is refused.
        execution_options: Options of Ray Data, for all or by dataset name. Order is preserved in any case.
        data_parallel: Which ranks read the same batches, where a model is spread over several (tensor, pipeline,
            context parallelism). The number of data-parallel ranks, where those of one are neighbours: 2 for four ranks
            is ``[0, 0, 1, 1]``. Or the data-parallel rank of each rank: a list, a dict by rank, or a function of rank
            and world size. Batches are shared by data-parallel ranks, so that a state can be loaded under any other
            map. Default: every rank reads batches of its own.

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
        datasets: Mapping[str, DatasetOptions | Mapping[str, Any]] | None = None,
        execution_options: ExecutionOptions | dict[str, ExecutionOptions] | None = None,
        data_parallel: DataParallel | None = None,
    ) -> None:
        # With nothing to split Ray adds no coordinator, and no worker waits for the others.
        super().__init__(datasets_to_split=[], execution_options=execution_options)
        if not isinstance(execution_options, ExecutionOptions | Mapping | None):
            raise InvalidArgumentError(
                f"execution_options={execution_options!r} must be ray.data.ExecutionOptions, or a dict of them by name"
            )
        self._given_options = execution_options
        self._default = DatasetOptions(global_batch_size, batch_size, lanes, tail)
        if not isinstance(datasets, Mapping | None):
            raise InvalidArgumentError(f"datasets={datasets!r} must map names of datasets to DatasetOptions")
        self._options = {
            name: DatasetOptions.of(name, options).over(self._default) for name, options in (datasets or {}).items()
        }
        check_data_parallel(data_parallel)
        self._data_parallel = data_parallel
        self._reported: set[str] = set()

    def _facts(self) -> dict[str, Any]:
        given = {each.name: getattr(self._default, each.name) for each in fields(self._default)}
        return {**given, "datasets": self._options or None, "data_parallel": self._data_parallel}

    def __bool__(self) -> bool:
        """True. Ray's trainers ask in their constructors, which is where :meth:`check` can run without being called."""
        trainer = building_trainer()
        if trainer is not None:
            self.check(trainer.datasets, trainer.scaling_config)
        return True

    def check(self, datasets: Mapping[str, Any], scaling_config: Any = None) -> None:
        """Refuse here, before workers start, what they would refuse; and report rows that are dropped or repeated.

        Ray's trainers have it done when they are built. Where rows have to be looked up first, as those of a filter,
        the workers check their number.

        Args:
            datasets: The trainer's datasets, by name.
            scaling_config: The trainer's ``ScalingConfig``; without it nothing is said about ranks.

        Raises:
            InvalidArgumentError: Options name a dataset that there is not; a dataset is not read through ray_lance or
                changes its rows after the read; a batch cannot be shared by the ranks; an epoch would have no step;
                the workers would leave no CPU for reading.
        """
        self._check_names(datasets)
        sizes = None if scaling_config is None else _world_sizes(scaling_config)
        for name, dataset in datasets.items():
            if not isinstance(dataset, Dataset):
                _check_makes_dataset(name, dataset)
                continue
            rows = check_source(name, dataset)
            if sizes is not None:
                self._check_layouts(name, sizes, rows)
                check_cpus_for(sizes[0] * scaling_config.num_cpus_per_worker, read_cpus(dataset))

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
                cannot be shared by the ranks; an epoch would have no step; the trainers leave no CPU for reading;
                several datasets were passed, and options name another one.
        """
        if len(datasets) > 1:
            self._check_names(datasets)
        self._warn_of_similar(datasets)
        shards: list[dict[str, DataIterator]] = [{} for _ in range(world_size)]
        for name, dataset in datasets.items():
            layouts = self._layouts(name, world_size)
            source = scheduled_source(name, dataset)
            check_cpus_left(read_cpus(dataset))
            own = silenced(with_source(dataset, source))
            own.set_name(dataset.name or name)
            own.context.execution_options = self._execution_options_of(name)
            own.context.execution_options.preserve_order = True
            for rank, layout in enumerate(layouts):
                shards[rank][name] = LanceShard(own, source, layout)
            self._report(name, layouts[0].epoch(len(source.order)))
        return shards

    @staticmethod
    def default_ingest_options() -> ExecutionOptions:
        """Options of Ray Data where none are given: those of the current ``DataContext``.

        Copied, as Ray's own function warns of an option that it sets itself.
        """
        return copy.deepcopy(DataContext.get_current().execution_options)

    def _execution_options_of(self, name: str) -> ExecutionOptions:
        """The dataset's own copy of what was given for it, or of the default."""
        given = self._given_options
        given = given.get(name) if isinstance(given, Mapping) else given
        return self.default_ingest_options() if given is None else copy.deepcopy(given)

    def _layouts(self, name: str, world_size: int) -> list[ShardLayout]:
        """The layout of each rank."""
        groups = data_parallel_ranks(world_size if self._data_parallel is None else self._data_parallel, world_size)
        layouts = self._options.get(name, self._default).layouts(name, max(groups) + 1)
        return [layouts[group] for group in groups]

    def _check_layouts(self, name: str, world_sizes: Sequence[int], rows: int | None) -> None:
        layouts = [self._layouts(name, size)[0] for size in world_sizes]
        if rows is not None:
            self._report(name, layouts[0].epoch(rows))

    def _check_names(self, names: Iterable[str]) -> None:
        unknown = self._options.keys() - set(names)
        if unknown:
            raise InvalidArgumentError(
                f"LanceDataConfig(datasets=) has options for {sorted(unknown)}, and the trainer's datasets are "
                f"{sorted(names)}: use their names"
            )

    def _warn_of_similar(self, names: Iterable[str]) -> None:
        """For configs that no trainer of Ray's has checked: Ray Train asks for one dataset at a time."""
        unused = self._options.keys() - set(names)
        for name in set(names) - self._options.keys():
            for like in difflib.get_close_matches(name, unused):
                logger.warning(
                    "dataset %r has no options of its own in LanceDataConfig(datasets=), but there are some for %r: "
                    "is it meant?",
                    name,
                    like,
                )

    def _report(self, name: str, schedule: BatchSchedule) -> None:
        """Say once what the end of an epoch drops or repeats; refuse an epoch without a step."""
        _check_steps(name, schedule)
        if name in self._reported:
            return
        self._reported.add(name)
        text = f"dataset {name!r}: {schedule.rows} rows, {schedule.steps} steps of {schedule.global_batch} in an epoch"
        if schedule.dropped:
            text += f", {schedule.dropped} rows dropped at its end (tail='pad' or 'uneven' would not drop them)"
        if schedule.padded:
            text += f", {schedule.padded} rows repeated at its end"
        logger.log(logging.WARNING if schedule.dropped else logging.INFO, "%s", text)


def _check_makes_dataset(name: str, dataset: Any) -> None:
    """A function makes its Ray dataset in the workers, which check it."""
    if not callable(dataset):
        raise InvalidArgumentError(
            f"dataset {name!r} is {dataset!r:.200}, and must be a Ray dataset: pass ray_lance.read_lance(...)"
        )


def _check_steps(name: str, schedule: BatchSchedule) -> None:
    if not schedule.rows:
        raise InvalidArgumentError(
            f"dataset {name!r} has no rows, so that no step could be made: look at its filter, or at the split"
        )
    if not schedule.steps:
        raise InvalidArgumentError(
            f"dataset {name!r} has {schedule.rows} rows, and a step takes {schedule.global_batch} over all ranks: no "
            "step could be made. Take a smaller batch, or tail='pad' or 'uneven', which make one"
        )


def _world_sizes(scaling_config: Any) -> range:
    """The world sizes that a trainer may run with."""
    if scaling_config.min_workers == 0:
        raise InvalidArgumentError(
            "ScalingConfig(num_workers=0) runs the training function without shards, so that dataset_config would be "
            "ignored: take num_workers=1"
        )
    return range(scaling_config.min_workers, scaling_config.max_workers + 1)
