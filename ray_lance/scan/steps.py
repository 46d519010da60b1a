"""Tasks that read whole steps of a schedule: the rows of each batch lie together in what a task delivers."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ray_lance.order import BatchSchedule
from ray_lance.scan.plan import FIRST_TASK_BYTES, MAX_WINDOW_BYTES, TaskSizing

__all__ = ["StepRange", "plan_steps"]


@dataclass(frozen=True)
class StepRange:
    """Steps ``[first, end)`` of one rank's schedule.

    Attributes:
        schedule: The rank's schedule.
        first: First step.
        end: Step after the last.
    """

    schedule: BatchSchedule
    first: int
    end: int

    @property
    def num_rows(self) -> int:
        """Rows of the steps; only the last step of a schedule may have fewer than ``batch_size``."""
        if self.first == self.end:
            return 0
        last = sum(len(piece) for piece in self.schedule.pieces(self.end - 1))
        return (self.end - 1 - self.first) * self.schedule.batch_size + last

    def positions(self) -> npt.NDArray[np.int64]:
        """Positions in the permutation, batch after batch: int64, shape ``(num_rows,)``."""
        pieces = [piece for step in range(self.first, self.end) for piece in self.schedule.pieces(step)]
        ranges = [np.arange(piece.start, piece.stop, dtype=np.int64) for piece in pieces]
        return np.concatenate(ranges) if ranges else np.empty(0, np.int64)


def plan_steps(schedule: BatchSchedule, sizing: TaskSizing, window: int = 0) -> list[StepRange]:
    """Tasks of about the wanted size that cover every step of one rank; small ones first, for an early first batch.

    Args:
        schedule: The rank's schedule.
        sizing: Wanted size of the tasks; ``num_tasks`` counts those of all ranks together.
        window: Positions within which the order mixes rows. A task that reads a whole window in each of its lanes finds
            neighbouring rows together, so tasks grow up to that, within bounds.
    """
    steps = schedule.rank_steps
    if steps == 0:
        return []
    if sizing.num_tasks is not None:
        return _even(schedule, 0, min(steps, -(-sizing.num_tasks // schedule.world_size)))
    step_bytes = sizing.row_bytes * schedule.batch_size
    lanes = len({piece.lane for piece in schedule.pieces(0)})
    windows_bytes = min(lanes * window * sizing.row_bytes, MAX_WINDOW_BYTES)
    steps_per_task = max(1, int(max(sizing.target_bytes, windows_bytes) / step_bytes))
    small = max(1, int(FIRST_TASK_BYTES / step_bytes))
    first_tasks = max(1, sizing.first_tasks // schedule.world_size) if sizing.first_tasks else 0
    first = min(steps, small * first_tasks)
    begin = [StepRange(schedule, start, min(start + small, first)) for start in range(0, first, small)]
    rest = -(-(steps - first) // steps_per_task)
    return [*begin, *_even(schedule, first, rest)]


def _even(schedule: BatchSchedule, first: int, tasks: int) -> list[StepRange]:
    """The steps from ``first`` on as so many tasks of equal size."""
    steps = schedule.rank_steps - first
    bounds = [first + task * steps // tasks for task in range(tasks + 1)] if tasks else []
    return [StepRange(schedule, start, end) for start, end in itertools.pairwise(bounds)]
