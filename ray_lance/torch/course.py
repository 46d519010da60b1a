"""Where a rank stands in its dataset's order: epochs, steps, and a state that goes on at any number of ranks."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from ray_lance.arguments import as_integer
from ray_lance.errors import CursorMismatchError, InvalidArgumentError
from ray_lance.order import BatchSchedule, Cursor, Tail
from ray_lance.permutation import Permutation
from ray_lance.torch.epochs import Claim, EpochCounter
from ray_lance.torch.ranks import Placement, Placing, Worker

__all__ = ["Course", "Position", "StepOptions"]

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


@dataclass(frozen=True)
class Position:
    """Where an iteration began, and how many steps of this process came back from it.

    Attributes:
        cursor: Of all ranks, where the iteration began.
        worker: The DataLoader worker whose steps are counted; None until one takes it up.
        steps: Steps that this worker has returned since.
    """

    cursor: Cursor
    worker: Worker | None = None
    steps: int = 0


class Course:
    """The epochs of a dataset on one rank, and where that stands.

    Args:
        permutation: The order.
        options: How an epoch is cut into steps.
        placing: Finds the rank.

    Raises:
        InvalidArgumentError: The options do not fit each other or the rows, as far as that is known here.
    """

    def __init__(self, permutation: Permutation, options: StepOptions, placing: Placing) -> None:
        self._permutation, self._options, self._placing = permutation, options, placing
        first = permutation.order.epoch_number
        self.epochs = EpochCounter(first, step=0 if permutation.fixed_epoch else 1)
        self._lanes = options.lanes
        self._position: Position | None = None
        self._is_loaded = False
        self.epoch_schedule()

    @property
    def batch_size(self) -> int:
        """Rows of a batch on each rank."""
        return self._options.batch_size

    def schedule(self, cursor: Cursor) -> BatchSchedule:
        """This rank's steps through what is left of an epoch after ``cursor``."""
        placement = self._placing.find()
        rank, world_size = placement or Placement()
        tail = self._options.tail or self._usual_tail(placement)
        rows, batch = len(self._permutation), self._options.batch_size * world_size
        return BatchSchedule(rows, cursor.lanes, batch, world_size, rank, tail, cursor.rows)

    def epoch_schedule(self) -> BatchSchedule:
        """This rank's steps through a whole epoch.

        Raises:
            InvalidArgumentError: Lanes or ranks do not divide a step, or the epoch does not fill a single one.
        """
        schedule = self.schedule(self._start_of(0))
        if schedule.rows and not schedule.steps:
            raise InvalidArgumentError(
                f"batch_size={schedule.batch_size}: there are {schedule.rows} rows, and a step of "
                f"{schedule.world_size} x {schedule.batch_size} rows is never full, so that tail='drop' leaves no step "
                "at all. Take a smaller batch, or tail='uneven' or 'pad'"
            )
        return schedule

    def check_worker(self, worker: Worker) -> None:
        """Refuse to go on in a worker from a state that was taken in another one.

        Raises:
            CursorMismatchError: That is so.
        """
        saved = self._position.worker if self._is_loaded and self._position is not None else None
        if saved is not None and saved != worker:
            here = f"worker {worker.number} of {worker.size}" + ("" if worker.of_loader else ", without a DataLoader's")
            raise CursorMismatchError(
                f"the state is of DataLoader worker {saved.number} of {saved.size}, and this is {here}: load it "
                f"through a loader with num_workers={saved.size}, or save state_after(steps), which any can continue"
            )

    def begin(self, worker: Worker) -> Position:
        """Begin the next iteration: of the next epoch, or of the rest of the one whose state was loaded."""
        position = self._position
        if self._is_loaded and position is not None and position.worker is not None:
            self.epochs.follow(worker, position.cursor.epoch)
        else:
            claim = self.epochs.claim(worker, has_state=self._is_loaded)
            position = Position(self._begun_at(claim), worker)
        self._is_loaded, self._position = False, position
        self._report(worker)
        return position

    def returned(self, old: Position, *, ended: bool = False) -> Position:
        """The position one step later, or at the end; where the rank stands if this iteration was the last to begin.

        Args:
            old: What the iteration was told last.
            ended: Whether it has come to its end.
        """
        new = replace(old, steps=old.steps + 1) if not ended else self._ended(old)
        if self._position is old:  # else a later iteration, or a loaded state, has taken over
            self._position = new
        return new

    def set_epoch(self, epoch: int) -> None:
        """Let the next iteration read ``epoch``; a state that was loaded in the middle of that epoch stays."""
        if self._is_loaded and self._position is not None and self._position.cursor.epoch == epoch:
            return
        self._is_loaded, self._position = False, None
        self.epochs.set_next(epoch)

    def state(self) -> dict[str, Any]:
        """The state after the steps that were returned; in a worker with its part beside the cursor."""
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

    def load(self, state: Mapping[str, Any]) -> None:
        """Stand where a state was taken; see :meth:`LanceIterableDataset.load_state_dict`."""
        cursor, part = _parts(state)
        permutation = self._permutation
        cursor.check(permutation.fingerprint, self._options.lanes or cursor.lanes, permutation.describe())
        if permutation.fixed_epoch and cursor.epoch != permutation.order.epoch_number:
            raise CursorMismatchError(
                f"epoch: the state is of epoch {cursor.epoch}, and here Permutation.epoch has fixed epoch "
                f"{permutation.order.epoch_number}: load it into a dataset of that epoch, or of no fixed one"
            )
        self._check_rows(cursor)
        cursor = self._advanced(cursor, 0)
        self._is_loaded, self._lanes = True, cursor.lanes
        if part is None:
            self._position = Position(cursor)
            self.epochs.set_next(cursor.epoch, is_loaded=True)
        else:
            worker = Worker(part["number"], part["size"], of_loader=True)
            self._position = Position(cursor, worker, part["steps"])

    def _ended(self, position: Position) -> Position:
        if position.worker is not None and position.worker.of_loader:
            return position
        return replace(position, steps=self.schedule(position.cursor).steps)  # others may have made one step more

    def _check_rows(self, cursor: Cursor) -> None:
        # Padding may have gone beyond the last row, by less than a step.
        if cursor.rows >= len(self._permutation) + self.schedule(cursor).global_batch:
            raise CursorMismatchError(
                f"rows: the state stands at row {cursor.rows} of its epoch, and here are {len(self._permutation)} rows"
            )

    def _begun_at(self, claim: Claim) -> Cursor:
        return self._position.cursor if claim.goes_on and self._position is not None else self._start_of(claim.epoch)

    def _current_start(self) -> Cursor:
        """Where the current iteration began, here or in the workers of a loader; where the next one will."""
        position, begun = self._position, self.epochs.begun
        if begun is not None and (position is None or position.worker is None):
            return self._begun_at(begun)
        return self._start_of(self.epochs.next) if position is None else position.cursor

    def _advanced(self, cursor: Cursor, steps: int) -> Cursor:
        """The cursor so many steps later; where no step is left, at the start of the next epoch."""
        schedule = self.schedule(cursor)
        rows = schedule.consumed_after(steps)
        if rows and steps == schedule.steps:
            return replace(cursor, epoch=self.epochs.after(cursor.epoch), rows=0)
        return cursor.advance(rows)

    def _start_of(self, epoch: int) -> Cursor:
        lanes = self._lanes or (self._placing.find() or Placement()).world_size
        return Cursor.at_start(self._permutation.fingerprint, lanes, self._permutation.describe(), epoch)

    def _usual_tail(self, placement: Placement | None) -> Tail:
        return "uneven" if placement is None and self._permutation.order.mixing is None else "drop"

    def _report(self, worker: Worker) -> None:
        """Say once how many rows nobody sees."""
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


def _parts(state: Mapping[str, Any]) -> tuple[Cursor, dict[str, int] | None]:
    """The cursor of a state, and the part of the DataLoader worker that it was taken in, if it was."""
    if not isinstance(state, Mapping):
        raise InvalidArgumentError(f"state={state!r} must be the dict that state_dict returned")
    cursor = Cursor.from_json({key: value for key, value in state.items() if key != _WORKER})
    part = state.get(_WORKER)
    if part is None:
        return cursor, None
    if not isinstance(part, Mapping) or part.keys() != set(_WORKER_KEYS):
        raise InvalidArgumentError(f"state['{_WORKER}']={part!r} must be what state_dict returned")
    return cursor, {name: as_integer(f"state['{_WORKER}']['{name}']", part[name], 0) for name in _WORKER_KEYS}
