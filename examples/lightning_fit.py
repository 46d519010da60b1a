"""Lightning on two processes, stopped in the middle of an epoch and resumed: it reads what it would have read anyway.

The data are the 1,797 handwritten digits that come with scikit-learn. No Ray is started. Needs ray_lance[trainers].
"""

from __future__ import annotations

import json
import logging
import os
import tempfile
import warnings
from pathlib import Path

import lance
import lightning
import numpy as np
import pyarrow as pa
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from sklearn.datasets import load_digits

from ray_lance import Permutation
from ray_lance.torch import LanceIterableDataset

EPOCHS, STOP_AT = 3, 30


def write_digits(uri: str) -> None:
    data = load_digits()
    order = np.random.default_rng(0).permutation(len(data.target))
    images = pa.FixedSizeListArray.from_arrays(data.data[order].astype(np.float32).ravel() / 16, 64)
    lance.write_dataset(pa.table({"id": range(len(order)), "image": images, "label": data.target[order]}), uri)


class Classifier(lightning.LightningModule):
    def __init__(self, log: str) -> None:
        super().__init__()
        self.model = torch.nn.Sequential(torch.nn.Linear(64, 128), torch.nn.ReLU(), torch.nn.Linear(128, 10))
        self.log_file = Path(log)

    def training_step(self, batch: dict, _: int) -> torch.Tensor:
        ids = self.all_gather(batch["id"])
        if self.global_rank == 0:
            with self.log_file.open("a") as log:
                log.write(json.dumps(ids.ravel().tolist()) + "\n")
        return torch.nn.functional.cross_entropy(self.model(batch["image"]), batch["label"])

    def validation_step(self, batch: dict, _: int) -> None:
        right = (self.model(batch["image"]).argmax(1) == batch["label"]).float().mean()
        self.log("right", right, sync_dist=True, batch_size=len(batch["label"]))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=3e-3)


def fit(uri: str, log: str, folder: str, max_steps: int = -1, checkpoint: str | None = None) -> lightning.Trainer:
    parts = Permutation(uri).split({"train": 0.8, "val": 0.2}, seed=0)
    train = LanceIterableDataset(parts["train"], batch_size=16, shuffle=7)
    val = LanceIterableDataset(parts["val"], batch_size=16, tail="uneven")
    trainer = lightning.Trainer(
        accelerator="cpu",
        devices=2,
        strategy="ddp_spawn",
        max_epochs=EPOCHS,
        max_steps=max_steps,
        callbacks=[ModelCheckpoint(folder, filename="{step}", every_n_train_steps=10, save_top_k=-1)],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    # The datasets themselves, without a DataLoader: Lightning then saves and restores their states.
    trainer.fit(Classifier(log), train, val, ckpt_path=checkpoint)
    return trainer


def main(folder: str) -> float:
    uri, whole, stopped = f"{folder}/digits.lance", f"{folder}/whole.jsonl", f"{folder}/stopped.jsonl"
    write_digits(uri)

    trainer = fit(uri, whole, f"{folder}/whole")

    fit(uri, stopped, f"{folder}/stopped", max_steps=STOP_AT)
    fit(uri, stopped, f"{folder}/resumed", checkpoint=f"{folder}/stopped/step={STOP_AT}.ckpt")

    batches = Path(whole).read_text().splitlines()
    assert Path(stopped).read_text().splitlines() == batches
    print(f"stopped after {STOP_AT} steps and resumed: the same {len(batches)} batches of two processes")
    right = float(trainer.callback_metrics["right"])
    print(f"{right:.1%} of the held-out images are classified right")
    return right


if __name__ == "__main__":
    os.environ["PYTHONWARNINGS"] = "ignore"  # of Lightning about torch, in the processes that it starts
    warnings.simplefilter("ignore")
    logging.getLogger("lightning").setLevel(logging.ERROR)
    lightning.seed_everything(0)
    with tempfile.TemporaryDirectory() as folder:
        assert main(folder) >= 0.9
