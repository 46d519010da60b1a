"""Decodes images in Arrow: a column of encoded images in, one of uint8 tensors out, row for row.

Needs pyarrow, numpy and Pillow (the extra ``images``), and neither Ray nor Lance.
"""

from __future__ import annotations

import functools
import io
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ray_lance.arguments import as_choice, as_count, as_integer, shown
from ray_lance.errors import InvalidArgumentError, TensorConversionError, UnknownColumnError
from ray_lance.paths import find_name, parse_path
from ray_lance.tensors.kinds import variable_shape_field
from ray_lance.tensors.objects import to_objects
from ray_lance.tensors.ragged import make_shaped

__all__ = [
    "Decode",
    "ImageDecode",
    "decode_table",
    "decoded_schema",
    "find_decoders",
    "mean_decoded_bytes",
]

Image: TypeAlias = npt.NDArray[np.uint8]
OnError = Literal["raise", "null", "fill"]

_CHANNELS = {"L": 1, "RGB": 3, "RGBA": 4, "CMYK": 4, "YCbCr": 3, "HSV": 3, "LAB": 3}
# Pillow's modes of more than 8 bits, and formats whose pixels it holds in 32 bits though they have 16.
_WIDE_MODES = ("I", "F")
_FORMATS_OF_16_BITS = ("PNG", "PPM")
_ROW_ADDRESS = "_rowaddr"
_HUGGING_FACE = b"huggingface"
_BYTES = "bytes"


@dataclass(frozen=True)
class ImageDecode:
    """How a column of encoded images (JPEG, PNG and whatever else Pillow reads) becomes uint8 tensors.

    Attributes:
        size: ``(height, width)`` that every image is resized to, or one number for both; None keeps each image's own
            size.
        mode: Pillow's name for the channels: ``"L"`` (1), ``"RGB"``, ``"YCbCr"``, ``"HSV"``, ``"LAB"`` (3), ``"RGBA"``
            or ``"CMYK"`` (4).
        on_error: What happens to a row whose image is missing or cannot be decoded. ``"raise"``: an error with the
            row's address. ``"null"``: a null row, None in a list of tensors. ``"fill"``: an image of ``fill``, which
            needs ``size``. The number of rows is the same in each case.
        fill: Value of every pixel of a filler, 0 to 255.

    Of an animation the first image is decoded, and of 16-bit pixels the upper eight bits. Pixels that are 32-bit
    numbers have no fixed range, so that they cannot be decoded.

    A Ray dataset holds images as one column of tensors ``(height, width, channels)`` where all have one shape, which is
    with ``size`` and any ``on_error`` but ``"null"``: ``iter_torch_batches`` makes tensors of shape ``(n, height,
    width, channels)`` of them. Others are tensors of varying shape, which Ray's own collation refuses:
    ``iter_torch_batches(collate_fn=TensorCollate())``, and a training shard without any, give a list of tensors. In
    numpy batches a null row is then an empty array.

    Example:
        >>> ImageDecode(size=(224, 224), on_error="fill")
        ImageDecode(size=(224, 224), mode='RGB', on_error='fill', fill=0)
    """

    size: tuple[int, int] | int | None = None
    mode: str = "RGB"
    on_error: OnError = "raise"
    fill: int = 0

    def __post_init__(self) -> None:
        if self.size is not None:
            object.__setattr__(self, "size", _sides(self.size))
        as_choice("mode", self.mode, _CHANNELS)
        as_choice("on_error", self.on_error, get_args(OnError))
        if self.on_error == "fill" and self.size is None:
            raise InvalidArgumentError("on_error='fill' needs size=(height, width): a filler must have a size")
        object.__setattr__(self, "fill", as_integer("fill", self.fill, 0))
        if self.fill > 255:
            raise InvalidArgumentError(f"fill={self.fill!r} must be a pixel value from 0 to 255")

    @property
    def channels(self) -> int:
        """Channels of every image."""
        return _CHANNELS[self.mode]

    @property
    def shape(self) -> tuple[int, int, int] | None:
        """``(height, width, channels)`` of every image, where ``size`` fixes it."""
        return None if self._size is None else (*self._size, self.channels)

    @property
    def _size(self) -> tuple[int, int] | None:
        assert not isinstance(self.size, int)  # since construction
        return self.size

    def __call__(self, data: bytes) -> Image:
        """Decode one image.

        Returns:
            uint8 array of shape ``(height, width, channels)``.

        Raises:
            InvalidArgumentError: Pillow is not installed.
            Exception: Whatever Pillow raises for data that it cannot read.
        """
        image = _in_8_bits(_pillow().open(io.BytesIO(data)))
        if image.mode == "P" and "transparency" in image.info:
            image = image.convert("RGBA")  # what a direct conversion makes of it, without a warning
        if image.mode != self.mode:
            image = image.convert(self.mode)
        if self._size is not None and image.size != self._size[::-1]:
            image = image.resize(self._size[::-1])
        pixels: Image = np.asarray(image)
        return pixels[:, :, None] if pixels.ndim == 2 else pixels


