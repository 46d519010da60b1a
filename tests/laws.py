"""The laws of an order as checkers that work for any executor.

An executor is anything that turns an order into batches: the schedule's ranges alone, the iterable dataset, a Ray
shard. Tests hand it over as a function ``execute(world_size, cursor=None, steps=None) -> Run`` that starts every rank
afresh, loads the cursor if there is one, and makes ``steps`` global steps, or all that are left.

Rows are compared by an integer id that the executor's rows carry. The laws:

1. coverage: each row exactly once;
2. elasticity: the global batches are the same for every world size, task size, prefetch depth;
3. resume: a cursor, loaded at any world size, yields exactly the rest;
4. one order: all executors give the same sequence;
5. pinned: what others do to the dataset changes nothing;
6. faults: what fails on the way changes nothing;
7. refusal: a cursor of another order is refused, showing both sides.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
import pytest

from ray_lance.errors import CursorMismatchError

__all__ = [
    "Executor",
    "Run",
    "check_coverage",
    "check_elasticity",
    "check_equal_steps",
    "check_one_order",
    "check_refusal",
    "check_resume",
    "check_same_batches",
    "check_undisturbed",
    "global_batches",
    "sequence",
]

Ids = npt.NDArray[np.int64]


class Run(NamedTuple):
    """What the ranks returned, and the cursor after it.

    Attributes:
        batches: Row ids by rank, then by step.
        cursor: The cursor that any rank would save now.
    """

    batches: list[list[Ids]]
    cursor: Mapping[str, Any] | None = None


class Executor(Protocol):
    """Runs an order; see the module's docstring."""

    def __call__(self, world_size: int, cursor: Mapping[str, Any] | None = None, steps: int | None = None) -> Run: ...


def global_batches(run: Run) -> list[list[int]]:
    """Row ids by step, the ranks' batches one after another. A rank without a batch in a step adds nothing."""
    steps = max((len(batches) for batches in run.batches), default=0)
    return [
        [int(row) for batches in run.batches if step < len(batches) for row in batches[step]] for step in range(steps)
    ]


def sequence(run: Run) -> list[int]:
    """Row ids of all steps in order."""
    return [row for batch in global_batches(run) for row in batch]


def check_coverage(rows: Iterable[int], expected: Iterable[int]) -> None:
    """Law 1: each expected row exactly once, and no other."""
    found, wanted = np.sort(np.fromiter(rows, np.int64)), np.sort(np.fromiter(expected, np.int64))
    twice = np.unique(found[1:][found[1:] == found[:-1]])
    missing, foreign = np.setdiff1d(wanted, found), np.setdiff1d(found, wanted)
    faults = f"twice {twice[:10]}, missing {missing[:10]}, foreign {foreign[:10]} of {len(wanted)} rows"
    assert len(twice) + len(missing) + len(foreign) == 0, faults


def check_equal_steps(run: Run) -> None:
    """All ranks make the same number of steps, of the same size."""
    shapes = {tuple(len(batch) for batch in batches) for batches in run.batches}
    assert len(shapes) == 1, f"ranks differ in the sizes of their batches: {shapes}"


def check_elasticity(execute: Executor, world_sizes: Sequence[int]) -> None:
    """Law 2: global step s has the same rows, in the same order, for every world size."""
    check_same_batches({f"world_size={size}": execute(size) for size in world_sizes})


def check_same_batches(runs: Mapping[str, Run]) -> None:
    """Laws 2 and 6: runs that differ in how they read, or in what failed on the way, return the same global batches."""
    (first, reference), *others = [(name, global_batches(run)) for name, run in runs.items()]
    for name, batches in others:
        assert len(batches) == len(reference), f"{first} made {len(reference)} steps, {name} {len(batches)}"
        for step, (expected, found) in enumerate(zip(reference, batches, strict=True)):
            assert found == expected, f"step {step}: {first} {expected[:8]}..., {name} {found[:8]}..."


def check_resume(execute: Executor, legs: Sequence[tuple[int, int]], last_world_size: int) -> None:
    """Law 3: a run that is stopped and continued returns the uninterrupted run's global batches.

    At the end of the epoch its cursor is that of the next one, so there it is not continued.

    Args:
        execute: The executor.
        legs: (world size, steps) of each run that is stopped.
        last_world_size: World size of the run that goes on to the end of the epoch.
    """
    uninterrupted = global_batches(execute(last_world_size))
    found: list[list[int]] = []
    cursor: Mapping[str, Any] | None = None
    for world_size, steps in [*legs, (last_world_size, None)]:
        if len(found) < len(uninterrupted):
            run = execute(world_size, cursor=cursor, steps=steps)
            found += global_batches(run)
            cursor = run.cursor
    assert found == uninterrupted, f"legs {legs}: rows lost, repeated or out of order"


def check_one_order(sequences: Mapping[str, Iterable[int]]) -> None:
    """Law 4: every way to read an order gives the same sequence of rows."""
    (first, reference), *others = [(name, [int(row) for row in rows]) for name, rows in sequences.items()]
    for name, rows in others:
        assert rows == reference, f"{name} gives {rows[:8]}..., {first} gives {reference[:8]}..."


def check_undisturbed(execute: Executor, disturb: Callable[[], object], world_size: int = 1) -> None:
    """Laws 5 and 6: the same global batches before and after something happens to the dataset or to the workers."""
    before = execute(world_size)
    disturb()
    check_same_batches({"before": before, "after": execute(world_size)})


def check_refusal(
    load: Callable[[Mapping[str, Any]], object], foreign: Mapping[str, Mapping[str, Any]], own: Mapping[str, Any]
) -> None:
    """Law 7: cursors of other orders are refused, and the message shows both sides; the own one is taken.

    Args:
        load: Loads a cursor into the order under test.
        foreign: Name of what differs -> a cursor that differs in it.
        own: A cursor of the order under test.
    """
    load(own)
    for difference, cursor in foreign.items():
        with pytest.raises(CursorMismatchError) as refusal:
            load(cursor)
        message = str(refusal.value)
        sides = [("lanes", str(side["lanes"])) for side in (own, cursor)]
        if cursor["fingerprint"] != own["fingerprint"]:
            sides += [("fingerprint", side["fingerprint"]) for side in (own, cursor)]
        for name, side in sides[-2:]:
            assert name in message, f"{difference}: the message does not name {name}: {message}"
            assert side in message, f"{difference}: the message does not show {side}: {message}"
