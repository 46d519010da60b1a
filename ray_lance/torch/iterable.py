"""The iterable dataset: a source and options in, batches in the order of a permutation out, with a state to resume."""

from __future__ import annotations

import sys
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from typing import Any, NoReturn

from torch.utils.data import IterableDataset

from ray_lance.arguments import as_integer
from ray_lance.decode import Decode
from ray_lance.errors import InvalidArgumentError
from ray_lance.forks import not_forked
from ray_lance.formats import Format
from ray_lance.metrics import LoaderMetrics
from ray_lance.notebook import Facts
from ray_lance.order import Tail
from ray_lance.ordered import Ordered
from ray_lance.parallel import DataParallel
from ray_lance.scan.pushdown import Columns
from ray_lance.tensors import Categories, CategoryOption, FillValue, Ragged
from ray_lance.torch.cache_budget import CacheBytes, cache_limit, check_cache_bytes
from ray_lance.torch.callers import refuse_batch_sharding, refuse_sharding_of_part, refuse_stacking
from ray_lance.torch.dataset_meter import DatasetMeter, rows_of_steps
from ray_lance.torch.epochs import EpochCounter
from ray_lance.torch.prefetch import RowSource, batches
from ray_lance.torch.rank_state import Position, RankState, StepOptions
from ray_lance.torch.ranks import Placing, Worker, current_worker, given_placement, mesh_placement
from ray_lance.torch.row_reader import BatchOptions, RowReader, open_source
from ray_lance.torch.table_cache import TableCache, begin_pass
from ray_lance.versions import Version

__all__ = ["LanceIterableDataset"]


