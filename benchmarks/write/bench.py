"""How fast does a Ray dataset become a Lance dataset?

Writes the same blocks with this library, with lance_ray and, from one process, with Lance itself, in turn and
repeatedly in one session, and prints the ratios. Usage: python benchmarks/write/bench.py [--rows N] [--repeats N]
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import logging
import os
import platform
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")

import lance
import numpy as np
import pyarrow as pa
import ray
from ray.data import DataContext

from ray_lance.data.datasink import write
from ray_lance.table import TableRef
from ray_lance.write import WriteOptions

BLOCKS = 200
PACKAGES = ("ray", "pylance", "lance-ray", "pyarrow", "numpy")


def embeddings(rows: int, seed: int) -> pa.Table:
    rng = np.random.default_rng(seed)
    vectors = pa.FixedSizeListArray.from_arrays(rng.random(rows * 128, dtype=np.float32), 128)
    label = rng.integers(0, 1000, rows)
    return pa.table({"id": np.arange(seed * rows, (seed + 1) * rows), "label": label, "vector": vectors})


def images(rows: int, seed: int) -> pa.Table:
    rng = np.random.default_rng(seed)
    pixels = [rng.integers(0, 256, int(size), dtype=np.uint8).tobytes() for size in rng.integers(10_000, 50_000, rows)]
    return pa.table({"id": np.arange(rows), "image": pa.array(pixels, pa.binary())})


def strings(rows: int, seed: int) -> pa.Table:
    rng = np.random.default_rng(seed)
    words = np.array([f"word{i}" for i in range(5000)])
    texts = [" ".join(words[rng.integers(0, 5000, 20)]) for _ in range(rows)]
    return pa.table({"id": np.arange(rows), "text": texts})


# Data set -> how to make a block, and its share of the --rows argument.
DATA: dict[str, tuple[Callable[[int, int], pa.Table], float]] = {
    "embeddings": (embeddings, 1.0),
    "images": (images, 0.01),
    "strings": (strings, 0.3),
}


def writers(blocks: list[pa.Table]) -> dict[str, Callable[[str], None]]:
    import lance_ray

    ds = ray.data.from_arrow(blocks).materialize()

    def ours(uri: str) -> None:
        write(ds, TableRef.of(uri), WriteOptions())

    def peer(uri: str) -> None:
        lance_ray.write_lance(ds, uri)

    def bare(uri: str) -> None:
        batches = (batch for block in blocks for batch in block.to_batches())
        lance.write_dataset(pa.RecordBatchReader.from_batches(blocks[0].schema, batches), uri)

    return {"ray_lance": ours, "lance_ray": peer, "lance": bare}


def measure(name: str, rows: int, repeats: int, folder: Path) -> dict[str, object]:
    make, share = DATA[name]
    per_block = max(1, int(rows * share) // BLOCKS)
    blocks = [make(per_block, seed) for seed in range(BLOCKS)]
    total = per_block * BLOCKS
    seconds: dict[str, list[float]] = {}
    files: dict[str, int] = {}
    contenders = writers(blocks)
    for repeat in range(repeats + 1):
        # Every writer takes every place in the order; the first round warms up workers and caches.
        order = list(contenders)[repeat % 3 :] + list(contenders)[: repeat % 3]
        for writer in order:
            uri = str(folder / f"{name}-{writer}-{repeat}")
            started = time.perf_counter()
            contenders[writer](uri)
            elapsed = time.perf_counter() - started
            dataset = lance.dataset(uri)
            if dataset.count_rows() != total:
                raise SystemExit(f"{writer} wrote {dataset.count_rows()} rows, not {total}")
            files[writer] = len(dataset.get_fragments())
            shutil.rmtree(uri)
            if repeat:
                seconds.setdefault(writer, []).append(elapsed)
    ratios = {
        peer: [theirs / ours for theirs, ours in zip(seconds[peer], seconds["ray_lance"], strict=True)]
        for peer in ("lance_ray", "lance")
    }
    return {
        "rows": total,
        "bytes": sum(block.nbytes for block in blocks),
        "seconds": seconds,
        "fragments": files,
        "speed over": {
            peer: {"median": statistics.median(values), "min": min(values), "max": max(values)}
            for peer, values in ratios.items()
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--data", choices=list(DATA), nargs="+", default=list(DATA))
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results.json")
    arguments = parser.parse_args()
    ray.init(include_dashboard=False, object_store_memory=2 * 2**30, logging_level="ERROR", log_to_driver=False)
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    results = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in arguments.data:
            results[name] = result = measure(name, arguments.rows, arguments.repeats, Path(folder))
            for peer, ratio in result["speed over"].items():  # type: ignore[attr-defined]
                print(f"{name:12s} {ratio['median']:.2f}x {peer} ({ratio['min']:.2f} to {ratio['max']:.2f})")
    ray.shutdown()
    machine = {"cpus": os.cpu_count(), "system": platform.platform(), "python": sys.version.split()[0]}
    versions = {package: importlib.metadata.version(package) for package in PACKAGES}
    document = {"when": datetime.now(UTC).isoformat(), "machine": machine, "versions": versions, "results": results}
    arguments.out.write_text(json.dumps(document, indent=1) + "\n")
    print(f"written to {arguments.out}")


if __name__ == "__main__":
    main()
