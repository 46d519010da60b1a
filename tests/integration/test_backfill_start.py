"""Before the work starts: what cannot run is said at once, and the table stays as it was until there are values."""

from __future__ import annotations

import sys

import lance
import pyarrow as pa
import pytest
import ray

import ray_lance
from ray_lance.errors import InvalidArgumentError, RayLanceError
from tests.datasets import write_fragments
from tests.orphans import orphans

# Workers cannot import this module.
ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])

SCHEMA = pa.schema({"y": pa.int64()})


def same(batch: dict) -> dict:
    return {"y": batch["id"]}


def fails(batch: dict) -> dict:
    raise ValueError("not today")


class Fails:
    def __init__(self) -> None:
        raise ValueError("not today")


@pytest.mark.parametrize(
    "asked",
    [
        {"num_gpus": 1},
        {"num_cpus": 64},
        {"memory": 2**60},
        {"ray_remote_args": {"resources": {"tape": 1}}},
        {"ray_remote_args": {"accelerator_type": "H100"}},
    ],
    ids=str,
)
@pytest.mark.timeout(60)
def test_resources_that_no_node_has_are_refused_before_the_table_is_touched(uri, asked):
    version = write_fragments(uri, [10]).version
    name = next(iter(asked.get("ray_remote_args", asked)))

    for schema in (SCHEMA, None):
        with pytest.raises(InvalidArgumentError, match=f"{name}=.*no node with that"):
            ray_lance.add_columns(uri, same, input_columns="id", schema=schema, **asked)
    with pytest.raises(InvalidArgumentError, match=f"{name}=.*no node with that"):
        ray_lance.read_lance(uri, **asked)
    with pytest.raises(InvalidArgumentError, match=f"{name}=.*no node with that"):
        ray_lance.write_lance(ray_lance.read_lance(uri), f"{uri}2", ray_remote_args=asked.get("ray_remote_args", asked))

    assert lance.dataset(uri).version == version


@pytest.mark.parametrize("fn", [fails, Fails], ids=["function", "constructor"])
def test_a_call_without_a_first_value_leaves_the_table_at_its_version(uri, fn):
    version = write_fragments(uri, [10, 10]).version

    with pytest.raises(RayLanceError, match="not today"):
        ray_lance.add_columns(uri, fn, input_columns="id", schema=SCHEMA, concurrency=1)

    assert lance.dataset(uri).version == version
    assert orphans(uri) == []
