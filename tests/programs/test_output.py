"""What passes over shards print: nothing."""

from __future__ import annotations

import os
import subprocess
import sys

THREE_EPOCHS = """
import sys, lance, pyarrow as pa, ray
from ray_lance import read_lance
from ray_lance.train import LanceDataConfig

uri = sys.argv[1]
lance.write_dataset(pa.table({"id": range(100)}), uri)
ray.init(num_cpus=2, include_dashboard=False, logging_level="ERROR", address="local")
print("BEGIN", flush=True)
print("BEGIN", file=sys.stderr, flush=True)
datasets = {"train": read_lance(uri, shuffle=1), "val": read_lance(uri)}
ranks = LanceDataConfig(global_batch_size=10).configure(datasets, 2, None, None)
for epoch in range(3):
    for rank in ranks:
        for batch in rank["train"].iter_torch_batches():
            list(rank["val"].iter_torch_batches()) if epoch == 0 and batch["id"][0] < 10 else None
        for batch in rank["val"].iter_batches():
            break
print("END", flush=True)
left_open = iter(ranks[0]["train"].iter_torch_batches())
next(left_open)
ray.shutdown()
"""


def test_epochs_print_nothing_and_an_open_iterator_ends_quietly(tmp_path):
    run = subprocess.run(
        [sys.executable, "-c", THREE_EPOCHS, str(tmp_path / "table.lance")],
        env={**os.environ, "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.split() == ["BEGIN", "END"]
    assert run.stderr.partition("BEGIN")[2].split("\n") == ["", ""]
