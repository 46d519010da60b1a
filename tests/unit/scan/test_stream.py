"""Streams: rows in order, batches of one size, tables read ahead."""

from __future__ import annotations

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ray_lance.scan.stream import batches_of, read_ahead


@given(st.lists(st.integers(0, 20), max_size=8), st.integers(1, 25))
def test_batches_hold_the_rows_in_order_and_are_full_but_for_the_last(sizes, batch_size):
    rows = iter(range(sum(sizes)))
    tables = [pa.table({"id": pa.array([next(rows) for _ in range(size)], pa.int64())}) for size in sizes]
    batches = [batch["id"].to_pylist() for batch in batches_of(tables, batch_size)]
    assert [row for batch in batches for row in batch] == list(range(sum(sizes)))
    assert all(len(batch) == batch_size for batch in batches[:-1])
    assert all(batches)


@pytest.mark.parametrize("threads", [1, 3])
def test_read_ahead_keeps_the_order(threads):
    assert list(read_ahead(lambda task: task * 10, range(7), threads)) == [0, 10, 20, 30, 40, 50, 60]


def test_an_error_of_a_read_reaches_the_reader():
    def read(task: int) -> int:
        if task == 2:
            raise ConnectionError("storage")
        return task

    stream = read_ahead(read, range(5), 2)
    assert [next(stream), next(stream)] == [0, 1]
    with pytest.raises(ConnectionError, match="storage"):
        next(stream)


def test_a_reader_that_stops_early_stops_the_reading():
    started: list[int] = []
    stream = read_ahead(started.append, range(1000), 2)
    next(stream)
    stream.close()
    assert len(started) <= 4
