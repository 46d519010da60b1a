"""Converts blocks of Ray Data: a block in, an Arrow table, or rows for the writer of files, out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pandas as pd
import pyarrow as pa
from ray.data.block import BlockAccessor

from ray_lance.errors import SchemaMismatchError
from ray_lance.tensors.from_ray import storable

__all__ = ["RayRows", "as_arrow"]


@dataclass(frozen=True)
class RayRows:
    """:class:`ray_lance.write.fragments.Rows` of a Ray block, which stays in the object store."""

    block: Any

    @property
    def num_rows(self) -> int:
        """Rows in the block."""
        return int(BlockAccessor.for_block(self.block).num_rows())

    def num_bytes(self, start: int, stop: int) -> int:
        """Bytes in memory of rows ``[start, stop)``."""
        part = BlockAccessor.for_block(self.block).slice(start, stop, copy=False)
        return int(BlockAccessor.for_block(part).size_bytes())

    def table(self, start: int, stop: int) -> pa.Table:
        """Rows ``[start, stop)`` with standard Arrow types."""
        part = BlockAccessor.for_block(self.block).slice(start, stop, copy=False)
        return storable(BlockAccessor.for_block(part).to_arrow())


def as_arrow(block: Any) -> pa.Table:
    """The rows of ``block`` as an Arrow table: itself where it is one.

    Columns of a DataFrame without any value get the type of their dtype; those of Python objects get the null type.

    Raises:
        SchemaMismatchError: A column of a DataFrame holds objects that are no values of one Arrow type.
    """
    try:
        table: pa.Table = BlockAccessor.for_block(block).to_arrow()
    except pa.ArrowException as error:
        raise SchemaMismatchError(
            f"rows of a DataFrame cannot be stored: {error}; give each column values of one type"
        ) from None
    return _typed(table, block) if isinstance(block, pd.DataFrame) else table


def _typed(table: pa.Table, frame: pd.DataFrame) -> pa.Table:
    for index, (field, dtype) in enumerate(zip(table.schema, frame.dtypes, strict=False)):  # an index may follow
        if pa.types.is_null(field.type) and not pd.api.types.is_object_dtype(dtype):
            dtype = pa.Schema.from_pandas(frame.iloc[:0, [index]], preserve_index=False).types[0]
            table = table.set_column(index, field.with_type(dtype), pa.nulls(len(table), dtype))
    return table
