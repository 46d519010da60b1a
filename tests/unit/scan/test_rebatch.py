"""Batches of one size: all rows in order, whatever pieces they came in."""

from __future__ import annotations

import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from ray_lance.scan.rebatch import rebatched


@given(st.lists(st.integers(0, 20), max_size=8), st.integers(1, 25))
def test_batches_hold_the_rows_in_order_and_are_full_but_for_the_last(sizes, batch_size):
    rows = iter(range(sum(sizes)))
    tables = [pa.table({"id": pa.array([next(rows) for _ in range(size)], pa.int64())}) for size in sizes]
    batches = [batch["id"].to_pylist() for batch in rebatched(tables, batch_size)]
    assert [row for batch in batches for row in batch] == list(range(sum(sizes)))
    assert all(len(batch) == batch_size for batch in batches[:-1])
    assert all(batches)


def test_rows_are_not_copied():
    table = pa.table({"id": pa.array(range(10), pa.int64())})
    (batch, *_) = rebatched([table], 4)
    assert batch["id"].chunk(0).buffers()[1].address == table["id"].chunk(0).buffers()[1].address
