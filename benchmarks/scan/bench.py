"""How fast does a Lance dataset reach tensors, against the peers and against a bare Lance scan?

Usage: python benchmarks/scan/bench.py [--rows 1000000] [--rounds 5]
"""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import lance
import lance_ray
import numpy as np
import pyarrow as pa
import ray
from lance.fragment import write_fragments
from lance.torch.data import LanceDataset as LanceTorchDataset

import ray_lance
from harness import DATA, compare, save, start_ray

BATCH = 1024
NOTE = "warm page cache, warm workers (three unmeasured rounds); ratios are paired within a round"


def generate(rows: int, fragments: int, name: str = "scan") -> str:
    """A dataset of (int64, int64, float32[128]) in so many fragments; a benchmark that writes names its own."""
    uri = DATA / f"{name}-{rows}-{fragments}.lance"
    if not uri.exists():
        ids = np.arange(rows)
        vectors = np.random.default_rng(0).random(rows * 128, dtype=np.float32)
        columns = {"id": ids, "label": ids % 10, "vec": pa.FixedSizeListArray.from_arrays(pa.array(vectors), 128)}
        table, partial = pa.table(columns), f"{uri}.partial"
        shutil.rmtree(partial, ignore_errors=True)
        files = write_fragments(table, partial, max_rows_per_file=-(-rows // fragments))
        lance.LanceDataset.commit(partial, lance.LanceOperation.Overwrite(table.schema, files))
        Path(partial).rename(uri)
    return str(uri)


def batches_of(dataset: ray.data.Dataset) -> int:
    return sum(len(next(iter(batch.values()))) for batch in dataset.iter_torch_batches(batch_size=BATCH))


def bare_scan(uri: str, columns: list[str] | None = None) -> int:
    return sum(batch.num_rows for batch in lance.dataset(uri).to_batches(columns=columns))


def lance_torch(uri: str, columns: list[str] | None = None) -> int:
    batches = LanceTorchDataset(uri, batch_size=BATCH, columns=columns)
    return sum(len(next(iter(batch.values())) if isinstance(batch, dict) else batch) for batch in batches)


def full_read(uri: str) -> dict:
    return {
        "ray_lance.read_lance": lambda: batches_of(ray_lance.read_lance(uri)),
        "ray.data.read_lance": lambda: batches_of(ray.data.read_lance(uri)),
        "lance_ray.read_lance": lambda: batches_of(lance_ray.read_lance(uri)),
        "lance.torch LanceDataset (in process)": lambda: lance_torch(uri),
        "bare Lance scan (in process, no tensors)": lambda: bare_scan(uri),
    }


def one_column(uri: str) -> dict:
    return {
        "ray_lance.read_lance": lambda: batches_of(ray_lance.read_lance(uri).select_columns(["label"])),
        "ray.data.read_lance": lambda: batches_of(ray.data.read_lance(uri).select_columns(["label"])),
        "ray.data.read_lance(columns=)": lambda: batches_of(ray.data.read_lance(uri, columns=["label"])),
        "lance_ray.read_lance(columns=)": lambda: batches_of(lance_ray.read_lance(uri, columns=["label"])),
    }


def tiny_fragments(uri: str) -> dict:
    contenders = full_read(uri)
    return {name: contenders[name] for name in list(contenders)[:3]}


def materialize(uri: str) -> dict:
    return {
        "ray_lance.read_lance(...).materialize()": lambda: ray_lance.read_lance(uri).materialize().count(),
        "bare Lance scan (in process)": lambda: bare_scan(uri),
        "ray.data.read_lance(...).materialize()": lambda: ray.data.read_lance(uri).materialize().count(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    rows, rounds = arguments.rows, arguments.rounds
    DATA.mkdir(exist_ok=True)
    several, one, tiny = generate(rows, 20), generate(rows, 1), generate(1024, 1024)
    start_ray()
    results = [
        compare("20 fragments, all columns, iter_torch_batches(1024)", full_read(several), rows=rows, rounds=rounds),
        compare("1 fragment, all columns, iter_torch_batches(1024)", full_read(one), rows=rows, rounds=rounds),
        compare("one scalar column, iter_torch_batches(1024)", one_column(several), rows=rows, rounds=rounds),
        compare("1,024 one-row fragments", tiny_fragments(tiny), rows=1024, rounds=rounds),
        compare("materialize()", materialize(several), rows=rows, rounds=rounds),
    ]
    ray.shutdown()
    save(results, Path(__file__).parent, NOTE)


if __name__ == "__main__":
    main()