Decode: TypeAlias = Mapping[str, ImageDecode | Literal["image", True]] | Literal["auto"] | None
"""By column; ``"image"`` and True are ``ImageDecode()``. ``"auto"``: what HuggingFace ``datasets`` marked as images."""


def find_decoders(decode: Decode, schema: pa.Schema) -> dict[str, ImageDecode]:
    """Find and check the decoders for tables of ``schema``, before anything is read.

    Args:
        decode: Decoders by column; ``"auto"`` decodes the columns that the schema's metadata, as HuggingFace
            ``datasets`` writes it, calls images; None decodes none.
        schema: As Lance stores it.

    Raises:
        UnknownColumnError: ``decode`` names a column that ``schema`` does not have.
        InvalidArgumentError: The column holds no bytes, the value is no decoder, or Pillow is not installed.
    """
    if decode is None:
        return {}
    if isinstance(decode, str) and decode == "auto":
        decode = dict.fromkeys(_hugging_face_images(schema), "image")
    if not isinstance(decode, Mapping):
        raise InvalidArgumentError(
            f"decode={shown(decode)} must map columns to decoders, such as {{'image': 'image'}}, or be 'auto' or None"
        )
    decoders: dict[str, ImageDecode] = {}
    for key, value in decode.items():
        if (name := find_name(schema.names, key)) is None:
            raise UnknownColumnError("decode", key, schema.names)
        decoders[name] = _decoder(key, value)
        if not _holds_bytes(schema.field(name).type):
            raise InvalidArgumentError(
                f"decode: column {name!r} is {schema.field(name).type}, which holds no encoded images: binary, a blob, "
                "or a struct with a binary field 'bytes' does"
            )
    if decoders:
        _pillow()
    return decoders


def decoded_schema(schema: pa.Schema, decoders: Mapping[str, ImageDecode]) -> pa.Schema:
    """The schema of :func:`decode_table`'s results: it depends on no data.

    Images of one ``size`` are ``arrow.fixed_shape_tensor`` of ``(h, w, c)``; others, and those of which one may be
    null, ``arrow.variable_shape_tensor``.
    """
    fields = [_decoded_field(field, decoders[field.name]) if field.name in decoders else field for field in schema]
    return pa.schema(fields, metadata=schema.metadata)


def decode_table(table: pa.Table, decoders: Mapping[str, ImageDecode]) -> pa.Table:
    """Decode the encoded columns of ``table``; other columns, the order and the number of rows stay.

    Args:
        table: Columns as stored. Errors name a row by its column ``_rowaddr``, if there is one.
        decoders: As :func:`find_decoders` gives them.

    Raises:
        TensorConversionError: An image is missing or cannot be decoded, and its decoder says ``on_error="raise"``.
    """
    addresses = table[_ROW_ADDRESS] if _ROW_ADDRESS in table.column_names else None
    for index, field in enumerate(table.schema):
        if (decoder := decoders.get(field.name)) is not None:
            decoded = _decoded_field(field, decoder)
            place = functools.partial(_place, field.name, addresses)
            encoded = _encoded(table.column(index), field.name)
            images = [_decode_row(decoder, data, functools.partial(place, row)) for row, data in enumerate(encoded)]
            table = table.set_column(index, decoded, _image_array(images, decoded))
    return table


def mean_decoded_bytes(column: pa.ChunkedArray, decoder: ImageDecode) -> float:
    """Mean bytes of the decoded images of ``column``, according to their headers; 0 if there is none."""
    sizes = []
    for data in _encoded(column, "image"):
        try:
            width, height = _pillow().open(io.BytesIO(data or b"")).size
        except InvalidArgumentError:
            raise
        except Exception:  # no image, or one too large: the read itself handles that, by the decoder's policy
            width = height = 0
        sizes.append(width * height * decoder.channels)
    return float(np.mean(sizes)) if sizes else 0.0


def _sides(size: Any) -> tuple[int, int]:
    sides = tuple(size) if isinstance(size, Iterable) else (size, size)
    try:
        height, width = (as_count("size", side) for side in sides)
    except ValueError:  # ours, or of another number of sides
        raise InvalidArgumentError(
            f"size={shown(size)} must be (height, width) in pixels, both positive, such as (224, 224), or one number"
        ) from None
    return height, width


