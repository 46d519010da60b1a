"""Images to Lance, training on two workers, predictions back to Lance: the whole round trip on real data.

The data are the 1,797 handwritten digits that come with scikit-learn. Run it with `make demo`.
"""

from __future__ import annotations

import logging
import os
import tempfile
from pathlib import Path

import numpy as np
import ray
import ray.train
import torch
from ray.experimental.tqdm_ray import tqdm
from ray.train.torch import TorchTrainer
from sklearn.datasets import load_digits

import ray_lance

EPOCHS = 12
HELD_OUT = 360


def build_model() -> torch.nn.Module:
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 128), torch.nn.ReLU(), torch.nn.Linear(128, 10))


def digits() -> ray.data.Dataset:
    data = load_digits()
    images = (data.images / 16).astype(np.float32)
    order = np.random.default_rng(0).permutation(len(images))
    rows = [{"id": i, "image": images[k], "label": int(data.target[k])} for i, k in enumerate(order)]
    return ray.data.from_items(rows)


def train_worker() -> None:
    model = ray.train.torch.prepare_model(build_model())
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    shard = ray.train.get_dataset_shard("train")
    is_first = ray.train.get_context().get_world_rank() == 0
    for epoch in tqdm(range(EPOCHS), desc="training epochs") if is_first else range(EPOCHS):
        for batch in shard.iter_torch_batches(batch_size=32):
            loss = torch.nn.functional.cross_entropy(model(batch["image"]), batch["label"])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        with tempfile.TemporaryDirectory() as folder:
            weights = getattr(model, "module", model).state_dict()
            torch.save(weights, Path(folder) / "weights.pt")
            checkpoint = ray.train.Checkpoint.from_directory(folder) if epoch == EPOCHS - 1 else None
            ray.train.report({"loss": loss.item()}, checkpoint=checkpoint)


class Classifier:
    """Holds the model, loaded once per actor."""

    def __init__(self, weights: str) -> None:
        self.model = build_model()
        self.model.load_state_dict(torch.load(weights))

    def __call__(self, batch: dict) -> dict:
        """Scores and classes of one batch of images, shape (n, 8, 8)."""
        with torch.inference_mode():
            scores = self.model(torch.tensor(batch["image"]))
        return {"id": batch["id"], "predicted": scores.argmax(1).numpy(), "scores": scores.numpy()}


def main(folder: str) -> float:
    images, predictions = f"{folder}/digits.lance", f"{folder}/predictions.lance"

    summary = ray_lance.write_lance(digits(), images)
    print(f"wrote {summary.rows} images of 8x8 pixels, version {summary.version}")

    train = ray_lance.read_lance(images, columns=["image", "label"], filter=f"id >= {HELD_OUT}")
    trainer = TorchTrainer(
        train_worker,
        datasets={"train": train},
        scaling_config=ray.train.ScalingConfig(num_workers=2),
        run_config=ray.train.RunConfig(storage_path=f"{folder}/runs"),
    )
    checkpoint = trainer.fit().checkpoint

    classified = ray_lance.read_lance(images, columns=["id", "image"], override_num_blocks=4).map_batches(
        Classifier,
        fn_constructor_args=[f"{checkpoint.path}/weights.pt"],
        compute=ray.data.ActorPoolStrategy(size=2),
    )
    ray_lance.write_lance(classified, predictions)

    labels = {row["id"]: row["label"] for row in ray_lance.read_lance(images, columns=["id", "label"]).take_all()}
    written = {row["id"]: row["predicted"] for row in ray_lance.read_lance(predictions).take_all()}
    assert written.keys() == labels.keys(), "every image has exactly one prediction"
    right = np.mean([written[i] == labels[i] for i in range(HELD_OUT)])
    print(f"wrote {len(written)} predictions; {right:.1%} of the {HELD_OUT} held-out images are classified right")
    assert right >= 0.95
    return float(right)


def quiet() -> None:
    logging.disable(logging.WARNING)


if __name__ == "__main__":
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    quiet()
    ray.init(
        "local",
        num_cpus=max(4, os.cpu_count() or 1),  # two for training, two for reading
        include_dashboard=False,
        logging_level="ERROR",
        runtime_env={"worker_process_setup_hook": quiet},
    )
    ray.data.DataContext.get_current().enable_progress_bars = False
    with tempfile.TemporaryDirectory() as folder:
        main(folder)
    ray.shutdown()
