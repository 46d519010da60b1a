"""Training with torch alone, stopped in the middle of an epoch and continued on another number of ranks.

The data are the 1,797 handwritten digits that come with scikit-learn, stored as PNG images. No Ray is started.
"""

from __future__ import annotations

import io
import itertools
import json
import tempfile

import lance
import numpy as np
import PIL.Image
import pyarrow as pa
import torch
from sklearn.datasets import load_digits

from ray_lance import Permutation
from ray_lance.torch import LanceIterableDataset, LanceMapDataset, make_loader

GLOBAL_BATCH = 32
EPOCHS = 10


def write_digits(uri: str) -> None:
    data = load_digits()
    order = np.random.default_rng(0).permutation(len(data.images))
    images = []
    for image in data.images[order]:
        buffer = io.BytesIO()
        PIL.Image.fromarray((image * 15.9).astype(np.uint8)).save(buffer, format="PNG")
        images.append(buffer.getvalue())
    lance.write_dataset(pa.table({"id": np.arange(len(images)), "image": images, "label": data.target[order]}), uri)


def open_rank(train: Permutation, rank: int, world_size: int) -> LanceIterableDataset:
    return LanceIterableDataset(
        train,
        batch_size=GLOBAL_BATCH // world_size,
        shuffle=7,
        rank=rank,
        world_size=world_size,
        decode={"image": True},
    )


def global_steps(train: Permutation, world_size: int, state: str | None = None):
    """The ranks of one machine in turn; yields each step's global batch and the state after it."""
    ranks = [open_rank(train, rank, world_size) for rank in range(world_size)]
    for rank in ranks:
        if state is not None:
            rank.load_state_dict(json.loads(state))
    for batches in zip(*ranks, strict=True):
        batch = {name: torch.cat([part[name] for part in batches]) for name in batches[0]}
        yield batch, json.dumps(ranks[0].state_dict())


def scale(images: torch.Tensor) -> torch.Tensor:
    return images.float().mean(-1).flatten(1) / 255


def main(folder: str) -> float:
    uri = f"{folder}/digits.lance"
    write_digits(uri)
    parts = Permutation(uri).split({"train": 0.8, "held out": 0.2}, seed=0)

    uninterrupted = [batch["id"].tolist() for batch, _ in global_steps(parts["train"], 2)]
    head = list(itertools.islice(global_steps(parts["train"], 2), 20))
    state = head[-1][1]
    tail = global_steps(parts["train"], 4, state)
    resumed = [batch["id"].tolist() for batch, _ in itertools.chain(head, tail)]
    assert resumed == uninterrupted
    print(f"stopped after 20 steps on 2 ranks, continued on 4: the same {len(resumed)} global batches")

    model = torch.nn.Sequential(torch.nn.Linear(64, 128), torch.nn.ReLU(), torch.nn.Linear(128, 10))
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    dataset = open_rank(parts["train"], 0, 1)
    for epoch in range(EPOCHS):
        for batch in make_loader(dataset):
            loss = torch.nn.functional.cross_entropy(model(scale(batch["image"])), batch["label"])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        print(f"epoch {epoch}: loss {loss.item():.3f}")

    held_out = make_loader(LanceMapDataset(parts["held out"], decode={"image": True}), batch_size=128)
    with torch.inference_mode():
        right = torch.cat([model(scale(batch["image"])).argmax(1) == batch["label"] for batch in held_out])
    print(f"{right.float().mean():.1%} of the {len(right)} held-out images are classified right")
    return float(right.float().mean())


if __name__ == "__main__":
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        assert main(folder) >= 0.9
