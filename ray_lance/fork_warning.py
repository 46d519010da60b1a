"""Lance's warning that it is not fork-safe, left out where a fork only starts another program.

Ray starts its processes in that way, and nobody can do anything about it. A fork whose child goes on with this program
is warned of as ever, and :mod:`ray_lance.forks` refuses to read there.
"""

from __future__ import annotations

import os
import subprocess
import sys
import warnings

import lance  # noqa: F401 (its hook has to be there first: those that are registered later run before it)

__all__ = ["register"]


class _Quiet:
    """Leaves the warning out while a process is started."""

    def __init__(self) -> None:
        self._caught: list[warnings.catch_warnings] = []

    def before(self) -> None:
        if sys._getframe(1).f_code.co_filename == subprocess.__file__:
            caught = warnings.catch_warnings()
            caught.__enter__()
            self._caught.append(caught)
            warnings.filterwarnings("ignore", "lance is not fork-safe", UserWarning)

    def after(self) -> None:
        if self._caught:
            self._caught.pop().__exit__(None, None, None)


def register() -> None:
    """Leave the warning out from now on; to be called once in a process."""
    quiet = _Quiet()
    os.register_at_fork(before=quiet.before, after_in_parent=quiet.after)
