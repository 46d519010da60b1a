"""Where the rows of one pass come from: storage or memory."""

from __future__ import annotations

from collections.abc import Callable

import pyarrow as pa

from ray_lance.order.rows import RowArray
from ray_lance.torch.batches import RowReader
from ray_lance.torch.kept import KeptRows
from ray_lance.torch.meter import Fetched, PassMeter

__all__ = ["PassSource"]


class PassSource:
    """Fetches the rows of a pass, and counts which of them are read from storage.

    Args:
        reader: Reads rows and makes batches of them.
        kept: The rows that are kept in memory, if any may be.
        meter: What counts the pass.

    Attributes:
        reader: The same.
        meter: The same.
    """

    def __init__(self, reader: RowReader, kept: KeptRows | None, meter: PassMeter) -> None:
        self.reader, self.meter = reader, meter
        self._kept = kept

    def has(self, rows: RowArray) -> bool:
        """Whether all of these rows are in memory."""
        return self._kept is not None and self._kept.has(rows)

    def fetch(self, lane: int, rows: RowArray) -> Fetched:
        """The given rows, for a lane."""
        storage = _CountedReads(self.reader, self.meter)
        table = storage.take(rows) if self._kept is None else self._kept.take(rows, storage)
        return Fetched(lane, self.reader.to_cut(table), max(0, len(rows) - storage.rows))


class _CountedReads:
    """Reads from storage for one fetch, and counts their rows."""

    def __init__(self, reader: RowReader, meter: PassMeter) -> None:
        self._reader, self._meter = reader, meter
        self.rows = 0

    def take(self, rows: RowArray) -> pa.Table:
        self.rows += len(rows)
        return self._reader.take(rows, self._meter.retried)

    def take_in_pieces(self, rows: RowArray, receive: Callable[[RowArray, pa.Table], bool]) -> bool:
        self.rows += len(rows)
        return self._reader.take_in_pieces(rows, receive, self._meter.retried)
