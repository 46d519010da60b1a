"""How far a job is: one line that is redrawn in a terminal or a notebook, and now and then a line in a log."""

from __future__ import annotations

import importlib
import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol, TextIO

__all__ = ["Progress", "shown_progress"]

logger = logging.getLogger(__name__)

_SECONDS_PER_DRAWING = 0.5
_SECONDS_PER_LOG_LINE = 10.0
_WIDTH = 100


class Display(Protocol):
    """Where progress is shown."""

    every_s: float

    def show(self, text: str) -> None:
        """Show how far it is."""

    def end(self, text: str) -> None:
        """Show how it ended, and leave it there."""


class Terminal:
    """Redraws one line."""

    every_s = _SECONDS_PER_DRAWING

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def show(self, text: str) -> None:
        """Draw the line over the last one."""
        self._stream.write(f"\r{text[:_WIDTH].ljust(_WIDTH)}")
        self._stream.flush()

    def end(self, text: str) -> None:
        """Draw the line for the last time."""
        self.show(text)
        self._stream.write("\n")
        self._stream.flush()


class Notebook:
    """Redraws one line of a cell's output."""

    every_s = _SECONDS_PER_DRAWING

    def __init__(self, display: Callable[..., Any]) -> None:
        self._display = display
        self._handle: Any = None

    def show(self, text: str) -> None:
        """Put ``text`` where the last one was."""
        data = {"text/plain": text}
        if self._handle is None:
            self._handle = self._display(data, raw=True, display_id=True)
        else:
            self._handle.update(data, raw=True)

    end = show


class Log:
    """A line now and then, in the log; on ``stream`` where no log is kept."""

    every_s = _SECONDS_PER_LOG_LINE

    def __init__(self, stream: TextIO | None) -> None:
        self._stream = stream

    def show(self, text: str) -> None:
        """Write a line."""
        if logger.hasHandlers() or self._stream is None:
            logger.info("%s", text)
        else:
            self._stream.write(f"{text}\n")
            self._stream.flush()

    end = show


class Progress:
    """Rows done, speed, time left and failures of one job.

    Args:
        name: What is done, for the text.
        display: Where to show it.
        clock: The time in seconds.
    """

    def __init__(self, name: str, display: Display, clock: Callable[[], float] = time.monotonic) -> None:
        self._name = name
        self._display = display
        self._clock = clock
        self._started = self._shown = clock()
        self._rows = self._failed = 0
        self._note = ""
        self._total: int | None = None

    def expect(self, rows: int | None) -> None:
        """From now on the job is to do ``rows`` rows in all; None where nobody knows."""
        self._total = rows

    def show(self, rows: int, failed: int = 0, note: str = "") -> None:
        """Note how far it is, and show it where it is time to.

        Args:
            rows: Rows done since the beginning.
            failed: How many of them failed.
            note: What else there is to say.
        """
        self._rows, self._failed, self._note = rows, failed, note
        if self._clock() - self._shown >= self._display.every_s:
            self._shown = self._clock()
            self._display.show(self._text())

    def end(self, outcome: str = "") -> None:
        """Show the last state; ``outcome`` says what became of the job where it did not come to its end."""
        seconds = self._clock() - self._started
        parts = [f"{self._rows:,} rows in {seconds:,.1f} s", f"{self._speed():,.0f} rows/s", *self._failures()]
        self._display.end(f"{self._name}: {', '.join([*parts, *([outcome] if outcome else [])])}")

    def _text(self) -> str:
        of_all = "" if self._total is None else f" of {self._total:,}"
        parts = [
            f"{self._rows:,}{of_all} rows",
            f"{self._speed():,.0f} rows/s",
            *self._left(),
            *self._failures(),
            self._note,
        ]
        return f"{self._name}: {', '.join(part for part in parts if part)}"

    def _speed(self) -> float:
        return self._rows / max(1e-3, self._clock() - self._started)

    def _left(self) -> Iterator[str]:
        if self._total is not None and self._rows:
            yield f"{_duration((self._total - self._rows) / self._speed())} left"

    def _failures(self) -> Iterator[str]:
        if self._failed:
            yield f"{self._failed:,} failed"


@contextmanager
def shown_progress(name: str, *, bars: bool = True) -> Iterator[Progress]:
    """Progress of the job in the context, whose last state is shown when that is left.

    Args:
        name: What is done, for the text.
        bars: Whether to draw; the log gets its lines all the same.
    """
    progress = Progress(name, _display(bars))
    try:
        yield progress
    except BaseException as error:
        progress.end(f"ended by {_name(error)}")
        raise
    progress.end()


def _display(bars: bool) -> Display:
    display = _notebook_display() if bars else None
    if display is not None:
        return Notebook(display)
    if bars and sys.stderr is not None and sys.stderr.isatty():
        return Terminal(sys.stderr)
    return Log(sys.stderr if bars else None)


def _notebook_display() -> Callable[..., Any] | None:
    """IPython's ``display`` where this process is the kernel of a notebook."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    if shell is None or not hasattr(shell, "kernel"):
        return None
    display: Callable[..., Any] = importlib.import_module("IPython.display").display
    return display


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(max(0.0, seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02} min"
    return f"{minutes} min {rest:02} s" if minutes else f"{rest} s"


def _name(error: BaseException) -> str:
    """Name of an error's class; of an error in a task of Ray the name of what was raised there."""
    return type(getattr(error, "cause", None) or error).__name__
