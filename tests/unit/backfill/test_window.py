"""How far a computation may be ahead of its commits: never further than the window, never stuck."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ray_lance.backfill.window import Window


@st.composite
def tasks_of_passes(draw) -> tuple[int, list[list[tuple[int, int]]]]:
    """The size of a window, and passes of tasks: the first and the last fragment that each of them reads."""
    size = draw(st.integers(1, 20))
    most = Window(size).part
    passes = []
    for _ in range(draw(st.integers(1, 3))):
        tasks, first = [], 1
        for _ in range(draw(st.integers(1, 30))):
            last = first + draw(st.integers(0, most - 1))
            tasks.append((first, last))
            first = last + draw(st.integers(0, 1))  # a fragment may be cut among tasks
        passes.append(tasks)
    return size, passes


@given(tasks_of_passes())
def test_it_holds_at_most_its_size_and_never_waits_for_ever(case):
    size, passes = case
    window = Window(size)
    begun, settled, finished, before = 0, 0, 0, 0

    for tasks in passes:
        window.begin_pass(tasks[-1][1])
        for number, (_, last) in enumerate(tasks):
            if not window.admits(last):
                # Everything begun has been written: what is enough for a commit is committed.
                assert finished >= window.part
                window.settle(finished)
                settled, finished = settled + finished, 0
            assert window.admits(last)
            begun = before + last
            assert begun - settled <= size
            ends_here = number + 1 == len(tasks) or tasks[number + 1][0] > last
            finished = before + (last if ends_here else last - 1) - settled
        before = begun
