"""Before the work starts: what cannot run is said at once, and the table stays as it was until there are values."""

from __future__ import annotations

import subprocess
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


FROM_NOTHING = """
import os
os.environ["RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"] = "0"
import sys
import lance, pyarrow as pa
import ray_lance

class F:
    def __call__(self, batch):
        return {"z": batch["id"] + 2}

uri, schema = sys.argv[1], pa.schema({"y": pa.int64()})
sys.stderr.write("begin\\n")
ray_lance.add_columns(uri, lambda batch: {"y": batch["id"] + 1}, input_columns="id", schema=schema)
ray_lance.add_columns(uri, F, input_columns="id", concurrency=2, num_cpus=0.5)
ray_lance.write_lance(ray_lance.read_lance(uri), uri + "2")
"""

# Of Ray itself: that it starts, and where. Of jobs that take more than ten seconds: how far they are.
NO_NOISE = ("worker.py", "authentication_token_setup.py", " of 20 rows, ")


@pytest.mark.timeout(300)
def test_without_ray_init_it_works_and_says_one_line_for_each_job(uri):
    write_fragments(uri, [10, 10])

    run = subprocess.run([sys.executable, "-c", FROM_NOTHING, uri], capture_output=True, text=True, check=True)

    assert lance.dataset(f"{uri}2").to_table(columns=["y", "z"]).to_pydict() == {
        "y": list(range(1, 21)),
        "z": list(range(2, 22)),
    }
    lines = [line for line in run.stderr.partition("begin\n")[2].splitlines() if line.strip()]
    said = [line.partition(" in ")[0] for line in lines if not any(mark in line for mark in NO_NOISE)]
    assert said == ["add_columns: 20 rows", "add_columns: 20 rows", "write_lance: 20 rows"]
    assert run.stdout == ""
