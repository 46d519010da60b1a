"""Lines that the native code of Lance and Ray prints on standard error, and that nobody can act on.

They are printed past Python, so that neither its log nor its warnings can leave them out.

Settings could: ``LANCE_LOG=warn,lance_table::transaction::manifest_build=error`` leaves out Lance's line, and
``RAY_BACKEND_LOG_LEVEL`` Ray's. But each is read once, when ``lance`` is imported and when Ray is connected to, mostly
before this library is imported; they are the user's; and Ray's would leave out all other lines of its level. Nor can
the operation be another one: no other replaces files of columns without rewriting the rows of the fragment.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

__all__ = ["ACTOR_RESTARTS", "UNSTABLE_REPLACEMENT", "without_lines"]

ACTOR_RESTARTS = b"constructor arguments in the object store and max_restarts > 0"
"""Ray says so of the actors of every Ray dataset; it keeps their arguments itself, as long as they live (Ray 2.60)."""

UNSTABLE_REPLACEMENT = b"Building manifest with DataReplacement operation"
"""Lance says so at every commit of column files (pylance 14)."""

_STANDARD_ERROR = 2
_one_at_a_time = threading.Lock()


@contextmanager
def without_lines(mark: bytes) -> Iterator[None]:
    """Leave out the lines of standard error that contain ``mark``.

    All that the process prints there in the meantime comes at the end, so that the context should be short. Of several
    threads the first one does it, and the others do without.
    """
    if not _one_at_a_time.acquire(blocking=False):
        yield
        return
    lines: list[bytes] = []
    try:
        with _held_back(lines):
            yield
    finally:
        _one_at_a_time.release()
        for line in lines:
            if mark not in line:
                os.write(_STANDARD_ERROR, line)


@contextmanager
def _held_back(lines: list[bytes]) -> Iterator[None]:
    """Keep what is printed; it is in ``lines`` after the context."""
    try:
        place, kept = os.dup(_STANDARD_ERROR), os.memfd_create("standard error")
    except (OSError, AttributeError):  # no standard error, or a system without such files
        yield
        return
    _flush()
    os.dup2(kept, _STANDARD_ERROR)
    try:
        yield
    finally:
        _flush()
        os.dup2(place, _STANDARD_ERROR)
        os.close(place)
        with os.fdopen(kept, "rb") as printed:
            printed.seek(0)
            lines += printed.readlines()


def _flush() -> None:
    with suppress(OSError, ValueError, AttributeError):
        sys.stderr.flush()
