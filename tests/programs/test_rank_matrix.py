"""Every dataset in every kind of rank: each row once in each epoch, and the same global batches at each world size."""

from __future__ import annotations

import functools
import itertools
import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
import ray.train
from ray.train.torch import TorchTrainer

from ray_lance import read_lance
from ray_lance.torch import LanceMapDataset, make_loader
from ray_lance.train import LanceDataConfig
from tests.datasets import write_fragments
from tests.passes import EPOCHS, GLOBAL_BATCH, LANES, iterable_of, passes_of_rank, sampler_of
from tests.ranks import run_ranks

ROWS = 100
STEPS = ROWS // GLOBAL_BATCH
RESUMED = 3  # steps of the run that is resumed
SHORT = [["spawn", 2], ["torchrun", 1]]

Found = list[dict[str, Any]]


@pytest.fixture(scope="module")
def table(tmp_path_factory) -> str:
    uri = str(tmp_path_factory.mktemp("data") / "table.lance")
    write_fragments(uri, [40, 1, 59])
    return uri


@pytest.fixture(scope="module")
def epochs(table) -> list[list[list[int]]]:
    """The global batches of each epoch, read by one rank in this process."""
    alone = iterable_of(table, 1, rank=0)
    return [[batch["id"].tolist() for batch in alone] for _ in range(EPOCHS)]


@pytest.fixture(scope="module")
def state(table) -> dict[str, Any]:
    """The state of a run with two ranks that has stopped in its second epoch."""
    dataset = iterable_of(table, 2, rank=1)
    dataset.set_epoch(1)
    assert len(list(itertools.islice(dataset, RESUMED))) == RESUMED
    return json.loads(json.dumps(dataset.state_dict()))


@pytest.fixture(scope="module")
def run(table, state, tmp_path_factory) -> Iterator[Callable[[str, int], Found]]:
    """What all ranks have read, by the way they are started and their number; each is started once."""
    starts = {"spawn": spawned, "torchrun": with_environment, "ray": of_ray_train}
    had_a_cluster = ray.is_initialized()
    yield functools.cache(lambda way, size: starts[way](size, table, state, tmp_path_factory.mktemp(f"{way}-{size}")))
    if not had_a_cluster:
        ray.shutdown()


def spawned(world_size: int, table: str, state: dict[str, Any], folder: Path) -> Found:
    return run_ranks(passes_of_rank, world_size, table, state, folder=folder)


def with_environment(world_size: int, table: str, state: dict[str, Any], folder: Path) -> Found:
    """As torchrun starts them, without its agent."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    sizes = {"WORLD_SIZE": str(world_size), "LOCAL_WORLD_SIZE": str(world_size)}
    shared = {**os.environ, **sizes, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    command = [sys.executable, "-W", "ignore", "-m", "tests.passes", table, json.dumps(state)]
    root = Path(__file__).parents[2]
    ranks = [
        subprocess.Popen(
            command, env={**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)}, cwd=root, stdout=subprocess.PIPE
        )
        for rank in range(world_size)
    ]
    said = [rank.communicate(timeout=300)[0] for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0] * world_size
    return [json.loads(each) for each in said]


def of_ray_train(world_size: int, table: str, state: dict[str, Any], folder: Path) -> Found:
    ray.init("local", num_cpus=4, include_dashboard=False, ignore_reinit_error=True, logging_level="ERROR")
    TorchTrainer(
        passes_of_worker,
        train_loop_config={"table": table, "state": state, "folder": str(folder)},
        datasets={"train": read_lance(table, shuffle=7, columns=["id"])},
        dataset_config=LanceDataConfig(global_batch_size=GLOBAL_BATCH, lanes=LANES),
        scaling_config=ray.train.ScalingConfig(num_workers=world_size, resources_per_worker={"CPU": 0.5}),
        run_config=ray.train.RunConfig(storage_path=str(folder / "runs")),
    ).fit()
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(world_size)]


def passes_of_worker(config: dict[str, Any]) -> None:
    found = passes_of_rank(config["table"], config["state"], ray.train.get_dataset_shard("train"))
    rank = ray.train.get_context().get_world_rank()
    Path(config["folder"], f"{rank}.json").write_text(json.dumps(found))


def joined(ranks: Iterable[list[list[int]]]) -> list[list[int]]:
    """The global batches of one pass; the ranks must have made equally many."""
    return [sum(parts, []) for parts in zip(*ranks, strict=True)]  # noqa: RUF017  of three at most


def matrix(*kinds: str) -> Any:
    """Every way to start each number of ranks, for each kind of dataset; shards are Ray Train's."""
    runs = itertools.product(kinds, ("spawn", "torchrun", "ray"), (1, 2, 3))
    marked = [
        pytest.param(kind, *run, marks=() if run in SHORT else pytest.mark.slow)
        for kind, *run in runs
        if kind != "shard" or run[0] == "ray"
    ]
    return pytest.mark.parametrize(("kind", "way", "world_size"), marked)


@matrix("iterable", "shard")
def test_ranks_share_every_global_batch(run, epochs, state, kind, way, world_size):
    ranks = [rank[kind] for rank in run(way, world_size)]

    def passes(name: str) -> list[list[list[int]]]:
        return [joined(each) for each in zip(*(rank[name] for rank in ranks), strict=True)]

    assert all(len(set(sum(epoch, []))) == STEPS * GLOBAL_BATCH for epoch in epochs)  # noqa: RUF017
    assert passes("plain") == epochs
    assert passes("set") == [epochs[2], epochs[0]]
    assert joined(rank["broken off"] for rank in ranks) == epochs[1][:2]
    assert joined(rank["after"] for rank in ranks) == epochs[2]
    assert passes("resumed") == [epochs[1][RESUMED:], epochs[2]]
    wanted = {**state, "rows": 2 * GLOBAL_BATCH}
    assert [rank["state"] for rank in ranks] == [wanted] * world_size


@matrix("map")
def test_a_sampler_deals_out_every_row(run, table, kind, way, world_size):
    ranks = [rank[kind] for rank in run(way, world_size)]
    dataset = LanceMapDataset(table, columns=["id"])
    sampler = sampler_of(dataset, rank=0, num_replicas=1)
    loader = make_loader(dataset, batch_size=GLOBAL_BATCH, sampler=sampler, drop_last=True)
    epochs = []
    for epoch in range(EPOCHS):
        sampler.set_epoch(epoch)
        epochs.append([sorted(batch["id"].tolist()) for batch in loader])

    def batches(passes: Iterable[list[list[int]]]) -> list[list[int]]:
        return [sorted(batch) for batch in joined(passes)]

    assert [len(set(sum(epoch, []))) for epoch in epochs] == [STEPS * GLOBAL_BATCH] * EPOCHS  # noqa: RUF017
    assert batches(rank["plain"][0] for rank in ranks) == epochs[0]
    for number, epoch in enumerate((2, 0)):
        assert batches(rank["set"][number] for rank in ranks) == epochs[epoch]
    assert batches(rank["broken off"] for rank in ranks) == epochs[0][:2]
    assert batches(rank["after"] for rank in ranks) == epochs[0]
