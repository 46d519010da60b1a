"""Shows rows: a table in, text for a terminal and a table for a notebook out."""

from __future__ import annotations

import html
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from ray_lance.errors import TensorConversionError
from ray_lance.notebook import html_table
from ray_lance.tensors.kinds import FixedShape, VariableShape, storage_type, tensor_kind
from ray_lance.tensors.objects import to_objects

__all__ = ["Head"]

_WIDEST_TYPE = 24
_WIDEST_VALUE = 16
_NOT_READ = "(blob, not read)"
_FORMATS = {b"\x89PNG": "PNG", b"\xff\xd8\xff": "JPEG", b"GIF8": "GIF", b"BM": "BMP", b"RIFF": "RIFF"}


@dataclass(frozen=True)
class Head:
    """The first rows of an order, to be looked at: a line for each column, with its type and the shape of its rows.

    Attributes:
        rows: The rows, without the columns of ``blobs``.
        blobs: Names of the columns whose contents were not read.
        total: Rows of the whole order.
    """

    rows: pa.Table
    blobs: tuple[str, ...]
    total: int

    def __repr__(self) -> str:
        widths = [max(map(len, cells)) for cells in zip(*self._lines(), strict=True)]
        lines = ["  ".join(map(str.ljust, cells, widths)).rstrip() for cells in self._lines()]
        return "\n".join([self._title(), *lines])

    def _repr_html_(self) -> str:
        head, *lines = self._lines()
        return f"<p>{html.escape(self._title())}</p>{html_table(lines, head)}"

    def _title(self) -> str:
        return f"{self.rows.num_rows:,} of {self.total:,} rows"

    def _lines(self) -> list[list[str]]:
        numbers = [f"row {number}" for number in range(self.rows.num_rows)]
        lines = [_column(field, self.rows[field.name]) for field in self.rows.schema]
        lines += [[name, "blob", "", *[_NOT_READ] * len(numbers)] for name in self.blobs]
        return [["column", "type", "shape", *numbers], *lines]


def _column(field: pa.Field, column: pa.ChunkedArray) -> list[str]:
    kind = tensor_kind(field)
    if isinstance(kind, FixedShape):
        return [field.name, str(kind.value.type), str(kind.shape), *_values(field.name, column)]
    if isinstance(kind, VariableShape):
        return [field.name, str(kind.value.type), f"{kind.ndim} dimensions", *_values(field.name, column)]
    return [field.name, _shortened(str(field.type), _WIDEST_TYPE), _lengths(column), *_values(field.name, column)]


def _lengths(column: pa.ChunkedArray) -> str:
    """How long the lists of a column are; nothing for other types."""
    if not (pa.types.is_list(column.type) or pa.types.is_large_list(column.type)):
        return ""
    found = pa.compute.min_max(pa.compute.list_value_length(column)).as_py()
    return f"({found['min']},)" if found["min"] == found["max"] else f"({found['min']},) to ({found['max']},)"


def _values(name: str, column: pa.ChunkedArray) -> list[str]:
    if isinstance(column.type, pa.BaseExtensionType):
        stored = storage_type(column.type)
        column = pa.chunked_array([chunk.storage for chunk in column.chunks], stored)
    try:
        return [_value(value) for value in to_objects(column, name)]
    except TensorConversionError:
        return ["(pickled, not loaded)"] * len(column)


def _value(value: Any) -> str:
    if isinstance(value, bytes):
        kind = next((name for start, name in _FORMATS.items() if value.startswith(start)), "")
        return f"{len(value):,} bytes {kind}".rstrip()
    if isinstance(value, list):
        return _shortened(f"[{', '.join(map(_value, value[:4]))}{', ...' if len(value) > 4 else ''}]")
    if isinstance(value, dict):
        return _shortened(f"{{{', '.join(f'{name}: {_value(each)}' for name, each in value.items())}}}")
    return _shortened(f"{value:.6g}" if isinstance(value, float) else repr(value))


def _shortened(text: str, width: int = _WIDEST_VALUE) -> str:
    return text if len(text) <= width else f"{text[: width - 3]}..."
