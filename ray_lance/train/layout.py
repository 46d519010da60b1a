"""How the ranks of a training run share the steps of an epoch."""

from __future__ import annotations

from dataclasses import dataclass

from ray_lance.order import BatchSchedule, Tail

__all__ = ["ShardLayout"]


@dataclass(frozen=True)
class ShardLayout:
    """How the ranks share a step. Ranks are data-parallel ones: those of one group have equal layouts.

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

    def epoch(self, rows: int) -> BatchSchedule:
        """The steps of this rank through a whole epoch, before any state is loaded."""
        return self.schedule(rows, self.lanes or self.world_size)
