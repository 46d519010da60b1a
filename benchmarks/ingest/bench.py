"""How fast do training loops get their batches, and how long do they wait for them?

Usage: python benchmarks/ingest/bench.py [--rows 1000000] [--rounds 3]
"""

from __future__ import annotations

import argparse
import io
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import lance
import numpy as np
import PIL.Image
import pyarrow as pa
import ray
import ray.train
from peers import BATCH, Epoch, hugging_face, images, in_process, in_process_from_storage, mapped, streaming
from ray.train.torch import TorchTrainer
from scan.bench import generate

import ray_lance
from harness import DATA, Ratio, apart, compare, save, start_ray
from ray_lance.train import LanceDataConfig

FOLDER = Path(__file__).parent
STEP_S = 0.005
NOTE = (
    "warm page cache, warm workers (unmeasured rounds first); ratios are paired within a round; each loader in process "
    'has a process of its own; this library reads all epochs from storage but for those of "whole epoch", whose rows '
    "stay in memory"
)


def whole(loaders: Callable[[str], dict[str, Epoch]], uri: str) -> dict[str, Callable[[], int]]:
    """Contenders that go through whole epochs."""
    return {name: lambda epoch=epoch: sum(epoch()) for name, epoch in loaders(uri).items()}


def first_batches(epochs: dict[str, Epoch]) -> dict[str, Callable[[], Iterator[int]]]:
    """Contenders that open the dataset and stop at the first batch."""

    def first(epoch: Epoch) -> Iterator[int]:
        batches = epoch()
        yield next(batches)
        batches.close() if hasattr(batches, "close") else None

    return {name: lambda epoch=epoch: first(epoch) for name, epoch in epochs.items()}


def waiting(epochs: dict[str, Epoch], steps: int = 300) -> list[dict]:
    """The share of a training loop's time spent waiting for data, with steps of 5 ms, after an unmeasured epoch."""
    shares = []
    for name, epoch in epochs.items():
        sum(epoch())
        waited, batches, begin = 0.0, epoch(), time.perf_counter()
        for _ in range(steps):
            asked = time.perf_counter()
            next(batches)
            waited += time.perf_counter() - asked
            time.sleep(STEP_S)
        total = time.perf_counter() - begin
        batches.close() if hasattr(batches, "close") else None
        shares.append({"loader": name, "waiting": waited / total})
        print(f"  waiting with steps of 5 ms: {name:<42} {waited / total:6.1%}")
    return shares


def write_photos(count: int) -> str:
    """JPEG images of 224 x 224 pixels, smooth like photographs."""
    uri = DATA / f"photos-{count}.lance"
    if not uri.exists():
        rng = np.random.default_rng(0)
        encoded = []
        for _ in range(count):
            small = PIL.Image.fromarray(rng.integers(0, 256, (14, 14, 3), dtype=np.uint8))
            buffer = io.BytesIO()
            small.resize((224, 224), PIL.Image.Resampling.BICUBIC).save(buffer, format="JPEG", quality=90)
            encoded.append(buffer.getvalue())
        lance.write_dataset(pa.table({"id": np.arange(count), "image": encoded}), str(uri))
    return str(uri)


class BothConfigs(ray.train.DataConfig):
    """Gives "ours" to LanceDataConfig and the rest to Ray's own configuration, for one paired run."""

    def __init__(self, batch: int) -> None:
        super().__init__(datasets_to_split="all")
        self._ours = LanceDataConfig(batch_size=batch)

    def configure(self, datasets: dict[str, Any], world_size: int, *args: Any, **kwargs: Any) -> list[dict[str, Any]]:
        ours = {name: dataset for name, dataset in datasets.items() if name.startswith("ours")}
        peers = {name: dataset for name, dataset in datasets.items() if name not in ours}
        mine = self._ours.configure(ours, world_size, *args, **kwargs)
        theirs = super().configure(peers, world_size, *args, **kwargs)
        return [{**left, **right} for left, right in zip(mine, theirs, strict=True)]


