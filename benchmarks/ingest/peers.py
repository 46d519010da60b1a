"""The loaders that are compared: each function delivers one epoch, batch by batch, and yields rows per batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import datasets
import lancedb
import torch
from lance.torch.data import LanceDataset as LanceTorchDataset
from lance.torch.data import SafeLanceDataset, get_safe_loader
from lancedb.streaming import StreamingDataset

from harness import DATA
from ray_lance.decode import ImageDecode
from ray_lance.torch import LanceIterableDataset, LanceMapDataset, make_loader

BATCH = 1024
Epoch = Callable[[], Iterator[int]]


def rows_of(batch: Any) -> int:
    """Rows of a batch in whatever form a loader gives it."""
    if isinstance(batch, Mapping):
        return len(next(iter(batch.values())))
    return len(batch)


def in_process(uri: str, **options: Any) -> dict[str, Epoch]:
    """Epochs of the fast contenders, in this process; ``lance.torch`` reads in order, which is all it can.

    From the second shuffled epoch on this library has the rows in memory, unless ``options`` say otherwise.
    """

    def sequential() -> Iterator[int]:
        yield from map(rows_of, LanceIterableDataset(uri, batch_size=BATCH, tail="uneven", **options))

    def lance_torch() -> Iterator[int]:
        yield from map(rows_of, LanceTorchDataset(uri, batch_size=BATCH))

    return {
        **_shuffled(uri, **options),
        "LanceIterableDataset, sequential": sequential,
        "lance.torch LanceDataset, sequential": lance_torch,
    }


def in_process_from_storage(uri: str) -> dict[str, Epoch]:
    """The same, all of whose epochs are read from storage."""
    return in_process(uri, cache_bytes=0)


def hugging_face(uri: str) -> dict[str, Epoch]:
    """Shuffled epochs of this library and HuggingFace datasets, in this process."""
    memory_mapped = _as_arrow_files(uri)

    def theirs() -> Iterator[int]:
        shuffled = memory_mapped.shuffle(seed=7).with_format("torch")
        yield from (len(batch["id"]) for batch in shuffled.iter(batch_size=BATCH))

    return {**_shuffled(uri, cache_bytes=0), "HuggingFace datasets, shuffled": theirs}


def streaming(uri: str) -> dict[str, Epoch]:
    """Shuffled epochs of this library and lancedb's streaming dataset, in this process."""
    table = lancedb.connect(str(DATA)).open_table(Path(uri).stem)

    def theirs() -> Iterator[int]:
        stream = StreamingDataset(table, num_splits=1, shuffle_seed=7, rank=0, world_size=1)
        yield from map(rows_of, torch.utils.data.DataLoader(stream, batch_size=BATCH, num_workers=0))

    return {**_shuffled(uri, cache_bytes=0), "lancedb StreamingDataset, shuffled": theirs}


def mapped(uri: str) -> dict[str, Epoch]:
    """Map-style datasets under a loader with two persistent workers and ``shuffle=True``."""
    mine = make_loader(LanceMapDataset(uri), batch_size=BATCH, shuffle=True, num_workers=2)
    uncached = make_loader(LanceMapDataset(uri, cache_bytes=0), batch_size=BATCH, shuffle=True, num_workers=2)
    safe = get_safe_loader(SafeLanceDataset(uri), batch_size=BATCH, num_workers=2, shuffle=True)
    return {
        "LanceMapDataset, two workers": lambda: map(rows_of, mine),
        "LanceMapDataset, cache_bytes=0": lambda: map(rows_of, uncached),
        "SafeLanceDataset, two workers": lambda: map(rows_of, safe),
    }


def images(uri: str) -> dict[str, Epoch]:
    """Decoded JPEG images in batches of 64, shuffled."""
    decode = {"image": ImageDecode()}
    hugging_face = _as_arrow_files(uri).cast_column("image", datasets.Image())

    def ours() -> Iterator[int]:
        loader = LanceIterableDataset(uri, batch_size=64, shuffle=7, tail="uneven", decode=decode)
        yield from map(rows_of, loader)

    def theirs() -> Iterator[int]:
        shuffled = hugging_face.shuffle(seed=7).with_format("torch")
        yield from (len(batch["image"]) for batch in shuffled.iter(batch_size=64))

    return {"LanceIterableDataset, decode=": ours, "HuggingFace datasets, Image()": theirs}


def _as_arrow_files(uri: str) -> datasets.Dataset:
    """The same rows as HuggingFace datasets stores them: memory-mapped Arrow files."""
    import lance

    folder = Path(f"{uri}.huggingface")
    if not folder.exists():
        datasets.Dataset(lance.dataset(uri).to_table()).save_to_disk(str(folder))
    return datasets.load_from_disk(str(folder))


def _shuffled(uri: str, **options: Any) -> dict[str, Epoch]:
    """The subject of most comparisons."""

    def ours() -> Iterator[int]:
        yield from map(rows_of, LanceIterableDataset(uri, batch_size=BATCH, shuffle=7, tail="uneven", **options))

    return {"LanceIterableDataset, shuffled": ours}
