"""What rows become: columns, decoding, format and transform, as one value that both datasets share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pyarrow as pa

from ray_lance.decode import Decode, decode_table, find_decoders, to_image_tensors
from ray_lance.errors import InvalidArgumentError
from ray_lance.formats import Format, check_format, convert
from ray_lance.order.rows import RowArray
from ray_lance.permutation import Permutation
from ray_lance.retry import RetryPolicy
from ray_lance.scan.pushdown import Columns, build_scan
from ray_lance.scan.scan import ROW_ADDRESS, Scan
from ray_lance.scan.size import row_bytes
from ray_lance.scan.take import take_rows
from ray_lance.tensors import FillValue, Ragged, check_fill

__all__ = ["BatchOptions", "RowReader", "open_source"]


@dataclass(frozen=True)
class BatchOptions:
    """What a batch holds, and in which form.

    Attributes:
        columns: Names, or names mapped to SQL expressions; None for all columns.
        format: One of the nine of :func:`ray_lance.formats.convert`.
        decode: How encoded columns are decoded; ``"auto"`` decodes the image features of HuggingFace ``datasets``.
        fill: What replaces nulls in tensors.
        ragged: What ragged columns become.
        transform: Called with each batch in its format; what it returns is delivered.
    """

    columns: Columns = None
    format: Format = "torch"
    decode: Decode = "auto"
    fill: FillValue | Mapping[str, FillValue] | None = None
    ragged: Ragged = "nested"
    transform: Callable[[Any], Any] | None = None

    def __post_init__(self) -> None:
        check_format(self.format)
        if self.ragged not in ("nested", "pad", "list"):
            raise InvalidArgumentError(f"ragged={self.ragged!r} must be 'nested', 'pad' or 'list'")
        if self.format != "torch" and (self.fill is not None or self.ragged != "nested"):
            raise InvalidArgumentError(
                f"format={self.format!r}: fill and ragged are for format='torch'; leave them out, or convert in a "
                "transform"
            )
        if self.transform is not None and not callable(self.transform):
            raise InvalidArgumentError(f"transform={self.transform!r} must be callable")


def open_source(
    source: Any,
    filter: str | None,
    version: int | str | None = None,
    storage_options: Mapping[str, str] | None = None,
) -> Permutation:
    """``source`` as a permutation; a permutation is taken as it is.

    Raises:
        InvalidArgumentError: An argument does not apply to a permutation, or breaks a rule.
        DatasetNotFoundError: There is no such dataset.
    """
    if not isinstance(source, Permutation):
        return Permutation(source, filter, version=version, storage_options=storage_options)
    for name, value in (("filter", filter), ("version", version), ("storage_options", storage_options)):
        if value is not None:
            shown = "..." if name == "storage_options" else repr(value)
            raise InvalidArgumentError(
                f"{name}={shown} does not apply to a permutation, which has decided it: pass it to "
                "Permutation(source, ...)"
            )
    return source


class RowReader:
    """Reads rows of a permutation's table into batches. Pickles as a recipe; opens the table where it is used.

    Args:
        permutation: Whose rows are read.
        options: What they become.

    Raises:
        UnknownColumnError: A column that the table does not have.
        InvalidArgumentError: ``decode`` names a column that holds no encoded images.
    """

    def __init__(self, permutation: Permutation, options: BatchOptions) -> None:
        self._permutation = permutation
        self._options = options
        schema = self._plain_scan.stored_schema()  # refuses unknown columns
        self._decoders = find_decoders(options.decode, schema)
        if options.fill is not None:
            check_fill(options.fill, schema)

    @property
    def permutation(self) -> Permutation:
        """Whose rows are read."""
        return self._permutation

    @property
    def options(self) -> BatchOptions:
        """What they become."""
        return self._options

    @property
    def decodes(self) -> bool:
        """Whether making a batch is work for more than one thread."""
        return bool(self._decoders)

    @cached_property
    def row_bytes(self) -> float:
        """Mean bytes of a row as it is stored."""
        return row_bytes(self._plain_scan)

    def take(self, rows: RowArray) -> pa.Table:
        """The given rows in the given order, as stored, by one batched take; storage faults are retried."""
        what = f"taking {len(rows)} rows of {self._permutation.table}"
        is_dense = rows.dtype.kind == "i"
        return RetryPolicy().call(lambda: take_rows(self.scan, rows, are_offsets=is_dense), what)

    def finish(self, table: pa.Table) -> Any:
        """The batch that a part of what :meth:`take` returned becomes.

        Raises:
            TensorConversionError: A column that cannot become a tensor, or an image that cannot be decoded.
        """
        options = self._options
        if self._decoders:
            table = decode_table(table, self._decoders)
        if ROW_ADDRESS not in self._plain_scan.names and ROW_ADDRESS in table.column_names:
            table = table.drop_columns(ROW_ADDRESS)
        if options.format == "torch":
            batch: Any = to_image_tensors(table, self._decoders, ragged=options.ragged, fill=options.fill)
        else:
            batch = convert(table, options.format)
        return batch if options.transform is None else options.transform(batch)

    @cached_property
    def _plain_scan(self) -> Scan:
        return build_scan([self._permutation.table], self._options.columns, None, [], {})

    @cached_property
    def scan(self) -> Scan:
        """What is read."""
        if not self._decoders:
            return self._plain_scan
        # So that an image that cannot be decoded is named by its place in the dataset.
        return build_scan([self._permutation.table], self._options.columns, None, [ROW_ADDRESS], {})

    def __getstate__(self) -> dict[str, Any]:
        kept = ("_permutation", "_options", "_decoders")
        return {name: self.__dict__[name] for name in kept}
