"""Where the fragments of a table lie: the addresses of its rows, by arithmetic."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from ray_lance.order.rows import RowArray
from ray_lance.table import TableRef

__all__ = ["Layout", "layout_of"]

# A scan of some rows of such files fails ("0.1"), or does not heed limits in bytes.
_OLD_FORMATS = ("0.1", "2.0")


@dataclass(frozen=True)
class Layout:
    """The fragments of one version of a table, whose addresses ascend with the rows.

    Attributes:
        numbers: Ids of the fragments: int64, shape ``(k,)``.
        starts: Offset of each one's first row, and the number of rows: int64, shape ``(k + 1,)``.
        is_dense: Whether no rows have been deleted.
    """

    numbers: npt.NDArray[np.int64]
    starts: npt.NDArray[np.int64]
    is_dense: bool

    def addresses(self, offsets: RowArray) -> npt.NDArray[np.uint64] | None:
        """The addresses of ascending offsets; None where that takes the deleted rows, or there are no such offsets."""
        if not self.is_dense or (len(offsets) and int(offsets[-1]) >= int(self.starts[-1])):
            return None
        counts = np.diff(np.searchsorted(offsets, self.starts))
        addresses = offsets + np.repeat((self.numbers << 32) - self.starts[:-1], counts)
        return addresses.view(np.uint64)


def layout_of(table: TableRef) -> Layout | None:
    """The layout of a table whose rows can be scanned by address in their order; None for others.

    Those are tables with stable row ids, with fragments in another order than that of their ids, of file formats before
    2.1, and those whose version is not pinned.
    """
    return None if table.version is None else _layout(table.cache_key, table)


@lru_cache(maxsize=64)
def _layout(key: str, table: TableRef) -> Layout | None:  # noqa: ARG001  key tells tables of one version apart
    dataset = table.open()
    if dataset.has_stable_row_ids or dataset.data_storage_version in _OLD_FORMATS:
        return None
    fragments = dataset.get_fragments()
    numbers = np.array([fragment.fragment_id for fragment in fragments], dtype=np.int64)
    if bool((np.diff(numbers) < 0).any()):
        return None
    starts = np.cumsum([0, *(fragment.physical_rows for fragment in fragments)])
    return Layout(numbers, starts, all(fragment.num_deletions == 0 for fragment in fragments))
