from __future__ import annotations

import pickle

import numpy as np
import pytest

from ray_lance.errors import InvalidArgumentError
from ray_lance.order.rows import DenseRows, ExplicitRows, ShuffledRows, SlicedRows

ROW_IDS = np.array([7, 2**33, 2**34 + 5, 11, 2**40], dtype=np.uint64)


def test_dense_rows_are_their_own_indices():
    rows = DenseRows(10**12)
    assert len(rows) == 10**12
    assert rows.take(np.array([0, 10**12 - 1])).tolist() == [0, 10**12 - 1]


@pytest.mark.parametrize("dtype", [np.int64, np.uint64])
def test_explicit_rows_give_row_ids_in_their_dtype(dtype):
    taken = ExplicitRows(ROW_IDS.astype(dtype)).take(np.array([4, 0]))
    assert taken.dtype == dtype
    assert taken.tolist() == [2**40, 7]


def test_a_slice_shifts_indices():
    assert SlicedRows(ExplicitRows(ROW_IDS), 1, 4).take(np.arange(3)).tolist() == [2**33, 2**34 + 5, 11]


@pytest.mark.parametrize(
    "rows",
    [
        DenseRows(3),
        ExplicitRows(ROW_IDS[:3]),
        SlicedRows(DenseRows(9), 2, 5),
        ShuffledRows(DenseRows(9), 0, 2, 4, 7),
    ],
    ids=lambda rows: type(rows).__name__,
)
@pytest.mark.parametrize("index", [-1, 3])
def test_indices_outside_raise_index_error(rows, index):
    with pytest.raises(IndexError, match=r"\[0, 3\)"):
        rows.take(np.array([index]))


def test_the_digest_is_that_of_the_content():
    assert ExplicitRows(ROW_IDS) == ExplicitRows(ROW_IDS.astype(np.int64))
    different = [
        DenseRows(5),
        DenseRows(6),
        ExplicitRows(ROW_IDS),
        ExplicitRows(ROW_IDS[::-1]),
        SlicedRows(DenseRows(6), 0, 5),
        SlicedRows(DenseRows(6), 1, 6),
        ShuffledRows(DenseRows(6), 0, 1, 0, 5),
        ShuffledRows(DenseRows(6), 1, 1, 0, 5),
        ShuffledRows(DenseRows(6), 0, 2, 0, 5),
    ]
    assert len({rows.digest for rows in different}) == len(different)


def test_golden_digests():
    assert DenseRows(5).digest == "adec4909243bb07e57dd07afa0260aec"
    assert ExplicitRows(ROW_IDS).digest == "378a28f328a29fdcf47875711d2f0b13"


def test_row_ids_stay_out_of_a_pickle_and_come_back():
    base = ExplicitRows(np.arange(10_000))
    part = ShuffledRows(SlicedRows(base, 10, 9000), 3, 4, 0, 500)
    detached = part.with_base(base.detached())
    assert len(pickle.dumps(detached)) < 2000
    assert detached.digest == part.digest
    arrived = pickle.loads(pickle.dumps(detached))
    with pytest.raises(RuntimeError, match="with_base"):
        arrived.take(np.arange(5))
    restored = arrived.with_base(ExplicitRows(np.arange(10_000)))
    assert np.array_equal(restored.take(np.arange(500)), part.take(np.arange(500)))


def test_row_ids_of_earlier_pickles_are_found():
    """Which call them addresses."""
    rows = ExplicitRows.__new__(ExplicitRows)
    rows.__setstate__({"addresses": ROW_IDS})
    assert rows == ExplicitRows(ROW_IDS)
    assert pickle.loads(pickle.dumps(rows)) == rows


def test_a_base_with_other_rows_is_refused():
    with pytest.raises(InvalidArgumentError, match="other rows"):
        SlicedRows(DenseRows(9), 2, 5).with_base(DenseRows(8))


@pytest.mark.parametrize("row_ids", [[1, 2], np.zeros((2, 2), dtype=np.int64), np.zeros(2, dtype=np.int32)])
def test_refuses_row_ids_of_another_type(row_ids):
    with pytest.raises(InvalidArgumentError, match="row_ids must be"):
        ExplicitRows(row_ids)


def test_row_ids_cannot_be_changed_afterwards():
    rows = ExplicitRows(ROW_IDS.copy())
    with pytest.raises(ValueError, match="read-only"):
        rows.row_ids[0] = 1
