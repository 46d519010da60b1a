"""A function that ends its process: tried a few times, then an error that names it."""

from __future__ import annotations

import os
import sys

import lance
import pyarrow as pa
import pytest
import ray

import ray_lance
from ray_lance.errors import RayLanceError
from tests.datasets import write_fragments
from tests.orphans import orphans

# Workers cannot import this module.
ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])

SCHEMA = pa.schema({"y": pa.int64()})


def ends(batch: dict) -> dict:
    """Ends the process on the row of id 15."""
    if 15 in batch["id"]:
        os._exit(7)
    return {"y": batch["id"]}


class Ends:
    """Ends the process when it is made, or on the row of id 15."""

    def __init__(self, at_once: bool) -> None:
        if at_once:
            os._exit(7)

    def __call__(self, batch: dict) -> dict:
        return ends(batch)


@pytest.mark.timeout(240)
@pytest.mark.parametrize(
    ("fn", "options"),
    [
        (ends, {}),
        pytest.param(Ends, {"fn_constructor_args": (False,), "concurrency": 1}, marks=pytest.mark.slow),
        pytest.param(Ends, {"fn_constructor_args": (True,), "concurrency": 1}, marks=pytest.mark.slow),
        pytest.param(Ends, {"fn_constructor_args": (True,), "schema": None, "concurrency": 1}, marks=pytest.mark.slow),
    ],
    ids=["task", "actor", "constructor", "first batch"],
)
def test_a_function_that_ends_its_process_is_given_up(uri, fn, options):
    names = write_fragments(uri, [10, 10]).schema.names

    with pytest.raises(RayLanceError, match=r"fn was given up after 3 attempts"):
        ray_lance.add_columns(uri, fn, input_columns="id", batch_size=10, **{"schema": SCHEMA, **options})

    found = lance.dataset(uri)
    assert found.schema.names in (names, [*names, "y"])
    assert "y" not in found.schema.names or found.count_rows("y IS NOT NULL") == 10
    assert orphans(uri) == []
