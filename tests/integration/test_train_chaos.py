"""Training that is killed, restarted at other world sizes, and read by workers that die."""

from __future__ import annotations

import json
import os
import signal
import tempfile
import time
from pathlib import Path

import lance
import numpy as np
import pyarrow as pa
import pytest
import ray
import ray.train
from ray.train.torch import TorchTrainer

from ray_lance import read_lance
from ray_lance.train import LanceDataConfig
from tests.datasets import write_fragments
from tests.integration.test_train import ShardExecutor
from tests.laws import check_same_batches, global_batches

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

CONFIG = {"global_batch_size": 16}


@pytest.fixture(scope="module")
def table(tmp_path_factory) -> str:
    uri = str(tmp_path_factory.mktemp("train_chaos") / "table.lance")
    write_fragments(uri, [100, 1, 139, 60], deleted="id % 11 = 4")
    return uri


def shuffled(table):
    return read_lance(table, shuffle=3, columns=["id"], override_num_blocks=8)


def train_from_checkpoint(config):
    """Logs each batch by (epoch, rows consumed), saves after every second step, stops or dies where it is told to."""
    rank = ray.train.get_context().get_world_rank()
    shard = ray.train.get_dataset_shard("train")
    if checkpoint := ray.train.get_checkpoint():
        with checkpoint.as_directory() as folder:
            shard.load_state_dict(json.loads(Path(folder, "state.json").read_text()))
        Path(config["log"], f"resumed-at-{shard.state_dict()['rows']}").touch()
    while shard.state_dict()["epoch"] < config["epochs"]:
        for step, batch in enumerate(shard.iter_torch_batches(), 1):
            state = shard.state_dict()
            name = f"{state['epoch']}-{state['rows']:06}-{rank}-of-{config['workers']}.json"
            Path(config["log"], name).write_text(json.dumps(batch["id"].tolist()))
            if step % 2 == 0 or step == config["stop_at"]:
                with tempfile.TemporaryDirectory() as folder:
                    Path(folder, "state.json").write_text(json.dumps(state))
                    saved = ray.train.Checkpoint.from_directory(folder) if rank == 0 else None
                    ray.train.report({"step": step}, checkpoint=saved)
            if step == config["stop_at"]:
                return
            died = Path(config["log"], "died")
            if step == config["kill_at"] and rank == 1 and not died.exists():
                died.touch()
                ray.train.get_all_reported_checkpoints()  # waits until what was reported counts
                os.kill(os.getpid(), signal.SIGKILL)


def train(table, log, workers, stop_at=None, kill_at=None, max_failures=0):
    log.mkdir(exist_ok=True)
    return TorchTrainer(
        train_from_checkpoint,
        train_loop_config={
            "log": str(log),
            "epochs": 1,
            "workers": workers,
            "stop_at": stop_at,
            "kill_at": kill_at,
        },
        datasets={"train": shuffled(table)},
        dataset_config=LanceDataConfig(**CONFIG, lanes=4),
        # Half a CPU each, so that four workers leave two CPUs for reading.
        scaling_config=ray.train.ScalingConfig(num_workers=workers, resources_per_worker={"CPU": 0.5}),
        run_config=ray.train.RunConfig(
            name=log.name,
            storage_path=str(log.parent / "runs"),
            failure_config=ray.train.FailureConfig(max_failures=max_failures),
        ),
    ).fit()


def logged_batches(log: Path) -> list[list[int]]:
    """Global batches by position. One that was made twice, before and after a restart, must have the same rows."""
    made: dict[str, dict[str, list[int]]] = {}
    for file in sorted(log.glob("*.json")):
        epoch, rows, _, _, workers = file.stem.split("-")
        made.setdefault(f"{epoch}-{rows}", {}).setdefault(workers, []).extend(json.loads(file.read_text()))
    for position, by_workers in made.items():
        whole = {workers: rows for workers, rows in by_workers.items() if len(rows) == CONFIG["global_batch_size"]}
        assert len({tuple(rows) for rows in whole.values()}) == 1, f"batches differ at {position}: {whole}"
        made[position] = whole
    return [next(iter(by_workers.values())) for _, by_workers in sorted(made.items())]


def uninterrupted(table) -> list[list[int]]:
    return global_batches(ShardExecutor(shuffled(table), **CONFIG, lanes=4)(1))


def test_world_sizes_1_2_4_1_across_restarts(table, tmp_path):
    log = tmp_path / "elastic"
    for workers, stop_at in [(1, 3), (2, 4), (4, 5), (1, None)]:
        train(table, log, workers, stop_at=stop_at)
    assert len(list(log.glob("*-of-4.json"))) == 4 * 5
    assert logged_batches(log) == uninterrupted(table)


def test_a_killed_train_worker_goes_on_from_its_checkpoint(table, tmp_path):
    log = tmp_path / "killed"
    train(table, log, workers=2, kill_at=7, max_failures=1)
    assert (log / "died").exists()
    assert [path.name for path in log.glob("resumed-at-*")] == [f"resumed-at-{6 * 16}"]
    assert logged_batches(log) == uninterrupted(table)


@pytest.mark.parametrize("after", [1, 5])
def test_a_killed_read_worker_loses_and_repeats_nothing(table, tmp_path, after):
    reads = tmp_path / "reads"
    reads.mkdir()

    def dying(batch):
        marker = reads / "killed"
        (reads / str(batch["id"][0])).touch()
        if len(list(reads.iterdir())) > after and not marker.exists():
            marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return batch

    undisturbed = ShardExecutor(shuffled(table), **CONFIG)(2)
    disturbed = ShardExecutor(shuffled(table).map_batches(dying), **CONFIG)(2)
    assert (reads / "killed").exists()
    check_same_batches({"undisturbed": undisturbed, "a worker killed": disturbed})


def test_the_first_batch_comes_as_fast_late_in_an_epoch(tmp_path):
    rows = 400_000
    vectors = pa.FixedSizeListArray.from_arrays(np.zeros(rows * 128, np.float32), 128)
    uri = str(tmp_path / "wide.lance")
    lance.write_dataset(pa.table({"id": np.arange(rows), "vec": vectors}), uri)
    config = LanceDataConfig(global_batch_size=1024, lanes=2)
    shard = config.configure({"train": read_lance(uri, shuffle=1)}, 2, None, None)[0]["train"]
    late = 1024 * int(shard.steps_per_epoch * 0.9)

    def first_batch(consumed):
        shard.load_state_dict({**shard.state_dict(), "epoch": 0, "rows": consumed})
        start = time.perf_counter()
        batches = iter(shard.iter_torch_batches())
        next(batches)
        seconds = time.perf_counter() - start
        for _ in batches:  # a pass that is broken off kills its workers, and the next one would wait for new ones
            pass
        return seconds

    pairs = [(first_batch(0), first_batch(late)) for _ in range(10)]
    early, resumed = (min(times) for times in zip(*pairs, strict=True))
    assert resumed <= 1.3 * early, f"{resumed:.3f} s at 90 % of the epoch, {early:.3f} s at its start"
