"""Columns of large binary objects: the field to write one with, and telling such fields from others."""

from __future__ import annotations

import lance
import pyarrow as pa

from ray_lance.arguments import as_flag, as_text, shown
from ray_lance.errors import InvalidArgumentError
from ray_lance.tensors.kinds import BLOB_MARK

__all__ = ["blob"]


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
