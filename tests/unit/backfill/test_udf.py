"""Calls of the user's function on one batch, without a cluster."""

from __future__ import annotations

import sys

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from ray_lance.backfill.udf import FAILURE, BatchCall, ClassOnBatches, call_on_batch, first_schema
from ray_lance.errors import RayLanceError, SchemaMismatchError
from ray_lance.scan.scan import ROW_ADDRESS

SCHEMA = pa.schema({"y": pa.float64()})
ROWS = pa.table({"id": [0, 1, 2], ROW_ADDRESS: pa.array([10, 11, 12], pa.uint64())})


class Panic(BaseException):
    """As a library in Rust raises it."""


def exits(batch: dict) -> dict:
    sys.exit(3)


def panics(batch: dict) -> dict:
    raise Panic("index out of bounds")


class ExitsWhenMade:
    def __init__(self, code: int) -> None:
        sys.exit(code)


def test_nan_in_a_frame_is_kept_and_what_is_missing_is_null():
    def fn(batch: dict) -> pd.DataFrame:
        return pd.DataFrame({"y": [1.0, np.nan, 3.0], "z": pd.array([1.0, None, 3.0], "Float64")})

    columns = call_on_batch(ROWS, fn, BatchCall(schema=pa.schema({"y": pa.float64(), "z": pa.float64()})))

    assert repr(columns["y"].to_pylist()) == "[1.0, nan, 3.0]"
    assert columns["z"].to_pylist() == [1.0, None, 3.0]


@pytest.mark.parametrize(
    ("fn", "reason"), [(exits, "SystemExit: 3"), (panics, "Panic: index out of bounds")], ids=["sys.exit", "panic"]
)
def test_a_function_that_would_end_its_process_fails_like_any_other(fn, reason):
    with pytest.raises(RayLanceError, match=rf"first row address is 10 .*{reason} \(fn must return"):
        call_on_batch(ROWS, fn, BatchCall(schema=SCHEMA))
    with pytest.raises(RayLanceError, match=reason):
        first_schema(ROWS, lambda: fn, BatchCall())

    failed = call_on_batch(ROWS, fn, BatchCall(schema=SCHEMA, null_on_error=True))
    assert failed["y"].null_count == 3
    assert reason in failed[FAILURE][0].as_py()


def test_an_interrupt_is_no_failure_of_the_function():
    def fn(batch: dict) -> dict:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        call_on_batch(ROWS, fn, BatchCall(schema=SCHEMA, null_on_error=True))


def test_a_constructor_that_fails_is_named():
    on_batches = ClassOnBatches(ExitsWhenMade, BatchCall(schema=SCHEMA), 2, (5,))

    with pytest.raises(RayLanceError, match=r"constructor of fn, ExitsWhenMade, failed: SystemExit: 5"):
        next(on_batches(ROWS))


@pytest.mark.parametrize("attempt", [2, 3])
def test_what_has_ended_its_process_too_often_is_not_called_again(monkeypatch, attempt):
    monkeypatch.setattr("ray_lance.backfill.udf.attempts_before", lambda: attempt)
    calls = []

    def fn(batch: dict) -> dict:
        calls.append(batch)
        return {"y": batch["id"] * 1.0}

    if attempt < 3:
        assert len(call_on_batch(ROWS, fn, BatchCall(schema=SCHEMA))) == 3
        return
    with pytest.raises(RayLanceError, match=r"given up after 3 attempts.*first row address is 10.*os\._exit"):
        call_on_batch(ROWS, fn, BatchCall(schema=SCHEMA))
    assert calls == []


def test_output_that_cannot_be_stored_is_an_error_in_every_mode():
    def fn(batch: dict) -> dict:
        return {"y": [1.0]}

    with pytest.raises(SchemaMismatchError, match="returned 1 rows for 3"):
        call_on_batch(ROWS, fn, BatchCall(schema=SCHEMA, null_on_error=True))