def _in_8_bits(image: Any) -> Any:
    """``image``, or a grey one of 8 bits where it has more, which Pillow would cut off at 255."""
    if not image.mode.startswith(_WIDE_MODES):
        return image
    if image.mode in ("I", "F") and image.format not in _FORMATS_OF_16_BITS:
        raise ValueError(f"pixels of {image.format} in 32 bits have no fixed range")
    return _pillow().fromarray((np.asarray(image) >> 8).astype(np.uint8))


def _decoder(name: str, value: Any) -> ImageDecode:
    if isinstance(value, ImageDecode):
        return value
    if value is True or value == "image":
        return ImageDecode()
    raise InvalidArgumentError(f"decode[{name!r}]={value!r} must be 'image', True or an ImageDecode(...)")


def _decode_row(decoder: ImageDecode, data: bytes | None, place: Callable[[], str]) -> Image | None:
    """Decode one image, or apply the decoder's policy; None means null."""
    reason: Exception
    if data is None:
        reason = ValueError("there are no bytes")
    else:
        try:
            return decoder(data)
        except (InvalidArgumentError, MemoryError):
            raise
        except Exception as error:  # Pillow's plugins raise errors of every class for damaged data
            reason = error
    if decoder.on_error == "raise":
        raise TensorConversionError(
            f"{place()}: the image cannot be decoded ({_told(reason, data)}). Repair the row or exclude it with "
            "filter=, or use ImageDecode(on_error='null') or 'fill'"
        ) from reason
    if decoder.on_error == "null" or decoder.shape is None:
        return None
    return np.full(decoder.shape, decoder.fill, np.uint8)


def _told(reason: Exception, data: bytes | None) -> str:
    # Pillow's own message shows the address of the bytes in memory.
    is_unknown = "cannot identify image file" in str(reason)
    return f"{len(data or b'')} bytes that are no image which Pillow knows" if is_unknown else str(reason)


def _place(name: str, addresses: pa.ChunkedArray | None, row: int) -> str:
    if addresses is None:
        return f"column {name!r}, row {row} of the batch"
    address = addresses[row].as_py()
    return f"column {name!r}, row address {address} (fragment {address >> 32}, row {address & 0xFFFFFFFF})"


def _encoded(column: pa.ChunkedArray, name: str) -> list[bytes | None]:
    if pa.types.is_struct(column.type):
        column = pa.compute.struct_field(column, _BYTES)
    return to_objects(column, name)


def _decoded_field(field: pa.Field, decoder: ImageDecode) -> pa.Field:
    if decoder.shape is None or decoder.on_error == "null":
        return variable_shape_field(pa.field(field.name, field.type), pa.field("item", pa.uint8()), 3)
    return pa.field(field.name, pa.fixed_shape_tensor(pa.uint8(), decoder.shape))


def _image_array(images: list[Image | None], field: pa.Field) -> pa.Array:
    flat = [image.reshape(-1) for image in images if image is not None]
    pixels = pa.array(np.concatenate(flat) if flat else np.empty(0, np.uint8))
    if isinstance(field.type, pa.FixedShapeTensorType):  # no image is null
        rows = pa.FixedSizeListArray.from_arrays(pixels, int(np.prod(field.type.shape)))
        return pa.ExtensionArray.from_storage(field.type, rows)
    shapes = np.array([(0, 0, 0) if image is None else image.shape for image in images], np.int64).reshape(-1, 3)
    nulls = np.array([image is None for image in images], np.bool_)
    return make_shaped(field.type, pixels, shapes, nulls)


def _hugging_face_images(schema: pa.Schema) -> list[str]:
    """Columns of ``schema`` that HuggingFace ``datasets`` has described as images."""
    text = (schema.metadata or {}).get(_HUGGING_FACE)
    try:
        features = json.loads(text)["info"]["features"] if text else {}
    except (ValueError, KeyError, TypeError):  # not written by datasets after all
        return []
    described = {name: feature for name, feature in features.items() if isinstance(feature, Mapping)}
    images = [(name,) for name, feature in described.items() if feature.get("_type") == "Image"]
    named = [field for field in schema if (field.name,) in images or parse_path(field.name) in images]
    return [field.name for field in named if _holds_bytes(field.type)]


def _holds_bytes(dtype: pa.DataType) -> bool:
    if pa.types.is_struct(dtype):
        index = dtype.get_field_index(_BYTES)
        return index >= 0 and _holds_bytes(dtype.field(index).type)
    return bool(pa.types.is_binary(dtype) or pa.types.is_large_binary(dtype) or pa.types.is_binary_view(dtype))


def _pillow() -> Any:
    try:
        import PIL.Image
    except ImportError as error:
        raise InvalidArgumentError("decode needs Pillow: pip install 'ray-lance[images]'") from error
    return PIL.Image
