"""One streaming path in a cluster of its own: ``python paths.py PATH URI FOLDER STORE_MIB PASSES``.

Prints what came out as JSON. A path goes through the dataset several times in one process, as training does: each
process takes some 500 MiB of reading to grow to the size that it keeps (see docs/scaling.md).
"""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

os.environ["RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"] = "0"

import lance
import ray
import ray.train
import raylets
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


def consumed(batches: Iterable[Any], done: Delivered | None = None) -> Delivered:
    """Go through all batches and keep none; add what came to ``done``."""
    done = done or Delivered()
    for batch in batches:
        done.begin = done.begin or time.monotonic()
        done.rows += len(batch["id"])
        done.ids += int(batch["id"].sum())
    done.end = time.monotonic()
    return done


def sequential(uri: str, _folder: str, passes: int) -> Delivered:
    """One execution, which reads the table several times."""
    return consumed(ray_lance.read_lance([uri] * passes).iter_torch_batches(batch_size=BATCH))


def shuffled(uri: str, _folder: str, passes: int) -> Delivered:
    """As many executions of one Ray dataset, each of them an epoch."""
    dataset, done = ray_lance.read_lance(uri, shuffle=SEED), Delivered()
    for _ in range(passes):
        consumed(dataset.iter_torch_batches(batch_size=BATCH), done)
    return done


def iterable(uri: str, _folder: str, passes: int) -> Delivered:
    """As many epochs in this process."""
    dataset, done = LanceIterableDataset(uri, batch_size=BATCH, shuffle=SEED, tail="uneven"), Delivered()
    for _ in range(passes):
        consumed(dataset, done)
    return done


def train(uri: str, folder: str, passes: int) -> Delivered:
    """As many epochs of two train workers, who share the rows."""
    trainer = TorchTrainer(
        count_rank,
        train_loop_config={"folder": folder, "passes": passes},
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


def count_rank(config: dict[str, Any]) -> None:
    """The training loop: goes through the shard's batches, and notes what came."""
    shard, done = ray.train.get_dataset_shard("train"), Delivered()
    for _ in range(config["passes"]):
        consumed(shard.iter_torch_batches(), done)
    rank = ray.train.get_context().get_world_rank()
    Path(config["folder"], f"rank-{rank}.json").write_text(json.dumps(asdict(done)))


def write(uri: str, folder: str, passes: int) -> Delivered:
    """Files of 32 MiB: Ray keeps the blocks of a file in the object store until it has all of them."""

    def written(target: str, source: ray.data.Dataset) -> None:
        ray_lance.write_lance(source, target, target_bytes_per_file=32 * MIB)

    written(f"{folder}/small.lance", _small(uri))  # so that the workers have started before the clock does
    begin = time.monotonic()
    written(f"{folder}/written.lance", ray_lance.read_lance([uri] * passes))
    end = time.monotonic()
    ids = lance.dataset(f"{folder}/written.lance").to_table(columns=["id"])["id"].to_numpy()
    return Delivered(len(ids), int(ids.sum()), begin, end)


def columns(uri: str, folder: str, _passes: int) -> Delivered:
    """A column that is as wide as the one it is computed from, so that as much is written as is read; in one pass."""

    def add(target: str) -> None:
        ray_lance.add_columns(target, _double, input_columns=["id", "vec"], batch_size=BATCH)

    ray_lance.write_lance(_small(uri), f"{folder}/small.lance", target_bytes_per_file=32 * MIB)
    add(f"{folder}/small.lance")
    begin = time.monotonic()
    add(uri)
    end = time.monotonic()
    added = lance.dataset(uri).to_table(columns=["same_id"])["same_id"]
    lance.dataset(uri).drop_columns(["same_id", "double"])
    lance.dataset(uri).cleanup_old_versions(timedelta(0))
    return Delivered(len(added) - added.null_count, int(added.to_numpy().sum()), begin, end)


def _small(uri: str) -> ray.data.Dataset:
    """One fragment for each CPU."""
    return ray_lance.read_lance(uri, fragment_ids=range(CPUS))


def _double(batch: dict[str, Any]) -> dict[str, Any]:
    return {"same_id": batch["id"], "double": 2 * batch["vec"]}


PATHS: dict[str, Callable[[str, str, int], Delivered]] = {
    "sequential": sequential,
    "shuffled": shuffled,
    "iterable": iterable,
    "train": train,
    "write": write,
    "columns": columns,
}


def start_ray(store: int) -> None:
    """A quiet Ray with an object store of so many bytes."""
    os.environ.update(raylets.ENVIRONMENT)
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


def spilled_objects() -> int:
    """Objects that the cluster has spilled to disk since it was started."""
    return sum(node["spilled_objects"] for node in raylets.counted())


def main(path: str, uri: str, folder: str, store: str, passes: str) -> None:
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    start_ray(int(store) * MIB)
    done = PATHS[path](uri, folder, int(passes))
    print(json.dumps({**asdict(done), "spilled_objects": spilled_objects()}))
    ray.shutdown()


if __name__ == "__main__":
    main(*sys.argv[1:])
