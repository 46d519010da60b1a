"""A table with an index of any kind, and questions whose answers are known without the index."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import lance
import numpy as np
import pyarrow as pa

_WORDS = ("red", "green", "blue", "yellow", "black")
_DIM = 8
_NUMBER = pa.field("x", pa.float64(), nullable=False)

POINT = pa.field(
    "geo",
    pa.struct([_NUMBER, _NUMBER.with_name("y")]),
    metadata={"ARROW:extension:name": "geoarrow.point", "ARROW:extension:metadata": "{}"},
)
"""A point in the plane, as Lance knows it in an RTREE and in the functions of SQL."""

Row = dict[str, Any]


@dataclass(frozen=True)
class Index:
    """An index of one kind and what to ask of it.

    Attributes:
        column: The column that it is on.
        kind: The kind, in Lance's words.
        questions: Arguments of a scanner, and which rows it is to find.
        arguments: Further arguments of the index.
    """

    column: str
    kind: str
    questions: tuple[tuple[dict[str, Any], Callable[[list[Row]], Iterable[Row]]], ...]
    arguments: tuple[tuple[str, Any], ...] = ()

    def create(self, uri: str, **options: Any) -> None:
        dataset = lance.dataset(uri, **options)
        make = dataset.create_index if self.column == "vec" else dataset.create_scalar_index
        make(self.column, self.kind, **dict(self.arguments))

    def wrong_answers(self, uri: str, **options: Any) -> list[tuple[dict[str, Any], list[int], list[int]]]:
        """Each question that is not answered right, with the keys that were found and those that should be."""
        dataset = lance.dataset(uri, **options)
        rows = dataset.to_table().to_pylist()
        wrong = []
        for scan, rule in self.questions:
            found = sorted(
                dataset.scanner(columns=["k"], disable_scoring_autoprojection=True, **scan).to_table()["k"].to_pylist()
            )
            expected = sorted(row["k"] for row in rule(rows))
            if found != expected:
                wrong.append((scan, found, expected))
        return wrong


def indexed_rows(keys: Iterable[int], change: int = 0) -> pa.Table:
    """Rows for the table; with another ``change`` every value but the key is another one."""
    keys = list(keys)
    values = [key + 10 * change for key in keys]
    angles = np.array(values, np.float64).reshape(-1, 1)
    vectors = np.cos(angles * (np.arange(_DIM) + 1) * 0.37).astype(np.float32).reshape(-1)
    rows = pa.table(
        {
            "k": pa.array(keys, pa.int64()),
            "c": pa.array([value % 7 for value in values], pa.int32()),
            "category": pa.array([_WORDS[value % 5] for value in values], pa.string()).dictionary_encode(),
            "tags": pa.array([[_WORDS[value % 5], _WORDS[value % 3]] for value in values], pa.list_(pa.string())),
            "text": pa.array([f"{_WORDS[value % 5]} row of {_WORDS[value % 4]} things" for value in values]),
            "vec": pa.FixedSizeListArray.from_arrays(pa.array(vectors), _DIM),
        }
    )
    return rows.append_column(POINT, [pa.array([{"x": value % 7, "y": value % 11} for value in values], POINT.type)])


def _filters(column: str, rules: dict[str, Callable[[Any], bool]]) -> Any:
    def rule(holds: Callable[[Any], bool]) -> Callable[[list[Row]], Iterable[Row]]:
        return lambda rows: (row for row in rows if holds(row[column]))

    return tuple(({"filter": condition}, rule(holds)) for condition, holds in rules.items())


_NUMBERS = _filters("c", {f"c = {value}": lambda found, value=value: found == value for value in range(7)})
_TAGS = _filters("tags", {f"array_has(tags, '{word}')": lambda tags, word=word: word in tags for word in _WORDS})
_PARTS = _filters("text", {f"contains(text, '{word}')": lambda text, word=word: word in text for word in _WORDS})
_REGIONS = _filters(
    "geo",
    {
        f"st_intersects(geo, st_geomfromtext('POLYGON((0 0, 0 {side}, {side} {side}, {side} 0, 0 0))'))": (
            lambda point, side=side: point["x"] <= side and point["y"] <= side
        )
        for side in (1, 4)
    },
)
_SEARCHES = tuple(
    ({"full_text_query": {"columns": ["text"], "query": word}}, lambda rows, word=word: _with_word(rows, word))
    for word in _WORDS
)
_NEIGHBOURS = tuple(
    (
        {"nearest": {"column": "vec", "q": target, "k": 4, "nprobes": 64, "refine_factor": 50, "ef": 400}},
        lambda rows, target=target: _nearest(rows, target),
    )
    for target in np.cos(np.array([[3.0], [17.0], [40.0]]) * (np.arange(_DIM) + 1) * 0.37).astype(np.float32)
)


def _with_word(rows: list[Row], word: str) -> Iterable[Row]:
    return (row for row in rows if word in row["text"].split())


def _nearest(rows: list[Row], target: np.ndarray) -> list[Row]:
    return sorted(rows, key=lambda row: float(np.sum((np.array(row["vec"], np.float32) - target) ** 2)))[:4]


INDEXES = {
    "BTREE": Index("c", "BTREE", _NUMBERS),
    "BITMAP": Index("c", "BITMAP", _NUMBERS),
    "ZONEMAP": Index("c", "ZONEMAP", _NUMBERS),
    "BLOOMFILTER": Index("c", "BLOOMFILTER", _NUMBERS),
    "RTREE": Index("geo", "RTREE", _REGIONS),
    "LABEL_LIST": Index("tags", "LABEL_LIST", _TAGS),
    "NGRAM": Index("text", "NGRAM", _PARTS),
    "INVERTED": Index("text", "INVERTED", _SEARCHES, (("with_position", True),)),
    "IVF_FLAT": Index("vec", "IVF_FLAT", _NEIGHBOURS, (("num_partitions", 2),)),
    "IVF_PQ": Index("vec", "IVF_PQ", _NEIGHBOURS, (("num_partitions", 2), ("num_sub_vectors", 2), ("num_bits", 4))),
    "IVF_SQ": Index("vec", "IVF_SQ", _NEIGHBOURS, (("num_partitions", 2),)),
    "IVF_HNSW_SQ": Index("vec", "IVF_HNSW_SQ", _NEIGHBOURS, (("num_partitions", 1),)),
    "IVF_HNSW_FLAT": Index("vec", "IVF_HNSW_FLAT", _NEIGHBOURS, (("num_partitions", 1),)),
}
