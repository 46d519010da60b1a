"""Translates errors: those of Lance and of file systems in, this library's own, with advice, out."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from ray_lance.errors import InvalidArgumentError, RayLanceError, StorageError, panics_as_errors
from ray_lance.masking import cause, without_secrets

__all__ = ["as_own", "native_errors"]

# Lance also raises plain ValueError and RuntimeError, and so does Arrow for errors of Lance's streams.
_OF_LANCE = re.compile(r"\.rs:\d+:\d+|LanceError|External error")
_OF_FILTER = "filter expression"
# Of requests that can never work: not faults of the storage.
_REFUSED = re.compile(r"Invalid user input|Not supported")
_ADVICE = {
    r"/_indices/.*not found|not found.*/_indices/": (
        "An index lacks a file: build it again, or drop it with lance.dataset(uri).drop_index(name)"
    ),
    r"not found: \S+\.(lance|arrow|bin|blob)": (
        "Files of a version are gone once it is cleaned up: read the latest version, and tag versions that stay in use"
    ),
    r"denied|forbidden|unauthori[sz]ed|not permitted|read-only": (
        "Check the rights there, and the credentials in storage_options"
    ),
    r"not a directory|file exists": "Choose a place below a folder",
}


@contextmanager
def native_errors(what: str) -> Iterator[None]:
    """Raise errors of Lance and of file systems, panics too, as errors of this library.

    Args:
        what: What is being done, for the message, as in "writing data files".
    """
    try:
        with panics_as_errors(what):
            yield
    except Exception as error:
        own = as_own(error, what)
        if own is error:
            raise
        raise own from without_secrets(error)


def as_own(error: Exception, what: str) -> Exception:
    """``error`` as one of this library; unchanged where neither Lance nor a file system raised it."""
    if isinstance(error, RayLanceError) or not _is_native(error):
        return error
    text = cause(error)
    if _OF_FILTER in text:
        return InvalidArgumentError(f"{what}: the filter has no value for some row: {text}")
    if _REFUSED.search(str(error)):
        return InvalidArgumentError(f"{what}: Lance refuses it: {text}")
    return StorageError(f"{what}: {text}{_advice(text)}")


def _is_native(error: Exception) -> bool:
    is_plain = isinstance(error, (ValueError, RuntimeError))
    return isinstance(error, OSError) or (is_plain and _OF_LANCE.search(str(error)) is not None)


def _advice(text: str) -> str:
    advice = [advice for mark, advice in _ADVICE.items() if re.search(mark, text, re.IGNORECASE)]
    return f". {advice[0]}" if advice else ""
