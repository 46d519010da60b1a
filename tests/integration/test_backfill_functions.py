"""Which calls of add_columns go on with each other: those of the same function, whatever it is called."""

from __future__ import annotations

import sys
from functools import partial

import lance
import numpy as np
import pytest
import ray

import ray_lance
from ray_lance.errors import InvalidArgumentError
from tests.datasets import write_fragments

# Workers cannot import this module.
ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])


class Scale:
    """Multiplies by what it holds."""

    def __init__(self, factor: int) -> None:
        self.factor = factor

    def __call__(self, batch: dict) -> dict:
        return {"y": batch["id"] * self.factor}

    def method(self, batch: dict) -> dict:
        return self(batch)


def scaled(batch: dict, factor: object) -> dict:
    return {"y": batch["id"] * int(factor)}


def scale(factor: int):
    return lambda batch: {"y": batch["id"] * factor}


def values(uri: str) -> list[int]:
    return lance.dataset(uri).to_table(columns=["y"])["y"].to_pylist()


def test_a_second_function_of_the_same_name_makes_its_own_column(uri):
    write_fragments(uri, [5, 5])

    first = ray_lance.add_columns(uri, lambda batch: {"x": batch["id"] + 1}, input_columns="id")
    second = ray_lance.add_columns(uri, lambda batch: {"y": batch["id"] + 2}, input_columns="id")

    assert (first.rows, second.rows) == (10, 10)
    assert values(uri) == [i + 2 for i in range(10)]


@pytest.mark.parametrize(
    ("then", "now"),
    [
        (scale(2), scale(5)),
        (Scale(2), Scale(5)),
        (Scale(2).method, Scale(5).method),
        (partial(scaled, factor=np.float32(2)), partial(scaled, factor=np.float32(5))),
    ],
    ids=["closure", "object", "method", "partial"],
)
def test_a_function_that_computes_something_else_is_refused_until_told_to_overwrite(uri, then, now):
    write_fragments(uri, [5])
    ray_lance.add_columns(uri, then, input_columns="id")
    assert ray_lance.add_columns(uri, then, input_columns="id").rows == 0
    version = lance.dataset(uri).version

    with pytest.raises(InvalidArgumentError, match="'y' exists already and was computed differently"):
        ray_lance.add_columns(uri, now, input_columns="id")

    assert lance.dataset(uri).version == version
    assert values(uri) == [i * 2 for i in range(5)]
    ray_lance.add_columns(uri, now, input_columns="id", overwrite=True)
    assert values(uri) == [i * 5 for i in range(5)]
