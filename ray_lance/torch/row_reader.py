"""Reads rows of a permutation's table and makes batches of them: row numbers and options in, batches out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch

from ray_lance.arguments import shown
from ray_lance.decode import Decode, decode_table, find_decoders
from ray_lance.errors import InvalidArgumentError, TensorConversionError
from ray_lance.formats import Format, check_format, convert
from ray_lance.order.rows import RowArray
from ray_lance.ordered import Ordered
from ray_lance.permutation import Permutation
from ray_lance.scan.fixed_width import fixed_width_values
from ray_lance.scan.pushdown import Columns
from ray_lance.scan.scan import ROW_ADDRESS
from ray_lance.scan.stored_rows import StoredRows
from ray_lance.tensors import Categories, CategoryOption, Fill, Ragged, named_fill, to_tensors
from ray_lance.tensors.categories import as_categories
from ray_lance.tensors.kinds import refuse_pickled
from ray_lance.tensors.tensor_options import check_fill, check_ragged, named_entries
from ray_lance.torch.image_tensors import to_image_tensors
from ray_lance.versions import Version

__all__ = ["BatchOptions", "MeteredRows", "ReadRows", "RowReader", "open_source"]


@dataclass(frozen=True)
class BatchOptions:
    """What batches hold, and in which form.

    Attributes:
        columns: Names, or names mapped to SQL expressions; None for all columns.
        format: One of the nine of :func:`ray_lance.formats.convert`.
        decode: How encoded columns are decoded; ``"auto"`` decodes the image features of HuggingFace ``datasets``.
        fill: What replaces nulls in tensors.
        ragged: What ragged columns become.
        categories: What dictionary-encoded columns become.
        transform: Called with each batch in its format; its result is delivered.
    """

    columns: Columns = None
    format: Format = "torch"
    decode: Decode = "auto"
    fill: Fill = None
    ragged: Ragged = "nested"
    transform: Callable[[Any], Any] | None = None
    categories: CategoryOption = "values"

    def __post_init__(self) -> None:
        check_format(self.format)
        check_ragged(self.ragged)
        check_fill(self.fill)
        object.__setattr__(self, "categories", as_categories(self.categories))
        given = (self.fill is not None, self.ragged != "nested", self.categories != "values")
        if self.format != "torch" and any(given):
            raise InvalidArgumentError(
                f"format={self.format!r}: fill, ragged and categories are for format='torch'; leave them out, or "
                "convert in a transform"
            )
        if self.transform is not None and not callable(self.transform):
            raise InvalidArgumentError(f"transform={shown(self.transform)} must be callable")


def open_source(
    source: Any,
    filter: str | None,
    version: Version | None = None,
    storage_options: Mapping[str, str] | None = None,
) -> Ordered:
    """``source`` as a permutation; a permutation or a mixture itself.

    Raises:
        InvalidArgumentError: An argument does not apply to a permutation, or breaks a rule.
        DatasetNotFoundError: There is no such dataset.
    """
    if not isinstance(source, Ordered):
        return Permutation(source, filter, version=version, storage_options=storage_options)
    for name, value in (("filter", filter), ("version", version), ("storage_options", storage_options)):
        if value is not None:
            shown = "..." if name == "storage_options" else repr(value)
            raise InvalidArgumentError(
                f"{name}={shown} does not apply to a permutation, which has decided it already: pass it to "
                "Permutation(source, ...)"
            )
    return source


@dataclass(frozen=True)
class MeteredRows:
    """Reads rows as they are stored, and tells of each further attempt.

    Attributes:
        stored: Reads them.
        on_retry: Called before each further attempt where storage fails.
    """

    stored: StoredRows
    on_retry: Callable[[], object] | None = None

    def take(self, rows: RowArray) -> pa.Table:
        """Read rows in the given order."""
        return self.stored.take(rows, self.on_retry)

    def take_in_pieces(self, rows: RowArray, receive: Callable[[RowArray, pa.Table], bool]) -> bool:
        """Read ascending rows piece by piece; see :func:`ray_lance.scan.take.take_in_pieces`."""
        return self.stored.take_in_pieces(rows, receive, self.on_retry)


@dataclass(frozen=True)
class ReadRows:
    """Rows that were read, to be cut into batches.

    Attributes:
        table: The rows as stored.
        arrays: Their columns as arrays, if a slice of the array is what a slice of the rows becomes; else None.
    """

    table: pa.Table
    arrays: dict[str, npt.NDArray[Any]] | None = None

    def __len__(self) -> int:
        return len(self.table)

    def slice(self, offset: int, length: int) -> ReadRows:
        """A part of the rows, without a copy."""
        arrays = self.arrays and {name: array[offset : offset + length] for name, array in self.arrays.items()}
        return ReadRows(self.table.slice(offset, length), arrays)

    @classmethod
    def concat(cls, parts: Sequence[ReadRows]) -> ReadRows:
        """Concatenate the rows of all parts; one part is returned as it is."""
        if len(parts) == 1:
            return parts[0]
        table = pa.concat_tables([part.table for part in parts])
        arrays = [part.arrays for part in parts if part.arrays is not None]
        if len(arrays) < len(parts):
            return cls(table)
        return cls(table, {name: np.concatenate([each[name] for each in arrays]) for name in arrays[0]})


class RowReader:
    """Makes batches of rows of a permutation's table. Pickles as a recipe; opens the table where it is used.

    Args:
        permutation: The order whose rows are read.
        options: What batches hold.

    Raises:
        UnknownColumnError: A column that the table does not have.
        InvalidArgumentError: ``decode`` names a column that holds no encoded images.
        TensorConversionError: A column of pickled objects.
    """

    def __init__(self, permutation: Ordered, options: BatchOptions) -> None:
        self._permutation = permutation
        self._options = options
        schema = self._plain.schema()  # refuses unknown columns
        for field in schema:
            refuse_pickled(field, TensorConversionError)
        self._decoders = find_decoders(options.decode, schema)
        if options.fill is not None:
            named_fill(options.fill, schema)
        if isinstance(options.categories, Categories):
            named_entries("categories", options.categories, schema)

    @property
    def permutation(self) -> Ordered:
        """The order whose rows are read."""
        return self._permutation

    def facts(self) -> dict[str, Any]:
        """Facts to show; None for defaults."""
        options = self._options
        return {
            "permutation": self._permutation,
            "columns": options.columns,
            "format": None if options.format == "torch" else options.format,
        }

    @property
    def options(self) -> BatchOptions:
        """What batches hold."""
        return self._options

    @cached_property
    def categories(self) -> Categories:
        """The categories of the dictionary-encoded columns in the whole version."""
        return self._plain.categories

    @property
    def decodes(self) -> bool:
        """Whether images are decoded, so that several threads should make batches."""
        return bool(self._decoders)

    @cached_property
    def row_bytes(self) -> float:
        """Mean bytes of a row as it is stored."""
        return self._plain.row_bytes

    def storage(self, on_retry: Callable[[], object] | None = None) -> MeteredRows:
        """Reads the rows of the columns; ``on_retry`` is called before each further attempt."""
        return MeteredRows(self.stored, on_retry)

    def to_cut(self, table: pa.Table) -> ReadRows:
        """Prepare rows as they are stored for batches to be cut from them.

        Columns of fixed-width values without nulls are converted at once, if their memory is in one piece: cutting
        arrays takes a tenth of the time of converting each batch.

        Raises:
            TensorConversionError: A column that cannot become a tensor.
        """
        options = self._options
        is_plain = options.format == "torch" and options.fill is None and not self._decoders and not self._coded()
        if not (is_plain and all(map(_is_one_piece, table.columns))):
            return ReadRows(table)
        if not all(map(_is_array, to_tensors(table.slice(0, 1)).values())):
            return ReadRows(table)
        return ReadRows(table, {name: np.asarray(values) for name, values in to_tensors(table).items()})

    def cut(self, rows: ReadRows) -> Any:
        """Make a batch of prepared rows; raises as :meth:`finish`."""
        if rows.arrays is None:
            return self.finish(rows.table)
        # from_numpy gives each tensor its own storage, so that saving or sending a batch takes no other rows along.
        return self._transformed({name: torch.from_numpy(array) for name, array in rows.arrays.items()})

    def finish(self, table: pa.Table) -> Any:
        """Make a batch of rows as they are stored.

        Raises:
            TensorConversionError: A column that cannot become a tensor, or an image that cannot be decoded.
        """
        options = self._options
        if self._decoders:
            table = decode_table(table, self._decoders)
        if ROW_ADDRESS not in self._plain.names and ROW_ADDRESS in table.column_names:
            table = table.drop_columns(ROW_ADDRESS)
        if options.format == "torch":
            batch: Any = to_image_tensors(
                table, self._decoders, ragged=options.ragged, fill=options.fill, categories=self._categories()
            )
        else:
            batch = convert(table, options.format)
        return self._transformed(batch)

    def _categories(self) -> CategoryOption:
        """The option, with the categories of the dataset in place of ``"codes"``."""
        return self.categories if self._options.categories == "codes" else self._options.categories

    def _coded(self) -> bool:
        """Whether some columns become codes."""
        categories = self._categories()
        return categories != "values" and len(categories) > 0

    def _transformed(self, batch: Any) -> Any:
        transform = self._options.transform
        return batch if transform is None else transform(batch)

    @cached_property
    def _plain(self) -> StoredRows:
        return self._permutation.stored(self._options.columns)

    @cached_property
    def stored(self) -> StoredRows:
        """What reads the rows."""
        # With row addresses, so that an error can name the row whose image cannot be decoded.
        return self._permutation.stored(self._options.columns, with_row_address=True) if self._decoders else self._plain

    def __getstate__(self) -> dict[str, Any]:
        if self._options.categories == "codes":
            self.categories  # noqa: B018  found once, for all processes
        pickled = ("_permutation", "_options", "_decoders", "categories")
        return {name: self.__dict__[name] for name in pickled if name in self.__dict__}


def _is_one_piece(column: pa.ChunkedArray) -> bool:
    return column.num_chunks == 1 and fixed_width_values(column.chunk(0)) is not None


def _is_array(values: torch.Tensor | list[Any]) -> bool:
    """Whether numpy can hold the values: not lists, and not bfloat16."""
    return isinstance(values, torch.Tensor) and values.dtype != torch.bfloat16
