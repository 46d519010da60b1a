"""Puts the rows of one fragment in order: where they are in blocks in, tables by ascending address out.

Runs in the task that writes the fragment. Checks that they are rows of the fragment, and all of those it needs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import ray

from ray_lance.backfill.addressed import Addressing, merged, shown_address
from ray_lance.backfill.assemble import BlockRows, CompleteFragment
from ray_lance.errors import InvalidArgumentError
from ray_lance.scan.scan import ROW_ADDRESS
from ray_lance.table import TableRef
from ray_lance.write.column_job import ColumnJob
from ray_lance.write.column_plan import FragmentWork, null_condition
from ray_lance.write.schema import portable

__all__ = ["MatchedRows", "overlapping"]

_Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class MatchedRows:
    """Reads the rows of a fragment for :class:`ray_lance.backfill.writer.ColumnWriter`.

    Attributes:
        how: Which columns are stored.
        needs_all: Whether every row without a value must get one.
    """

    how: Addressing
    needs_all: bool

    def __call__(
        self,
        job: ColumnJob,
        fragment: CompleteFragment[int],
        blocks: Sequence[ray.ObjectRef],
        _failures: dict[str, list[int]],
    ) -> Iterator[pa.Table]:
        """The rows by ascending address.

        Raises:
            InvalidArgumentError: One comes twice, is no row of the fragment, or is missing.
        """
        work, schema = fragment.work, portable(job.schema)
        live = _live(self.how.table, work)
        came = np.zeros(work.physical_rows, bool)
        for group in overlapping(fragment.parts):
            for table in merged([self._read(part, blocks, schema) for part in group]):
                offsets = table[ROW_ADDRESS].to_numpy().view(np.int64) & 0xFFFFFFFF
                self._check(offsets, live, work)
                came[offsets] = True
                yield table
        if self.needs_all:
            self._check_none_is_missing(job, work, came)

    def _read(self, part: BlockRows[int], blocks: Sequence[ray.ObjectRef], schema: pa.Schema) -> pa.Table:
        table: Any = ray.get(blocks[part.block])
        return self.how.of_addresses().fitted(table.slice(part.start, part.stop - part.start), schema)

    def _check(self, offsets: npt.NDArray[np.int64], live: _Mask | None, work: FragmentWork) -> None:
        wrong = offsets >= work.physical_rows if live is None or offsets[-1] >= len(live) else ~live[offsets]
        if wrong.any():
            address = int(offsets[np.argmax(wrong)]) | work.fragment_id << 32
            raise InvalidArgumentError(
                f"the pipeline returned the row address {shown_address(address)}, and version "
                f"{self.how.table.number}, which was read, has no such row"
            )

    def _check_none_is_missing(self, job: ColumnJob, work: FragmentWork, came: _Mask) -> None:
        """Check fragments that had values before: whether all rows without one got one."""
        if came.sum() >= _live_rows(self.how.table, work):
            return
        needed = _rows_of(job.target.table, work, null_condition(job.schema.names) if work.keeps else None)
        if (absent := needed & ~came).any():
            address = int(np.argmax(absent)) | work.fragment_id << 32
            raise InvalidArgumentError(
                f"the pipeline returned no row with the address {shown_address(address)}, nor {absent.sum() - 1} more "
                "of that fragment: let it keep all rows, or give require_full_coverage=False to leave them null"
            )


def overlapping(parts: Sequence[Any]) -> list[list[Any]]:
    """Parts sorted by their first address, in groups that have no address range in common with one another."""
    groups: list[list[Any]] = []
    last = -1
    for part in sorted(parts, key=lambda part: part.first):
        if groups and part.first <= last:
            groups[-1].append(part)
        else:
            groups.append([part])
        last = max(last, part.last)
    return groups


def _live_rows(table: TableRef, work: FragmentWork) -> int:
    return int(table.open().get_fragment(work.fragment_id).count_rows())


def _live(table: TableRef, work: FragmentWork) -> _Mask | None:
    """Which rows of the fragment are not deleted; None where all of them are there."""
    return None if _live_rows(table, work) == work.physical_rows else _rows_of(table, work, None)


def _rows_of(table: TableRef, work: FragmentWork, filter: str | None) -> _Mask:
    dataset = table.open()
    fragment = dataset.get_fragment(work.fragment_id)
    found = np.zeros(work.physical_rows, bool)
    scanner = dataset.scanner(columns=[], filter=filter, with_row_address=True, fragments=[fragment])
    for batch in scanner.to_batches():
        found[batch[ROW_ADDRESS].to_numpy().view(np.int64) & 0xFFFFFFFF] = True
    return found
