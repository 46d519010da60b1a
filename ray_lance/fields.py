"""Fields for ``schema=``: a name and what the column holds in, an Arrow field of blobs or of tensors out."""

from __future__ import annotations

from typing import Any

import lance
import numpy as np
import pyarrow as pa

from ray_lance.arguments import as_count, as_flag, as_text, shown
from ray_lance.errors import InvalidArgumentError
from ray_lance.tensors.kinds import BLOB_MARK, is_numeric, variable_shape_field

__all__ = ["blob", "tensor"]

_MOST_DIMENSIONS = 64  # of arrays of numpy and tensors of torch


def blob(name: str, *, version: int = 2, nullable: bool = True) -> pa.Field:
    """A field for ``schema=`` of ``write_lance`` that stores a column of bytes as Lance blobs.

    Blobs lie outside the pages of the other columns, so that a scan of those never reads them.

    Args:
        name: The column.
        version: 2 for Lance's current layout, in files of version 2.2 on; 1 for the older one, which needs
            ``data_storage_version="2.1"`` or lower (newer files store it as version 2).
        nullable: Whether values may be None.

    Raises:
        InvalidArgumentError: ``version`` is neither 1 nor 2.

    Example:
        ``write_lance(ds, uri, schema=[blob("image")])``
    """
    name, nullable = as_text("name", name, "a column name"), as_flag("nullable", nullable)
    if version == 2:
        return lance.blob_field(name, nullable=nullable)
    if version == 1:
        return pa.field(name, pa.large_binary(), nullable, BLOB_MARK)
    raise InvalidArgumentError(f"version={shown(version)} must be 1 or 2, the blob layouts that Lance has")


def tensor(name: str, value_type: Any, ndim: int, *, nullable: bool = True) -> pa.Field:
    """A field for ``schema=`` of a column whose rows are tensors of different shapes.

    It is what ``write_lance`` makes of such rows by itself. Give it where the first rows all have one shape and later
    ones, or those that are added later, may not. A column of tensors of one shape is
    ``pyarrow.fixed_shape_tensor(value_type, shape)``, and one of vectors ``pyarrow.list_(value_type, length)``.

    Args:
        name: The column.
        value_type: Type of the elements, of Arrow, numpy or torch: ``pyarrow.uint8()``, ``"uint8"``, ``torch.float32``.
        ndim: Dimensions of each row, such as 3 for ``(height, width, channels)``. With 1 it is a list column.
        nullable: Whether rows may be None.

    Raises:
        InvalidArgumentError: ``value_type`` is neither a number nor bool, or ``ndim`` is less than 1.

    Example:
        ``write_lance(ds, uri, schema=[tensor("image", "uint8", 3)])``
    """
    dtype = _value_type(value_type)
    name, nullable = as_text("name", name, "a column name"), as_flag("nullable", nullable)
    if (ndim := as_count("ndim", ndim)) > _MOST_DIMENSIONS:
        raise InvalidArgumentError(f"ndim={ndim} must be at most {_MOST_DIMENSIONS}")
    field = pa.field(name, pa.list_(dtype), nullable)
    return field if ndim == 1 else variable_shape_field(field, pa.field("item", dtype), ndim)


def _value_type(value_type: Any) -> pa.DataType:
    named = str(value_type).removeprefix("torch.") if str(value_type).startswith("torch.") else value_type
    try:
        dtype = named if isinstance(named, pa.DataType) else pa.from_numpy_dtype(np.dtype(named))
    except (TypeError, pa.ArrowException):
        dtype = pa.null()
    if value_type is None or not (is_numeric(dtype) or pa.types.is_boolean(dtype)):  # to numpy None is a float64
        raise InvalidArgumentError(
            f"value_type={shown(value_type)} must be a type of numbers or bool, such as pyarrow.uint8()"
        )
    return dtype
