from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from ray_lance.order.keys import derive_words, mix64


@given(seeds=st.lists(st.integers(), unique=True, min_size=2, max_size=10))
def test_any_integer_is_a_seed_and_different_seeds_give_different_words(seeds):
    assert len({derive_words((seed,), 2).tobytes() for seed in seeds}) == len(seeds)


def test_numpy_integers_are_the_seeds_they_stand_for():
    assert np.array_equal(derive_words((np.int64(7),), 4), derive_words((7,), 4))  # type: ignore[arg-type]


def test_a_seed_and_a_name_with_the_same_text_differ():
    assert not np.array_equal(derive_words((7,), 4), derive_words(("7",), 4))


def test_golden_words():
    assert derive_words((0,), 2).tolist() == [833758618979914130, 10107780893709406822]
    assert derive_words(("name", -(2**70)), 2).tolist() == [13036919850049574665, 11670012470510374161]


def test_mix64_is_splitmix64():
    # First outputs of SplitMix64 from state 1234567, as published with its reference implementation.
    expected = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431]
    assert mix64(np.arange(4, dtype=np.uint64), 1234567).tolist() == expected
