"""HuggingFace's Trainer on two processes, stopped in the middle of an epoch and resumed: it reads the same samples.

The data are the 1,797 handwritten digits that come with scikit-learn. No Ray is started. Needs ray_lance[trainers].
"""

from __future__ import annotations

import json
import os
import socket
import tempfile
from pathlib import Path

import lance
import numpy as np
import pyarrow as pa
import torch
import transformers
from sklearn.datasets import load_digits

from ray_lance import Permutation
from ray_lance.torch import LanceMapDataset

EPOCHS, STOP_AT, WORLD_SIZE = 4, 50, 2


def write_digits(uri: str) -> None:
    data = load_digits()
    order = np.random.default_rng(0).permutation(len(data.target))
    images = pa.FixedSizeListArray.from_arrays(data.data[order].astype(np.float32).ravel() / 16, 64)
    lance.write_dataset(pa.table({"id": range(len(order)), "image": images, "labels": data.target[order]}), uri)


class Classifier(torch.nn.Module):
    """Notes which rows it was trained on."""

    def __init__(self, log: Path) -> None:
        super().__init__()
        self.model = torch.nn.Sequential(torch.nn.Linear(64, 128), torch.nn.ReLU(), torch.nn.Linear(128, 10))
        self.seen = log

    def forward(self, id: torch.Tensor, image: torch.Tensor, labels: torch.Tensor) -> dict:
        if self.training:
            with self.seen.open("a") as log:
                log.write(json.dumps(id.tolist()) + "\n")
        logits = self.model(image)
        return {"loss": torch.nn.functional.cross_entropy(logits, labels), "logits": logits}


def train(uri: str, folder: Path, log: Path, max_steps: int = -1, resume: bool = False) -> float:
    """The share of the held-out images that are classified right."""
    parts = Permutation(uri).split({"train": 0.8, "val": 0.2}, seed=0)
    options = transformers.TrainingArguments(
        folder,
        per_device_train_batch_size=16,
        per_device_eval_batch_size=64,
        learning_rate=3e-3,
        num_train_epochs=EPOCHS,
        max_steps=max_steps,
        save_steps=10,
        use_cpu=True,
        dataloader_pin_memory=False,
        label_names=["labels"],
        report_to=[],
        disable_tqdm=True,
        ddp_find_unused_parameters=False,
        logging_strategy="no",
    )
    trainer = transformers.Trainer(
        Classifier(log),
        options,
        train_dataset=LanceMapDataset(parts["train"]),  # the Trainer draws the order and shares it out among ranks
        eval_dataset=LanceMapDataset(parts["val"]),
        compute_metrics=lambda found: {"right": float(np.mean(found.predictions.argmax(1) == found.label_ids))},
    )
    trainer.train(resume_from_checkpoint=resume)
    return trainer.evaluate()["eval_right"]


def run_rank(rank: int, folder: str, port: int, output: str, log: str, options: dict) -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "ACCELERATE_USE_CPU": "true"}
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(WORLD_SIZE)}
    right = train(f"{folder}/digits.lance", Path(folder, output), Path(folder, f"{log}-{rank}"), **options)
    Path(f"{folder}/right").write_text(str(right))


def on_two_processes(folder: str, output: str, log: str, **options: object) -> None:
    """What ``torchrun --nproc-per-node 2`` would do."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torch.multiprocessing.spawn(run_rank, (folder, port, output, log, options), nprocs=WORLD_SIZE)


def main(folder: str) -> float:
    write_digits(f"{folder}/digits.lance")
    on_two_processes(folder, "a", "whole")
    on_two_processes(folder, "b", "stopped", max_steps=STOP_AT)
    on_two_processes(folder, "b", "stopped", resume=True)

    for rank in range(WORLD_SIZE):
        whole, stopped = (Path(folder, f"{name}-{rank}").read_text().splitlines() for name in ("whole", "stopped"))
        assert stopped == whole
    print(f"stopped after {STOP_AT} steps and resumed: the same {len(whole)} batches on each of {WORLD_SIZE} processes")
    right = float(Path(folder, "right").read_text())
    print(f"{right:.1%} of the held-out images are classified right")
    return right


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        assert main(folder) >= 0.9
