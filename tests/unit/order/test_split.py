from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ray_lance.errors import InvalidArgumentError
from ray_lance.order.hashing import stable_hash64
from ray_lance.order.permutation import RowPermutation
from ray_lance.order.rows import DenseRows
from ray_lance.order.split import hash_split, split_bounds, split_clump
from tests.laws import check_coverage

FRACTIONS = st.lists(st.integers(1, 100), min_size=1, max_size=5).map(
    lambda shares: {f"part{number}": share / sum(shares) for number, share in enumerate(shares)}
)


@given(n=st.integers(0, 3000), fractions=FRACTIONS, seed=st.none() | st.integers())
def test_parts_are_disjoint_and_complete(n, fractions, seed):
    parts = RowPermutation(DenseRows(n)).split(fractions, seed)
    assert list(parts) == list(fractions)
    check_coverage((row for part in parts.values() for row in part.rows()), range(n))


@given(n=st.integers(0, 10**12), fractions=FRACTIONS)
def test_sizes_are_the_fractions_to_within_a_clump(n, fractions):
    clump = split_clump(n)
    for name, (start, stop) in split_bounds(n, fractions, clump).items():
        assert abs((stop - start) - fractions[name] * n) <= clump + 1e-3


def test_fractions_are_taken_as_written():
    bounds = split_bounds(10**15, {"a": 0.1, "b": 0.2, "c": 0.7}, 1)
    assert [stop - start for start, stop in bounds.values()] == [10**14, 2 * 10**14, 7 * 10**14]


def test_rows_beyond_the_sum_are_in_no_part():
    parts = RowPermutation(DenseRows(1000)).split({"train": 0.5, "val": 0.1})
    assert {name: len(part) for name, part in parts.items()} == {"train": 500, "val": 100}


@pytest.mark.parametrize(
    ("n", "clump"), [(0, 1), (16384, 1), (32767, 1), (32768, 2), (10**6, 32), (2**20, 64), (10**11, 64)]
)
def test_small_datasets_split_row_by_row(n, clump):
    assert split_clump(n) == clump


def test_a_random_split_depends_on_its_seed_and_not_on_the_epoch():
    order = RowPermutation(DenseRows(5000)).shuffle(1, clump=4, window=64)
    rows = [
        set(order.epoch(epoch).split({"val": 0.1}, seed)["val"].rows().tolist())
        for seed, epoch in ((0, 0), (0, 9), (1, 0))
    ]
    assert rows[0] == rows[1]
    assert rows[0] != rows[2]


def test_a_random_split_samples_every_region():
    val = RowPermutation(DenseRows(100_000)).split({"val": 0.1}, 5)["val"].rows()
    counts = np.bincount(val // 10_000, minlength=10)
    # Runs of 4 rows: 250 of 2500 runs per tenth of the rows.
    assert np.abs(counts - 1000).max() < 5 * 4 * np.sqrt(250)


def test_a_sequential_split_keeps_the_order():
    parts = RowPermutation(DenseRows(10)).split({"train": 0.8, "val": 0.2}, seed=None)
    assert parts["train"].rows().tolist() == list(range(8))
    assert parts["val"].rows().tolist() == [8, 9]


@pytest.mark.parametrize(
    ("shares", "names"),
    [
        ([0.9], ["train"]),
        ([0.9, 0.1], ["train", "val"]),
        ((0.8, 0.1, 0.1), ["train", "val", "test"]),
        (np.full(4, 0.25), ["0", "1", "2", "3"]),
    ],
)
def test_parts_of_a_list_have_names(shares, names):
    named = dict(zip(names, shares, strict=True))
    assert RowPermutation(DenseRows(100)).split(shares, 3) == RowPermutation(DenseRows(100)).split(named, 3)
    found, expected = (hash_split(stable_hash64(np.arange(50)), fractions) for fractions in (shares, named))
    assert {name: rows.tolist() for name, rows in found.items()} == {
        name: rows.tolist() for name, rows in expected.items()
    }


def test_parts_keep_the_shuffle_and_can_be_split_again():
    parts = RowPermutation(DenseRows(1000)).shuffle(1, clump=2, window=8).epoch(3).split({"a": 0.6, "b": 0.4})
    assert (parts["a"].mixing, parts["a"].epoch_number) == (parts["b"].mixing, 3)
    again = parts["a"].split({"x": 0.5, "y": 0.5}, seed=9)
    check_coverage(np.concatenate([part.rows() for part in again.values()]), parts["a"].rows())


@pytest.mark.parametrize(
    ("fractions", "message"),
    [
        ({}, "fractions is empty"),
        ([], "fractions is empty"),
        (None, "fractions=None"),
        (0.9, "fractions=0.9"),
        ("train", "fractions='train'"),
        ({0.9, 0.1}, "fractions={"),
        ({"a": "0.9"}, "must be a positive number"),
        ({"a": None}, "must be a positive number"),
        ([0.9, "0.1"], r"fractions\['val'\]='0.1' must be"),
        ([0.9, 0.2], "add up to"),
        ({"a": 0.9, "b": 0.2}, "add up to 1.1, which is more than 1"),
        ({"a": 0}, r"fractions\['a'\]=0 must be a positive number"),
        ({"a": -0.1}, "must be a positive number"),
        ({"a": float("nan")}, "must be a positive number"),
        ({"a": float("inf")}, "must be a positive number"),
        ({"a": True}, "must be a positive number"),
    ],
)
def test_refuses_fractions_that_cannot_work(fractions, message):
    with pytest.raises(InvalidArgumentError, match=message):
        RowPermutation(DenseRows(10)).split(fractions)
    with pytest.raises(InvalidArgumentError, match=message):
        hash_split(np.zeros(1, dtype=np.uint64), fractions)


@given(keys=st.lists(st.integers(), max_size=200), fractions=FRACTIONS, seed=st.integers())
def test_a_hash_split_is_disjoint_complete_and_keeps_keys_together(keys, fractions, seed):
    keys = [key % 50 for key in keys]
    parts = hash_split(stable_hash64(np.array(keys, dtype=np.int64)), fractions, seed)
    check_coverage((row for part in parts.values() for row in part), range(len(keys)))
    owners = [{keys[row] for row in part} for part in parts.values()]
    assert sum(map(len, owners)) == len(set(keys))


@given(fractions=FRACTIONS, split=st.integers(0, 300))
def test_a_hash_split_is_stable_when_rows_are_appended(fractions, split):
    hashes = stable_hash64(np.arange(300))
    before, after = hash_split(hashes[:split], fractions), hash_split(hashes, fractions)
    for name, rows in before.items():
        assert np.array_equal(rows, after[name][after[name] < split])


def test_hash_splits_of_two_seeds_are_independent():
    hashes = stable_hash64(np.arange(20_000))
    first, second = (hash_split(hashes, {"val": 0.1}, seed)["val"] for seed in (0, 1))
    assert abs(len(first) - 2000) < 5 * np.sqrt(1800)
    assert abs(len(np.intersect1d(first, second)) - 200) < 5 * np.sqrt(200)
