"""Rows matched by address: blocks in any order, cut and mixed in any way, against the rows themselves."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ray_lance.backfill.addressed import AddressedRows, Addressing, BlockIndex, merged
from ray_lance.backfill.gather import FragmentGatherer
from ray_lance.backfill.matched import overlapping
from ray_lance.errors import InvalidArgumentError
from ray_lance.scan.scan import ROW_ADDRESS
from ray_lance.table import TableRef
from ray_lance.write.column_plan import FragmentWork

HOW = Addressing(TableRef("nowhere.lance"), ROW_ADDRESS, ("x",))
KEYED = Addressing(TableRef("nowhere.lance"), ROW_ADDRESS, None, frozenset({"id"}))


def works(sizes: list[int]) -> dict[int, FragmentWork]:
    return {number: FragmentWork(number, rows, rows, False, ()) for number, rows in enumerate(sizes)}


def addresses(sizes: list[int]) -> list[int]:
    return [number << 32 | offset for number, rows in enumerate(sizes) for offset in range(rows)]


def block(keys: list[int]) -> pa.Table:
    return pa.table({ROW_ADDRESS: pa.array(keys, pa.uint64()), "x": [f"value {key}" for key in keys]})


def indexed(keys: list[int]) -> tuple[pa.Table, BlockIndex]:
    """A block by ascending address, and its index."""
    given_block = block(keys)
    index, rows = HOW.indexed(given_block, 0, len(keys))
    return HOW.rows(given_block if rows is None else rows), index


def rows_of(parts) -> pa.Table:
    tables = [
        table
        for group in overlapping(parts)
        for table in merged([part.block.slice(part.start, part.stop - part.start) for part in group])
    ]
    return pa.concat_tables(tables)


@st.composite
def streams(draw):
    """Sizes of fragments, and their rows in blocks: in order, with blocks in another order, or shuffled."""
    sizes = draw(st.lists(st.integers(1, 12), min_size=1, max_size=6))
    keys = addresses(sizes)
    if draw(st.booleans()):
        keys = draw(st.permutations(keys))
    cuts = sorted(draw(st.sets(st.integers(1, len(keys)), max_size=8)) | {0, len(keys)})
    blocks = [keys[start:stop] for start, stop in pairwise(cuts)]
    return sizes, draw(st.permutations(blocks))


@given(streams(), st.sampled_from([1, 8]))
def test_each_fragment_gets_its_rows_in_order_whatever_order_they_come_in(stream, most_parts):
    sizes, blocks = stream
    gatherer = FragmentGatherer(works(sizes), (), most_parts=most_parts)
    found = [each for keys in blocks for each in gatherer.add(*indexed(keys))]

    assert gatherer.missing() == {}
    assert gatherer.rest() == []
    if gatherer.scattered:
        keys = sorted(key for held in gatherer.held for key in held[ROW_ADDRESS].to_pylist())
        again = FragmentGatherer(gatherer.scattered, found_ids := {each.work.fragment_id for each in found})
        keys = [key for key in keys if key >> 32 not in found_ids]
        found += again.add(*indexed(keys))
        assert not again.scattered
    else:
        assert gatherer.held == []
    for each in sorted(found, key=lambda each: each.work.fragment_id):
        table = rows_of(each.parts)
        expected = [key for key in addresses(sizes) if key >> 32 == each.work.fragment_id]
        assert table[ROW_ADDRESS].to_pylist() == expected
        assert table["x"].to_pylist() == [f"value {key}" for key in expected]
    assert sorted(each.work.fragment_id for each in found) == list(range(len(sizes)))


@given(streams())
def test_a_fragment_is_complete_with_its_last_row(stream):
    sizes, blocks = stream
    gatherer = FragmentGatherer(works(sizes), (), most_parts=1000)
    left = dict(enumerate(sizes))

    for keys in blocks:
        found = gatherer.add(*indexed(keys))
        for key in keys:
            left[key >> 32] -= 1
        assert all(left[each.work.fragment_id] == 0 for each in found)
        waiting = {number for number, rows in left.items() if rows}
        assert gatherer.missing() == {number: left[number] for number in sorted(waiting)}


@given(streams(), st.data())
def test_rows_that_come_twice_are_refused(stream, data):
    sizes, blocks = stream
    again = data.draw(st.sampled_from(addresses(sizes)))
    blocks = [*blocks, [again]]
    gatherer = FragmentGatherer(works(sizes), (), most_parts=1000)

    def gather_all() -> None:
        for keys in data.draw(st.permutations(blocks)):
            for each in gatherer.add(*indexed(keys)):
                rows_of(each.parts)

    with pytest.raises(InvalidArgumentError, match="more than"):
        gather_all()


def test_rows_that_are_missing_are_known_and_can_be_left_out():
    gatherer = FragmentGatherer(works([4, 3, 2]), {3})

    assert gatherer.add(*indexed([2, 0, 1 << 32, 3 << 32])) == []

    assert gatherer.missing() == {0: 2, 1: 2, 2: 2}
    assert [(each.work.fragment_id, each.work.rows) for each in gatherer.rest({1})] == [(1, 1)]
    assert [(each.work.fragment_id, each.work.rows) for each in gatherer.rest()] == [(0, 2)]
    assert gatherer.held == []


def test_rows_of_no_fragment_are_refused():
    with pytest.raises(InvalidArgumentError, match=r"fragment 7, offset 5"):
        FragmentGatherer(works([4]), ()).add(*indexed([7 << 32 | 5]))


@pytest.mark.parametrize(
    ("column", "text"),
    [
        (pa.array([1, None], pa.uint64()), "1 of 2 rows of a block have a null"),
        (pa.array([1.0, 2.0]), "is double"),
        (pa.array([1, -1]), "not in range"),
        (pa.array([1, 2**63], pa.uint64()), "no address"),
        (pa.array([3, 3], pa.uint64()), r"offset 3\) more than once"),
    ],
)
def test_what_is_no_address_is_refused(column, text):
    table = pa.table({ROW_ADDRESS: column, "x": ["a", "b"]})
    with pytest.raises(InvalidArgumentError, match=text):
        HOW.indexed(table, 0, 2)


def test_columns_are_those_named_or_those_that_are_new():
    table = pa.table({"id": [1], ROW_ADDRESS: pa.array([0], pa.uint64()), "x": ["a"], "y": [1.5]})

    assert HOW.rows(table).column_names == ["x", ROW_ADDRESS]
    assert KEYED.rows(table).column_names == ["x", "y", ROW_ADDRESS]
    with pytest.raises(InvalidArgumentError, match=r"without \['x'\]"):
        HOW.rows(table.drop_columns(["x"]))
    with pytest.raises(InvalidArgumentError, match="none of which is new"):
        KEYED.rows(table.drop_columns(["x", "y"]))
    with pytest.raises(InvalidArgumentError, match="on='_rowaddr'"):
        HOW.rows(table.drop_columns([ROW_ADDRESS]))


def test_a_block_that_serves_as_it_is_is_not_copied():
    wide = block([1, 2, 3]).append_column("image", pa.array([b"x" * 1000] * 3))

    assert HOW.indexed(block([1, 2, 3]), 0, 3)[1] is None
    assert HOW.indexed(wide, 0, 3)[1].column_names == ["x", ROW_ADDRESS]
    assert HOW.indexed(block([1, 2, 3]), 1, 3)[1][ROW_ADDRESS].to_pylist() == [2, 3]


@given(st.lists(st.integers(0, 99), unique=True, min_size=1), st.integers(1, 5), st.data())
def test_tables_are_merged_in_windows(keys, count, data):
    of_table = [data.draw(st.integers(0, count - 1)) for _ in keys]
    tables = [block(sorted(key for key, at in zip(keys, of_table, strict=True) if at == each)) for each in range(count)]
    tables = [table.append_column("bulk", pa.array([b"x" * 2**21] * len(table))) for table in tables if len(table)]

    found = list(merged(tables))

    assert [key for table in found for key in table[ROW_ADDRESS].to_pylist()] == sorted(keys)
    assert all(table["x"].to_pylist() == [f"value {key}" for key in table[ROW_ADDRESS].to_pylist()] for table in found)
    assert len(tables) == 1 or max(map(len, found)) <= 4


def test_parts_that_overlap_are_read_together():
    parts = [AddressedRows(None, 0, 1, first, last) for first, last in [(5, 9), (0, 3), (9, 12), (4, 4), (20, 30)]]

    assert [[part.first for part in group] for group in overlapping(parts)] == [[0], [4], [5, 9], [20]]


def test_an_index_names_the_rows_of_each_fragment():
    keys = np.array([1, 2, 1 << 32, (1 << 32) + 7], np.int64)

    index = BlockIndex.of(keys, None)

    part = index.rows_of(1, "block")
    assert (part.block, part.start, part.stop, part.first, part.last) == ("block", 2, 4, keys[2], keys[3])
