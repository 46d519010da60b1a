"""What does an exact shuffle cost, and how good is it, for clump and window sizes and against the peers?

Usage: python benchmarks/shuffle/bench.py [--rows 1000000] [--rounds 3]
"""

from __future__ import annotations

import argparse
import pickle
import statistics
import sys
import time
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import lancedb
import ray
from lancedb.permutation import Permutation as LanceDbPermutation
from lancedb.permutation import permutation_builder
from scan.bench import generate

import ray_lance
from harness import DATA, compare, save, start_ray
from ray_lance.order import DenseRows, RowPermutation, measure_quality
from ray_lance.scan.planning import TaskSizing, plan_positions

BATCH = 1024
FOLDER = Path(__file__).parent
NOTE = "warm page cache, warm workers (three unmeasured rounds); ratios are paired within a round"


def batches_of(dataset: ray.data.Dataset) -> int:
    return sum(len(batch["id"]) for batch in dataset.iter_torch_batches(batch_size=BATCH))


def first_batch(dataset: ray.data.Dataset) -> Iterator[int]:
    batches = iter(dataset.iter_torch_batches(batch_size=BATCH))
    yield len(next(batches)["id"])
    batches.close()
    time.sleep(1)  # for tasks that had begun to end, which would delay the next contender


def epoch_contenders(uri: str) -> dict:
    permutation = ray_lance.Permutation(uri)
    return {
        "read_lance(uri, shuffle=7)": lambda: batches_of(ray_lance.read_lance(uri, shuffle=7)),
        "read_lance(uri), sequential": lambda: batches_of(ray_lance.read_lance(uri)),
        "random_shuffle() over ray.data.read_lance": lambda: batches_of(ray.data.read_lance(uri).random_shuffle()),
        "row-exact (clump=1)": lambda: batches_of(ray_lance.read_lance(permutation.shuffle(7, clump=1, window=1))),
    }


def first_batch_contenders(uri: str) -> dict:
    return {
        "read_lance(uri, shuffle=7)": lambda: first_batch(ray_lance.read_lance(uri, shuffle=7)),
        "random_shuffle() over ray.data.read_lance": lambda: first_batch(ray.data.read_lance(uri).random_shuffle()),
    }


def in_process_contenders(uri: str) -> dict:
    database = lancedb.connect(str(DATA))
    table = database.open_table(Path(uri).stem)
    orders = permutation_builder(table).shuffle(seed=7).execute()
    theirs = LanceDbPermutation.from_tables(table, orders).with_format("arrow")
    permutation = ray_lance.Permutation(uri)

    def rows(batches) -> int:
        return sum(batch.num_rows for batch in batches)

    return {
        "Permutation.iter_batches, default": lambda: rows(permutation.shuffle(7).iter_batches(BATCH, format="arrow")),
        "lancedb Permutation.iter, arrow": lambda: rows(theirs.iter(BATCH, False)),
        "Permutation.iter_batches, clump=1": lambda: rows(
            permutation.shuffle(7, clump=1, window=1).iter_batches(BATCH, format="arrow")
        ),
    }


def trade_off(uri: str) -> list[dict]:
    """Quality and speed, in process, over clump and window sizes."""
    permutation, points = ray_lance.Permutation(uri), []
    for clump in (1, 4, 16, 64, 256):
        for clumps in (64, 256, 1024, 4096) if clump > 1 else (1,):
            shuffled = permutation.shuffle(7, clump, clump * clumps)
            quality = measure_quality(shuffled.order)
            begin = time.perf_counter()
            rows = 0
            for batch in shuffled[: min(len(shuffled), 300_000)].iter_batches(BATCH, format="arrow"):
                rows += batch.num_rows
            seconds = time.perf_counter() - begin
            points.append(
                {
                    "clump": clump,
                    "clumps_per_window": clumps,
                    "rows_per_s": rows / seconds,
                    "worst_label_ratio": quality.clumped_label_ratio,
                    "sorted_label_ratio": quality.sorted_label_ratio,
                }
            )
            print(
                "  clump {clump:>4} x {clumps_per_window:>5}: {rows_per_s:>12,.0f} rows/s, label ratio "
                "{worst_label_ratio:.2f} (worst data), {sorted_label_ratio:.2f} (sorted data)".format(**points[-1])
            )
    return points


def planning() -> list[dict]:
    """Time, memory and task size of planning one rank's share of an epoch, without opening anything."""
    results = []
    for rows, ranks in ((10**6, 1), (10**11, 64)):
        tracemalloc.start()
        begin = time.perf_counter()
        order = RowPermutation(DenseRows(rows)).shuffle(7, 64, 65536).epoch(3).shard(ranks // 2, ranks)
        tasks = plan_positions(order, TaskSizing(528, 32 * 2**20))
        seconds = time.perf_counter() - begin
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        results.append(
            {
                "rows": rows,
                "ranks": ranks,
                "tasks_of_one_rank": len(tasks),
                "ms": seconds * 1e3,
                "peak_mb": peak / 1e6,
                "pickled_order_bytes": len(pickle.dumps(order)),
                "pickled_task_bytes": len(pickle.dumps(tasks[0])),
            }
        )
        print("  planning", results[-1])
    return results


def plot(points: list[dict]) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4.2))
    for clump in sorted({point["clump"] for point in points}):
        line = [point for point in points if point["clump"] == clump]
        axes.plot(
            [point["worst_label_ratio"] for point in line],
            [point["rows_per_s"] / 1e6 for point in line],
            marker="o",
            label=f"clump {clump}",
        )
    axes.axvline(1.5, color="grey", linewidth=0.8, linestyle="--")
    axes.set_xscale("log")
    axes.set_xlabel("label-histogram distance over a true shuffle's, worst data (1 is perfect)")
    axes.set_ylabel("M rows/s, one process")
    axes.set_title("Shuffle quality against speed; along a line: 4096, 1024, 256, 64 clumps per window", fontsize=9)
    axes.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(FOLDER / "quality.png", dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    rows, rounds = arguments.rows, arguments.rounds
    DATA.mkdir(exist_ok=True)
    uri = generate(rows, 20)
    results = [compare("in process, shuffled, arrow", in_process_contenders(uri), rows=rows, rounds=rounds, warm_ups=0)]
    points, plans = trade_off(uri), planning()
    plot(points)
    start_ray()
    results += [
        compare("through Ray: shuffled epoch, batches of 1024", epoch_contenders(uri), rows=rows, rounds=rounds),
        compare("through Ray: first batch", first_batch_contenders(uri), rows=BATCH, rounds=rounds),
    ]
    ray.shutdown()
    fastest = statistics.median(point["rows_per_s"] for point in points if point["clump"] == 64)
    print(f"clump 64: {fastest:,.0f} rows/s in process")
    save(
        [*results, {"question": "trade-off", "points": points}, {"question": "planning", "points": plans}], FOLDER, NOTE
    )


if __name__ == "__main__":
    main()
