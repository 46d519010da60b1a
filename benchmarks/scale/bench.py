"""Does it hold when the dataset is larger than memory, has very many files, or the nodes are several?

Usage: python benchmarks/scale/bench.py [--mib 1536] [--store-mib 448] [--fragments 20000]
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[2]))

import lance
import numpy as np
import pyarrow as pa
from copies import RANKS
from fragments import ORDERS
from lance.fragment import write_fragments
from paths import CPUS, PATHS
from paths import RANKS as RANKS_HERE
from watch import MIB, ROLES, Timeline, watching

from harness import DATA, save
from tests.page_cache import drop_from_page_cache

FOLDER = Path(__file__).parent
WIDTH = 256
ROW_BYTES = 8 + 4 * WIDTH
PIECE_ROWS = 65_536
FILES = 48  # of about one task each: add_columns keeps the new column of a fragment in the object store
ROWS_PER_FRAGMENT = 16
NOTE = (
    "cold page cache: the kernel is told to forget the dataset's files, those of the large one four times a second; "
    "memory sampled every 50 ms from outside, from the first batch to the last, peaks of a tenth of the time, all "
    "processes of a role together; own memory is private to a process (RssAnon), total counts the object store's pages "
    "in each process that has touched them"
)


def vectors(rows: int, seed: int) -> pa.Array:
    values = np.random.default_rng(seed).random(rows * WIDTH, dtype=np.float32)
    return pa.FixedSizeListArray.from_arrays(pa.array(values), WIDTH)


def large(mib: int) -> str:
    """A dataset of (int64, float32[256]) of that size, which cannot be compressed."""
    uri, rows = DATA / f"scale-{mib}.lance", mib * MIB // ROW_BYTES

    def pieces() -> Iterator[pa.RecordBatch]:
        for start in range(0, rows, PIECE_ROWS):
            ids = np.arange(start, min(rows, start + PIECE_ROWS))
            yield pa.record_batch({"id": pa.array(ids), "vec": vectors(len(ids), start)})

    if not uri.exists():
        partial = f"{uri}.partial"
        shutil.rmtree(partial, ignore_errors=True)
        schema = pa.schema({"id": pa.int64(), "vec": pa.list_(pa.float32(), WIDTH)})
        reader = pa.RecordBatchReader.from_batches(schema, pieces())
        lance.write_dataset(reader, partial, max_rows_per_file=-(-rows // FILES))
        Path(partial).rename(uri)
        os.sync()  # only what is on disk can be dropped from the page cache
    return str(uri)


def many(fragments: int) -> str:
    """A dataset of so many fragments of a few rows each."""
    uri, rows = DATA / f"scale-fragments-{fragments}.lance", fragments * ROWS_PER_FRAGMENT
    if not uri.exists():
        partial = f"{uri}.partial"
        shutil.rmtree(partial, ignore_errors=True)
        table = pa.table({"id": np.arange(rows), "vec": vectors(rows, 0)})
        files = write_fragments(table, partial, max_rows_per_file=ROWS_PER_FRAGMENT, max_rows_per_group=1024)
        lance.LanceDataset.commit(partial, lance.LanceOperation.Overwrite(table.schema, files))
        Path(partial).rename(uri)
        os.sync()
    return str(uri)


def watched(program: str, name: str, uri: str, store: int, passes: int) -> tuple[dict, Timeline]:
    """Run one program in a session of its own; what it printed, and the memory of its processes."""
    drop_from_page_cache([Path(uri)])
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, str(FOLDER / program), name, uri, folder, str(store), str(passes)]
        job = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
        )
        # Looking at thousands of files four times a second would be most of the work.
        with watching(job.pid, [] if program == "fragments.py" else [Path(uri)]) as timeline:
            printed, errors = job.communicate()
    if job.returncode:
        raise RuntimeError(f"{program} {name} failed:\n{errors[-3000:]}")
    return json.loads(printed.splitlines()[-1]), timeline


def checked(name: str, done: dict, rows: int, passes: int) -> dict:
    """``done``, if it delivered every row as often as there were passes."""
    if (done["rows"], done["ids"]) != (passes * rows, passes * (rows * (rows - 1) // 2)):
        raise RuntimeError(f"{name}: {done['rows']} rows with ids of sum {done['ids']}, not {passes} times {rows} rows")
    return done


def flatness(name: str, done: dict, timeline: Timeline) -> Iterator[dict]:
    """For each role of a path's processes: peaks of the first and of the last tenth of the time, and their ratio."""
    for role in ROLES:
        own = timeline.peaks(role, "own", done["begin"], done["end"])
        total = timeline.peaks(role, "total", done["begin"], done["end"])
        if any(own):
            yield {
                "path": name,
                "processes": role,
                "own_first_mib": own[0] / MIB,
                "own_last_mib": own[-1] / MIB,
                "own_ratio": own[-1] / max(1, own[0]),
                "total_first_mib": total[0] / MIB,
                "total_last_mib": total[-1] / MIB,
                "total_ratio": total[-1] / max(1, total[0]),
            }


