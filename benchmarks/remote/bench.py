"""How fast are reads of an object store where every request takes 30 ms, and what do clump, window and prefetch do?

Usage: python benchmarks/remote/bench.py [--rows 1000000] [--rounds 3] [--latency 0.03]
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[2]))

import lance_ray
import lancedb
import ray
import torch
from lancedb.streaming import StreamingDataset
from scan.bench import generate

import ray_lance
from harness import DATA, Ratio, save, start_ray
from ray_lance.torch import LanceIterableDataset
from tests.s3 import BUCKET, S3

BATCH = 1024
FOLDER = Path(__file__).parent
SLOW_BATCHES = 10
NOTE = (
    "{latency:.0f} ms added to each request by a proxy in a process of its own; rates over an epoch, opening included, "
    "lancedb's over its first ten batches; ratios are paired within a round; proxy_busy is its share of a core"
)
# Clump, clumps in a window, prefetch.
SETTINGS = [
    *(("auto", "auto", prefetch) for prefetch in (1, 3, 6)),
    *((clump, 1024, 3) for clump in (32, 64)),
    *((128, clumps, 3) for clumps in (256, 512)),
    (256, 512, 3),
]

# Lance begins with 2,000 requests per second in each table that is opened; see docs/tuning.md.
UNTHROTTLED = {"lance_aimd_initial_rate": "10000", "lance_aimd_max_rate": "10000"}

Epoch = Callable[[], Iterator[Any]]


@dataclass(frozen=True)
class Pace:
    """How an epoch went, the opening of the dataset included."""

    rows_per_s: float
    first_batch_s: float
    rows_per_request: float
    requests_per_s: float
    proxy_busy: float


class Server:
    """The process that serves the dataset; see server.py."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self.s3 = S3(process.stdout.readline().strip())

    def set_latency(self, seconds: float) -> tuple[int, float]:
        """Returns the number of requests since the last call, and the seconds of CPU time so far."""
        self._process.stdin.write(f"{seconds}\n")
        self._process.stdin.flush()
        requests, busy = self._process.stdout.readline().split()
        return int(requests), float(busy)

    def drain(self) -> None:
        """Wait for the requests of an iteration that was left early."""
        self.set_latency(0)
        time.sleep(0.2)
        while self.set_latency(0)[0]:
            time.sleep(0.2)


@contextmanager
def serving(dataset: str) -> Iterator[Server]:
    command = [sys.executable, str(FOLDER / "server.py"), dataset]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield Server(process)
        process.stdin.close()


def rows_of(batch: Any) -> int:
    return len(next(iter(batch.values())))


def pace_of(epoch: Epoch, server: Server, latency: float) -> Pace:
    """Time an epoch, and count what it asks of the server."""
    _, busy = server.set_latency(latency)
    begin = time.perf_counter()
    batches = epoch()
    rows = rows_of(next(batches))
    first = time.perf_counter() - begin
    rows += sum(rows_of(batch) for batch in batches)
    elapsed = time.perf_counter() - begin
    requests, busy_after = server.set_latency(latency)
    del batches
    server.drain()
    return Pace(rows / elapsed, first, rows / requests, requests / elapsed, (busy_after - busy) / elapsed)


