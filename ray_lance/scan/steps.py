"""Tasks that read whole steps of a schedule: the rows of each batch lie together in what a task delivers."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ray_lance.order import BatchSchedule
from ray_lance.scan.plan import TaskSizing

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


def plan_steps(schedule: BatchSchedule, sizing: TaskSizing) -> list[StepRange]:
    """Tasks of about the wanted size that cover every step of one rank.

    Args:
        schedule: The rank's schedule.
        sizing: Wanted size of the tasks; ``num_tasks`` counts those of all ranks together.
    """
    steps = schedule.rank_steps
    if sizing.num_tasks is not None:
        tasks = -(-sizing.num_tasks // schedule.world_size)
    else:
        steps_per_task = max(1, int(sizing.target_bytes / (sizing.row_bytes * schedule.batch_size)))
        tasks = -(-steps // steps_per_task)
    tasks = min(tasks, steps)
    bounds = [task * steps // tasks for task in range(tasks + 1)] if tasks else []
    return [StepRange(schedule, first, end) for first, end in itertools.pairwise(bounds)]
