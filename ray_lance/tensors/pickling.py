"""Pickling of Arrow's extension types that have no class of their own in pyarrow, such as tensors of varying shape.

pyarrow pickles them by their text, which it cannot read back (pyarrow 26): a schema that a function captures could not
be sent to a worker. Their pickled form here is Arrow's own, which needs no class and runs no code.
"""

from __future__ import annotations

import copyreg
from collections.abc import Callable

import pyarrow as pa

__all__ = ["register"]


def register() -> None:
    """Make them picklable in this process. Unpickling imports this module by itself."""
    copyreg.pickle(pa.BaseExtensionType, _reduce)  # not its subclasses, which pickle themselves


def _reduce(dtype: pa.BaseExtensionType) -> tuple[Callable[[bytes], pa.DataType], tuple[bytes]]:
    return _restored, (pa.schema([pa.field("", dtype)]).serialize().to_pybytes(),)


def _restored(serialized: bytes) -> pa.DataType:
    return pa.ipc.read_schema(pa.py_buffer(serialized)).field(0).type
