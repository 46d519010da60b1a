"""Reading: each row once and in order, whatever fails on the way."""

from __future__ import annotations

import lance
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ray_lance.retry import RetryPolicy
from ray_lance.scan.planning import MAX_TASK_BYTES, FragmentRows, TaskSizing, plan_scan
from ray_lance.scan.pushdown import build_scan
from ray_lance.scan.reader import ReadPlan, resume_batches
from ray_lance.table import TableRef
from tests.datasets import write_fragments

FAST = RetryPolicy(max_attempts=3, base_delay_s=0.0)


class FakeStorage:
    """Streams rows 0..n in batches and fails on cue: batch k raises as often as ``failures[k]`` says."""

    def __init__(self, rows: int, batch_rows: int, failures: dict[int, int], error: Exception | None = None) -> None:
        self.rows, self.batch_rows = rows, batch_rows
        self.failures = dict(failures)
        self.error = error or OSError("LanceError(IO): connection reset")
        self.opened_at: list[int] = []

    def open_at(self, skip: int):
        self.opened_at.append(skip)
        return self._stream(skip)

    def _stream(self, start: int):
        while start < self.rows:
            batch = start // self.batch_rows
            if self.failures.get(batch, 0) > 0:
                self.failures[batch] -= 1
                raise self.error
            stop = min(self.rows, (batch + 1) * self.batch_rows)
            yield pa.record_batch({"id": range(start, stop)})
            start = stop


def rows_of(storage: FakeStorage, retry: RetryPolicy = FAST) -> list[int]:
    return [row for batch in resume_batches(storage.open_at, retry, "test") for row in batch["id"].to_pylist()]


@given(
    rows=st.integers(0, 60),
    batch_rows=st.integers(1, 17),
    failures=st.dictionaries(st.integers(0, 60), st.integers(0, 2), max_size=10),
)
def test_every_row_comes_once_and_in_order(rows, batch_rows, failures):
    storage = FakeStorage(rows, batch_rows, failures)
    assert rows_of(storage) == list(range(rows))


@pytest.mark.parametrize("failing_batch", range(6))
def test_a_failure_at_any_batch_resumes_behind_the_last_delivered_row(failing_batch):
    storage = FakeStorage(60, 10, {failing_batch: 1})
    assert rows_of(storage) == list(range(60))
    assert storage.opened_at == [0, failing_batch * 10]


def test_a_lasting_failure_is_raised_after_the_last_attempt():
    storage = FakeStorage(60, 10, {2: 3})
    with pytest.raises(OSError, match="connection reset"):
        rows_of(storage)
    assert storage.opened_at == [0, 20, 20]


def test_progress_starts_the_count_of_attempts_anew():
    storage = FakeStorage(60, 10, dict.fromkeys(range(6), 2))
    assert rows_of(storage) == list(range(60))


def test_an_error_that_stays_is_not_tried_again():
    storage = FakeStorage(60, 10, {1: 1}, error=OSError("permission denied"))
    with pytest.raises(OSError, match="permission denied"):
        rows_of(storage)
    assert storage.opened_at == [0]


def test_an_error_of_the_consumer_is_not_retried():
    storage = FakeStorage(60, 10, {})
    stream = resume_batches(storage.open_at, FAST, "test")
    next(stream)
    with pytest.raises(ConnectionError):
        stream.throw(ConnectionError("the consumer's own"))
    assert storage.opened_at == [0]


def test_a_part_of_a_fragment_comes_in_one_piece_whatever_the_rounding(uri):
    rows, width = 17, 2 * MAX_TASK_BYTES // 17  # 8.5 rows are a task, so that one part of two has 9
    pixels = pa.FixedSizeListArray.from_arrays(pa.array(np.zeros(rows * width, np.uint8)), width)
    lance.write_dataset(pa.table({"pixels": pixels}), uri)
    scan = build_scan([TableRef.of(uri).pin()], None, None, [], {})
    tasks = plan_scan(scan, [[FragmentRows(0, rows)]], TaskSizing(width, MAX_TASK_BYTES))

    pieces = [[table.num_rows for table in ReadPlan(scan, scan.schema(), width).read(task)] for task in tasks]

    assert max(task.num_rows for task in tasks) == 9
    assert pieces == [[task.num_rows] for task in tasks]


def test_a_scan_is_in_order_whatever_its_options_say_since_streams_are_resumed_by_count(uri, monkeypatch):
    asked: list[dict] = []
    scanner = lance.LanceDataset.scanner
    monkeypatch.setattr(
        lance.LanceDataset, "scanner", lambda self, **given: asked.append(given) or scanner(self, **given)
    )
    write_fragments(uri, [10, 10])
    scan = build_scan([TableRef.of(uri).pin()], ["id"], "id > 3", [], {"scan_in_order": False})

    assert scan.scanner(0).to_table()["id"].to_pylist() == list(range(4, 20))
    assert asked[-1]["scan_in_order"] is True
