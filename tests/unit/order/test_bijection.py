from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ray_lance.errors import InvalidArgumentError
from ray_lance.order.bijection import Bijection
from ray_lance.order.keys import mix64

HUGE = [2**31 - 1, 2**32 + 1, 10**12, 2**53 + 1, 2**61 + 12345, 2**62 - 1, 2**62]


@given(size=st.integers(0, 2000), seed=st.integers())
def test_is_a_bijection_that_its_inverse_undoes(size, seed):
    bijection, values = Bijection(size, (seed,)), np.arange(size)
    images = bijection.forward(values)
    assert np.array_equal(np.sort(images), values)
    assert np.array_equal(bijection.inverse(images), values)


@given(size=st.integers(1, 300), members=st.integers(1, 20), seed=st.integers())
def test_each_tweak_is_a_bijection_of_its_own(size, members, seed):
    tweaks = np.repeat(mix64(np.arange(members, dtype=np.uint64)), size)
    values = np.tile(np.arange(size), members)
    images = Bijection(size, (seed,)).forward(values, tweaks)
    assert np.array_equal(np.sort(images.reshape(members, size), axis=1), values.reshape(members, size))
    assert np.array_equal(Bijection(size, (seed,)).inverse(images, tweaks), values)


@given(size=st.sampled_from(HUGE), seed=st.integers(), data=st.data())
def test_huge_domains_stay_inside_and_come_back(size, seed, data):
    start = data.draw(st.integers(0, size - 1000))
    values = np.arange(start, start + 1000)
    images = Bijection(size, (seed,)).forward(values)
    assert images.min() >= 0
    assert images.max() < size
    assert len(np.unique(images)) == 1000
    assert np.array_equal(Bijection(size, (seed,)).inverse(images), values)


@given(size=st.integers(1, 50_000), data=st.data())
def test_a_value_does_not_depend_on_what_it_is_asked_with(size, data):
    values = np.array(data.draw(st.lists(st.integers(0, size - 1), max_size=50)), dtype=np.int64)
    whole = Bijection(size, ("seed", 3)).forward(np.arange(size))
    assert np.array_equal(Bijection(size, ("seed", 3)).forward(values), whole[values])


def test_keeps_the_dtype():
    assert Bijection(9, (1,)).forward(np.arange(9, dtype=np.uint64)).dtype == np.uint64
    assert Bijection(9, (1,)).forward(np.arange(9)).dtype == np.int64


@pytest.mark.parametrize("values", [[-1], [10], [0, 2**62]])
def test_values_outside_raise_index_error(values):
    with pytest.raises(IndexError, match=r"\[0, 10\)"):
        Bijection(10, (0,)).forward(np.array(values))


@pytest.mark.parametrize("size", [-1, 2**62 + 1])
def test_refuses_sizes_out_of_range(size):
    with pytest.raises(InvalidArgumentError, match="size="):
        Bijection(size, (0,))


# What an old checkpoint means: never to be edited without raising ORDER_VERSION.
@pytest.mark.parametrize(
    ("size", "seed", "images"),
    [
        (10, 0, [3, 8, 4, 5, 9, 0]),
        (63, -1, [21, 56, 4, 28, 9, 25]),
        (64, 2**80, [23, 55, 42, 26, 31, 59]),
        (1000, 7, [474, 756, 561, 954, 225, 583]),
        (10**6, 7, [910651, 411030, 286636, 874279, 784695, 323508]),
        (10**12, 7, [669507068854, 411578342477, 619065658380, 826703678613, 313637023005, 212820672146]),
        (2**62, 7, [3246227209023920985, 1840837890228543073, 3712032060021849307, 1081162443555399671]),
    ],
)
def test_golden_values(size, seed, images):
    assert Bijection(size, ("golden", seed)).forward(np.arange(len(images))).tolist() == images


def z_score(counts: np.ndarray, expected: float, freedom: int) -> float:
    """How many standard deviations a chi-square statistic is off its mean."""
    return (((counts - expected) ** 2 / expected).sum() - freedom) / np.sqrt(2 * freedom)


def images_of_keys(size: int, keys: int) -> np.ndarray:
    """One row per key, by tweaks: (keys, size)."""
    tweaks = np.repeat(mix64(np.arange(keys, dtype=np.uint64), 99), size)
    return Bijection(size, (5,)).forward(np.tile(np.arange(size), keys), tweaks).reshape(keys, size)


@pytest.mark.parametrize("size", [2, 3, 4, 5, 7, 8, 13, 16, 31, 33, 64, 100])
def test_every_value_is_equally_likely_at_every_position(size):
    keys = 20_000
    images = images_of_keys(size, keys)
    counts = np.stack([np.bincount(images[:, position], minlength=size) for position in range(size)])
    # Cells of a permutation matrix vary by (size - 1) / size of a Poisson cell.
    assert abs(z_score(counts, keys / size, size * (size - 1))) < 5


@pytest.mark.parametrize("size", [3, 4, 5, 7, 8, 13, 16, 31, 33, 64])
@pytest.mark.parametrize("distance", ["neighbours", "half"])
def test_pairs_of_positions_take_every_pair_of_values(size, distance):
    keys = 20_000
    images = images_of_keys(size, keys)
    other = 1 if distance == "neighbours" else size // 2
    pairs = np.bincount(images[:, 0] * size + images[:, other], minlength=size * size).reshape(size, size)
    assert np.diag(pairs).sum() == 0
    assert abs(z_score(pairs[~np.eye(size, dtype=bool)], keys / (size * (size - 1)), size * (size - 1) - 1)) < 5


@pytest.mark.parametrize("size", [3, 4, 5])
def test_every_permutation_of_a_small_domain_is_equally_likely(size):
    keys = 20_000
    codes = images_of_keys(size, keys) @ (size ** np.arange(size))
    _, counts = np.unique(codes, return_counts=True)
    permutations = int(np.prod(np.arange(1, size + 1)))
    assert len(counts) == permutations
    assert abs(z_score(counts, keys / permutations, permutations - 1)) < 5


@pytest.mark.parametrize("size", [4096, 100_003, 10**6, 2**20, 10**9])
@pytest.mark.parametrize("stride", [1, 16, 1024])
def test_neighbours_are_not_correlated(size, stride):
    positions = np.arange(min(size, 1 << 17) - stride)
    bins = np.zeros(64)
    for seed in range(4):
        bijection = Bijection(size, (seed,))
        apart = (bijection.forward(positions + stride) - bijection.forward(positions)) % size
        bins += np.bincount(apart * 64 // size, minlength=64)
    assert z_score(bins, 4 * len(positions) / 64, 63) < 5
    images = Bijection(size, (0,)).forward(np.arange(min(size, 1 << 17))).astype(np.float64)
    correlation = np.corrcoef(images[:-stride], images[stride:])[0, 1]
    assert abs(correlation) < 5 / np.sqrt(len(positions))


@pytest.mark.parametrize("bins", [10, 64])
def test_blocks_of_positions_vary_as_random_samples_do(bins):
    # Neither clustered nor evenly spread: a low-discrepancy sequence would fail this too.
    size, block = 1 << 20, 256
    images = Bijection(size, (1,)).forward(np.arange(size // 2))
    cells = (images * bins // size).reshape(-1, block)
    counts = np.stack([(cells == number).sum(axis=1) for number in range(bins)], axis=1)
    statistic = ((counts - block / bins) ** 2 / (block / bins)).sum(axis=1)
    assert abs(statistic.mean() - (bins - 1)) < 5 * np.sqrt(2 * (bins - 1) / len(statistic))
