"""Progress: what it says, how often, and where."""

from __future__ import annotations

import io
import logging
import sys
from dataclasses import dataclass, field
from types import SimpleNamespace

import pytest

from ray_lance import progress as module
from ray_lance.progress import Log, Notebook, Progress, Terminal, shown_progress


@dataclass
class Clock:
    """A clock that is set."""

    now: float = 100.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Recorded:
    """Keeps what is shown."""

    every_s: float = 0.5
    shown: list[str] = field(default_factory=list)
    ended: list[str] = field(default_factory=list)

    def show(self, text: str) -> None:
        self.shown.append(text)

    def end(self, text: str) -> None:
        self.ended.append(text)


class Stream(io.StringIO):
    """A stream that may be a terminal."""

    def __init__(self, is_terminal: bool) -> None:
        super().__init__()
        self.is_terminal = is_terminal

    def isatty(self) -> bool:
        return self.is_terminal


@pytest.mark.parametrize(
    ("total", "rows", "failed", "after_s", "text"),
    [
        (1_000, 0, 0, 1, "job: 0 of 1,000 rows, 0 rows/s"),
        (1_000, 250, 0, 5, "job: 250 of 1,000 rows, 50 rows/s, 15 s left"),
        (100_000, 1_000, 3, 10, "job: 1,000 of 100,000 rows, 100 rows/s, 16 min 30 s left, 3 failed"),
        (10_000_000, 1_000, 0, 10, "job: 1,000 of 10,000,000 rows, 100 rows/s, 27 h 46 min left"),
        (None, 1_234, 0, 1, "job: 1,234 rows, 1,234 rows/s"),
    ],
)
def test_rows_speed_time_left_and_failures_are_shown(total, rows, failed, after_s, text):
    clock, display = Clock(), Recorded()
    progress = Progress("job", display, clock)
    progress.expect(total)

    clock.now += after_s
    progress.show(rows, failed)

    assert display.shown == [text]


@pytest.mark.parametrize(("display", "most"), [(Terminal, 20), (Log, 1)])
def test_it_is_shown_as_often_as_the_place_bears(display, most):
    clock, shown = Clock(), Recorded(display.every_s)
    progress = Progress("job", shown, clock)

    for step in range(10_000):
        clock.now = 100 + step / 1_000
        progress.show(step)

    assert most - 1 <= len(shown.shown) <= most


def test_the_end_is_always_shown():
    clock, display = Clock(), Recorded()
    progress = Progress("job", display, clock)

    clock.now += 0.25
    progress.show(1_000, 7)
    progress.end()

    assert (display.shown, display.ended) == ([], ["job: 1,000 rows in 0.2 s, 4,000 rows/s, 7 failed"])


def test_a_terminal_gets_one_line_that_is_redrawn(monkeypatch):
    stream = Stream(is_terminal=True)
    monkeypatch.setattr(sys, "stderr", stream)

    with shown_progress("job") as progress:
        progress._display.every_s = 0.0
        progress.show(1)
        progress.show(2)

    assert stream.getvalue().count("\n") == 1
    assert stream.getvalue().count("\r") == 3


def test_a_pipe_without_a_log_gets_a_line_at_the_end(monkeypatch):
    stream = Stream(is_terminal=False)
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setattr(module.logger, "hasHandlers", lambda: False)

    with shown_progress("job") as progress:
        progress.show(5)

    assert stream.getvalue().startswith("job: 5 rows in ")
    assert stream.getvalue().count("\n") == 1


def test_where_a_log_is_kept_the_lines_go_there(monkeypatch, caplog):
    stream = Stream(is_terminal=False)
    monkeypatch.setattr(sys, "stderr", stream)

    with caplog.at_level(logging.INFO, "ray_lance"), shown_progress("job") as progress:
        progress.show(5)

    assert [record.message[:11] for record in caplog.records] == ["job: 5 rows"]
    assert stream.getvalue() == ""


def test_without_bars_nothing_is_drawn(monkeypatch):
    stream = Stream(is_terminal=True)
    monkeypatch.setattr(sys, "stderr", stream)

    with shown_progress("job", bars=False) as progress:
        progress.show(5)

    assert stream.getvalue() == ""


def test_a_job_that_fails_says_so(monkeypatch):
    stream = Stream(is_terminal=True)
    monkeypatch.setattr(sys, "stderr", stream)

    with pytest.raises(ValueError, match="no"), shown_progress("job"):
        raise ValueError("no")

    assert "0 rows in 0.0 s, 0 rows/s, ended by ValueError" in stream.getvalue()


def test_a_notebook_gets_one_output_that_is_updated(monkeypatch):
    outputs: list[str] = []

    class Handle:
        def update(self, data: dict, raw: bool) -> None:
            outputs[-1] = data["text/plain"]

    def display(data: dict, raw: bool, display_id: bool) -> Handle:
        outputs.append(data["text/plain"])
        return Handle()

    ipython = SimpleNamespace(get_ipython=lambda: SimpleNamespace(kernel=object()))
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    monkeypatch.setitem(sys.modules, "IPython.display", SimpleNamespace(display=display))

    with shown_progress("job") as progress:
        assert isinstance(progress._display, Notebook)
        progress._display.every_s = 0.0
        progress.show(1)
        progress.show(2)

    assert len(outputs) == 1
    assert outputs[0].startswith("job: 2 rows in")
