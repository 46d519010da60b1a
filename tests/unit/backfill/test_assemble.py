"""Streams of blocks cut at the borders of fragments, and streams of tables cut into batches."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ray_lance.backfill.assemble import BlockRows, FragmentAssembler
from ray_lance.errors import RayLanceError
from ray_lance.write.column_plan import FragmentWork


def fragments(rows: list[int]) -> list[FragmentWork]:
    return [FragmentWork(number, count, count, keeps=False, sources=()) for number, count in enumerate(rows)]


def cut(total: int, sizes: list[int]) -> list[list[int]]:
    """Row numbers in blocks of the given sizes, the last block of the rest."""
    blocks, start = [], 0
    for size in [*sizes, total]:
        blocks.append(list(range(start, min(total, start + size))))
        start = min(total, start + size)
    return blocks


@given(st.lists(st.integers(1, 30), min_size=1, max_size=10), st.lists(st.integers(0, 40), max_size=20))
def test_each_fragment_gets_its_rows_in_order_as_soon_as_they_are_there(rows, sizes):
    assembler = FragmentAssembler(fragments(rows))
    seen, found = 0, []
    ends = [sum(rows[: number + 1]) for number in range(len(rows))]

    for block in cut(sum(rows), sizes):
        found += assembler.add(BlockRows(block, 0, len(block)))
        seen += len(block)
        assert len(found) == sum(end <= seen for end in ends)

    assembler.finish()
    assert [each.work.fragment_id for each in found] == list(range(len(rows)))
    for each, end, count in zip(found, ends, rows, strict=True):
        got = [row for part in each.parts for row in part.block[part.start : part.stop]]
        assert got == list(range(end - count, end))


def test_part_of_a_block_is_counted_as_that_part():
    (found,) = FragmentAssembler(fragments([3])).add(BlockRows("block", 5, 8))

    assert [(part.start, part.stop) for part in found.parts] == [(5, 8)]


def test_too_many_and_too_few_rows_are_noticed():
    with pytest.raises(RayLanceError, match="2 rows more"):
        FragmentAssembler(fragments([3])).add(BlockRows("block", 0, 5))
    assembler = FragmentAssembler(fragments([3, 4]))
    assembler.add(BlockRows("block", 0, 5))
    with pytest.raises(RayLanceError, match="2 rows before the end of fragment 1"):
        assembler.finish()
