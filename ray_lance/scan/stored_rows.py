"""Rows as they are stored, read by number: of one table, or of the tables of a mixture; numbers in, rows out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import Protocol

import numpy as np
import pyarrow as pa

from ray_lance.errors import SchemaMismatchError
from ray_lance.order.rows import RowArray, RowSet
from ray_lance.scan.dictionaries import categories_of
from ray_lance.scan.scan import Scan
from ray_lance.scan.scatter import scatter, sort_rows
from ray_lance.scan.size import row_bytes
from ray_lance.scan.take import take_in_pieces, take_rows
from ray_lance.tensors import Categories, conform
from ray_lance.tensors.categories import CategoryUnion
from ray_lance.tensors.unify import unify_schemas

__all__ = ["MixedPart", "MixedStoredRows", "StoredRows", "TableRows"]

_SOURCE_TYPE = pa.dictionary(pa.int32(), pa.string())


class StoredRows(Protocol):
    """What reads the rows of an order, by the numbers that the order gives. Frozen; holds no open handle."""

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the columns, in order."""
        ...

    @property
    def count(self) -> int:
        """Numbers are below this, if they are int64."""
        ...

    @property
    def categories(self) -> Categories:
        """Categories of the dictionary-encoded columns, by column."""
        ...

    @property
    def row_bytes(self) -> float:
        """Mean bytes of a row."""
        ...

    @property
    def is_remote(self) -> bool:
        """Whether each read waits for an object store."""
        ...

    @property
    def cache_key(self) -> tuple[str, ...] | None:
        """What identifies the rows and columns; None where a cache by number would not do."""
        ...

    def schema(self) -> pa.Schema:
        """Schema of the columns as they are stored."""
        ...

    def take(self, rows: RowArray, on_retry: Callable[[], object] | None = None) -> pa.Table:
        """Read rows in the given order; ``on_retry`` is called before each further attempt."""
        ...

    def take_in_pieces(
        self,
        rows: RowArray,
        receive: Callable[[RowArray, pa.Table], bool],
        on_retry: Callable[[], object] | None = None,
    ) -> bool:
        """Read ascending rows piece by piece; see :func:`ray_lance.scan.take.take_in_pieces`."""
        ...


