"""What can be read in an order: a permutation of one table, or a mixture of several. An order in, its rows out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from ray_lance.ahead import ordered_map
from ray_lance.arguments import as_count, as_integer, shown
from ray_lance.errors import InvalidArgumentError
from ray_lance.forks import not_forked
from ray_lance.formats import Format, check_format, convert
from ray_lance.notebook import Facts
from ray_lance.order import RowOrder
from ray_lance.order.rows import RowArray, digest_of
from ray_lance.order.shuffle import Auto
from ray_lance.scan.planning import MAX_TASK_BYTES, TaskSizing, plan_positions
from ray_lance.scan.pushdown import Columns
from ray_lance.scan.rebatch import rebatched
from ray_lance.scan.stored_rows import StoredRows

__all__ = ["Ordered"]

S = TypeVar("S", bound="Ordered")


class Ordered(Facts, ABC):
    """Rows in an order: what readers need of a permutation or a mixture, and what these share. Frozen."""

    @property
    @abstractmethod
    def order(self) -> RowOrder:
        """The order itself, as arithmetic."""

    @property
    @abstractmethod
    def fixed_epoch(self) -> bool:
        """Whether :meth:`epoch` has fixed the epoch; otherwise each execution of a Ray dataset is the next one."""

    @property
    def lanes(self) -> int | None:
        """Lanes that the order has to be read in; None for any number."""
        return None

    @abstractmethod
    def stored(self, columns: Columns = None, *, with_row_address: bool = False) -> StoredRows:
        """What reads the rows, for those who know their numbers.

        Args:
            columns: As for :func:`ray_lance.read_lance`.
            with_row_address: Whether to add the column ``_rowaddr``.
        """

    @abstractmethod
    def shuffle(self, seed: int, clump: int | Auto = "auto", window: int | Auto = "auto") -> Ordered:
        """Shuffle the rows."""

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """What makes the order what it is, except the epoch, in plain JSON types."""

    @abstractmethod
    def _over(self: S, order: Any, *, fixed_epoch: bool | None = None) -> S:
        """The same over another order of the same rows."""

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self: S, positions: slice) -> S:
        if not isinstance(positions, slice):
            raise InvalidArgumentError(
                f"permutation[{positions!r}]: only slices such as [10:20] can be taken, which are permutations; "
                "fetch([10, 11]) reads rows, and ray_lance.torch.LanceMapDataset(permutation) one row by its position"
            )
        return self._over(self.order[positions])

    def __iter__(self) -> Iterator[Any]:
        raise InvalidArgumentError(
            "a permutation is an order, which holds no rows to iterate over: use iter_batches(batch_size), "
            "ray_lance.read_lance(permutation) or ray_lance.torch.LanceIterableDataset(permutation)"
        )

    def epoch(self: S, number: int) -> S:
        """The order of one epoch, at least 0; every execution of a Ray dataset then reads this one."""
        return self._over(self.order.epoch(as_integer("number", number, 0)), fixed_epoch=True)

    def shard(self: S, rank: int, world_size: int) -> S:
        """The ``rank``-th of ``world_size`` contiguous parts, whose sizes differ by at most one row."""
        return self._over(self.order.shard(rank, world_size))

    def rows(self, start: int = 0, stop: int | None = None) -> RowArray:
        """Rows at positions ``[start, stop)``, in time and memory proportional to their number, wherever they are.

        Returns:
            Shape ``(stop - start,)``. int64 offsets among the live rows in scan order, as ``lance.LanceDataset.take``
            takes them; uint64 row ids where a filter, a hash split or LanceDB chose the rows.
        """
        return self.order.rows(start, stop)

    def fetch(self, indices: npt.ArrayLike, columns: Columns = None, format: Format = "torch") -> Any:
        """Rows at the given positions, in the given order, read in one batched take.

        Args:
            indices: Positions, shape ``(k,)``; negative ones count from the end; repeated ones are allowed. One integer
                stands for a list of one.
            columns: As for :func:`ray_lance.read_lance`.
            format: ``"torch"`` (dict of tensors of shape ``(k, *shape)``), ``"torch_row"``, ``"torch_col"``,
                ``"numpy"``, ``"python"``, ``"python_col"``, ``"pandas"``, ``"arrow"`` or ``"polars"``; see
                :func:`ray_lance.formats.convert`.

        Raises:
            IndexError: A position is out of range.
            UnknownColumnError: There is no such column.
        """
        check_format(format)
        wanted = _as_positions("indices", indices)
        return convert(self.stored(columns).take(self.order.take(wanted)), format)

    def iter_batches(
        self, batch_size: int, columns: Columns = None, format: Format = "torch", *, threads: int = 2
    ) -> Iterator[Any]:
        """All rows in order, in batches, in this process.

        Args:
            batch_size: Rows per batch; the last batch may be shorter.
            columns: As for :func:`ray_lance.read_lance`.
            format: As for :meth:`fetch`.
            threads: Threads that read ahead; each reads one window of the order at a time.
        """
        check_format(format)
        batch_size, threads = as_count("batch_size", batch_size), as_count("threads", threads)
        stored, order = self.stored(columns), self.order
        ranges = plan_positions(order, TaskSizing(stored.row_bytes, MAX_TASK_BYTES))
        tables = ordered_map(
            lambda task: stored.take(order.rows(task.start, task.stop)), ranges, threads, ahead=threads
        )
        return (convert(table, format) for table in not_forked(rebatched(tables, batch_size)))

    @property
    def fingerprint(self) -> str:
        """32 hexadecimal characters, equal for equal orders over equal data. Covers :meth:`describe`, so no epoch."""
        return digest_of(self.describe())

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Ordered):
            return NotImplemented
        return self.fingerprint == other.fingerprint and self.order.epoch_number == other.order.epoch_number

    def __hash__(self) -> int:
        return hash(self.fingerprint)


def _as_positions(name: str, indices: npt.ArrayLike) -> npt.NDArray[Any]:
    """``indices`` as an array of one dimension."""
    try:
        wanted = np.atleast_1d(np.asarray(indices))
    except ValueError:  # of lists that differ in length
        wanted = np.empty(1, dtype=object)
    if wanted.ndim != 1 or (wanted.dtype.kind not in "iu" and len(wanted)):
        raise InvalidArgumentError(f"{name}={shown(indices)} must be an integer or a one-dimensional list of integers")
    return wanted
