"""Training on a cluster of several nodes on this machine: ``python copies.py NODES URI FOLDER STORE_MIB``.

Prints what was delivered and what the nodes' object stores have counted as JSON.

An object that is copied to another node is created there a second time. Ray counts what each store creates, and its
metrics of transfers need more than this library's dependencies; so the job is run on one node of as many CPUs, too, and
what several nodes create beyond that are copies.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import paths
import ray
import ray.train
from ray._private.internal_api import node_stats
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


def created() -> list[dict[str, int]]:
    """Objects, and their bytes, that the store of each node has created since it started, copies included."""
    replies = [node_stats(node["NodeManagerAddress"], node["NodeManagerPort"], False) for node in ray.nodes()]
    stores = [reply.store_stats for reply in replies]
    return [
        {"objects": store.cumulative_created_objects, "bytes": store.cumulative_created_bytes, "spilled": store.spilled_bytes_total}
        for store in stores
    ]


def main(nodes: str, uri: str, folder: str, store: str) -> None:
    ray.cloudpickle.register_pickle_by_value(paths)
    cluster = start(int(nodes), int(store) * MIB)
    begin = created()
    trainer = TorchTrainer(
        paths.count_rank,
        train_loop_config={"folder": folder},
        scaling_config=ray.train.ScalingConfig(
            num_workers=RANKS, resources_per_worker={"CPU": 1}, placement_strategy="SPREAD"
        ),
        run_config=ray.train.RunConfig(storage_path=f"{folder}/storage"),
        datasets={"train": ray_lance.read_lance(uri, shuffle=paths.SEED)},
        dataset_config=LanceDataConfig(batch_size=paths.BATCH, tail="uneven"),
    )
    trainer.fit()
    stores = [
        {name: after[name] - before[name] for name in after} for before, after in zip(begin, created(), strict=True)
    ]
    done = paths.all_ranks(folder, RANKS)
    print(json.dumps({**asdict(done), "stores": stores}))
    ray.shutdown()
    cluster.shutdown()


if __name__ == "__main__":
    main(*sys.argv[1:])
