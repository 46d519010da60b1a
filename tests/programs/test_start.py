"""A program that starts no Ray of its own: the functions do, and say one line for each job."""

from __future__ import annotations

import subprocess
import sys

import lance
import pytest

from tests.datasets import write_fragments

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