class LanceIterableDataset(Facts, IterableDataset[Any]):
    """Batches of a Lance dataset in a fixed, resumable order, for one rank of a training run.

    Rank r of n yields the r-th n-th of every global batch of ``batch_size * n`` rows. The order, and with it every
    global batch, depends only on the dataset's version, the filter, the seed and the epoch: not on threads, workers
    or, at the same global batch, the number of ranks. Threads of this process read ahead, so that a ``DataLoader`` with
    ``num_workers=0`` (or none at all) is enough; its workers, where they are used, share the rank's batches and deliver
    them in the same order.

    Args:
        source: Path or URI, :class:`~ray_lance.TableRef`, ``lance.LanceDataset``, :class:`~ray_lance.Permutation`
            or :class:`~ray_lance.Mixture`. The version is pinned here: ranks that start while others write should name
            it.
        batch_size: Rows of a batch on this rank.
        columns: Names, or names mapped to SQL expressions; None for all columns.
        filter: SQL condition on the rows; for a permutation, give it there.
        shuffle: Seed of a shuffle, ``Permutation(source).shuffle(seed)``; None keeps the order of ``source``.
        rank: This process; found in ``torch.distributed`` or a Ray Train worker if not given, else 0.
        world_size: Number of processes; found like ``rank``, else 1.
        device_mesh: A ``torch.distributed.DeviceMesh`` of a model that is split over several ranks, which all get equal
            batches; the rank is then the index of this process along ``dp_dim``.
        dp_dim: Name or number of the mesh's data-parallel dimension, or several of them, the outermost first. It may
            be omitted where the mesh has only one.
        data_parallel: The data-parallel rank of each rank, without a mesh: a list such as ``[0, 0, 1, 1]``, a dict by
            rank, or a function of rank and world size. Ranks with the same one get equal batches.
        lanes: Contiguous parts of the order that every global batch draws from in equal shares. Default: the world
            size at the first start, and after that what the loaded state says.
        tail: What happens to rows that do not fill a global batch at the end: ``"drop"``, ``"pad"`` (with rows that are
            read a second time) or ``"uneven"`` (a smaller last batch, on some ranks none). Default: ``"uneven"``, so
            that every row is read, where one process reads without a shuffle and nothing makes it a rank (neither
            ``rank=`` nor a process group); ``"drop"`` for ranks, which have to stay in step, and with a shuffle. A
            warning then tells once how many rows are dropped.
        transform: Called with each batch in its format, in the process and thread that make the batch.
        format: One of the nine of :func:`ray_lance.formats.convert`.
        decode: Encoded columns to decode, such as ``{"image": ImageDecode(size=(224, 224))}``. ``"auto"`` decodes
            the image columns that HuggingFace ``datasets`` has marked; None none.
        fill: What replaces nulls in tensors: one value, or one by column.
        ragged: What ragged columns become: ``"nested"``, ``"pad"`` or ``"list"``.
        categories: What dictionary-encoded columns become: ``"values"``, or ``"codes"``, which are their places in
            :attr:`categories` and the same in every batch of this version; or lists of categories by column, in which
            the places are to be.
        prefetch: Reads of about 32 MiB that up to 4 threads begin before they are needed; 0 reads when asked.
        version: Version number, tag, or tuple of a branch and a version number or None; for a permutation, give it
            there.
        storage_options: Options of the object store; for a permutation, give them there.
        cache_bytes: Bytes that the row caches of all datasets of this process may take together; 0 for none. A table
            whose columns fit is read from storage in the first pass over it (if that is in order, in the first two)
            and from memory in later ones, if the process reads all of the epoch (one rank, no workers) and rows have
            one width and no nulls (numbers, dates, vectors, tensors of one shape; not bool). The cache outlives the
            dataset, until another table needs the memory. ``"auto"`` is 512 MiB, but at most a sixteenth of the
            machine's or the container's memory, divided by ``LOCAL_WORLD_SIZE``.

    Raises:
        InvalidArgumentError: An argument breaks a rule, or the rows do not fill a single step.
        UnknownColumnError: There is no such column.
        DatasetNotFoundError: There is no such dataset or version.

    Example:
        >>> dataset = LanceIterableDataset("train.lance", batch_size=256, shuffle=7)  # doctest: +SKIP
        >>> for epoch in range(3):  # each pass is the next epoch  # doctest: +SKIP
        ...     for batch in dataset:
        ...         step(batch["image"], batch["label"])
    """

    def __init__(
        self,
        source: Any,
        *,
        batch_size: int,
        columns: Columns = None,
        filter: str | None = None,
        shuffle: int | None = None,
        rank: int | None = None,
        world_size: int | None = None,
        device_mesh: Any = None,
        dp_dim: str | int | Sequence[str | int] | None = None,
        data_parallel: DataParallel | None = None,
        lanes: int | None = None,
        tail: Tail | None = None,
        transform: Callable[[Any], Any] | None = None,
        format: Format = "torch",
        decode: Decode = "auto",
        fill: FillValue | Mapping[str, FillValue] | None = None,
        ragged: Ragged = "nested",
        categories: CategoryOption = "values",
        prefetch: int = 3,
        version: Version | None = None,
        storage_options: Mapping[str, str] | None = None,
        cache_bytes: CacheBytes = "auto",
    ) -> None:
        check_cache_bytes(cache_bytes)
        self._cache_bytes = cache_bytes
        options = BatchOptions(columns, format, decode, fill, ragged, transform, categories)
        steps = StepOptions(batch_size, lanes, tail)
        self._prefetch = as_integer("prefetch", prefetch, 0)
        placing = _placing(rank, world_size, device_mesh, dp_dim, data_parallel)
        permutation = open_source(source, filter, version, storage_options)
        if shuffle is not None:
            permutation = permutation.shuffle(as_integer("shuffle", shuffle))
        self._reader = RowReader(permutation, options)
        self._state = RankState(permutation, steps, placing)
        self._meter = DatasetMeter()

    def _facts(self) -> dict[str, Any]:
        return {**self._reader.facts(), **self._state.facts()}

    @property
    def permutation(self) -> Ordered:
        """The order; each iteration sets its epoch."""
        return self._reader.permutation

    @property
    def categories(self) -> Categories:
        """The categories of the dictionary-encoded columns, by column: those of the whole version, found once."""
        return self._reader.categories

    def __len__(self) -> int:
        """Steps of this rank in a whole epoch.

        Raises:
            InvalidArgumentError: There are none: the rows do not fill a step of so many ranks.
        """
        return self._state.epoch_schedule().rank_steps

    def __iter__(self) -> Iterator[Any]:
        """The batches of the next epoch, or of the rest of the one whose state was loaded.

        The epoch is taken with the first batch; an iterator that is never asked for one takes none.
        """
        worker = current_worker()
        self._state.check_state(worker)
        schedule, caller = self._state.epoch_schedule(), sys._getframe(1)
        refuse_stacking(caller, schedule.batch_size)
        refuse_sharding_of_part(caller, schedule.world_size)
        # Workers of a loader take their epoch at once: one that has no batch would otherwise take none.
        begun = self._state.begin(worker) if worker.of_loader else None
        return not_forked(self._batches(begun, worker))

    def set_epoch(self, epoch: int) -> None:
        """Let the next iteration read ``epoch``.

        Directly after :meth:`load_state_dict` of a state of that epoch it reads the rest of it, so that a loop which
        sets the epoch each time resumes correctly: after the last step of the epoch with no batch.

        Raises:
            InvalidArgumentError: ``epoch`` is negative or not an integer.
        """
        self._state.set_epoch(as_integer("epoch", epoch, 0))

    def state_dict(self) -> dict[str, Any]:
        """Where this rank stands, in plain JSON types: the cursor after the batches that were returned.

        It is the same on every rank after the same number of steps, so that saving one rank's is enough. When no step
        is left it is the start of the next epoch, even if the iteration has not been read to its end. In a worker of a
        ``DataLoader`` it also holds the worker's part, for ``StatefulDataLoader``; to save an elastic state under other
        loaders with workers, count steps and use :meth:`state_after`.
        """
        return self._state.state()

    def state_after(self, steps: int) -> dict[str, Any]:
        """The state after ``steps`` steps of the current iteration, counted by the caller.

        For loops that do not ask this object for batches one by one: those of a loader with workers, and of frameworks
        that look ahead.

        Raises:
            IndexError: The epoch has fewer steps.
        """
        return self._state.state_after(as_integer("steps", steps, 0))

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Let the next iteration yield exactly what had not been returned when ``state`` was taken.

        The world size may differ if ``batch_size * world_size`` is the same: then the global batches stay the same. To
        change that on purpose, set ``state["global_batch"]`` first: each remaining row is read once either way. If the
        state was taken at the end of an epoch, the next iteration reads the next epoch.

        Raises:
            CursorMismatchError: The state is of another order, other lanes or another global batch; the message shows
                both sides. The global batch is checked by the first iteration if ranks are not known before.
            InvalidArgumentError: ``state`` is no state, or its lanes do not divide the global batch.
        """
        self._state.load(state)

    def metrics(self) -> LoaderMetrics:
        """What this dataset has delivered since it was made, over all its passes.

        In a training process the workers of its loaders are counted too: then ``seconds_waited`` is the time that the
        workers have waited, not the training loop. ``queue_depth`` is always that of the process that asks.
        """
        return self._meter.metrics()

    def is_over(self, states: Iterable[Mapping[str, Any]], more: int = 0) -> bool:
        """Whether no step is left after the states of a loader's workers and ``more`` steps; for loaders."""
        return self._state.is_over(states, more)

    @property
    def epochs(self) -> EpochCounter:
        """Counts the iterations; for loaders."""
        return self._state.epochs

    @property
    def generator(self) -> NoReturn:
        """None exists: the seed is ``shuffle=``. Accelerate asks for it before it shards a dataset."""
        refuse_batch_sharding(sys._getframe(1))
        raise AttributeError(f"{type(self).__name__!r} object has no attribute 'generator'")

    def _batches(self, begun: Position | None, worker: Worker) -> Generator[Any, None, None]:
        begin = self._state.begin(worker) if begun is None else begun
        schedule = self._state.schedule(begin.cursor)
        order = self.permutation.order.epoch(begin.cursor.epoch)
        steps = begin.left(schedule.rank_steps)
        position = begin
        cache = self._cache(len(steps)) if schedule.world_size == 1 and not worker.of_loader else None
        meter = self._meter.begin()
        made = batches(RowSource(self._reader, cache, meter), order, schedule, steps, self._prefetch)
        for batch in meter.timed(made, rows_of_steps(schedule, steps)):
            position = self._state.returned(position)
            yield batch
        self._state.returned(position, ended=True)

    def _cache(self, steps: int) -> TableCache | None:
        """The cache of the table, for a process that reads all of an epoch.

        Others read other rows in each epoch, and workers of a loader most often end with one.
        """
        max_bytes = cache_limit(self._cache_bytes)
        rows = min(len(self.permutation), steps * self._state.batch_size)
        return begin_pass(self, self._reader, rows, max_bytes) if max_bytes else None


def _placing(
    rank: int | None, world_size: int | None, device_mesh: Any, dp_dim: Any, data_parallel: DataParallel | None
) -> Placing:
    """Who reads, according to the arguments, which must not contradict each other."""
    given = given_placement(rank, world_size)
    if device_mesh is None:
        if dp_dim is not None:
            raise InvalidArgumentError(f"dp_dim={dp_dim!r} names a dimension of device_mesh: give that too")
        return Placing(given, data_parallel)
    for name, value in (("rank", rank), ("data_parallel", data_parallel)):
        if value is not None:
            raise InvalidArgumentError(f"{name}={value!r} contradicts device_mesh, which tells the rank: give one")
    return Placing(mesh_placement(device_mesh, dp_dim), None)
