"""JPEG images get labels from a trained model, in a new column, by a job that is killed half-way and continued.

The images are the handwritten digits that come with scikit-learn, enlarged; the model is the quickstart's.
"""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import tempfile
import time

import lance
import numpy as np
import PIL.Image
import ray.train
import torch
from quickstart import HELD_OUT, build_model, digits, quiet, train_worker
from ray.train.torch import TorchTrainer
from tqdm import tqdm

import ray_lance


def as_jpeg(row: dict) -> dict:
    image = PIL.Image.fromarray((row["image"] * 255).astype(np.uint8)).resize((256, 256))
    image.save(buffer := io.BytesIO(), format="JPEG")
    return {"id": row["id"], "jpeg": buffer.getvalue(), "label": row["label"]}


def train(folder: str) -> str:
    """Train on two workers, as the quickstart does; returns where the weights are."""
    training = {"train": digits().filter(lambda row: row["id"] >= HELD_OUT).materialize()}
    workers, storage = ray.train.ScalingConfig(num_workers=2), ray.train.RunConfig(storage_path=f"{folder}/runs")
    trainer = TorchTrainer(train_worker, datasets=training, scaling_config=workers, run_config=storage)
    return f"{trainer.fit().checkpoint.path}/weights.pt"


class Labeler:
    """Holds the model, loaded once per actor."""

    def __init__(self, weights: str) -> None:
        self.model = build_model()
        self.model.load_state_dict(torch.load(weights))
        self.decode = ray_lance.ImageDecode(size=(8, 8), mode="L")

    def __call__(self, batch: dict) -> dict:
        """The digit on each image of the column `jpeg`."""
        images = np.stack([self.decode(jpeg)[:, :, 0] for jpeg in batch["jpeg"]])
        with torch.inference_mode():
            return {"predicted": self.model(torch.from_numpy(images) / 255).argmax(1)}


def label(uri: str, weights: str) -> ray_lance.AddColumnsSummary:
    """The job: may be killed at any time, and goes on when it is called again."""
    how = {"fn_constructor_args": [weights], "batch_size": 25, "concurrency": 2, "fragments_per_commit": 6}
    return ray_lance.add_columns(uri, Labeler, input_columns="jpeg", **how)


def labelled(uri: str) -> int:
    dataset = lance.dataset(uri)
    return dataset.count_rows("predicted IS NOT NULL") if "predicted" in dataset.schema.names else 0


def kill_half_way(uri: str, weights: str, half: int) -> None:
    """Run the job in a process of its own, with a cluster of its own, and kill both."""
    job = subprocess.Popen([sys.executable, __file__, uri, weights], start_new_session=True)
    with tqdm(total=half, desc="labelled before the kill", mininterval=1) as progress:
        while progress.n < half:
            assert job.poll() is None, "the job ended before it was killed"
            time.sleep(0.02)
            progress.update(labelled(uri) - progress.n)
    os.killpg(job.pid, signal.SIGKILL)
    job.wait()


def main(folder: str) -> None:
    uri, weights = f"{folder}/digits.lance", train(folder)
    rows = ray_lance.write_lance(digits().map(as_jpeg), uri, max_rows_per_file=50).rows
    kill_half_way(uri, weights, half=rows // 2)
    before = labelled(uri)
    print(f"killed: {before} of {rows} images have a label, {rows - before} are left to do")
    summary = label(uri, weights)
    print(f"the same call labelled {summary.rows} images and left {summary.fragments_skipped} fragments as they were")
    assert before < rows == before + summary.rows == labelled(uri)
    right = lance.dataset(uri).count_rows(f"id < {HELD_OUT} AND label = predicted")
    print(f"{labelled(uri)} of {rows} images have a label; {right / HELD_OUT:.1%} of the held-out ones are right")
    assert right >= 0.9 * HELD_OUT


if __name__ == "__main__":
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    quiet()
    ray.init("local", num_cpus=4, include_dashboard=False, log_to_driver=False)
    with tempfile.TemporaryDirectory() as folder:
        label(*sys.argv[1:]) if len(sys.argv) > 1 else main(folder)
