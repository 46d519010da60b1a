"""Random tables with a history: what is done to a table, one step after another."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import pyarrow as pa
from hypothesis import strategies as st

from tests.oracle.values import WORDS, dtypes, make_array

__all__ = [
    "INDEXES",
    "AddColumn",
    "Append",
    "Case",
    "Compact",
    "CreateIndex",
    "Delete",
    "DropColumn",
    "Merge",
    "Optimize",
    "Overwrite",
    "Rows",
    "StartBranch",
    "Step",
    "Tag",
    "Update",
    "cases",
]

INDEXES = {
    "BTREE": "num",
    "BITMAP": "num",
    "ZONEMAP": "num",
    "BLOOMFILTER": "num",
    "NGRAM": "text",
    "INVERTED": "text",
    "LABEL_LIST": "tags",
    "IVF_FLAT": "vec",
    "IVF_PQ": "vec",
}
"""Kinds of indexes, and the column that each is built on."""


@dataclass(frozen=True)
class Rows:
    """New rows, as blocks: ids, and the seed of all their values.

    Attributes:
        ids: Keys of the rows.
        seed: Seed of the values.
        blocks: Number of blocks.
    """

    ids: tuple[int, ...]
    seed: int
    blocks: int = 1

    def tables(self, extra: Sequence[pa.DataType]) -> list[pa.Table]:
        """The blocks: slices of one table with offsets, as Ray makes them, and dictionaries of their own."""
        per_block = max(1, -(-len(self.ids) // self.blocks))
        parts = [self.ids[start : start + per_block] for start in range(0, len(self.ids), per_block)]
        return [self._block(part, number, extra) for number, part in enumerate(parts)]

    def _block(self, ids: Sequence[int], number: int, extra: Sequence[pa.DataType]) -> pa.Table:
        rng = random.Random(f"{self.seed} {number}")
        rows = len(ids) + 2  # the block is a slice of more
        columns = {
            "id": pa.array([-1, *ids, -1], pa.int64()),
            "num": pa.array([None if rng.random() < 0.2 else rng.randrange(6) for _ in range(rows)], pa.int64()),
            "text": pa.array(
                [None if rng.random() < 0.1 else f"{rng.choice(WORDS)} sat" for _ in range(rows)], pa.string()
            ),
            "cat": pa.array([rng.choice(WORDS) for _ in range(rows)]).dictionary_encode(),
            "tags": make_array(pa.list_(pa.string()), rows, rng, nulls=False),
            "vec": pa.array([[rng.randrange(9) for _ in range(8)] for _ in range(rows)], pa.list_(pa.float32(), 8)),
        }
        for position, dtype in enumerate(extra):
            columns[f"x{position}"] = make_array(dtype, rows, rng, nulls=True)
        return pa.table(columns).slice(1, len(ids))


@dataclass(frozen=True)
class Append:
    """Add rows."""

    rows: Rows


@dataclass(frozen=True)
class Overwrite:
    """Replace all rows."""

    rows: Rows


@dataclass(frozen=True)
class Merge:
    """Upsert by ``id``."""

    rows: Rows
    update: bool
    insert: bool
    delete_missing: bool


@dataclass(frozen=True)
class Delete:
    """Delete the rows for which an SQL condition holds."""

    where: str


@dataclass(frozen=True)
class Update:
    """Set ``num`` to 3 in the rows for which an SQL condition holds."""

    where: str


@dataclass(frozen=True)
class CreateIndex:
    """Build an index of one of :data:`INDEXES`."""

    kind: str


@dataclass(frozen=True)
class Optimize:
    """Bring the indexes up to date."""


@dataclass(frozen=True)
class Compact:
    """Compact the files."""


@dataclass(frozen=True)
class AddColumn:
    """Add a column computed from ``id``."""

    name: str


@dataclass(frozen=True)
class DropColumn:
    """Drop the first of the columns of random types."""


@dataclass(frozen=True)
class StartBranch:
    """Begin a branch, on which everything else happens."""

    name: str


@dataclass(frozen=True)
class Tag:
    """Give the version a name."""

    name: str


Step: TypeAlias = (
    Append
    | Overwrite
    | Merge
    | Delete
    | Update
    | CreateIndex
    | Optimize
    | Compact
    | AddColumn
    | DropColumn
    | StartBranch
    | Tag
)


@dataclass(frozen=True)
class Case:
    """A table and its history.

    Attributes:
        extra: Types of the columns ``x0``, ``x1`` and so on.
        first: The rows that it is created with.
        steps: What is done then.
        stable_row_ids: Whether row ids stay when rows move.
        version: Version of the file format.
    """

    extra: tuple[pa.DataType, ...]
    first: Rows
    steps: tuple[Step, ...]
    stable_row_ids: bool
    version: str


_IDS = st.integers(0, 60)
_SEEDS = st.integers(0, 2**16)
_WHERE = st.sampled_from(
    ("id % 3 = 0", "num = 2", "num IS NULL", "id < 10", "text LIKE 'cat%'", "cat = 'dog'", "id = 5", "id > 30")
)


def _rows(ids: st.SearchStrategy[int]) -> st.SearchStrategy[Rows]:
    keys = st.lists(ids, min_size=1, max_size=25, unique=True).map(tuple)
    return st.builds(Rows, keys, _SEEDS, st.integers(1, 3))


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Tables of up to three columns of random types beside the fixed ones, and up to eight steps."""
    merges = st.builds(Merge, _rows(_IDS), st.booleans(), st.booleans(), st.booleans())
    step = st.one_of(
        st.builds(Append, _rows(st.integers(1000, 10_000))),
        merges.filter(lambda merge: merge.update or merge.insert or merge.delete_missing),
        st.builds(CreateIndex, st.sampled_from(sorted(INDEXES))),
        st.builds(Delete, _WHERE),
        st.builds(Update, _WHERE),
        st.just(Optimize()),
        st.just(Compact()),
        st.builds(Overwrite, _rows(_IDS)),
        st.builds(AddColumn, st.sampled_from(("y0", "y1"))),
        st.just(DropColumn()),
        st.builds(Tag, st.sampled_from(("v", "w"))),
        st.builds(StartBranch, st.sampled_from(("dev", "team/exp"))),
    )
    return Case(
        extra=tuple(draw(st.lists(dtypes(), max_size=3))),
        first=draw(_rows(_IDS)),
        steps=tuple(draw(st.lists(step, max_size=8))),
        stable_row_ids=draw(st.booleans()),
        version=draw(st.sampled_from(("2.1", "2.0", "2.2"))),
    )
