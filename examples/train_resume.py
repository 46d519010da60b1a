"""Training on handwritten digits that is killed in mid-epoch and goes on with another number of workers.

Two workers, one of which is killed, and one that goes on from their checkpoint make the batches of an undisturbed run.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import tempfile
from pathlib import Path

import lance
import numpy as np
import pyarrow as pa
import ray
import ray.train
import torch
from ray.train.torch import TorchTrainer
from sklearn.datasets import load_digits

import ray_lance
from ray_lance.train import LanceDataConfig

EPOCHS, SAVE_EVERY, KILL_AT = 2, 8, 20


def train_worker(config: dict) -> None:
    model = torch.nn.Sequential(torch.nn.Linear(64, 128), torch.nn.ReLU(), torch.nn.Linear(128, 10))
    shard = ray.train.get_dataset_shard("train")
    if checkpoint := ray.train.get_checkpoint():
        with checkpoint.as_directory() as folder:
            saved = torch.load(f"{folder}/state.pt")
        model.load_state_dict(saved["model"])
        shard.load_state_dict(saved["shard"])
    trained = ray.train.torch.prepare_model(model)
    optimizer = torch.optim.Adam(trained.parameters(), lr=3e-3)
    context, step = ray.train.get_context(), 0
    while shard.state_dict()["epoch"] < EPOCHS:
        for batch in shard.iter_torch_batches():
            loss = torch.nn.functional.cross_entropy(trained(batch["image"]), batch["label"])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            state, step = shard.state_dict(), step + 1
            parts = [None] * context.get_world_size()
            torch.distributed.all_gather_object(parts, batch["id"].tolist())
            if context.get_world_rank() == 0:
                with Path(config["log"]).open("a") as log:
                    log.write(json.dumps([state["epoch"], state["rows"], parts]) + "\n")
            elif step == config["kill_at"]:
                os.kill(os.getpid(), signal.SIGKILL)
            if step % SAVE_EVERY == 0:
                with tempfile.TemporaryDirectory() as folder:
                    torch.save({"model": model.state_dict(), "shard": state}, f"{folder}/state.pt")
                    checkpoint = ray.train.Checkpoint.from_directory(folder) if context.get_world_rank() == 0 else None
                    ray.train.report({"loss": loss.item()}, checkpoint=checkpoint)


def train(folder: str, run: str, workers: int, kill_at: int | None = None) -> list:
    """(epoch, rows consumed, ids) of each global batch of this run and of those of its name before it."""
    TorchTrainer(
        train_worker,
        train_loop_config={"log": f"{folder}/{run}.jsonl", "kill_at": kill_at},
        datasets={"train": ray_lance.read_lance(f"{folder}/digits.lance", shuffle=7)},
        dataset_config=LanceDataConfig(global_batch_size=64, lanes=2),
        scaling_config=ray.train.ScalingConfig(num_workers=workers),
        run_config=ray.train.RunConfig(name=run, storage_path=f"{folder}/runs"),
    ).fit()
    lines = map(json.loads, Path(f"{folder}/{run}.jsonl").read_text().splitlines())
    return [(epoch, rows, [i for part in parts for i in part]) for epoch, rows, parts in lines]


def main(folder: str) -> None:
    pixels, labels = load_digits(return_X_y=True)
    images = pa.FixedSizeListArray.from_arrays((pixels / 16).astype(np.float32).ravel(), 64)
    digits = {"id": np.arange(len(labels)), "image": images, "label": labels}
    lance.write_dataset(pa.table(digits), f"{folder}/digits.lance")
    whole = train(folder, "undisturbed", workers=1)
    print(f"undisturbed, one worker: {len(whole)} global batches in {EPOCHS} epochs")
    with contextlib.suppress(ray.train.TrainingFailedError):
        train(folder, "interrupted", workers=2, kill_at=KILL_AT)
    print(f"two workers: one of them killed at step {KILL_AT}")
    interrupted = train(folder, "interrupted", workers=1)
    assert all(batch in interrupted for batch in whole), "nothing is lost"
    assert all(batch in whole for batch in interrupted), "nothing is repeated or out of order"
    print(f"continued by one worker: {len(interrupted) - len(whole)} done again, all {len(whole)} batches the same")


if __name__ == "__main__":
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    logging.disable(logging.ERROR)
    ray.init("local", num_cpus=4, include_dashboard=False, logging_level="ERROR", log_to_driver=False)
    with tempfile.TemporaryDirectory() as folder:
        main(folder)
    ray.shutdown()
