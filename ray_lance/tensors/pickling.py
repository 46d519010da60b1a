"""Pickles Arrow types that pyarrow itself does not pickle correctly (pyarrow 26).

pyarrow pickles extension types without a class, such as tensors of varying shape, as text that it cannot read back: a
schema that a function captures could not be sent to a worker. Here they are pickled in Arrow's serialized form, which
needs no class and runs no code.

pyarrow pickles fixed-size lists without the name, nullability and metadata of their values: vectors of bfloat16, which
only that metadata identifies, would come out of Ray's object store as lists of bytes.
"""

from __future__ import annotations

import copyreg
from collections.abc import Callable

import pyarrow as pa

__all__ = ["register"]


def register() -> None:
    """Register the picklers in this process. Unpickling needs no registration."""
    copyreg.pickle(pa.BaseExtensionType, _reduce)  # not its subclasses, which pickle themselves
    copyreg.pickle(pa.FixedSizeListType, _reduce_list)


def _reduce(dtype: pa.BaseExtensionType) -> tuple[Callable[[bytes], pa.DataType], tuple[bytes]]:
    return _restored, (pa.schema([pa.field("", dtype)]).serialize().to_pybytes(),)


def _restored(serialized: bytes) -> pa.DataType:
    return pa.ipc.read_schema(pa.py_buffer(serialized)).field(0).type


def _reduce_list(dtype: pa.FixedSizeListType) -> tuple[Callable[..., pa.DataType], tuple[pa.Field, int]]:
    return pa.list_, (dtype.value_field, dtype.list_size)  # pyarrow's own: blocks are read where this library is not
