"""Orders over rows as pure arithmetic: positions in, rows out. Imports neither lance, ray nor torch."""

from __future__ import annotations

from ray_lance.order.bijection import Bijection
from ray_lance.order.clumps import ClumpOrder
from ray_lance.order.cursor import Cursor
from ray_lance.order.hashing import stable_hash64
from ray_lance.order.mixture import MixedPermutation, MixedSource, Stage
from ray_lance.order.permutation import RowPermutation
from ray_lance.order.quality import ShuffleQuality, measure_quality
from ray_lance.order.row_order import RowOrder
from ray_lance.order.rows import DenseRows, DetachedRows, ExplicitRows, RowSet, ShuffledRows, SlicedRows
from ray_lance.order.schedule import BatchSchedule, LaneRange, Tail
from ray_lance.order.shares import Shares
from ray_lance.order.shuffle import Shuffle, auto_clump, auto_window
from ray_lance.order.split import hash_split

__all__ = [
    "BatchSchedule",
    "Bijection",
    "ClumpOrder",
    "Cursor",
    "DenseRows",
    "DetachedRows",
    "ExplicitRows",
    "LaneRange",
    "MixedPermutation",
    "MixedSource",
    "RowOrder",
    "RowPermutation",
    "RowSet",
    "Shares",
    "Shuffle",
    "ShuffleQuality",
    "ShuffledRows",
    "SlicedRows",
    "Stage",
    "Tail",
    "auto_clump",
    "auto_window",
    "hash_split",
    "measure_quality",
    "stable_hash64",
]
