from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ray_lance.errors import InvalidArgumentError
from ray_lance.order.hashing import stable_hash64

TEXTS = st.lists(st.none() | st.text(max_size=40) | st.binary(max_size=40), max_size=30)


@given(values=TEXTS, more=TEXTS)
def test_a_hash_does_not_depend_on_the_other_values(values, more):
    together = stable_hash64(values + more)
    assert np.array_equal(together[: len(values)], stable_hash64(values))
    assert np.array_equal(together[len(values) :], stable_hash64(more))


@given(values=TEXTS)
def test_equal_values_have_equal_hashes_and_others_do_not(values):
    hashes = stable_hash64(values).tolist()
    # str and bytes are never equal, so a set of values has as many members as a set of hashes.
    assert len(set(hashes)) == len({(type(value), value) for value in values})


@pytest.mark.parametrize("dtype", [np.int8, np.int16, np.int32, np.int64])
def test_integers_hash_by_value_whatever_their_width(dtype):
    values = [-128, -1, 0, 1, 127]
    assert np.array_equal(stable_hash64(np.array(values, dtype=dtype)), stable_hash64(values))


def test_unsigned_integers_and_booleans_hash_as_integers():
    assert np.array_equal(stable_hash64(np.array([0, 1, 255], dtype=np.uint8)), stable_hash64([0, 1, 255]))
    assert np.array_equal(stable_hash64(np.array([False, True])), stable_hash64([0, 1]))


def test_null_is_the_same_value_among_integers_and_texts():
    assert stable_hash64([1, None])[1] == stable_hash64(["a", None])[1] == stable_hash64([None])[0]
    assert stable_hash64([None])[0] not in stable_hash64(["", b"", "None"])
    assert stable_hash64([0])[0] != stable_hash64([None])[0]


def test_numpy_texts_hash_as_python_ones():
    assert np.array_equal(stable_hash64(np.array(["a", "bcd"])), stable_hash64(["a", "bcd"]))
    assert np.array_equal(stable_hash64(np.array(["a", None], dtype=object)), stable_hash64(["a", None]))


def test_zero_bytes_at_the_end_and_long_values_count():
    values = [b"", b"\0", b"\0" * 8, b"\0" * 9, b"x" * 256, b"x" * 257, b"x" * 258, b"x" * 100_000]
    assert len(set(stable_hash64(values).tolist())) == len(values)


def test_columns_are_hashed_together_in_order():
    left, right = np.array([1, 2, 1]), ["a", "a", "b"]
    both = stable_hash64(left, right)
    assert len(set(both.tolist())) == 3
    assert not np.array_equal(both, stable_hash64(right, left))


def test_golden_hashes():
    assert stable_hash64(np.array([0, -1, 2**63 - 1])).tolist() == [
        10451216379200822465,
        6238072747940578789,
        2507104972516670462,
    ]
    assert stable_hash64(["", "user-42", b"user-42", "ü" * 200, None]).tolist() == [
        6567897267431200584,
        17688657531577939201,
        4674155515656776145,
        4408136725878507667,
        5104847455940241052,
    ]
    assert stable_hash64([1, 2], ["a", "b"]).tolist() == [9070246141837462788, 13386739214958533610]


def test_hashes_spread_evenly():
    names = [f"user-{number}" for number in range(50_000)]
    for hashes in (stable_hash64(np.arange(50_000)), stable_hash64(names)):
        counts = np.bincount((hashes >> np.uint64(56)).astype(np.int64), minlength=256)
        statistic = ((counts - 50_000 / 256) ** 2 / (50_000 / 256)).sum()
        assert abs(statistic - 255) < 5 * np.sqrt(2 * 255)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ((), "columns is empty"),
        (([1], [1, 2]), r"columns have \[1, 2\] values"),
        ((np.array([0.5]),), "cannot hash float64"),
        (([0.5],), "cannot hash the value 0.5"),
        (([1, "a"],), "column of integers"),
        (([2**64],), "column of integers"),
        (("abc",), "got one str"),
    ],
)
def test_refuses_what_has_no_stable_hash(columns, message):
    with pytest.raises(InvalidArgumentError, match=message):
        stable_hash64(*columns)
