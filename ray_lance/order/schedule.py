"""Schedules batches: rows, lanes, batch size and rank in, the positions that the rank reads at each step out.

A permutation of ``rows`` positions is cut into L lanes: contiguous ranges whose sizes differ by at most one. Global
step ``s`` takes the next ``G / L`` positions of every lane; the global batch is their concatenation, lane by lane,
and rank r of n gets its ``r``-th n-th part. The global batches therefore do not depend on n, and if n divides L each
rank reads whole lanes of its own.

What is left of an epoch when lanes no longer hold ``G / L`` rows each is the tail:

- ``drop``: the last full step ends the epoch. At most ``G - 1`` rows are dropped, whatever the lanes.
- ``pad``: one more full step. A lane that has ended continues with the positions after it (the first position follows
  the last), so at most ``G - 1`` rows are read a second time.
- ``uneven``: one more step with what is left. Every row exactly once; a rank whose part of that step is empty makes
  one step less, so ranks may differ by one step.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal, get_args

from ray_lance.arguments import as_integer
from ray_lance.errors import CursorMismatchError, InvalidArgumentError

__all__ = ["BatchSchedule", "LaneRange", "Tail"]

Tail = Literal["drop", "pad", "uneven"]


@dataclass(frozen=True)
class LaneRange:
    """Positions ``[start, stop)`` of the permutation, read for one lane.

    Attributes:
        lane: Number of the lane, from 0.
        start: First position.
        stop: Position after the last.
    """

    lane: int
    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start


@dataclass(frozen=True)
class BatchSchedule:
    """The steps of one rank through one epoch, or through the rest of it after a cursor.

    Attributes:
        rows: Positions in the permutation that all ranks read together.
        lanes: L, divides ``global_batch``.
        global_batch: G, rows of a step over all ranks; ``world_size`` divides it.
        world_size: Number of ranks.
        rank: This rank, from 0.
        tail: What happens to rows that do not fill a step.
        consumed: Rows that all ranks together have read before step 0 of this schedule.
    """

    rows: int
    lanes: int
    global_batch: int
    world_size: int = 1
    rank: int = 0
    tail: Tail = "drop"
    consumed: int = 0

    def __post_init__(self) -> None:
        for name, minimum in (("rows", 0), ("lanes", 1), ("global_batch", 1), ("world_size", 1), ("rank", 0)):
            object.__setattr__(self, name, as_integer(name, getattr(self, name), minimum))
        object.__setattr__(self, "consumed", as_integer("consumed", self.consumed, 0))
        for name, part in (("lanes", self.lanes), ("world_size", self.world_size)):
            if self.global_batch % part:
                raise InvalidArgumentError(
                    f"{name}={part} does not divide global_batch={self.global_batch}: every lane and every rank has "
                    f"the same share of a step. Nearest global batches: {_nearest_multiples(self.global_batch, part)}"
                )
        if self.rank >= self.world_size:
            raise InvalidArgumentError(f"rank={self.rank} must be from 0 to world_size - 1 = {self.world_size - 1}")
        if self.tail not in get_args(Tail):
            raise InvalidArgumentError(f"tail={self.tail!r} must be one of {list(get_args(Tail))}")
        if self.consumed >= self.rows + self.global_batch:
            raise CursorMismatchError(
                f"consumed={self.consumed} rows are more than an epoch of {self.rows} rows has: the cursor is damaged, "
                "or of another order"
            )
        if self.consumed % self.lanes and self.consumed != self.rows:
            raise CursorMismatchError(
                f"consumed={self.consumed} rows cannot be shared by lanes={self.lanes}: a cursor stands at the end of "
                "a step, where every lane has given the same number of rows"
            )

    @property
    def batch_size(self) -> int:
        """Rows per rank in a full step."""
        return self.global_batch // self.world_size

    @property
    def steps(self) -> int:
        """Global steps from here to the end of the epoch."""
        left = max(self.rows - self.consumed, 0)
        return left // self.global_batch if self.tail == "drop" else -(-left // self.global_batch)

    @property
    def rank_steps(self) -> int:
        """Steps that this rank makes: ``steps``, but under ``uneven`` one less if it has no row in the last one."""
        if self.tail != "uneven" or self.steps == 0 or self.pieces(self.steps - 1):
            return self.steps
        return self.steps - 1

    @property
    def dropped(self) -> int:
        """Rows at the end of the epoch that no rank reads."""
        return max(self.rows - self.consumed, 0) % self.global_batch if self.tail == "drop" else 0

    @property
    def padded(self) -> int:
        """Rows that are read a second time so that the last step is full."""
        return max(self.consumed_after(self.steps) - max(self.rows, self.consumed), 0)

    def consumed_after(self, steps: int) -> int:
        """Rows that all ranks together have read after the first ``steps`` steps: what the cursor counts.

        Under ``uneven`` the last step has fewer than ``global_batch`` rows, and under ``pad`` the count may end above
        ``rows``.
        """
        self._check_steps(steps, steps)
        total = self.consumed + steps * self.global_batch
        return min(total, max(self.rows, self.consumed)) if self.tail == "uneven" else total

    def resume(self, consumed: int) -> BatchSchedule:
        """The rest of the epoch after ``consumed`` rows over all ranks. Its step 0 is the first batch not yet returned.

        Raises:
            CursorMismatchError: No step ends there with these lanes.
        """
        return replace(self, consumed=consumed)

    def ranges(self, step: int) -> list[tuple[int, int]]:
        """Positions ``[start, stop)`` that this rank reads at a step, in the order of its batch.

        Args:
            step: From 0 to ``steps - 1``, counted from ``consumed``.

        Returns:
            Ranges, neighbouring ones merged; none under ``uneven`` where the rank has no row in the last step.

        Raises:
            IndexError: There is no such step.
        """
        merged: list[tuple[int, int]] = []
        for piece in self.pieces(step):
            if merged and merged[-1][1] == piece.start:
                merged[-1] = (merged[-1][0], piece.stop)
            else:
                merged.append((piece.start, piece.stop))
        return merged

    def pieces(self, step: int) -> list[LaneRange]:
        """Like ``ranges``, but with lanes and not merged: tells how to cut the batch from what lanes have read."""
        self._check_steps(step, step + 1, "step", step)
        return [piece for lane, low, high in self._shares() for piece in self._read(lane, step, step, low, high)]

    def lane_bounds(self, lane: int) -> tuple[int, int]:
        """Positions ``[start, stop)`` of a lane."""
        return lane * self.rows // self.lanes, (lane + 1) * self.rows // self.lanes

    @property
    def _per_lane(self) -> int:
        return self.global_batch // self.lanes

    def _shares(self) -> Iterator[tuple[int, int, int]]:
        """(lane, low, high): this rank's part ``[low, high)`` of what each of its lanes gives to a step."""
        first, end = self.rank * self.batch_size, (self.rank + 1) * self.batch_size
        for lane in range(first // self._per_lane, -(-end // self._per_lane)):
            offset = lane * self._per_lane
            yield lane, max(first - offset, 0), min(end - offset, self._per_lane)

    def _read(self, lane: int, first_step: int, last_step: int, low: int, high: int) -> Iterator[LaneRange]:
        """From ``low`` in the first step to ``high`` in the last one, cut off or continued at the lane's end."""
        lane_start, lane_stop = self.lane_bounds(lane)
        begin = lane_start + self.consumed // self.lanes
        start, stop = begin + first_step * self._per_lane + low, begin + last_step * self._per_lane + high
        if self.tail != "pad":
            stop = min(stop, lane_stop)
            if start < stop:
                yield LaneRange(lane, start, stop)
            return
        while start < stop:
            wrapped = start % self.rows
            count = min(stop - start, self.rows - wrapped)
            yield LaneRange(lane, wrapped, wrapped + count)
            start += count

    def _check_steps(self, first: int, end: int, name: str = "steps", value: object = None) -> None:
        if not 0 <= first <= end <= self.steps:
            raise IndexError(f"{name} {(first, end) if value is None else value} not within the {self.steps} steps")


def _nearest_multiples(number: int, part: int) -> str:
    lower = number // part * part
    return f"{lower} or {lower + part}" if lower else str(part)
