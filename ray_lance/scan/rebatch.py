"""Cuts rows that come in pieces of any size into batches: tables in, tables of one size out."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any, Generic, Protocol, TypeVar

import pyarrow as pa

__all__ = ["RowQueue", "rebatched"]


class _Rows(Protocol):
    def __len__(self) -> int: ...

    def slice(self, offset: int, length: int) -> Any: ...


R = TypeVar("R", bound=_Rows)


class RowQueue(Generic[R]):
    """Rows that come in pieces (tables, for instance), and leave in the same order in any numbers, without a copy."""

    def __init__(self) -> None:
        self._pieces: deque[R] = deque()
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def add(self, piece: R) -> None:
        """Put rows at the end."""
        self._pieces.append(piece)
        self._count += len(piece)

    def take(self, count: int) -> list[R]:
        """Take the first ``count`` rows out, of which there must be as many: in one piece if they came in one."""
        self._count -= count
        taken: list[R] = []
        while count:
            piece = self._pieces.popleft()
            if len(piece) > count:
                self._pieces.appendleft(piece.slice(count, len(piece) - count))
                piece = piece.slice(0, count)
            if len(piece):
                taken.append(piece)
            count -= len(piece)
        return taken


def rebatched(tables: Iterable[pa.Table], size: int) -> Iterator[pa.Table]:
    """The rows of ``tables`` in tables of ``size`` rows, without a copy; the last table may have fewer."""
    queue: RowQueue[pa.Table] = RowQueue()
    for table in tables:
        queue.add(table)
        while len(queue) >= size:
            yield pa.concat_tables(queue.take(size))
    if len(queue):
        yield pa.concat_tables(queue.take(len(queue)))
