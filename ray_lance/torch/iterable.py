"""An iterable dataset of batches in the order of a permutation, with a state."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch.utils.data import IterableDataset, get_worker_info

from ray_lance.arguments import as_integer
from ray_lance.decode import Decode
from ray_lance.errors import CursorMismatchError
from ray_lance.formats import Format
from ray_lance.order import BatchSchedule, Cursor, Tail
from ray_lance.permutation import Permutation
from ray_lance.scan.pushdown import Columns
from ray_lance.tensors import FillValue, Ragged
from ray_lance.torch.batches import BatchOptions, RowReader, open_source
from ray_lance.torch.budget import CacheBytes, cache_limit, check_cache_bytes
from ray_lance.torch.epochs import EpochCounter, is_spawning
from ray_lance.torch.kept import KeptRows, begin_pass
from ray_lance.torch.prefetch import batches
from ray_lance.torch.ranks import Placement, Worker, current_worker, find_placement, given_placement
from ray_lance.versions import Version

__all__ = ["LanceIterableDataset"]

_WORKER = "worker"


@dataclass(frozen=True)
class _Position:
    """Where an iteration began, and how many steps of this process came back from it.

    Attributes:
        cursor: Of all ranks, where the iteration began.
        worker: The DataLoader worker whose steps are counted; None until one takes it up.
        steps: Steps that this worker has returned since.
    """

    cursor: Cursor
    worker: Worker | None = None
    steps: int = 0


class LanceIterableDataset(IterableDataset[Any]):
    """Batches of a Lance dataset in a fixed, resumable order, for one rank of a training run.

    Rank r of n yields the r-th n-th of every global batch of ``batch_size * n`` rows. The order, and with it every
    global batch, depends on the dataset's version, the filter, the seed and the epoch alone: not on threads, workers
    or, at the same global batch, the number of ranks. Reads happen ahead, in threads of this process, so that a
    ``DataLoader`` with ``num_workers=0`` (or none at all) is enough; its workers, where they are wanted, share the
    rank's batches and hand them out in the same order.

    Args:
        source: Path or URI, :class:`~ray_lance.TableRef`, ``lance.LanceDataset`` or :class:`~ray_lance.Permutation`.
            The version is pinned here: ranks that start while others write should name it.
        batch_size: Rows of a batch on this rank.
        columns: Names, or names mapped to SQL expressions; None for all columns.
        filter: SQL condition on the rows; for a permutation, give it there.
        shuffle: Seed of a shuffle, ``Permutation(source).shuffle(seed)``; None keeps the order of ``source``.
        rank: This process; found in ``torch.distributed`` or a Ray Train worker if not given, else 0.
        world_size: Number of processes; found like ``rank``, else 1.
        lanes: Contiguous parts of the order that every global batch draws from in equal shares. Default: the world
            size at the first start, and after that what the loaded state says.
        tail: Rows that do not fill a global batch at the end: ``"drop"``, ``"pad"`` (with rows that come again) or
            ``"uneven"`` (a smaller last batch, on some ranks none).
        transform: Called with each batch in its format, in the process and thread that make the batch.
        format: One of the nine of :func:`ray_lance.formats.convert`.
        decode: Encoded columns to decode, such as ``{"image": ImageDecode(size=(224, 224))}``. ``"auto"`` decodes
            the image columns that HuggingFace ``datasets`` has marked; None none.
        fill: What replaces nulls in tensors: one value, or one by column.
        ragged: What ragged columns become: ``"nested"``, ``"pad"`` or ``"list"``.
        prefetch: Reads of about 32 MiB begun before they are needed, by up to 4 threads; 0 reads when asked.
        version: Version number, tag, or tuple of a branch and a version number or None; for a permutation, give it
            there.
        storage_options: Options of the object store; for a permutation, give them there.
        cache_bytes: Bytes of rows that this process may keep in memory, over all its datasets; 0 for none. A table
            whose columns fit is read from storage in the first pass over it (where that is in order, in the first
            two) and from memory in later ones, if the process reads all of the epoch (one rank, no workers) and rows
            have one width and no nulls (numbers, dates, vectors, tensors of one shape; not bool). They stay when the
            dataset is gone, until another table needs the room. ``"auto"`` is 512 MiB, but no more than a sixteenth of
            the machine's or the container's memory, divided by ``LOCAL_WORLD_SIZE``.

    Raises:
        InvalidArgumentError: An argument breaks a rule.
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
        lanes: int | None = None,
        tail: Tail = "drop",
        transform: Callable[[Any], Any] | None = None,
        format: Format = "torch",
        decode: Decode = "auto",
        fill: FillValue | Mapping[str, FillValue] | None = None,
        ragged: Ragged = "nested",
        prefetch: int = 3,
        version: Version | None = None,
        storage_options: Mapping[str, str] | None = None,
        cache_bytes: CacheBytes = "auto",
    ) -> None:
        check_cache_bytes(cache_bytes)
        self._cache_bytes = cache_bytes
        options = BatchOptions(columns, format, decode, fill, ragged, transform)
        self._batch_size = as_integer("batch_size", batch_size, 1)
        self._prefetch = as_integer("prefetch", prefetch, 0)
        self._placement = given_placement(rank, world_size)
        self._wanted_lanes = None if lanes is None else as_integer("lanes", lanes, 1)
        self._lanes = self._wanted_lanes
        self._tail: Tail = tail
        permutation = open_source(source, filter, version, storage_options)
        if shuffle is not None:
            permutation = permutation.shuffle(as_integer("shuffle", shuffle))
        self._reader = RowReader(permutation, options)
        first = permutation.order.epoch_number
        self._epochs = EpochCounter(first, step=0 if permutation.fixed_epoch else 1)
        self._position: _Position | None = None
        self._is_loaded = False
        BatchSchedule(len(permutation), 1, self._batch_size, tail=tail)  # refuses an unknown tail
        if self._placement is not None:
            self._schedule(self._new_cursor(first))  # refuses lanes that do not divide the global batch

    @property
    def permutation(self) -> Permutation:
        """The order, whose epoch is set anew by each iteration."""
        return self._reader.permutation

    def __len__(self) -> int:
        """Steps of this rank in a whole epoch."""
        return self._schedule(self._new_cursor(self._epochs.next)).rank_steps

    def __iter__(self) -> Iterator[Any]:
        """The batches of the next epoch, or of the rest of the one whose state was loaded."""
        worker, position = current_worker(), self._position
        if self._is_loaded and position is not None and position.worker is not None:
            self._check_worker(position.worker, worker)
            self._epochs.follow(worker, position.cursor.epoch)
        else:
            epoch, goes_on = self._epochs.claim(worker, has_state=self._is_loaded)
            cursor = position.cursor if goes_on and position is not None else self._new_cursor(epoch)
            position = _Position(cursor, worker)
        self._is_loaded, self._position = False, position
        return self._batches(position, worker)

    def set_epoch(self, epoch: int) -> None:
        """Let the next iteration read ``epoch``; a state that was loaded in the middle of that epoch stays.

        Raises:
            InvalidArgumentError: ``epoch`` is negative or no integer.
        """
        epoch = as_integer("epoch", epoch, 0)
        if self._is_loaded and self._position is not None and self._position.cursor.epoch == epoch:
            return
        self._is_loaded, self._position = False, None
        self._epochs.set_next(epoch)

    def state_dict(self) -> dict[str, Any]:
        """Where this rank stands, in plain JSON types: the cursor after the batches that were returned.

        The same on every rank after the same number of steps, so it is enough to save that of one. In a worker of a
        ``DataLoader`` it holds that worker's part beside the cursor, as ``StatefulDataLoader`` keeps it; to save an
        elastic state under other loaders with workers, count steps and use :meth:`state_after`.
        """
        position = self._position or _Position(self._new_cursor(self._epochs.next))
        worker = position.worker
        if worker is not None and worker.size > 1:
            part = {"number": worker.number, "size": worker.size, "steps": position.steps}
            return {**position.cursor.to_json(), _WORKER: part}
        return self._advanced(position.cursor, position.steps).to_json()

    def state_after(self, steps: int) -> dict[str, Any]:
        """The state after ``steps`` steps of the current iteration, counted by the caller.

        Raises:
            IndexError: The epoch has fewer steps.
        """
        position = self._position or _Position(self._new_cursor(self._epochs.next))
        return self._advanced(position.cursor, steps).to_json()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Let the next iteration yield exactly what had not been returned when ``state`` was taken.

        The world size may differ; the global batches stay the same where ``batch_size * world_size`` is the same.

        Raises:
            CursorMismatchError: The state is of another order or other lanes; the message shows both sides.
            InvalidArgumentError: It is no state, or its lanes do not divide the global batch.
        """
        state = dict(state)
        part = state.pop(_WORKER, None)
        cursor = Cursor.from_json(state)
        permutation = self.permutation
        cursor.check(permutation.fingerprint, self._wanted_lanes or cursor.lanes, permutation.describe())
        if permutation.fixed_epoch and cursor.epoch != permutation.order.epoch_number:
            raise CursorMismatchError(
                f"epoch: the state is of epoch {cursor.epoch}, and here Permutation.epoch has fixed epoch "
                f"{permutation.order.epoch_number}: load it into a dataset of that epoch, or of no fixed one"
            )
        self._schedule(cursor)
        self._is_loaded, self._lanes = True, cursor.lanes
        if part is None:
            self._position = _Position(cursor)
            self._epochs.set_next(cursor.epoch, is_loaded=True)
        else:
            self._position = _Position(cursor, Worker(part["number"], part["size"]), part["steps"])

    def _batches(self, begin: _Position, worker: Worker) -> Generator[Any, None, None]:
        schedule = self._schedule(begin.cursor)
        order = self.permutation.order.epoch(begin.cursor.epoch)
        steps = range(worker.number + begin.steps * worker.size, schedule.rank_steps, worker.size)
        position = begin
        kept = self._kept(len(steps)) if schedule.world_size == 1 and get_worker_info() is None else None
        for batch in batches(self._reader, kept, order, schedule, steps, self._prefetch):
            position = self._moved(position, _Position(begin.cursor, worker, position.steps + 1))
            yield batch
        if worker.size == 1:  # the other ranks may have made one step more
            self._moved(position, _Position(begin.cursor, worker, schedule.steps))

    def _kept(self, steps: int) -> KeptRows | None:
        """What is kept in memory, for a process that reads all of an epoch.

        Others read other rows in each epoch, and workers of a loader most often end with one.
        """
        max_bytes = cache_limit(self._cache_bytes)
        rows = min(len(self.permutation), steps * self._batch_size)
        return begin_pass(self, self._reader, rows, max_bytes) if max_bytes else None

    def _moved(self, old: _Position, new: _Position) -> _Position:
        if self._position is old:  # else a later iteration, or a loaded state, has taken over
            self._position = new
        return new

    def _advanced(self, cursor: Cursor, steps: int) -> Cursor:
        return cursor.advance(self._schedule(cursor).consumed_after(steps)) if steps else cursor

    def _new_cursor(self, epoch: int) -> Cursor:
        permutation = self.permutation
        lanes = self._lanes or self._placed().world_size
        return Cursor.at_start(permutation.fingerprint, lanes, permutation.describe(), epoch)

    def _schedule(self, cursor: Cursor) -> BatchSchedule:
        rank, world_size = self._placed()
        rows, batch = len(self.permutation), self._batch_size * world_size
        return BatchSchedule(rows, cursor.lanes, batch, world_size, rank, self._tail, cursor.rows)

    def _placed(self) -> Placement:
        return self._placement or find_placement() or Placement()

    @staticmethod
    def _check_worker(saved: Worker, worker: Worker) -> None:
        if saved != worker:
            raise CursorMismatchError(
                f"the state is of DataLoader worker {saved.number} of {saved.size}, and this is worker "
                f"{worker.number} of {worker.size}: load it through a loader with num_workers={saved.size}, or save "
                "state_after(steps), which any loader can continue"
            )

    def __getstate__(self) -> dict[str, Any]:
        state = dict(self.__dict__)
        if is_spawning() and self._placement is None:
            state["_placement"] = find_placement()  # workers of the loader are in no process group of their own
        return state
