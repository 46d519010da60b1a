"""Torch datasets over Lance, with or without Ray.

iterable       LanceIterableDataset: batches in the order of a permutation, with a state
mapped         LanceMapDataset: rows by index, a batch in one take
loader         make_loader: a DataLoader with spawned workers that passes batches through whole
row_reader     reads rows and makes batches of them; shared by both datasets
prefetch       which rows are read together, ahead and by which threads, and how batches are cut from them
table_cache    all rows of a table in memory from pass to pass (iterable dataset)
range_cache    ranges of a table that single rows are often taken from (map dataset)
cache_budget   the memory that both may take
rank_state     where a rank stands in its order, and the state to resume from
epochs         which epoch an iteration reads, agreed on with the workers of a DataLoader
ranks          who reads: rank, world size, DataLoader worker
callers        refuses loaders that would stack batches or share them out once more
dataset_meter  counts what is delivered
image_tensors  batches of decoded images

Importing this package imports no Ray.
"""

from __future__ import annotations

from ray_lance.decode import ImageDecode
from ray_lance.tensors import to_tensors
from ray_lance.torch.iterable import LanceIterableDataset
from ray_lance.torch.loader import make_loader
from ray_lance.torch.mapped import LanceMapDataset

__all__ = ["ImageDecode", "LanceIterableDataset", "LanceMapDataset", "make_loader", "to_tensors"]
