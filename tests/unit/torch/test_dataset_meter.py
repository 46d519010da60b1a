"""What the torch datasets count of what they deliver."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import lance
import numpy as np
import pyarrow as pa
import pytest

from ray_lance.order import BatchSchedule
from ray_lance.scan import stored_rows
from ray_lance.scan.take import take_rows
from ray_lance.torch import LanceIterableDataset, LanceMapDataset
from ray_lance.torch.dataset_meter import rows_of_steps

ROWS = 1000
ROW_BYTES = 8 + 4 * 4


@pytest.fixture(scope="module")
def table(tmp_path_factory) -> str:
    uri = str(tmp_path_factory.mktemp("data") / "table.lance")
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(np.arange(4 * ROWS, dtype=np.float32)), 4)
    lance.write_dataset(pa.table({"id": range(ROWS), "vec": vectors}), uri)
    return uri


def counted(dataset: Any) -> tuple[int, int, int, int]:
    metrics = dataset.metrics()
    return metrics.batches, metrics.rows, metrics.bytes, metrics.rows_from_memory


class TestIterable:
    def test_passes_are_added_up_whole_or_broken_off(self, table):
        dataset = LanceIterableDataset(table, batch_size=300, shuffle=1, tail="uneven")
        assert counted(dataset) == (0, 0, 0, 0)
        assert len(list(dataset)) == 4
        assert counted(dataset) == (4, ROWS, ROWS * ROW_BYTES, 0)
        for _ in dataset:  # from memory
            break
        assert counted(dataset) == (5, 1300, 1300 * ROW_BYTES, 300)
        waited = dataset.metrics().seconds_waited
        list(dataset)
        assert counted(dataset) == (9, 2300, 2300 * ROW_BYTES, 1300)
        assert dataset.metrics().seconds_waited > waited > 0

    def test_passes_side_by_side_are_counted_both(self, table):
        dataset = LanceIterableDataset(table, batch_size=100, shuffle=1, cache_bytes=0)
        first, second = iter(dataset), iter(dataset)
        for _ in range(3):
            next(first), next(second)
        assert counted(dataset) == (6, 600, 600 * ROW_BYTES, 0)

    def test_bytes_of_rows_of_different_lengths_are_exact_at_the_end_of_a_pass(self, uri):
        texts = pa.table({"text": ["x" * (number % 97) for number in range(ROWS)]})
        lance.write_dataset(texts, uri)
        dataset = LanceIterableDataset(uri, batch_size=100, prefetch=0)
        list(dataset)
        characters = sum(number % 97 for number in range(ROWS))
        assert dataset.metrics().bytes >= characters + 4 * ROWS  # and the offsets, once more for each read
        assert dataset.metrics().bytes < characters + 4 * ROWS + 100

    @pytest.mark.parametrize("prefetch", [0, 3])
    def test_reads_that_wait_are_those_begun_ahead(self, table, monkeypatch, prefetch):
        monkeypatch.setattr("ray_lance.torch.prefetch.READ_BYTES", 50 * ROW_BYTES)
        dataset = LanceIterableDataset(table, batch_size=50, shuffle=1, prefetch=prefetch, cache_bytes=0)
        iterator = iter(dataset)
        next(iterator)
        assert max(dataset.metrics().queue_depth for _ in iterator) == prefetch
        assert dataset.metrics().queue_depth == 0
        broken_off = iter(dataset)
        next(broken_off)
        del broken_off
        assert dataset.metrics().queue_depth == 0

    def test_a_copy_counts_from_zero(self, table):
        dataset = LanceIterableDataset(table, batch_size=100)
        list(dataset)
        for twin in (copy.deepcopy(dataset), pickle.loads(pickle.dumps(dataset))):
            assert counted(twin) == (0, 0, 0, 0)
            next(iter(twin))
            assert twin.metrics().batches == 1
        assert dataset.metrics().batches == 10


class TestMap:
    def test_is_gone_with_its_rows_as_soon_as_nobody_holds_it(self, table, room):
        dataset = LanceMapDataset(table)
        dataset.__getitems__(range(ROWS))
        assert room.reserve(0, 10**9)
        assert room.used > 0
        del dataset
        assert room.reserve(0, 10**9)  # what was released is counted here
        assert room.used == 0

    def test_a_batch_is_what_is_asked_for_at_once(self, table):
        dataset = LanceMapDataset(table, cache_bytes=0)
        dataset[7], dataset.__getitems__([1, 2, 3]), dataset[10:20]
        assert counted(dataset) == (3, 14, 14 * ROW_BYTES, 0)
        assert dataset.metrics().seconds_waited > 0

    def test_rows_of_ranges_that_are_kept_are_from_memory(self, table):
        dataset = LanceMapDataset(table)
        dataset.__getitems__(range(ROWS))  # so many that all are kept
        assert dataset.metrics().rows_from_memory == 0
        dataset[3], dataset.__getitems__([5, 6])
        assert counted(dataset) == (3, ROWS + 3, (ROWS + 3) * ROW_BYTES, 3)


@pytest.mark.parametrize("kind", [LanceIterableDataset, LanceMapDataset])
def test_reads_that_are_tried_again_are_counted(table, monkeypatch, kind):
    def retried(scan: Any, rows: Any, on_retry: Any) -> pa.Table:
        on_retry()
        on_retry()
        return take_rows(scan, rows)

    monkeypatch.setattr(stored_rows, "take_rows", retried)
    dataset = kind(table, **({"batch_size": 100} if kind is LanceIterableDataset else {}))

    assert len(next(iter(dataset))) == 2  # columns, of a batch or a row
    assert dataset.metrics().retries == 2


@pytest.mark.parametrize("tail", ["drop", "pad", "uneven"])
@pytest.mark.parametrize("rank", [0, 1])
def test_rows_of_steps_are_those_of_their_pieces(tail, rank):
    schedule = BatchSchedule(103, 2, 20, 2, rank, tail)
    for first, stride in ((0, 1), (1, 2), (5, 7)):
        steps = range(first, schedule.rank_steps, stride)
        assert list(rows_of_steps(schedule, steps)) == [sum(map(len, schedule.pieces(step))) for step in steps]
