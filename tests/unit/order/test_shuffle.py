from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ray_lance.errors import InvalidArgumentError
from ray_lance.order.shuffle import Shuffle, auto_clump, auto_window


@pytest.mark.parametrize(
    ("row_bytes", "n", "clump"),
    [
        (528, 10**6, 64),
        (528, 10**9, 64),
        (8, 10**9, 8192),
        (8, 10**6, 128),
        (1024, 10**9, 64),
        (1025, 10**9, 32),
        (32 * 1024, 10**9, 2),
        (32 * 1024 + 1, 10**9, 1),
        (10**7, 10**9, 1),
        (528, 20_000, 4),
        (528, 1000, 1),
        (528, 0, 1),
        (0, 10**12, 65536),
    ],
)
def test_auto_clump(row_bytes, n, clump):
    assert auto_clump(row_bytes, n) == clump


@pytest.mark.parametrize(
    ("n", "clump", "window"), [(10**6, 64, 65536), (10**6, 1, 1), (1000, 64, 1024), (0, 64, 64), (10**11, 8192, 2**23)]
)
def test_auto_window(n, clump, window):
    assert auto_window(n, clump) == window


@given(row_bytes=st.integers(1, 10**6), n=st.integers(2**13, 10**10))
def test_auto_is_the_largest_clump_of_at_most_64_kib_that_leaves_4096(row_bytes, n):
    clump = auto_clump(row_bytes, n)

    assert clump == 1 or (clump * row_bytes <= 2**16 and n // clump >= 4096)
    assert 2 * clump * row_bytes > 2**16 or n // (2 * clump) < 4096


@given(row_bytes=st.integers(0, 10**9), n=st.integers(0, 2**62), seed=st.integers())
def test_auto_settings_are_always_valid(row_bytes, n, seed):
    clump = auto_clump(row_bytes, n)
    Shuffle(seed, clump, auto_window(n, clump))


@pytest.mark.parametrize(
    ("seed", "clump", "window", "message"),
    [
        (0, 0, 1, "clump=0 must be"),
        (0, -1, 1, "clump=-1 must be"),
        (0, 1, 0, "window=0 must be"),
        (0, 4, 6, "window=6 is not nested with clump=4.*window=4 or 8"),
        (0, 4, 2, "window=2 is not nested with clump=4.*window=4"),
        (0.5, 1, 1, "seed=0.5 must be an integer"),
        (True, 1, 1, "seed=True must be an integer"),
        (0, "auto", 1, "clump='auto' must be an integer"),
    ],
)
def test_refuses_what_cannot_work(seed, clump, window, message):
    with pytest.raises(InvalidArgumentError, match=message):
        Shuffle(seed, clump, window)


def test_numpy_integers_become_plain_ones():
    assert type(Shuffle(np.int64(1), np.int32(2), np.uint8(4)).window) is int
