"""How fast does a Ray dataset of 200 small blocks become a Lance dataset, against lance_ray and bare Lance?

Usage: python benchmarks/write/bench.py [--rows 1000000] [--rounds 5]
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import lance
import lance_ray
import numpy as np
import pyarrow as pa
import ray

import ray_lance
from harness import compare, save, start_ray

BLOCKS = 200
NOTE = "200 blocks in the object store, warm workers (three unmeasured rounds); ratios are paired within a round"


def embeddings(rows: int, seed: int) -> pa.Table:
    rng = np.random.default_rng(seed)
    vectors = pa.FixedSizeListArray.from_arrays(rng.random(rows * 128, dtype=np.float32), 128)
    return pa.table({"id": np.arange(seed * rows, (seed + 1) * rows), "label": np.arange(rows) % 10, "vec": vectors})


def images(rows: int, seed: int) -> pa.Table:
    rng = np.random.default_rng(seed)
    pixels = [rng.integers(0, 256, int(size), dtype=np.uint8).tobytes() for size in rng.integers(10_000, 50_000, rows)]
    return pa.table({"id": np.arange(rows), "image": pa.array(pixels, pa.binary())})


def strings(rows: int, seed: int) -> pa.Table:
    rng = np.random.default_rng(seed)
    words = np.array([f"word{i}" for i in range(5000)])
    texts = [" ".join(words[rng.integers(0, 5000, 20)]) for _ in range(rows)]
    return pa.table({"id": np.arange(rows), "text": texts})


# What is written: how to make a block, and its share of the --rows argument.
KINDS: dict[str, tuple[Callable[[int, int], pa.Table], float]] = {
    "embeddings": (embeddings, 1.0),
    "images": (images, 0.01),
    "strings": (strings, 0.3),
}


def contenders(blocks: list[pa.Table], folder: str) -> dict[str, Callable[[], int]]:
    dataset = ray.data.from_arrow(blocks).materialize()
    uri = f"{folder}/written.lance"

    def bare() -> None:
        batches = (batch for block in blocks for batch in block.to_batches())
        lance.write_dataset(pa.RecordBatchReader.from_batches(blocks[0].schema, batches), uri)

    def counted(write: Callable[[], object]) -> Callable[[], int]:
        def run() -> int:
            shutil.rmtree(uri, ignore_errors=True)
            write()
            return lance.dataset(uri).count_rows()

        return run

    return {
        "ray_lance.write_lance": counted(lambda: ray_lance.write_lance(dataset, uri)),
        "lance_ray.write_lance": counted(lambda: lance_ray.write_lance(dataset, uri)),
        "lance.write_dataset (in process)": counted(bare),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    start_ray()
    results = []
    for kind, (make, share) in KINDS.items():
        per_block = max(1, int(arguments.rows * share) // BLOCKS)
        blocks = [make(per_block, seed) for seed in range(BLOCKS)]
        with tempfile.TemporaryDirectory() as folder:
            runs = contenders(blocks, folder)
            results.append(compare(f"write {kind}", runs, rows=per_block * BLOCKS, rounds=arguments.rounds))
    ray.shutdown()
    save(results, Path(__file__).parent, NOTE)


if __name__ == "__main__":
    main()
