"""Encoded images, and bytes that are none."""

from __future__ import annotations

import io

import PIL.Image
import pyarrow as pa

DAMAGED = [b"", b"no image", b"\x89PNG\r\n\x1a\n" + b"\0" * 40, None]


def encoded(height: int, width: int, color=(10, 20, 30), format: str = "PNG", mode: str = "RGB") -> bytes:
    """An image of one colour."""
    buffer = io.BytesIO()
    PIL.Image.new("RGB", (width, height), color).convert(mode).save(buffer, format=format)
    return buffer.getvalue()


def images(*values: bytes | None) -> pa.Table:
    """A table of an id and an encoded image."""
    return pa.table({"id": pa.array(range(len(values))), "image": pa.array(values, pa.binary())})


def numbered_images(count: int, damaged=(), size=(4, 6)) -> pa.Table:
    """As :func:`images`, the red channel of each image its id; rows ``damaged`` hold none."""
    return images(*(DAMAGED[i % 4] if i in damaged else encoded(*size, (i, 0, 0)) for i in range(count)))
