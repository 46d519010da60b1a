"""Training on a cluster of several nodes on this machine: ``python copies.py NODES URI FOLDER STORE_MIB PASSES``.

Prints what was delivered, and what each node has received from others, as JSON.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import paths
import ray
import ray.train
import raylets
from ray.cluster_utils import Cluster
from ray.train.torch import TorchTrainer
from watch import MIB

import ray_lance
from ray_lance.train import LanceDataConfig

RANKS = 3
CPUS = 6


def start(nodes: int, store: int) -> Cluster:
    """A cluster of so many nodes, which have CPUs and object store in equal shares."""
    share = {"num_cpus": CPUS // nodes, "object_store_memory": store // nodes}
    cluster = Cluster(initialize_head=True, head_node_args={"include_dashboard": False, **share})
    for _ in range(nodes - 1):
        cluster.add_node(**share)
    cluster.wait_for_nodes()
    ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
    ray.data.DataContext.get_current().enable_progress_bars = False
    return cluster


def train(config: dict[str, Any]) -> None:
    """The training loop of :mod:`paths`; notes how many blocks the rank reads in an epoch, too."""
    source = ray.train.get_dataset_shard("train")
    blocks = len(source._source.scheduled(source.schedule, 0).planned().tasks)
    Path(config["folder"], f"blocks-{ray.train.get_context().get_world_rank()}").write_text(str(blocks))
    paths.count_rank(config)


def main(nodes: str, uri: str, folder: str, store: str, passes: str) -> None:
    ray.cloudpickle.register_pickle_by_value(paths)
    os.environ.update(raylets.ENVIRONMENT)
    cluster = start(int(nodes), int(store) * MIB)
    trainer = TorchTrainer(
        train,
        train_loop_config={"folder": folder, "passes": int(passes)},
        scaling_config=ray.train.ScalingConfig(
            num_workers=RANKS, resources_per_worker={"CPU": 1}, placement_strategy="SPREAD"
        ),
        run_config=ray.train.RunConfig(storage_path=f"{folder}/storage"),
        datasets={"train": ray_lance.read_lance(uri, shuffle=paths.SEED)},
        dataset_config=LanceDataConfig(batch_size=paths.BATCH, tail="uneven"),
    )
    trainer.fit()
    counted = raylets.counted()
    done = {
        **asdict(paths.all_ranks(folder, RANKS)),
        "blocks": int(passes) * sum(int(Path(folder, f"blocks-{rank}").read_text()) for rank in range(RANKS)),
        "copied": [node["received_objects"] for node in counted],
        "spilled_objects": sum(node["spilled_objects"] for node in counted),
    }
    print(json.dumps(done))
    ray.shutdown()
    cluster.shutdown()


if __name__ == "__main__":
    main(*sys.argv[1:])