def race(question: str, contenders: Mapping[str, Epoch], server: Server, latency: float, rounds: int) -> dict:
    """The pace of each contender, each once per round in turn; the first one is compared with the others."""
    for epoch in contenders.values():  # starts threads and worker processes
        pace_of(epoch, server, 0.0)
    paces: dict[str, list[Pace]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, epoch in contenders.items():
            paces[name].append(pace_of(epoch, server, latency))
            print(f"  {name:<44} {paces[name][-1].rows_per_s:>12,.0f} rows/s")
    subject, *peers = contenders
    ratios = {peer: ratio_of(subject, peer, paces) for peer in peers}
    lines = [
        {"contender": name, **medians_of(runs), "the first one is faster by": str(ratios.get(name, "-")).strip()}
        for name, runs in paces.items()
    ]
    print_lines(question, lines)
    return {"question": question, "rates": lines, "ratios": [ratio.__dict__ for ratio in ratios.values()]}


def ratio_of(subject: str, peer: str, paces: Mapping[str, list[Pace]]) -> Ratio:
    each = [ours.rows_per_s / theirs.rows_per_s for ours, theirs in zip(paces[subject], paces[peer], strict=True)]
    return Ratio(subject, peer, statistics.median(each), min(each), max(each))


def medians_of(paces: list[Pace]) -> dict[str, float]:
    names = Pace.__dataclass_fields__
    return {name: statistics.median(getattr(pace, name) for pace in paces) for name in names}


def print_lines(question: str, lines: list[dict]) -> None:
    print(question, *(f"  {name}" for name in lines[0]))
    for line in lines:
        shown = (f"{value:,.4g}" if isinstance(value, float) else str(value) for value in line.values())
        print("  " + "  ".join(f"{text:>16}" for text in shown))


def in_process(uri: str, s3: S3) -> dict[str, Epoch]:
    """Loaders in this process, each opening the dataset anew."""
    options = {"storage_options": s3.storage_options}

    def ours(**order: Any) -> Iterator[Any]:
        return iter(LanceIterableDataset(uri, batch_size=BATCH, cache_bytes=0, **{**options, **order}))

    def streaming(**order: Any) -> Iterator[Any]:
        table = lancedb.connect(f"s3://{BUCKET}", **options).open_table(Path(uri).stem)
        stream = StreamingDataset(table, num_splits=1, shuffle_seed=7, rank=0, world_size=1, **order)
        loader = torch.utils.data.DataLoader(stream, batch_size=BATCH, num_workers=0)
        return itertools.islice(loader, SLOW_BATCHES)

    return {
        "LanceIterableDataset, shuffled": lambda: ours(shuffle=7),
        "LanceIterableDataset, sequential": ours,
        "LanceIterableDataset, shuffled, 10,000 requests/s": lambda: ours(
            shuffle=7, storage_options={**s3.storage_options, **UNTHROTTLED}
        ),
        "lancedb StreamingDataset, shuffled": streaming,
        "lancedb StreamingDataset, clumps of 64": lambda: streaming(shuffle_clump_size=64),
    }


def through_ray(uri: str, s3: S3) -> dict[str, Epoch]:
    """Ray datasets; the peers' are not shuffled, which they cannot do without reading everything first."""
    options = {"storage_options": s3.storage_options}

    def batches(read: Callable[..., ray.data.Dataset], **order: Any) -> Iterator[Any]:
        return iter(read(uri, **order, **options).iter_torch_batches(batch_size=BATCH))

    return {
        "ray_lance.read_lance, shuffled": lambda: batches(ray_lance.read_lance, shuffle=7),
        "ray_lance.read_lance, sequential": lambda: batches(ray_lance.read_lance),
        "ray.data.read_lance, sequential": lambda: batches(ray.data.read_lance),
        "lance_ray.read_lance, sequential": lambda: batches(lance_ray.read_lance),
    }


def settings(uri: str, server: Server, latency: float) -> dict:
    """What clump, window and prefetch do to a shuffled epoch in process."""
    permutation = ray_lance.Permutation(uri, storage_options=server.s3.storage_options)
    lines = []
    for clump, clumps, prefetch in SETTINGS:
        window = clumps if clumps == "auto" else clump * clumps
        shuffled = permutation.shuffle(7, clump, window)
        dataset = LanceIterableDataset(shuffled, batch_size=BATCH, prefetch=prefetch, cache_bytes=0)
        pace = pace_of(lambda dataset=dataset: iter(dataset), server, latency)
        mixing, quality = shuffled.order.mixing, shuffled.quality(BATCH)
        chosen = {"clump": mixing.clump, "window": mixing.window, "prefetch": prefetch}
        lines.append({**chosen, **pace.__dict__, "worst_label_ratio": quality.clumped_label_ratio})
    print_lines("clump, window and prefetch", lines)
    return {"question": "clump, window and prefetch, shuffled in process", "settings": lines}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--latency", type=float, default=0.03, help="seconds")
    arguments = parser.parse_args()
    DATA.mkdir(exist_ok=True)
    dataset = generate(arguments.rows, 20)
    rounds, latency = arguments.rounds, arguments.latency
    with serving(dataset) as server:
        uri, s3 = server.s3.uri(Path(dataset).name), server.s3
        results = [
            race("in process", in_process(uri, s3), server, latency, rounds),
            settings(uri, server, latency),
        ]
        start_ray()
        results.append(race("through Ray", through_ray(uri, s3), server, latency, rounds))
        ray.shutdown()
    save(results, FOLDER, NOTE.format(latency=1e3 * latency))


if __name__ == "__main__":
    main()
