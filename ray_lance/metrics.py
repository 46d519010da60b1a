"""What a loader has delivered, by the same names with and without Ray."""

from __future__ import annotations

import operator
from dataclasses import astuple, dataclass

from ray_lance.notebook import FieldFacts

__all__ = ["LoaderMetrics"]


@dataclass(frozen=True)
class LoaderMetrics(FieldFacts):
    """What was delivered since a dataset or shard was made, over all its passes.

    Attributes:
        batches: Batches that were returned.
        rows: Rows in them.
        bytes: Bytes of these rows as Arrow tables, before they became tensors or were decoded.
        seconds_waited: Seconds that callers waited for the next batch, converting and transforming it included.
        queue_depth: Reads that were begun ahead and not yet asked for, at this moment.
        rows_from_memory: Rows that came from a row cache and not from storage.
        retries: Reads that were tried again after a fault of the storage.
    """

    batches: int = 0
    rows: int = 0
    bytes: int = 0
    seconds_waited: float = 0.0
    queue_depth: int = 0
    rows_from_memory: int = 0
    retries: int = 0

    def __add__(self, other: LoaderMetrics) -> LoaderMetrics:
        """Those of both together, as of several ranks or workers."""
        return LoaderMetrics(*map(operator.add, astuple(self), astuple(other)))
