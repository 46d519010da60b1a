"""What a worker of Ray Train, or of a process group, finds out by itself: who it is, and which datasets there are."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import ray
import ray.train
from ray.train.torch import TorchTrainer
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

from ray_lance import InvalidArgumentError, read_lance
from ray_lance.torch import LanceIterableDataset
from ray_lance.train import DatasetOptions, LanceDataConfig
from tests.datasets import write_fragments
from tests.laws import Run, check_equal_steps, check_same_batches

WORLD_SIZE = 2
BATCH_SIZE = 8

# Workers cannot import this module.
ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])

PROCESS = """
import json, sys
import torch.distributed as dist
from ray_lance.torch import LanceIterableDataset

uri, rendezvous, rank, log = sys.argv[1:]
dataset = LanceIterableDataset(uri, batch_size=8, columns=["id"], shuffle=3)
dist.init_process_group("gloo", init_method=rendezvous, rank=int(rank), world_size=2)
batches = [batch["id"].tolist() for batch in dataset]
json.dump({"batches": batches, "steps": len(dataset), "ray": "ray" in sys.modules}, open(log, "w"))
dist.barrier()
dist.destroy_process_group()
"""


@pytest.fixture(scope="module")
def table(tmp_path_factory) -> str:
    uri = str(tmp_path_factory.mktemp("workers") / "table.lance")
    write_fragments(uri, [50, 37, 20])
    return uri


def read_and_log(config):
    """The training function: reads what this worker finds to be its own."""
    dataset = LanceIterableDataset(config["uri"], batch_size=BATCH_SIZE, columns=["id"], shuffle=3)
    batches = [batch["id"].tolist() for batch in dataset]
    log = Path(config["log"], f"{ray.train.get_context().get_world_rank()}.json")
    log.write_text(json.dumps({"batches": batches, "steps": len(dataset)}))


def read_wrong_name(_config):
    ray.train.get_dataset_shard("tain")


def check_ranks(uri: str, logs: list[dict]) -> None:
    """The ranks' batches are those of ranks that were named by argument."""
    found = Run([[np.array(batch) for batch in log["batches"]] for log in logs])
    named = [
        LanceIterableDataset(uri, batch_size=BATCH_SIZE, columns=["id"], shuffle=3, rank=rank, world_size=WORLD_SIZE)
        for rank in range(WORLD_SIZE)
    ]
    expected = Run([[batch["id"].numpy() for batch in rank] for rank in named])
    check_equal_steps(found)
    check_same_batches({"named": expected, "found": found})
    assert [log["steps"] for log in logs] == [len(rank) for rank in named] == [107 // 16] * 2


@pytest.mark.slow
@pytest.mark.parametrize("trainer", [DataParallelTrainer, TorchTrainer], ids=["ray alone", "torch process group"])
def test_workers_of_ray_train_know_their_ranks(table, tmp_path, trainer):
    trainer(
        read_and_log,
        train_loop_config={"uri": table, "log": str(tmp_path)},
        scaling_config=ray.train.ScalingConfig(num_workers=WORLD_SIZE),
        run_config=ray.train.RunConfig(storage_path=str(tmp_path / "runs")),
    ).fit()

    check_ranks(table, [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(WORLD_SIZE)])


def test_processes_of_a_gloo_group_know_their_ranks_without_ray(table, tmp_path):
    logs = [tmp_path / f"{rank}.json" for rank in range(WORLD_SIZE)]
    arguments = [table, f"file://{tmp_path / 'rendezvous'}"]

    processes = [
        subprocess.Popen([sys.executable, "-c", PROCESS, *arguments, str(rank), str(log)], stderr=subprocess.PIPE)
        for rank, log in enumerate(logs)
    ]
    errors = [process.communicate(timeout=300)[1].decode() for process in processes]

    assert [process.returncode for process in processes] == [0] * WORLD_SIZE, errors
    found = [json.loads(log.read_text()) for log in logs]
    assert not any(log["ray"] for log in found)
    check_ranks(table, found)


class TestNames:
    @pytest.mark.slow
    def test_a_name_that_the_trainer_does_not_have_is_refused_and_named(self, table, tmp_path):
        with pytest.raises(ray.train.TrainingFailedError, match=r"'tain' not found.*`datasets`"):
            TorchTrainer(
                read_wrong_name,
                train_loop_config={},
                datasets={"train": read_lance(table)},
                dataset_config=LanceDataConfig(global_batch_size=8),
                scaling_config=ray.train.ScalingConfig(num_workers=1),
                run_config=ray.train.RunConfig(storage_path=str(tmp_path)),
            ).fit()

    def test_options_for_a_dataset_that_is_not_passed_are_refused(self, table):
        config = LanceDataConfig(global_batch_size=8, datasets={"vla": DatasetOptions(tail="uneven")})
        with pytest.raises(InvalidArgumentError, match=r"options for \['vla'\].*datasets are \['train', 'val'\]"):
            config.configure({"train": read_lance(table), "val": read_lance(table)}, 1, None, None)

    @pytest.mark.parametrize(("name", "warns"), [("val", True), ("train", False), ("vla", False)])
    def test_a_name_like_one_with_options_is_warned_of_where_ray_tells_one_at_a_time(self, table, caplog, name, warns):
        config = LanceDataConfig(global_batch_size=8, datasets={"vla": DatasetOptions(tail="uneven")})
        with caplog.at_level(logging.WARNING, "ray_lance"):
            config.configure({name: read_lance(table)}, 1, None, None)
        assert ("there are some for 'vla'" in caplog.text) == warns