def streaming(uri: str, store: int, passes: int) -> tuple[list[dict], list[dict], dict[str, tuple[dict, Timeline]]]:
    """Every path over the large dataset: what it did, how its memory went, and all that was sampled."""
    rows = lance.dataset(uri).count_rows()
    results, ratios, runs = [], [], {}
    for name in PATHS:
        # The two train workers have an execution each, and Ray Data lets every execution take half of the store.
        own_store = RANKS_HERE * store if name == "train" else store
        done, timeline = watched("paths.py", name, uri, own_store, passes)
        checked(name, done, rows, 1 if name == "columns" else passes)
        seconds = done["end"] - done["begin"]
        results.append(
            {
                "path": name,
                "object_store_mib": own_store,
                "rows": done["rows"],
                "seconds": seconds,
                "mib_per_s": done["rows"] * ROW_BYTES / MIB / seconds,
                "spilled_objects": done["spilled_objects"],
                "most_in_page_cache_mib": timeline.most_cached(done["begin"], done["end"]) / MIB,
            }
        )
        print(
            "  {path:<12} {rows:,} rows, {mib_per_s:.0f} MiB/s, {spilled_objects} spilled, "
            "at most {most_in_page_cache_mib:.0f} MiB in the page cache".format(**results[-1])
        )
        ratios += shown(flatness(name, done, timeline))
        runs[name] = (done, timeline)
    return results, ratios, runs


def shown(lines: Iterable[dict]) -> list[dict]:
    """``lines``, printed."""
    lines = list(lines)
    for line in lines:
        print(
            "    {processes:<14} own {own_first_mib:.0f} -> {own_last_mib:.0f} MiB ({own_ratio:.2f}x), "
            "total {total_first_mib:.0f} -> {total_last_mib:.0f} MiB ({total_ratio:.2f}x)".format(**line)
        )
    return lines


def many_files(uri: str, fragments: int, store: int, passes: int) -> tuple[list[dict], list[dict]]:
    """Planning and epochs over the dataset of many fragments."""
    results, ratios = [], []
    for order in ORDERS:
        done, timeline = watched("fragments.py", order, uri, store, passes)
        checked(order, done, fragments * ROWS_PER_FRAGMENT, 1)
        keys = (
            "manifest_s",
            "planning_s",
            "planning_again_s",
            "tasks",
            "driver_growth_mib",
            "first_batch_s",
            "epoch_s",
        )
        results.append({"order": order, "fragments": fragments, **{key: done[key] for key in keys}})
        print(
            "  {order:<12} manifest {manifest_s:.3f} s, planning {planning_s:.3f} s, {tasks} tasks, "
            "first batch {first_batch_s:.2f} s, epoch {epoch_s:.2f} s".format(**results[-1])
        )
        ratios += shown(flatness(order, done, timeline))
    return results, ratios


def copies(uri: str, store: int) -> list[dict]:
    """Objects that a node has received from another one while three ranks trained on three nodes.

    All of them, so also plans and functions, of which there is a number for each node and rank.
    """
    done, _ = watched("copies.py", str(RANKS), uri, store, 1)
    checked("three nodes", done, lance.dataset(uri).count_rows(), 1)
    result = {
        "nodes": RANKS,
        "ranks": RANKS,
        "blocks_read": done["blocks"],
        "objects_copied": sum(done["copied"]),
        "spilled_objects": done["spilled_objects"],
    }
    print("  {nodes} nodes, {ranks} ranks: {blocks_read} blocks read, {objects_copied} objects copied".format(**result))
    return [result]


def plot(runs: dict[str, tuple[dict, Timeline]], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, all_axes = plt.subplots(2, 3, figsize=(11, 5.6), sharey=True)
    for axes, (name, (done, timeline)) in zip(all_axes.flat, runs.items(), strict=True):
        for role, color in zip(ROLES, ("tab:blue", "tab:orange", "tab:green"), strict=True):
            points = [(at - done["begin"], memory[role]) for at, memory in timeline.samples if role in memory]
            if points:
                times = [at for at, _ in points]
                axes.plot(times, [memory.own / MIB for _, memory in points], color=color, label=f"{role}, own")
                axes.plot(
                    times, [memory.total / MIB for _, memory in points], color=color, linewidth=0.7, linestyle=":"
                )
        axes.axvspan(0, done["end"] - done["begin"], color="grey", alpha=0.12, linewidth=0)
        axes.set_title(name, fontsize=9)
        axes.set_ylim(bottom=0)
    for axes in all_axes[:, 0]:
        axes.set_ylabel("MiB resident")
    for axes in all_axes[-1]:
        axes.set_xlabel("seconds after the first batch")
    all_axes.flat[3].legend(fontsize=7)
    figure.suptitle(
        "Memory of all processes of a role; dotted with shared pages; grey from the first batch to the last", fontsize=9
    )
    figure.tight_layout()
    figure.savefig(path, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mib", type=int, default=1536, help="size of the large dataset")
    parser.add_argument("--store-mib", type=int, default=448, help="size of the object store: six windows of a shuffle")
    parser.add_argument("--fragments", type=int, default=20_000)
    parser.add_argument("--passes", type=int, default=3, help="how often a path goes through the dataset")
    arguments = parser.parse_args()
    mib, store, passes, fragments = arguments.mib, arguments.store_mib, arguments.passes, arguments.fragments
    DATA.mkdir(exist_ok=True)
    files, big = many(fragments), large(mib)
    plans, plan_ratios = many_files(files, fragments, store, passes)
    paths, ratios, runs = streaming(big, store, passes)
    plot(runs, FOLDER / "memory.png")
    results = [
        {"question": f"{fragments:,} fragments: planning and whole epochs", "plans": plans},
        {"question": f"{fragments:,} fragments: resident memory, first and last tenth", "memory": plan_ratios},
        {
            "question": f"larger than memory: {mib} MiB, {passes} passes, object store of {store} MiB, {CPUS} CPUs",
            "paths": paths,
        },
        {"question": "larger than memory: resident memory, first and last tenth", "memory": ratios},
        {"question": "training on three nodes: objects copied between them", "copies": copies(big, RANKS * store)},
    ]
    save(results, FOLDER, NOTE)


if __name__ == "__main__":
    main()
