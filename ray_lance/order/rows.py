"""Row sets, the rows that an order runs over: indices in, offsets or row ids out, by arithmetic or from one array."""

from __future__ import annotations

import functools
import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from ray_lance.arguments import as_integer
from ray_lance.errors import InvalidArgumentError
from ray_lance.order.bijection import MAX_SIZE
from ray_lance.order.clumps import ClumpOrder

__all__ = ["DenseRows", "DetachedRows", "ExplicitRows", "RowArray", "RowSet", "ShuffledRows", "SlicedRows", "digest_of"]

RowArray: TypeAlias = npt.NDArray[np.int64] | npt.NDArray[np.uint64]


def digest_of(description: Mapping[str, object]) -> str:
    """A stable hexadecimal digest (32 characters) of a description made of plain JSON types."""
    text = json.dumps(description, sort_keys=True, separators=(",", ":"))
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


class RowSet(Protocol):
    """A frozen, ordered set of rows, accessed by index.

    Sets may be nested. The innermost one is the ``base``: the rows of the dataset (``DenseRows``) or an array of row
    ids (``ExplicitRows``), which can be taken out before pickling and put back afterwards.
    """

    def __len__(self) -> int: ...

    @property
    def digest(self) -> str:
        """Stable content digest, 32 hexadecimal characters."""
        ...

    @property
    def base(self) -> RowSet:
        """The innermost row set."""
        ...

    def take(self, indices: npt.NDArray[np.int64]) -> RowArray:
        """Rows at the given indices: int64 array of shape ``(k,)`` in, offsets or row ids of shape ``(k,)`` out."""
        ...

    def describe(self) -> dict[str, object]:
        """What identifies the set, in plain JSON types, for fingerprints and messages."""
        ...

    def with_base(self, base: RowSet) -> RowSet:
        """The same set over another ``base`` of the same content. Raises InvalidArgumentError if the digests differ."""
        ...