def train_loop(config: dict[str, Any]) -> None:
    """Times one epoch of each shard in turn, on every rank at the same moment."""
    import torch.distributed

    seconds: dict[str, list[float]] = {name: [] for name in config["arguments"]}
    for number in range(-2, config["rounds"]):
        for name, arguments in config["arguments"].items():
            shard = ray.train.get_dataset_shard(name.split(",")[0])
            torch.distributed.barrier()
            begin = time.perf_counter()
            for _ in shard.iter_torch_batches(batch_size=BATCH, **arguments):
                pass
            torch.distributed.barrier()
            if number >= 0:
                seconds[name].append(time.perf_counter() - begin)
    if ray.train.get_context().get_world_rank() == 0:  # Ray keeps reported metrics only beside a checkpoint
        Path(config["result"]).write_text(json.dumps(seconds))


def shards(uri: str, rounds: int, storage: str) -> dict:
    """Two train workers, through TorchTrainer: this library's shards and Ray's split, in one run."""
    arguments = {"ours": {}, "peer": {}, "peer, local shuffle buffer": {"local_shuffle_buffer_size": 16 * BATCH}}
    result = Path(storage) / "seconds.json"
    trainer = TorchTrainer(
        train_loop,
        train_loop_config={"rounds": rounds, "arguments": arguments, "result": str(result)},
        scaling_config=ray.train.ScalingConfig(num_workers=2, resources_per_worker={"CPU": 0.5}),
        run_config=ray.train.RunConfig(storage_path=storage),
        datasets={"ours": ray_lance.read_lance(uri, shuffle=7), "peer": ray.data.read_lance(uri)},
        dataset_config=BothConfigs(BATCH),
    )
    trainer.fit()
    seconds = json.loads(result.read_text())
    ratios = []
    for name in list(seconds)[1:]:
        each = [theirs / ours for ours, theirs in zip(seconds["ours"], seconds[name], strict=True)]
        ratios.append(Ratio("ours", name, statistics.median(each), min(each), max(each)))
        print(f"two train workers: LanceShard, shuffled, over Ray's split ({name}): {ratios[-1]}")
    return {"question": "two train workers", "seconds": seconds, "ratios": [ratio.__dict__ for ratio in ratios]}


def plot(shares: list[dict]) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 2.8))
    axes.barh([share["loader"] for share in shares][::-1], [100 * share["waiting"] for share in shares][::-1])
    axes.set_xlabel("% of the time that a loop with steps of 5 ms waits for data")
    axes.set_xlim(0, 100)
    figure.tight_layout()
    figure.savefig(FOLDER / "waiting.png", dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    rows, rounds = arguments.rows, arguments.rounds
    DATA.mkdir(exist_ok=True)
    large, small, photos = generate(rows, 20), generate(rows // 10, 20), write_photos(2000)
    fast, one_fragment = in_process_from_storage(large), generate(rows, 1)
    results = [
        compare("in process, whole epoch", apart(whole, in_process, large), rows=rows, rounds=rounds),
        compare("in process, from storage", apart(whole, in_process_from_storage, large), rows=rows, rounds=rounds),
        compare(
            "in process, one fragment, from storage",
            apart(whole, in_process_from_storage, one_fragment),
            rows=rows,
            rounds=rounds,
        ),
        compare("in process, first batch", first_batches(fast), rows=BATCH, rounds=rounds, warm_ups=1),
        compare(
            "in process, HuggingFace datasets", apart(whole, hugging_face, large), rows=rows, rounds=rounds, warm_ups=1
        ),
        compare("in process, streaming", apart(whole, streaming, small), rows=rows // 10, rounds=rounds, warm_ups=1),
        # Their loaders have processes of their own.
        compare("map-style, two loader workers", whole(mapped, small), rows=rows // 10, rounds=rounds, warm_ups=1),
        compare("JPEG images, decoded", apart(whole, images, photos), rows=2000, rounds=rounds, warm_ups=1),
    ]
    from_memory = {f"{name}, from memory": epoch for name, epoch in in_process(large).items() if "shuffled" in name}
    steps = min(300, rows // 10 // BATCH)
    shares = waiting({**streaming(small), **hugging_face(large), **fast, **from_memory}, steps)
    plot(shares)
    start_ray()
    with tempfile.TemporaryDirectory() as storage:
        results.append(shards(large, rounds, storage))
    ray.shutdown()
    save([*results, {"question": "waiting with steps of 5 ms", "shares": shares}], FOLDER, NOTE)


if __name__ == "__main__":
    main()
