"""Gives a file one dictionary: batches of categories with narrow indices in, one batch out.

Only older datasets have such columns. Lance appends the categories of each batch of a file to those of the batches
before, and leaves out only some of those that repeat, even where all batches share one dictionary. Where there are more
of them than the indices can count, it writes a file that it cannot read.
"""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa

from ray_lance.errors import SchemaMismatchError
from ray_lance.tensors.casts import conform
from ray_lance.write.lance_types import has_narrow_indices, without_categories

__all__ = ["with_one_dictionary"]


def with_one_dictionary(batches: Iterator[pa.RecordBatch], schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    """The rows of a file, as one batch (all of them in memory) where there are categories with narrow indices.

    Args:
        batches: The rows.
        schema: Their schema.

    Raises:
        SchemaMismatchError: There are more categories than the indices can count.
    """
    narrow = [field.name for field in schema if has_narrow_indices(field.type)]
    if not narrow:
        yield from batches
        return
    table = pa.Table.from_batches(batches, schema)
    codes = _unified(_without_null_categories(table.select(narrow)))
    columns = [(codes if name in narrow else table)[name].chunks for name in schema.names]
    yield pa.RecordBatch.from_arrays([pa.concat_arrays(chunks) for chunks in columns], schema=schema)


def _unified(table: pa.Table) -> pa.Table:
    try:
        return table.unify_dictionaries()
    except pa.ArrowInvalid:
        raise SchemaMismatchError(
            f"columns {table.column_names}: one of them has more categories in a file than the indices of its type, "
            f"{[str(field.type) for field in table.schema]}, can count: write the dataset again, which stores "
            'wider ones, with write_lance(read_lance(uri), uri, mode="overwrite")'
        ) from None


def _without_null_categories(table: pa.Table) -> pa.Table:
    """Nulls as nulls of the column: Arrow unifies no dictionaries that list null as a category."""
    plain = pa.schema([field.with_type(without_categories(field.type)) for field in table.schema])
    parts = [conform(conform(pa.Table.from_batches([batch]), plain), table.schema) for batch in table.to_batches()]
    return pa.concat_tables(parts)
