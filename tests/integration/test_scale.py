"""Many fragments, and datasets larger than the object store: what is planned, and how much memory it takes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import lance
import numpy as np
import pyarrow as pa
import pytest
import ray
from lance.fragment import write_fragments

from ray_lance import Permutation, read_lance

FRAGMENTS = 20_000
MIB = 2**20
WIDTH, FILE_ROWS, FILES = 256, 32_768, 24  # 32 MiB per file, 768 MiB in all
STORE = 192 * MIB  # six blocks: Ray Data lets an execution take half, and spills from 80 % on
PASSES = {"sequential": 3, "shuffled": 3, "iterable": 16}  # as many as take about the same time
ROOT = Path(__file__).parents[2]

# Reads a dataset several times, in a cluster of its own with a small object store. Where memory is that of tasks, the
# tasks note it themselves, after each block that they have read: a function that is mapped over the blocks runs in the
# process that reads them. What is noted is a process's own memory, without the object store that all of them share.
JOB = """
import json, os, re, sys, time
from pathlib import Path
os.environ["RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"] = "0"
os.environ["RAY_event_stats_print_interval_ms"] = "300"
import ray
import ray_lance
from ray_lance.torch import LanceIterableDataset

path, uri, notes, store, passes = *sys.argv[1:4], int(sys.argv[4]), int(sys.argv[5])
STATE, SPILLED = "[state-dump] NodeManager:", r"- cumulative spill requests: (\\d+)"

def own_memory():
    return int(re.search(r"RssAnon:\\s+(\\d+)", Path("/proc/self/status").read_text()).group(1)) * 1024

def noted(block):
    with open(f"{notes}/{os.getpid()}", "a") as log:
        log.write(f"{own_memory()}\\n")
    return block

def batches():
    if path == "iterable":
        dataset = LanceIterableDataset(uri, batch_size=1024, shuffle=7, tail="uneven")
    else:
        dataset = ray_lance.read_lance(uri, shuffle=7 if path == "shuffled" else None)
        dataset = dataset.map_batches(noted, batch_size=None, batch_format="pyarrow")
        dataset = dataset.iter_torch_batches(batch_size=1024)
    return dataset

def spilled():
    (log,) = Path(ray._private.worker._global_node.get_logs_dir_path()).glob("raylet.out")
    printed = log.read_text().count(STATE)
    while log.read_text().count(STATE) < printed + 3:  # the second of them is whole, and newer than this call
        time.sleep(0.05)
    return int(re.search(SPILLED, log.read_text().split(STATE)[-2]).group(1))

ray.init("local", num_cpus=2, include_dashboard=False, object_store_memory=store, logging_level="ERROR")
ray.data.DataContext.get_current().enable_progress_bars = False
driver, rows, ids = [], 0, 0
stream = batches()
for _ in range(passes):
    for batch in stream:
        driver.append(own_memory())
        rows, ids = rows + len(batch["id"]), ids + int(batch["id"].sum())
print(json.dumps({"driver": driver, "rows": rows, "ids": ids, "spilled": spilled()}))
"""


@pytest.fixture(scope="module")
def many(tmp_path_factory) -> str:
    """20,000 fragments, none of which can be read: their files are empty."""
    uri = str(tmp_path_factory.mktemp("many") / "table.lance")
    rows = pa.table({"id": np.arange(10), "label": np.arange(10) % 3})
    (whole,) = write_fragments(rows, uri)
    described = [json.dumps({**whole.to_json(), "id": number}) for number in range(FRAGMENTS)]
    fragments = [lance.fragment.FragmentMetadata.from_json(text) for text in described]
    lance.LanceDataset.commit(uri, lance.LanceOperation.Overwrite(rows.schema, fragments))
    for path in Path(uri, "data").iterdir():
        path.write_bytes(b"")
    return uri


def planned(dataset: ray.data.Dataset) -> list:
    return dataset._logical_plan.dag.datasource.planned().tasks


@pytest.mark.parametrize("order", ["sequential", "shuffled"])
def test_planning_over_many_fragments_makes_few_tasks_and_opens_no_fragment(many, order):
    source = many if order == "sequential" else Permutation(many).shuffle(7)

    tasks = planned(read_lance(source))

    assert len(tasks) <= 2 * ray.cluster_resources()["CPU"]
    assert sum(task.num_rows for task in tasks) == 10 * FRAGMENTS
    with pytest.raises(pa.ArrowException, match="size 0"):  # the fragments cannot be read indeed
        lance.dataset(many).to_table()


@pytest.fixture(scope="module")
def large(tmp_path_factory) -> str:
    """Several times the object store; random, so that it is as large on disk."""
    uri = str(tmp_path_factory.mktemp("large") / "table.lance")
    for number in range(FILES):
        values = np.random.default_rng(number).random(FILE_ROWS * WIDTH, dtype=np.float32)
        ids = np.arange(number * FILE_ROWS, (number + 1) * FILE_ROWS)
        rows = pa.table({"id": ids, "vec": pa.FixedSizeListArray.from_arrays(pa.array(values), WIDTH)})
        lance.write_dataset(rows, uri, mode="append" if number else "create")
    return uri


def run(path: str, uri: str, folder: Path) -> tuple[dict, list[list[int]]]:
    """What a job delivered, and the memory that each of its task processes has noted."""
    command = [sys.executable, "-c", JOB, path, uri, str(folder), str(STORE), str(PASSES[path])]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-3000:]
    workers = [[int(line) for line in log.read_text().splitlines()] for log in folder.iterdir()]
    return json.loads(done.stdout.splitlines()[-1]), workers


def tenths(series: list[int]) -> tuple[int, int]:
    """The peaks of the first and of the last tenth."""
    tenth = max(1, len(series) // 10)
    return max(series[:tenth]), max(series[-tenth:])


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
@pytest.mark.parametrize("path", ["sequential", "shuffled", "iterable"])
def test_memory_stays_flat_over_a_dataset_larger_than_the_object_store(large, tmp_path, path):
    done, workers = run(path, large, tmp_path)

    rows, passes = FILES * FILE_ROWS, PASSES[path]
    assert (done["rows"], done["ids"]) == (passes * rows, passes * rows * (rows - 1) // 2)
    assert done["spilled"] == 0
    first, last = tenths(done["driver"])
    assert last <= 1.3 * first
    assert bool(workers) == (path != "iterable")
    # A process grows in its first blocks, to the size of what it reads at a time; one that has read few tells nothing.
    for worker in workers:
        if len(worker) >= 30:
            first, last = tenths(worker)
            assert last <= 1.3 * first, worker
