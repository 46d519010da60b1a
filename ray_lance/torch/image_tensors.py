"""Tables with decoded images in, batches out: tensors of them where they have one size, lists of tensors elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyarrow as pa
import torch

from ray_lance.decode import ImageDecode
from ray_lance.tensors import CategoryOption, Fill, Ragged, Tensors, named_fill, to_tensors

__all__ = ["to_image_tensors"]


def to_image_tensors(
    table: pa.Table,
    decoders: Mapping[str, ImageDecode],
    *,
    ragged: Ragged = "nested",
    fill: Fill = None,
    categories: CategoryOption = "values",
) -> Tensors:
    """:func:`ray_lance.tensors.to_tensors` for what :func:`ray_lance.decode.decode_table` returned.

    A decoded column becomes a uint8 tensor ``(n, h, w, c)`` where its images have one size, else a list of tensors
    ``(h, w, c)``; a list with None where there are null images and no ``fill`` for them.
    """
    fill = named_fill(fill, table.schema)
    unfilled = [
        name
        for name in decoders
        if table[name].null_count and (fill is None or (isinstance(fill, Mapping) and name not in fill))
    ]
    fills = {**fill, **dict.fromkeys(unfilled, 0)} if isinstance(fill, Mapping) else fill
    if unfilled and fill is None:
        fills = dict.fromkeys(unfilled, 0)
    batch = to_tensors(table, ragged=ragged, fill=fills, categories=categories)
    for name, decoder in decoders.items():
        images = batch[name]
        if name in unfilled:
            present = table[name].is_valid().to_numpy()
            batch[name] = [image if is_there else None for image, is_there in zip(images, present, strict=True)]
        elif isinstance(images, list):
            batch[name] = _stacked(_filled(images, decoder, fill.get(name) if isinstance(fill, Mapping) else fill))
    return batch


def _filled(images: list[Any], decoder: ImageDecode, value: Any) -> list[Any]:
    """Fillers in place of None: of the decoder's size, or empty where each image has its own."""
    if value is None or all(image is not None for image in images):
        return images
    filler = torch.full(decoder.shape or (0, 0, decoder.channels), value, dtype=torch.uint8)
    return [filler if image is None else image for image in images]


def _stacked(images: list[Any]) -> torch.Tensor | list[Any]:
    shapes = {None if image is None else image.shape for image in images}
    return torch.stack(images) if len(shapes) == 1 and None not in shapes else images
