"""Offsets among a table's live rows in, row ids out.

Where rows have been deleted, Lance's take by offset goes through the deleted rows of the fragment for each row, which
takes milliseconds; a take by row id takes microseconds.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from ray_lance.order.rows import RowArray
from ray_lance.table import TableRef

__all__ = ["Layout", "layout_of"]

_Integers = npt.NDArray[np.int64]

# A scan of some rows of such files fails ("0.1"), or ignores limits in bytes.
_OLD_FORMATS = ("0.1", "2.0")


@dataclass(frozen=True)
class Layout:
    """Where the rows of one version of a table lie, by fragment.

    Attributes:
        table: The table.
        fragment_ids: Ids of the fragments, in scan order: int64, shape ``(k,)``.
        starts: Offset of the first row of each, and after them the number of rows: int64, shape ``(k + 1,)``.
        has_deletions: Whether rows have been deleted.
        is_regular: Of each fragment whether row ids are addresses and no rows have been deleted: shape ``(k,)``.
        is_scannable: Whether row ids are addresses that ascend with the rows, of files that can be scanned by them.
    """

    table: TableRef
    fragment_ids: _Integers
    starts: _Integers
    has_deletions: bool
    is_regular: npt.NDArray[np.bool_]
    is_scannable: bool
    _runs: dict[int, tuple[_Integers, _Integers]] = field(default_factory=dict, compare=False)

    def row_ids(self, offsets: RowArray) -> npt.NDArray[np.uint64] | None:
        """The row ids of ascending offsets; None where an offset is too large.

        All row ids of a fragment with deleted rows are read when one is first asked for, and kept as runs of
        consecutive ones: at most 16 bytes for each deleted row, or for each row that stable row ids have reordered.
        """
        if len(offsets) and int(offsets[-1]) >= int(self.starts[-1]):
            return None
        bounds = np.searchsorted(offsets, self.starts)
        counts = np.diff(bounds)
        row_ids = offsets + np.repeat((self.fragment_ids << 32) - self.starts[:-1], counts)
        for index in np.flatnonzero((counts > 0) & ~self.is_regular).tolist():
            part = slice(bounds[index], bounds[index + 1])
            inside = offsets[part] - self.starts[index]
            starts, shifts = self._runs_of(index)
            row_ids[part] = inside + shifts[np.searchsorted(starts, inside, side="right") - 1]
        return row_ids.view(np.uint64)

    def _runs_of(self, index: int) -> tuple[_Integers, _Integers]:
        """Runs of consecutive row ids: where each begins in the fragment, and its first row id less that."""
        if index not in self._runs:
            fragment = self.table.open().get_fragment(int(self.fragment_ids[index]))
            rows = fragment.scanner(columns=[], with_row_id=True).to_table()
            row_ids = rows["_rowid"].to_numpy().view(np.int64)
            starts = np.append(0, np.flatnonzero(np.diff(row_ids) != 1) + 1)
            self._runs[index] = starts, row_ids[starts] - starts
        return self._runs[index]


def layout_of(table: TableRef) -> Layout | None:
    """The layout of a table; None where its version is not pinned."""
    return None if table.version is None else _layout(table.cache_key, table)


@lru_cache(maxsize=64)
def _layout(key: str, table: TableRef) -> Layout:  # noqa: ARG001  key tells tables of one version apart
    dataset = table.open()
    fragments = dataset.get_fragments()
    fragment_ids = np.array([fragment.fragment_id for fragment in fragments], dtype=np.int64)
    deleted = np.array([fragment.num_deletions for fragment in fragments], dtype=np.int64)
    sizes = np.array([fragment.physical_rows for fragment in fragments], dtype=np.int64) - deleted
    is_stable, is_old = dataset.has_stable_row_ids, dataset.data_storage_version in _OLD_FORMATS
    return Layout(
        table,
        fragment_ids,
        starts=np.append(0, np.cumsum(sizes)),
        has_deletions=bool(deleted.any()),
        is_regular=(deleted == 0) & (not is_stable),
        is_scannable=not is_stable and not is_old and not (np.diff(fragment_ids) < 0).any(),
    )
