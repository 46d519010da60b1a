"""Torch datasets over Lance, with or without Ray.

iterable   LanceIterableDataset: batches in the order of a permutation, with a state
mapped     LanceMapDataset: rows by index, a batch in one take
loader     make_loader: a DataLoader with spawned workers that passes batches through whole
batches    what rows become: columns, decoding, format, transform; shared by both datasets
prefetch   which rows are read together, ahead and by which threads, and how batches are cut from them
epochs     which epoch an iteration reads, agreed on with the workers of a DataLoader
ranks      who reads: rank, world size, DataLoader worker
sharders   frameworks that would share out among ranks what is shared out already

Importing this package imports no Ray.
"""

from __future__ import annotations

from ray_lance.decode import ImageDecode
from ray_lance.tensors import to_tensors
from ray_lance.torch.iterable import LanceIterableDataset
from ray_lance.torch.loader import make_loader
from ray_lance.torch.mapped import LanceMapDataset

__all__ = ["ImageDecode", "LanceIterableDataset", "LanceMapDataset", "make_loader", "to_tensors"]
