"""A job on a cluster of three nodes, one of which is lost half-way: ``python -m tests.programs.nodes JOB FOLDER``.

Writes what came out to FOLDER/outcome.json. A program of its own, since the tests' process is in another cluster.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import ray
import ray.train
from ray.cluster_utils import Cluster
from ray.train.torch import TorchTrainer

from ray_lance import add_columns, read_lance, write_lance
from ray_lance.train import LanceDataConfig

PIECES = 40
EPOCH = {"global_batch_size": 20}


def observed(batch: dict[str, np.ndarray], folder: str) -> dict[str, np.ndarray]:
    """The batch as it is; leaves a mark with the node it was seen on."""
    node = ray.get_runtime_context().get_node_id()
    Path(folder, "marks", f"{node}-{batch['id'][0]}").touch()
    time.sleep(0.05)  # a stand-in for work, so that there is a half-way
    return batch


def double(batch: dict[str, np.ndarray], folder: str) -> dict[str, np.ndarray]:
    return {"double": 2 * observed(batch, folder)["id"]}


def read(uri: str, folder: str) -> Any:
    dataset = read_lance(uri, columns=["id"], override_num_blocks=PIECES)
    return sorted(row["id"] for row in dataset.map_batches(observed, fn_kwargs={"folder": folder}).take_all())


def shuffled(uri: str, folder: str) -> Any:
    dataset = read_lance(uri, columns=["id"], shuffle=7, override_num_blocks=PIECES)
    dataset.context.execution_options.preserve_order = True
    return [row["id"] for row in dataset.map_batches(observed, fn_kwargs={"folder": folder}).take_all()]


def write(uri: str, folder: str) -> Any:
    dataset = read_lance(uri, override_num_blocks=PIECES).map_batches(observed, fn_kwargs={"folder": folder})
    return write_lance(dataset, f"{folder}/written.lance", target_bytes_per_file=2_000).rows


def columns(uri: str, folder: str) -> Any:
    return add_columns(uri, double, input_columns="id", batch_size=25, fn_kwargs={"folder": folder}).rows


def train(uri: str, folder: str) -> Any:
    dataset = read_lance(uri, columns=["id"], shuffle=7, override_num_blocks=PIECES)
    trainer = TorchTrainer(
        _log_batches,
        train_loop_config={"folder": folder},
        scaling_config=ray.train.ScalingConfig(num_workers=2, resources_per_worker={"CPU": 1, "head": 1}),
        run_config=ray.train.RunConfig(storage_path=f"{folder}/storage"),
        datasets={"train": dataset.map_batches(observed, fn_kwargs={"folder": folder})},
        dataset_config=LanceDataConfig(**EPOCH),
    )
    trainer.fit()
    ranks = [json.loads(Path(folder, f"rank-{rank}.json").read_text()) for rank in range(2)]
    return [sorted(left + right) for left, right in zip(*ranks, strict=True)]


def _log_batches(config: dict[str, str]) -> None:
    shard = ray.train.get_dataset_shard("train")
    batches = [batch["id"].tolist() for batch in shard.iter_torch_batches()]
    rank = ray.train.get_context().get_world_rank()
    Path(config["folder"], f"rank-{rank}.json").write_text(json.dumps(batches))


JOBS: dict[str, Callable[[str, str], Any]] = {
    "read": read,
    "shuffled": shuffled,
    "write": write,
    "columns": columns,
    "train": train,
}


def lose(cluster: Cluster, nodes: list[Any], folder: str, lost: threading.Event) -> None:
    """Kill the first of ``nodes`` that has done some of the work, in the middle of it."""
    while not lost.is_set():
        for node in nodes:
            if len(list(Path(folder, "marks").glob(f"{node.node_id}-*"))) >= 2:
                cluster.remove_node(node, allow_graceful=False)
                lost.set()
                return
        time.sleep(0.02)


def main(job: str, uri: str, folder: str) -> None:
    Path(folder, "marks").mkdir()
    store = {"object_store_memory": 100 * 2**20}
    cluster = Cluster(
        initialize_head=True,
        head_node_args={"num_cpus": 3, "resources": {"head": 2}, "include_dashboard": False, **store},
    )
    nodes = [cluster.add_node(num_cpus=2, **store) for _ in range(2)]
    ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
    ray.data.DataContext.get_current().enable_progress_bars = False
    lost = threading.Event()
    killer = threading.Thread(target=lose, args=(cluster, nodes, folder, lost), daemon=True)
    killer.start()
    result = JOBS[job](uri, folder)
    was_lost = lost.is_set()
    lost.set()
    killer.join()
    Path(folder, "outcome.json").write_text(json.dumps({"lost": was_lost, "result": result}))
    ray.shutdown()
    cluster.shutdown()


if __name__ == "__main__":
    os.environ["RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"] = "0"
    main(*sys.argv[1:])
