"""One streaming path in a cluster of its own: ``python paths.py PATH URI FOLDER STORE_MIB``. Prints what came out as JSON."""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

os.environ["RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"] = "0"

import lance
import ray
import ray.train
from ray._private.internal_api import get_memory_info_reply, get_state_from_address
from ray.train.torch import TorchTrainer

import ray_lance
from ray_lance.torch import LanceIterableDataset
from ray_lance.train import LanceDataConfig

BATCH = 1024
SEED = 7
CPUS = 4
RANKS = 2
MIB = 2**20


@dataclass
class Delivered:
    """What a path delivered, and when.

    Attributes:
        rows: Number of rows.
        ids: Sum of their ids: every row once gives n (n - 1) / 2.
        begin: When the first batch came, in seconds of the machine's monotonic clock.
        end: When the last one came.
    """

    rows: int = 0
    ids: int = 0
    begin: float = 0.0
    end: float = 0.0


def consumed(batches: Iterable[Any]) -> Delivered:
    """Go through all batches and keep none."""
    done = Delivered()
    for batch in batches:
        done.begin = done.begin or time.monotonic()
        done.rows += len(batch["id"])
        done.ids += int(batch["id"].sum())
    done.end = time.monotonic()
    return done


def sequential(uri: str, folder: str) -> Delivered:
    return consumed(ray_lance.read_lance(uri).iter_torch_batches(batch_size=BATCH))


def shuffled(uri: str, folder: str) -> Delivered:
    return consumed(ray_lance.read_lance(uri, shuffle=SEED).iter_torch_batches(batch_size=BATCH))


def iterable(uri: str, folder: str) -> Delivered:
    return consumed(LanceIterableDataset(uri, batch_size=BATCH, shuffle=SEED, tail="uneven"))


def train(uri: str, folder: str) -> Delivered:
    trainer = TorchTrainer(
        count_rank,
        train_loop_config={"folder": folder},
        scaling_config=ray.train.ScalingConfig(num_workers=RANKS, resources_per_worker={"CPU": 1}),
        run_config=ray.train.RunConfig(storage_path=f"{folder}/storage"),
        datasets={"train": ray_lance.read_lance(uri, shuffle=SEED)},
        dataset_config=LanceDataConfig(batch_size=BATCH, tail="uneven"),
    )
    trainer.fit()
    return all_ranks(folder, RANKS)


def all_ranks(folder: str, count: int) -> Delivered:
    """What the ranks have noted in :func:`count_rank`, together."""
    ranks = [Delivered(**json.loads(Path(folder, f"rank-{rank}.json").read_text())) for rank in range(count)]
    return Delivered(
        sum(rank.rows for rank in ranks),
        sum(rank.ids for rank in ranks),
        max(rank.begin for rank in ranks),
        min(rank.end for rank in ranks),
    )


def count_rank(config: dict[str, str]) -> None:
    """The training loop: goes through the shard's batches, and notes what came."""
    done = consumed(ray.train.get_dataset_shard("train").iter_torch_batches())
    rank = ray.train.get_context().get_world_rank()
    Path(config["folder"], f"rank-{rank}.json").write_text(json.dumps(asdict(done)))


def write(uri: str, folder: str) -> Delivered:
    """Files of 32 MiB: Ray keeps the blocks of a file in the object store until it has all of them."""
    begin = time.monotonic()
    target = f"{folder}/written.lance"
    ray_lance.write_lance(ray_lance.read_lance(uri), target, target_bytes_per_file=32 * MIB)
    end = time.monotonic()
    ids = lance.dataset(target).to_table(columns=["id"])["id"].to_numpy()
    return Delivered(len(ids), int(ids.sum()), begin, end)


def columns(uri: str, folder: str) -> Delivered:
    """A column that is as wide as the one it is computed from, so that as much is written as is read."""
    begin = time.monotonic()
    ray_lance.add_columns(uri, _double, input_columns=["id", "vec"], batch_size=BATCH)
    end = time.monotonic()
    added = lance.dataset(uri).to_table(columns=["same_id"])["same_id"]
    lance.dataset(uri).drop_columns(["same_id", "double"])
    return Delivered(len(added) - added.null_count, int(added.to_numpy().sum()), begin, end)


def _double(batch: dict[str, Any]) -> dict[str, Any]:
    return {"same_id": batch["id"], "double": 2 * batch["vec"]}


PATHS: dict[str, Callable[[str, str], Delivered]] = {
    "sequential": sequential,
    "shuffled": shuffled,
    "iterable": iterable,
    "train": train,
    "write": write,
    "columns": columns,
}


def start_ray(store: int) -> None:
    ray.init(
        "local",
        num_cpus=CPUS,
        include_dashboard=False,
        logging_level="ERROR",
        log_to_driver=False,
        object_store_memory=store,
    )
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    ray.data.DataContext.get_current().enable_progress_bars = False


def store_counters() -> dict[str, int]:
    """What the object stores of the cluster have counted since they started."""
    state = get_state_from_address(ray.get_runtime_context().gcs_address)
    stats = get_memory_info_reply(state).store_stats
    return {"spilled_bytes": stats.spilled_bytes_total, "stored_bytes": stats.cumulative_created_bytes}


def main(path: str, uri: str, folder: str, store: str) -> None:
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    start_ray(int(store) * MIB)
    done = PATHS[path](uri, folder)
    print(json.dumps({**asdict(done), **store_counters()}))
    ray.shutdown()


if __name__ == "__main__":
    main(*sys.argv[1:])
