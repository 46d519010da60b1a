"""Where a rank stands in its dataset's order: steps returned in, a state out that any number of ranks can resume."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, get_args

from ray_lance.arguments import as_choice, as_integer
from ray_lance.errors import CursorMismatchError, InvalidArgumentError
from ray_lance.order import BatchSchedule, Cursor, Tail
from ray_lance.ordered import Ordered
from ray_lance.torch.epochs import Claim, EpochCounter
from ray_lance.torch.ranks import Placement, Placing, Worker

__all__ = ["Position", "RankState", "StepOptions"]

logger = logging.getLogger(__name__)

_WORKER = "worker"
_WORKER_KEYS = ("number", "size", "steps")


@dataclass(frozen=True)
class StepOptions:
    """How an epoch is cut into steps.

    Attributes:
        batch_size: Rows of a batch on each rank.
        lanes: Contiguous parts of the order that each step draws from; None for those of a loaded state, or else the
            world size at the first start.
        tail: Rows that fill no step; None for ``"uneven"`` where a process that is no rank reads without a shuffle,
            else ``"drop"``.
    """

    batch_size: int
    lanes: int | None = None
    tail: Tail | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "batch_size", as_integer("batch_size", self.batch_size, 1))
        if self.lanes is not None:
            object.__setattr__(self, "lanes", as_integer("lanes", self.lanes, 1))
        if self.tail is not None:
            as_choice("tail", self.tail, get_args(Tail))


@dataclass(frozen=True)
class Position:
    """Where an iteration began, and how many steps of it this process has returned.

    Attributes:
        cursor: Where all ranks were when the iteration began.
        worker: The DataLoader worker whose steps are counted; None until a worker begins the iteration.
        steps: Steps that this worker has returned since.
    """

    cursor: Cursor
    worker: Worker | None = None
    steps: int = 0

    def left(self, steps: int) -> range:
        """Which of so many steps are left to this worker."""
        number, size, _ = self.worker or Worker()
        return range(number + self.steps * size, steps, size)


class RankState:
    """The epochs and steps of a dataset on one rank, and how many of them have been returned.

    Args:
        permutation: The order.
        options: How an epoch is cut into steps.
        placing: Finds the rank.

    Raises:
        InvalidArgumentError: The options contradict each other or do not fit the rows, as far as that is known here.
    """

    def __init__(self, permutation: Ordered, options: StepOptions, placing: Placing) -> None:
        self._permutation, self._options, self._placing = permutation, options, placing
        first = permutation.order.epoch_number
        self.epochs = EpochCounter(first, step=0 if permutation.fixed_epoch else 1)
        self._lanes = _lanes(options.lanes, permutation.lanes)
        self._position: Position | None = None
        self._loaded: Position | None = None
        start = self._start_of(0)
        # Ranks that are started later may divide a step that the lanes do not divide in this process.
        self._with_steps(self.schedule(start if placing.find() else replace(start, lanes=1)))

    @property
    def batch_size(self) -> int:
        """Rows of a batch on each rank."""
        return self._options.batch_size

    def schedule(self, cursor: Cursor) -> BatchSchedule:
        """This rank's steps through what is left of an epoch after ``cursor``."""
        placement = self._placing.find()
        rank, world_size = placement or Placement()
        rows, batch = len(self._permutation), self._options.batch_size * world_size
        return BatchSchedule(rows, cursor.lanes, batch, world_size, rank, self._tail(placement), cursor.rows)

    def epoch_schedule(self) -> BatchSchedule:
        """This rank's steps through a whole epoch.

        Raises:
            InvalidArgumentError: Lanes or ranks do not divide a step, or the epoch does not fill a single one.
        """
        return self._with_steps(self.schedule(self._start_of(0)))

    def _with_steps(self, schedule: BatchSchedule) -> BatchSchedule:
        if schedule.rows and not schedule.steps:
            raise InvalidArgumentError(
                f"batch_size={schedule.batch_size}: there are {schedule.rows} rows, and a step of "
                f"{schedule.world_size} x {schedule.batch_size} rows is never full, so that tail='drop' leaves no step "
                "at all. Take a smaller batch, or tail='uneven' or 'pad'"
            )
        return schedule

    def check_state(self, worker: Worker) -> None:
        """Refuse to resume from a loaded state that does not fit.

        Raises:
            CursorMismatchError: It was taken in another worker of a loader, or at another global batch.
        """
        if self._loaded is None:
            return
        self._in_own_steps(self._loaded.cursor)
        saved = self._loaded.worker
        if saved is not None and saved != worker:
            here = f"worker {worker.number} of {worker.size}" + ("" if worker.of_loader else ", without a DataLoader's")
            raise CursorMismatchError(
                f"the state is of DataLoader worker {saved.number} of {saved.size}, and this is {here}: load it "
                f"through a loader with num_workers={saved.size}, or save state_after(steps), which any can continue"
            )

    def begin(self, worker: Worker) -> Position:
        """Begin the next iteration: of the next epoch, or of the rest of the one whose state was loaded."""
        loaded = self._loaded
        if loaded is not None and loaded.worker is not None:
            self.epochs.follow(worker, loaded.cursor.epoch)
            position = loaded
        else:
            claim = self.epochs.claim(worker, has_state=loaded is not None)
            position = Position(self._begun_at(claim), worker)
        cursor = self._in_own_steps(position.cursor)
        self._loaded, self._position = None, replace(position, cursor=cursor)
        self._report(worker)
        return self._position

    def returned(self, old: Position, *, ended: bool = False) -> Position:
        """Count a step that an iteration has returned, or its end.

        Args:
            old: The iteration's position before.
            ended: Whether the iteration has ended.

        Returns:
            Its position now. The rank stands there if no other iteration has begun since.
        """
        new = replace(old, steps=old.steps + 1) if not ended else self._ended(old)
        if self._position is old:  # else a later iteration, or a loaded state, has taken over
            self._position = new
        return new

    def set_epoch(self, epoch: int) -> None:
        """Let the next iteration read ``epoch``, or what is left of it if its state was loaded, even if nothing is."""
        if self._loaded is None or self._loaded.cursor.epoch != epoch:
            self._loaded, self._position = None, None
            self.epochs.set_next(epoch)
        elif self._loaded.worker is None:
            self._position = self._loaded
            self.epochs.set_next(epoch, is_loaded=True)

    def facts(self) -> dict[str, Any]:
        """Facts to show: the steps of this rank, and where it stands."""
        state = self.state()
        schedule = self.schedule(self._start_of(0))
        return {
            "rank": schedule.rank,
            "world_size": schedule.world_size,
            "batch_size": schedule.batch_size,
            "steps_per_epoch": schedule.rank_steps,
            "epoch": state["epoch"],
            "rows_read": state["rows"],
        }

    def state(self) -> dict[str, Any]:
        """The state after the steps that were returned; in a worker the cursor and the worker's part."""
        position = self._position
        if position is None or (position.worker is None and self.epochs.begun is not None):
            return self._start_of(self.epochs.next).to_json()
        worker = position.worker
        if worker is not None and worker.of_loader:
            part = {"number": worker.number, "size": worker.size, "steps": position.steps}
            return {**position.cursor.to_json(), _WORKER: part}
        return self._advanced(position.cursor, position.steps).to_json()

    def state_after(self, steps: int) -> dict[str, Any]:
        """The state after so many steps of all workers in the current iteration."""
        return self._advanced(self._current_start(), steps).to_json()

    def is_over(self, states: Iterable[Mapping[str, Any]], more: int = 0) -> bool:
        """Whether no step is left after those that the workers of a loader have returned, and ``more`` steps."""
        parts = [_parts(state) for state in states]
        if not parts or any(part is None for _, part in parts):
            return False
        return sum(part["steps"] for _, part in parts if part) + more >= self._rest(parts[0][0]).steps

    def load(self, state: Mapping[str, Any]) -> None:
        """Resume from a state; see :meth:`LanceIterableDataset.load_state_dict`."""
        cursor, part = _parts(state)
        permutation = self._permutation
        cursor.check(
            permutation.fingerprint,
            _lanes(self._options.lanes, self._permutation.lanes) or cursor.lanes,
            permutation.describe(),
        )
        if permutation.fixed_epoch and cursor.epoch != permutation.order.epoch_number:
            raise CursorMismatchError(
                f"epoch: the state is of epoch {cursor.epoch}, and here Permutation.epoch has fixed epoch "
                f"{permutation.order.epoch_number}: load it into a dataset of that epoch, or of no fixed one"
            )
        if self._placing.find() is not None:  # else ranks may be started later
            cursor = self._in_own_steps(cursor)
        start = self._advanced(cursor, 0)
        self._lanes = cursor.lanes
        if part is None:
            self._loaded, self._position = Position(cursor), Position(start)
            self.epochs.set_next(start.epoch, is_loaded=True)
        else:
            worker = Worker(part["number"], part["size"], of_loader=True)
            self._loaded = self._position = Position(start, worker, part["steps"])

    def _ended(self, position: Position) -> Position:
        left = position.left(self._rest(position.cursor).steps)  # other ranks may have made one step more
        return replace(position, steps=position.steps + len(left))

    def _in_own_steps(self, cursor: Cursor) -> Cursor:
        """The cursor with the global batch of this dataset; refuses one with another."""
        cursor.check(cursor.fingerprint, cursor.lanes, global_batch=self._global_batch)
        return replace(cursor, global_batch=self._global_batch)

    @property
    def _global_batch(self) -> int:
        return self._options.batch_size * (self._placing.find() or Placement()).world_size

    def _begun_at(self, claim: Claim) -> Cursor:
        return self._position.cursor if claim.resumes and self._position is not None else self._start_of(claim.epoch)

    def _current_start(self) -> Cursor:
        """Where the current iteration began, here or in the workers of a loader, or where the next one will."""
        position, begun = self._position, self.epochs.begun
        if begun is not None and (position is None or position.worker is None):
            return self._begun_at(begun)
        return self._start_of(self.epochs.next) if position is None else position.cursor

    def _advanced(self, cursor: Cursor, steps: int) -> Cursor:
        """The cursor so many steps later; where no step is left, at the start of the next epoch."""
        schedule = self._rest(cursor)
        rows = schedule.consumed_after(steps)
        if rows and steps == schedule.steps:
            return replace(cursor, epoch=self.epochs.after(cursor.epoch), rows=0)
        return cursor.advance(rows)

    def _rest(self, cursor: Cursor) -> BatchSchedule:
        """What all ranks together read after a cursor, in steps of its global batch."""
        batch, tail = cursor.global_batch or self._global_batch, self._tail(self._placing.find())
        return BatchSchedule(len(self._permutation), cursor.lanes, batch, tail=tail, consumed=cursor.rows)

    def _start_of(self, epoch: int) -> Cursor:
        placement = self._placing.find()
        lanes = self._lanes or (placement or Placement()).world_size
        start = Cursor.at_start(self._permutation.fingerprint, lanes, self._permutation.describe(), epoch)
        # A process that has read nothing may be the one that starts the ranks, whose global batch is not known yet.
        is_launcher = placement is None and self._position is None and self.epochs.begun is None
        return start if is_launcher else replace(start, global_batch=self._global_batch)

    def _tail(self, placement: Placement | None) -> Tail:
        is_alone = placement is None and not self._permutation.order.is_shuffled
        return self._options.tail or ("uneven" if is_alone else "drop")

    def _report(self, worker: Worker) -> None:
        """Log once how many rows are dropped."""
        schedule = self.epoch_schedule()
        if schedule.rank or worker.number or not schedule.dropped:
            return
        if self.epochs.is_first_report(schedule.world_size):
            logger.log(
                logging.INFO if self._options.tail else logging.WARNING,
                "%d of %d rows are dropped at the end of each epoch, because they do not fill a step of %d x %d rows "
                "(tail='drop'). tail='uneven' delivers them in a smaller step, tail='pad' fills that up",
                schedule.dropped,
                schedule.rows,
                schedule.world_size,
                schedule.batch_size,
            )


def _lanes(given: int | None, prescribed: int | None) -> int | None:
    """The lanes to read an order in; None where the first start decides."""
    if None not in (given, prescribed) and given != prescribed:
        raise InvalidArgumentError(
            f"lanes={given}: the order is to be read in {prescribed}, so that its global batches are what it promises: "
            "leave lanes out"
        )
    return given or prescribed


def _parts(state: Mapping[str, Any]) -> tuple[Cursor, dict[str, int] | None]:
    """The cursor of a state, and the part of the DataLoader worker in which it was taken, if it was."""
    if not isinstance(state, Mapping):
        raise InvalidArgumentError(f"state={state!r} must be the dict that state_dict returned")
    cursor = Cursor.from_json({key: value for key, value in state.items() if key != _WORKER})
    part = state.get(_WORKER)
    if part is None:
        return cursor, None
    if not isinstance(part, Mapping) or part.keys() != set(_WORKER_KEYS):
        raise InvalidArgumentError(f"state['{_WORKER}']={part!r} must be what state_dict returned")
    return cursor, {name: as_integer(f"state['{_WORKER}']['{name}']", part[name], 0) for name in _WORKER_KEYS}
