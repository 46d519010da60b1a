"""The exceptions of ray_lance.

    RayLanceError
    |-- InvalidArgumentError (ValueError)        an argument that can never work: with the rule and the way out
    |   `-- UnknownColumnError (KeyError)        a column name the dataset does not have
    |-- DatasetNotFoundError (FileNotFoundError) no Lance dataset, or no such version of it, at that place
    |-- StorageError (OSError)                   a file system or object store that refuses or fails
    |-- DatasetExistsError (FileExistsError)     `mode="create"` where a dataset already stands
    |-- SchemaMismatchError (TypeError)          data that does not fit the dataset without losing something
    |-- TensorConversionError (TypeError)        a column that cannot become a tensor the way it was asked for
    |-- CursorMismatchError (ValueError)         a cursor of another order than the one it is loaded into
    |-- CommitError (RuntimeError)               a commit that did not happen, after every retry
    |   |-- MergeConflictError                   of a merge whose rows others changed; in write/row_commit.py
    |   `-- LostHistoryError                     versions that would tell whether it happened are gone; write/history.py
    `-- LancePanicError (RuntimeError)           Lance gave up in the middle: a fault of Lance

Each one also derives from the built-in exception that users of Ray and Lance would catch.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from ray_lance.masking import cause, without_secrets

__all__ = [
    "CommitError",
    "CursorMismatchError",
    "DatasetExistsError",
    "DatasetNotFoundError",
    "InvalidArgumentError",
    "LancePanicError",
    "RayLanceError",
    "SchemaMismatchError",
    "StorageError",
    "TensorConversionError",
    "UnknownColumnError",
    "panics_as_errors",
]

_MOST_SHOWN = 100


class RayLanceError(Exception):
    """Base class of every error that ray_lance raises on purpose."""

    def __init__(self, *args: object) -> None:
        super().__init__(*args)
        self._message = str(args[0]) if args else ""

    def __str__(self) -> str:
        # Not of ``args``: Ray Data appends its advice for failures that are transient to those of the errors of tasks.
        return self._message


class InvalidArgumentError(RayLanceError, ValueError):
    """An argument breaks a rule that can be checked before any work starts."""


class UnknownColumnError(InvalidArgumentError, KeyError):
    """A column was named that the dataset does not have."""

    def __init__(self, argument: str, name: str, available: Iterable[str]) -> None:
        columns = list(available)
        nearest = difflib.get_close_matches(name, columns, n=1)
        hint = f" Did you mean {nearest[0]!r}?" if nearest else ""
        shown = name if len(name) <= _MOST_SHOWN else f"{name[:_MOST_SHOWN]}..."
        super().__init__(f"{argument}: there is no column {shown!r}.{hint} The dataset has {columns}.")

    def __reduce__(self) -> tuple[type[InvalidArgumentError], tuple[object, ...]]:
        # Rebuilt from its message: the constructor's own arguments are gone by then.
        return (_unknown_column, (str(self),))  # type: ignore[return-value]


def _unknown_column(message: str) -> UnknownColumnError:
    error = UnknownColumnError.__new__(UnknownColumnError)
    InvalidArgumentError.__init__(error, message)
    return error


class DatasetNotFoundError(RayLanceError, FileNotFoundError):
    """There is no Lance dataset, or no such version or tag of it, at the given place."""


class StorageError(RayLanceError, OSError):
    """A file system or object store refuses or fails; the message ends with what it said."""


class DatasetExistsError(RayLanceError, FileExistsError):
    """A dataset already stands where one was to be created."""


class SchemaMismatchError(RayLanceError, TypeError):
    """Data does not fit the dataset's schema without losing something."""


class TensorConversionError(RayLanceError, TypeError):
    """A column cannot become a tensor in the way that was asked for."""


class CursorMismatchError(RayLanceError, ValueError):
    """A cursor belongs to another order than the one it is loaded into."""


class CommitError(RayLanceError, RuntimeError):
    """A commit did not happen, after every retry."""


class LancePanicError(RayLanceError, RuntimeError):
    """Lance gave up in the middle of an operation, which is a fault of Lance."""


@contextmanager
def panics_as_errors(what: str) -> Iterator[None]:
    """Raise a panic of Lance as a :class:`LancePanicError`: its own class is no ``Exception``, and cannot be imported.

    Args:
        what: What was being done, for the message, as in "writing data files".
    """
    try:
        yield
    except BaseException as error:
        if type(error).__name__ == "PanicException":
            text = f"Lance panicked while {what}, which is a fault of Lance: {cause(error)}"
            raise LancePanicError(text) from without_secrets(error)
        raise