@dataclass(frozen=True)
class DenseRows:
    """Every live row of a dataset in scan order: offsets ``0 .. count - 1``.

    Attributes:
        count: Number of live rows, from 0 to 2**62.
    """

    count: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "count", as_integer("count", self.count, minimum=0))
        if self.count > MAX_SIZE:
            raise InvalidArgumentError(f"count={self.count} must be from 0 to 2**62")

    def __len__(self) -> int:
        return self.count

    @property
    def digest(self) -> str:
        """Stable content digest."""
        return digest_of(self.describe())

    @property
    def base(self) -> RowSet:
        """Itself."""
        return self

    def take(self, indices: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Row offsets at the given indices, which are the indices themselves, int64 of shape ``(k,)``."""
        _check_indices(indices, self.count)
        return indices

    def describe(self) -> dict[str, object]:
        """Plain description."""
        return {"kind": "dense", "count": self.count}

    def with_base(self, base: RowSet) -> RowSet:
        """``base``, if its content is the same."""
        return _same_content(self, base)


@dataclass(frozen=True, eq=False)
class ExplicitRows:
    """Row ids that were resolved once (a filter, a hash split, a permutation table), 8 bytes per row.

    Two sets are equal if their digests are: the same row ids in the same order.

    Attributes:
        row_ids: int64 or uint64 array of shape ``(count,)``; made read-only.
    """

    row_ids: RowArray

    def __post_init__(self) -> None:
        array = self.row_ids
        if not isinstance(array, np.ndarray) or array.ndim != 1 or array.dtype not in (np.int64, np.uint64):
            found = f"{array.dtype} of shape {array.shape}" if isinstance(array, np.ndarray) else type(array).__name__
            raise InvalidArgumentError(f"row_ids must be a one-dimensional int64 or uint64 array, got {found}")
        view = np.ascontiguousarray(array).view()
        view.flags.writeable = False
        object.__setattr__(self, "row_ids", view)

    def __len__(self) -> int:
        return len(self.row_ids)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, (ExplicitRows, DetachedRows)) and self.digest == other.digest

    def __hash__(self) -> int:
        return hash(self.digest)

    def __setstate__(self, state: dict[str, object]) -> None:
        # Pickles of earlier releases call the row ids addresses.
        self.__dict__.update({"row_ids" if name == "addresses" else name: value for name, value in state.items()})

    def __repr__(self) -> str:
        return f"ExplicitRows(count={len(self)}, digest={self.digest!r})"

    @functools.cached_property
    def _content(self) -> str:
        words = self.row_ids.astype("<u8", copy=False)
        return hashlib.blake2b(words.data, digest_size=16).hexdigest()

    @property
    def digest(self) -> str:
        """Stable content digest, computed once."""
        return digest_of(self.describe())

    @property
    def base(self) -> RowSet:
        """Itself."""
        return self

    def take(self, indices: npt.NDArray[np.int64]) -> RowArray:
        """Row ids at the given indices, in the dtype of ``row_ids``."""
        _check_indices(indices, len(self))
        taken: RowArray = self.row_ids[indices]
        return taken

    def describe(self) -> dict[str, object]:
        """Plain description."""
        return {"kind": "explicit", "count": len(self), "content": self._content}

    def with_base(self, base: RowSet) -> RowSet:
        """``base``, if its content is the same."""
        return _same_content(self, base)

    def detached(self) -> DetachedRows:
        """A stand-in without the array, for pickles."""
        return DetachedRows(count=len(self), content=self._content)


@dataclass(frozen=True, eq=False)
class DetachedRows:
    """A stand-in for ``ExplicitRows`` whose array travels separately. Knows its length and digest, takes nothing.

    Attributes:
        count: Number of rows.
        content: Digest of the row ids, as in ``ExplicitRows.describe``.
    """

    count: int
    content: str

    def __len__(self) -> int:
        return self.count

    def __eq__(self, other: object) -> bool:
        return isinstance(other, (ExplicitRows, DetachedRows)) and self.digest == other.digest

    def __hash__(self) -> int:
        return hash(self.digest)

    @property
    def digest(self) -> str:
        """Digest of the set this stands for."""
        return digest_of(self.describe())

    @property
    def base(self) -> RowSet:
        """Itself."""
        return self

    def take(self, indices: npt.NDArray[np.int64]) -> RowArray:
        """Always raises RuntimeError: put the row ids back with ``with_base`` first."""
        raise RuntimeError(
            f"cannot take {len(indices)} rows: the row ids of {self!r} are not here; "
            "call with_base(ExplicitRows(row_ids)) first"
        )

    def describe(self) -> dict[str, object]:
        """Plain description, the same as that of the set this stands for."""
        return {"kind": "explicit", "count": self.count, "content": self.content}

    def with_base(self, base: RowSet) -> RowSet:
        """``base``, if its content is the same."""
        return _same_content(self, base)


class _Part(ABC):
    """What row sets that are a range of another one have in common."""

    rows: RowSet
    start: int
    stop: int

    def __post_init__(self) -> None:
        if not 0 <= self.start <= self.stop <= len(self.rows):
            raise InvalidArgumentError(
                f"start={self.start}, stop={self.stop} must satisfy 0 <= start <= stop <= {len(self.rows)}"
            )

    def __len__(self) -> int:
        return self.stop - self.start

    @abstractmethod
    def describe(self) -> dict[str, object]:
        """Plain description."""

    @property
    def digest(self) -> str:
        """Stable content digest."""
        return digest_of(self.describe())

    @property
    def base(self) -> RowSet:
        """The innermost row set."""
        return self.rows.base


@dataclass(frozen=True)
class SlicedRows(_Part):
    """Rows ``[start, stop)`` of another row set.

    Attributes:
        rows: The row set that is sliced.
        start: First index.
        stop: Index after the last.
    """

    rows: RowSet
    start: int
    stop: int

    def take(self, indices: npt.NDArray[np.int64]) -> RowArray:
        """Rows at the given indices."""
        _check_indices(indices, len(self))
        return self.rows.take(indices + self.start)

    def describe(self) -> dict[str, object]:
        """Plain description."""
        return {"kind": "slice", "of": self.rows.describe(), "start": self.start, "stop": self.stop}

    def with_base(self, base: RowSet) -> RowSet:
        """The same slice over another base of the same content."""
        return replace(self, rows=self.rows.with_base(base))


@dataclass(frozen=True)
class ShuffledRows(_Part):
    """Rows ``[start, stop)`` of another row set after its clumps were placed at random: one part of a random split.

    Pure arithmetic, like everything here but ``ExplicitRows``. The parts of one split share ``rows``, ``seed`` and
    ``clump`` and have ranges that do not meet.

    Attributes:
        rows: The row set that is split.
        seed: Any integer. There is no epoch: the set is the same in all of them.
        clump: Neighbouring rows that stay together, at least 1.
        start: First index after the placing.
        stop: Index after the last.
    """

    rows: RowSet
    seed: int
    clump: int
    start: int
    stop: int

    def take(self, indices: npt.NDArray[np.int64]) -> RowArray:
        """Rows at the given indices."""
        _check_indices(indices, len(self))
        order = ClumpOrder(len(self.rows), self.clump, None, ("split", self.seed))
        return self.rows.take(order.rows_at(indices + self.start))

    def describe(self) -> dict[str, object]:
        """Plain description."""
        return {
            "kind": "split",
            "of": self.rows.describe(),
            "seed": self.seed,
            "clump": self.clump,
            "start": self.start,
            "stop": self.stop,
        }

    def with_base(self, base: RowSet) -> RowSet:
        """The same part over another base of the same content."""
        return replace(self, rows=self.rows.with_base(base))


def _check_indices(indices: npt.NDArray[np.int64], count: int) -> None:
    if len(indices) and int(indices.view(np.uint64).max()) >= count:  # negative indices are the largest words
        raise IndexError(f"indices must be in [0, {count}), got {indices.min()} to {indices.max()}")


def _same_content(mine: RowSet, other: RowSet) -> RowSet:
    if mine.digest != other.digest:
        raise InvalidArgumentError(f"base={other!r} has other rows than the set it is to replace: {mine!r}")
    return other