@dataclass(frozen=True)
class TableRows:
    """Rows of one table.

    Attributes:
        scan: The table and its columns.
        count: Rows of the order's innermost row set.
        has_offsets: Whether they are known by their offsets among the live rows; otherwise by row id.
    """

    scan: Scan
    count: int
    has_offsets: bool = True

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the columns, in order."""
        return self.scan.names

    @property
    def categories(self) -> Categories:
        """Categories of the dictionary-encoded columns, in the whole version."""
        return categories_of(self.scan)

    @property
    def row_bytes(self) -> float:
        """Mean bytes of a row as it is stored."""
        return row_bytes(self.scan)

    @property
    def is_remote(self) -> bool:
        """Whether the table is in an object store."""
        return self.scan.tables[0].is_remote

    @property
    def cache_key(self) -> tuple[str, ...] | None:
        """The table and its columns; None for row ids, and for expressions, which may give others each time."""
        if not self.has_offsets or isinstance(self.scan.columns, Mapping):
            return None
        return (self.scan.tables[0].cache_key, *self.scan.read_names)

    def schema(self) -> pa.Schema:
        """Schema of the columns."""
        return self.scan.stored_schema()

    def take(self, rows: RowArray, on_retry: Callable[[], object] | None = None) -> pa.Table:
        """Read rows in the given order; see :func:`ray_lance.scan.take.take_rows`."""
        return take_rows(self.scan, rows, on_retry=on_retry)

    def take_in_pieces(
        self,
        rows: RowArray,
        receive: Callable[[RowArray, pa.Table], bool],
        on_retry: Callable[[], object] | None = None,
    ) -> bool:
        """Read ascending rows piece by piece; see :func:`ray_lance.scan.take.take_in_pieces`."""
        return take_in_pieces(self.scan, rows, receive, on_retry=on_retry)


@dataclass(frozen=True)
class MixedPart:
    """One source of a mixture.

    Attributes:
        name: Its name.
        share: Its share of the rows, which the mean bytes are weighted by.
        rows: Reads its rows.
        row_set: Its rows, of which the mixture numbers the indices.
    """

    name: str
    share: float
    rows: TableRows
    row_set: RowSet


@dataclass(frozen=True)
class MixedStoredRows:
    """Rows of several tables, numbered one table after another, in one schema.

    Attributes:
        parts: The sources, in the order of their numbers.
        columns: Names of the columns to deliver, in order; None for those of all sources, in order of appearance.
        source_column: Name of the column that holds the name of each row's source; None for no such column.
    """

    parts: tuple[MixedPart, ...]
    columns: tuple[str, ...] | None = None
    source_column: str | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the columns, in order."""
        return tuple(self.schema().names)

    @property
    def count(self) -> int:
        """Rows of all row sets together."""
        return self._firsts[-1]

    @property
    def categories(self) -> Categories:
        """Categories of all sources, those of the first one first; of the source column the names of the sources."""
        union = CategoryUnion()
        union.add_schema(self._schema)
        for part in self.parts:
            union.add_known(part.rows.categories)
        if self.source_column is not None and self.source_column in self._schema.names:
            union.add_known(Categories({self.source_column: self._source_names}))
        return union.categories()

    @property
    def row_bytes(self) -> float:
        """Mean bytes of a row of the mixture."""
        return sum(part.share * part.rows.row_bytes for part in self.parts)

    @property
    def is_remote(self) -> bool:
        """Whether some of the tables are in an object store."""
        return any(part.rows.is_remote for part in self.parts)

    @property
    def cache_key(self) -> None:
        """None: the rows of all tables together are not cached."""
        return None

    def schema(self) -> pa.Schema:
        """The schema that the rows of all sources are brought to; columns that one lacks are null in its rows.

        Raises:
            SchemaMismatchError: Two sources hold one column with types that cannot be unified.
        """
        return self._schema

    @cached_property
    def _schema(self) -> pa.Schema:
        unified, first = self.parts[0].rows.schema(), self.parts[0].name
        for part in self.parts[1:]:
            try:
                unified = unify_schemas([unified, part.rows.schema()])
            except SchemaMismatchError as error:
                raise SchemaMismatchError(f"sources {first!r} and {part.name!r} of the mixture: {error}") from None
        fields = {field.name: field for field in unified}
        if self.source_column is not None:
            fields[self.source_column] = pa.field(self.source_column, _SOURCE_TYPE, nullable=False)
        wanted = fields if self.columns is None else self.columns
        return pa.schema([fields[name] for name in wanted], metadata=unified.metadata)

    def take(self, rows: RowArray, on_retry: Callable[[], object] | None = None) -> pa.Table:
        """Read rows in the given order, of each table in one take."""
        ascending, indices = sort_rows(rows)
        return scatter(self._tables(ascending, on_retry), indices)

    def take_in_pieces(
        self,
        rows: RowArray,
        receive: Callable[[RowArray, pa.Table], bool],
        on_retry: Callable[[], object] | None = None,
    ) -> bool:
        """Read ascending rows, one table after another."""
        start = 0
        for table in self._tables(rows, on_retry):
            if not receive(rows[start : start + len(table)], table):
                return False
            start += len(table)
        return True

    @cached_property
    def _firsts(self) -> list[int]:
        return [*accumulate((len(part.row_set) for part in self.parts), initial=0)]

    def _tables(self, rows: RowArray, on_retry: Callable[[], object] | None) -> Iterator[pa.Table]:
        """The rows of each table, for ascending numbers; one empty table for none."""
        if not len(rows):
            yield self._schema.empty_table()
        cuts = np.searchsorted(rows, self._firsts).tolist()
        for number, (part, start, stop) in enumerate(zip(self.parts, cuts, cuts[1:], strict=False)):
            if start < stop:
                inside = part.row_set.take(rows[start:stop].astype(np.int64, copy=False) - self._firsts[number])
                yield self._unified(number, part.rows.take(inside, on_retry))

    def _unified(self, number: int, table: pa.Table) -> pa.Table:
        if self.source_column is not None and self.source_column in self._schema.names:
            codes = pa.array(np.full(len(table), number, np.int32))
            names = pa.DictionaryArray.from_arrays(codes, self._source_names)
            table = table.append_column(self._schema.field(self.source_column), names)
        return conform(table, self._schema)

    @property
    def _source_names(self) -> pa.Array:
        return pa.array([part.name for part in self.parts], pa.string())

    def __getstate__(self) -> dict[str, object]:
        return {name: value for name, value in self.__dict__.items() if not name.startswith("_")}
