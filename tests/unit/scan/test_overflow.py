"""Strings of more bytes than one array holds: read in smaller parts, delivered in several arrays."""

from __future__ import annotations

import lance
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ray_lance.scan import overflow
from ray_lance.scan.overflow import in_smaller_batches, reordered
from ray_lance.scan.pushdown import build_scan
from ray_lance.scan.take import _pieces, take_rows
from ray_lance.table import TableRef

OVERFLOW = "LanceError(Arrow): Offset overflow error: 2147483648"


class Storage:
    """Rows 0 to 99, of which Lance gives no more than ``most`` in one batch."""

    def __init__(self, most: int) -> None:
        self.most, self.asked = most, []

    def batches(self, done: int, rows: int):
        self.asked.append((done, rows))
        for start in range(done, 100, rows):
            yield self.take(range(start, min(100, start + rows)))

    def take(self, rows) -> pa.Table:
        if len(rows) > self.most:
            raise OSError(OVERFLOW)
        return pa.table({"id": list(rows)})


@pytest.mark.parametrize("most", [1, 7, 50, 1000])
@pytest.mark.parametrize("rows", [1, 64, 1000])
def test_batches_become_smaller_until_they_fit(most, rows):
    batches = list(in_smaller_batches(Storage(most).batches, rows))
    assert pa.concat_tables(batches)["id"].to_pylist() == list(range(100))
    assert max(map(len, batches)) <= most


@pytest.mark.parametrize("most", [1, 7, 50, 1000])
def test_takes_become_smaller_until_they_fit(most):
    assert pa.concat_tables(_pieces(Storage(most).take, list(range(100)), 64))["id"].to_pylist() == list(range(100))


@pytest.mark.parametrize(("message", "rows"), [("connection reset", 64), (OVERFLOW, 1)])
def test_what_does_not_help_is_not_tried(message, rows):
    asked = []

    def fail(*arguments):
        asked.append(arguments)
        raise OSError(message)
        yield

    with pytest.raises(OSError, match=r"reset|overflow"):
        list(in_smaller_batches(fail, rows))
    with pytest.raises(OSError, match=r"reset|overflow"):
        list(_pieces(lambda piece: next(fail(piece)), list(range(rows)), rows))
    assert len(asked) == 2


TYPES = [
    pa.string(),
    pa.list_(pa.binary()),
    pa.struct([("a", pa.string())]),
    pa.list_(pa.struct([("b", pa.list_(pa.string()))])),
]


def values_of(dtype: pa.DataType, rows: range) -> pa.Array:
    texts = [None if row % 5 == 4 else f"{row}" * (row % 7) for row in rows]
    make = {
        TYPES[0]: lambda text: text,
        TYPES[1]: lambda text: None if text is None else [text.encode(), b"x"],
        TYPES[2]: lambda text: {"a": text},
        TYPES[3]: lambda text: [{"b": [text, "y"]}] * (0 if text is None else len(text) % 3),
    }[dtype]
    return pa.array([make(text) for text in texts], dtype)


def text_bytes(value: object) -> int:
    """What offsets count; bits of validity, which an array gets where only some of its parts have nulls, are apart."""
    if isinstance(value, (str, bytes)):
        return len(value)
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return sum(map(text_bytes, inner))


@given(data=st.data(), dtype=st.sampled_from(TYPES), most=st.integers(1, 400))
def test_reordered_values_come_in_arrays_that_hold_them(data, dtype, most):
    sizes = data.draw(st.lists(st.integers(0, 12), min_size=1, max_size=5))
    starts = np.cumsum([0, *sizes])
    chunks = [values_of(dtype, range(start, start + size)) for start, size in zip(starts, sizes, strict=False)]
    rows = np.array(data.draw(st.permutations(range(sum(sizes)))), np.int64)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(overflow, "MAX_BYTES", most)
        found = reordered(chunks, rows)

    assert pa.chunked_array(found, dtype).to_pylist() == pa.chunked_array(chunks).take(pa.array(rows)).to_pylist()
    assert all(text_bytes(array.to_pylist()) <= most or len(array) <= 1 for array in found)


def test_rows_by_number_come_in_arrays_that_hold_them(uri, monkeypatch):
    monkeypatch.setattr(overflow, "MAX_BYTES", 1000)
    lance.write_dataset(pa.table({"id": range(300), "text": [f"{i}-" * 20 for i in range(300)]}), uri)
    scan = build_scan([TableRef.of(uri).pin()], None, None, [], {})
    rows = np.arange(299, -1, -1)

    table = take_rows(scan, rows)

    assert table["id"].to_pylist() == rows.tolist()
    assert table["text"].to_pylist() == [f"{i}-" * 20 for i in rows]
    assert table["text"].num_chunks > 1
