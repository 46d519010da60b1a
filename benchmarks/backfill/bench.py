"""How fast is a column computed and written back, against the peers and against Lance in one process?

Usage: python benchmarks/backfill/bench.py [--rows 1000000] [--rounds 5]
"""

from __future__ import annotations

import argparse
import logging
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

os.environ["RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"] = "0"
sys.path.insert(0, str(Path(__file__).parents[1]))

import lance
import lance_ray
import numpy as np
import pyarrow as pa
import ray
import torch
from scan.bench import generate

import ray_lance
from harness import DATA, compare, save

FRAGMENTS = 20
HIDDEN = 256
NOTE = (
    "warm page cache, warm workers (three unmeasured rounds); ratios are paired within a round; every contender starts "
    "from the same version of the same dataset and undoes its work inside the measured time"
)


def norms(vectors: np.ndarray) -> np.ndarray:
    return np.sqrt(np.einsum("ij,ij->i", vectors, vectors))


class Model:
    """A small model on the CPU: two layers of a perceptron."""

    def __init__(self) -> None:
        torch.set_num_threads(1)
        torch.manual_seed(0)
        self.layers = torch.nn.Sequential(torch.nn.Linear(128, HIDDEN), torch.nn.ReLU(), torch.nn.Linear(HIDDEN, 1))

    def __call__(self, vectors: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return self.layers(torch.tensor(vectors))[:, 0].numpy()


_model: list[Model] = []


def scores(vectors: np.ndarray) -> np.ndarray:
    """The model, constructed once per process: for peers that take functions only."""
    if not _model:
        _model.append(Model())
    return _model[0](vectors)


class Scorer:
    def __init__(self) -> None:
        self.model = Model()

    def __call__(self, batch: dict) -> dict:
        return {"value": self.model(batch["vec"])}


def on_arrow(function):
    """``function`` as Lance and lance_ray.add_columns call it."""

    def transform(batch: pa.RecordBatch) -> pa.RecordBatch:
        vectors = batch["vec"].flatten().to_numpy().reshape(len(batch), -1)
        return pa.record_batch([pa.array(function(vectors))], ["value"])

    return transform


def on_lists(function):
    """``function`` as lance_ray.add_columns_from calls it."""
    return lambda batch: {"value": list(function(np.array(batch["vec"], np.float32)))}


def on_arrays(function):
    """``function`` as this library and ``map_batches`` call it."""
    return lambda batch: {"value": function(batch["vec"])}


class Undone:
    """Runs a contender on a dataset and puts the dataset back to where it was."""

    def __init__(self, uri: str) -> None:
        self.uri, self.version = uri, lance.dataset(uri).version

    def __call__(self, work) -> int:
        work()
        dataset = lance.dataset(self.uri)
        rows = dataset.count_rows("value IS NOT NULL")
        lance.dataset(self.uri, version=self.version).restore()
        return rows


def rewrite(uri: str, function) -> int:
    """The dataset with the new column, written to another place."""
    target = f"{uri}.rewritten"
    computed = ray_lance.read_lance(uri).map_batches(
        lambda batch: {**batch, "value": function(batch["vec"])}, batch_size=1024, batch_format="numpy"
    )
    ray_lance.write_lance(computed, target, mode="overwrite")
    rows = lance.dataset(target).count_rows("value IS NOT NULL")
    shutil.rmtree(target)
    return rows


def contenders(uri: str, function, ours, cores: int) -> dict:
    undone = Undone(uri)
    arguments = {"read_columns": ["vec"], "batch_size": 1024}
    return {
        "ray_lance.add_columns": lambda: undone(
            lambda: ray_lance.add_columns(
                uri, ours, input_columns=["vec"], **({"concurrency": cores} if isinstance(ours, type) else {})
            )
        ),
        "lance_ray.add_columns": lambda: undone(
            lambda: lance_ray.add_columns(uri, transform=on_arrow(function), concurrency=cores, **arguments)
        ),
        "Lance add_columns (in process)": lambda: undone(
            lambda: lance.dataset(uri).add_columns(
                lance.batch_udf(pa.schema([("value", pa.float32())]))(on_arrow(function)), **arguments
            )
        ),
        "rewrite: map_batches + write_lance": lambda: rewrite(uri, function),
        "lance_ray.add_columns_from": lambda: undone(
            lambda: lance_ray.add_columns_from(uri, transform=on_lists(function), **arguments)
        ),
    }


def cluster(cpus: int = 4) -> None:
    ray.init(
        num_cpus=cpus,
        include_dashboard=False,
        logging_level="ERROR",
        log_to_driver=False,
        object_store_memory=4 * 2**30,
    )
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    logging.getLogger("lance_ray").setLevel(logging.ERROR)
    ray.data.DataContext.get_current().enable_progress_bars = False


class Sleeper:
    """Stands in for a model on a GPU: busy for 50 ms per batch. Notes when."""

    def __init__(self, log: str) -> None:
        self.log = Path(log) / str(os.getpid())

    def __call__(self, batch: dict) -> dict:
        begin = time.monotonic()
        time.sleep(0.05)
        with self.log.open("a") as log:
            log.write(f"{begin} {time.monotonic()}\n")
        return {"value": batch["vec"][:, 0]}


def busy_share(uri: str, rows: int) -> dict:
    """Share of the time between its first and last call in which an actor was at work."""
    with tempfile.TemporaryDirectory() as folder:
        keywords = {"fn_constructor_kwargs": {"log": folder}, "batch_size": 4096, "concurrency": 2}
        Undone(uri)(lambda: ray_lance.add_columns(uri, Sleeper, input_columns=["vec"], **keywords))
        shares = []
        for log in Path(folder).iterdir():
            calls = np.loadtxt(log, ndmin=2)
            if len(calls) > 1:  # not the process that looked at the first batch
                shares.append(float((calls[:, 1] - calls[:, 0]).sum() / (calls[-1, 1] - calls[0, 0])))
    print(f"actors that sleep 50 ms per batch were busy {', '.join(f'{share:.1%}' for share in shares)} of the time")
    return {"question": "busy share of actors that sleep 50 ms per batch", "rows": rows, "shares": shares}


JOB = """
import sys
sys.path[:0] = [{folder!r}, {root!r}, {benchmarks!r}]
import bench, ray, ray_lance
bench.cluster()
ray.cloudpickle.register_pickle_by_value(bench)
fn = bench.on_arrays(bench.slow)
print(ray_lance.add_columns({uri!r}, fn, input_columns=["vec"], fragments_per_commit=2).seconds)
"""


def slow(vectors: np.ndarray) -> np.ndarray:
    time.sleep(0.01)
    return norms(vectors)


def cost_of_a_kill(uri: str, rows: int) -> dict:
    """Seconds of the job undisturbed, and of the same job killed at half of its fragments and started again."""
    undone = Undone(uri)
    here = Path(__file__).parent
    code = JOB.format(uri=uri, folder=str(here), root=str(here.parents[1]), benchmarks=str(here.parent))

    def start() -> subprocess.Popen:
        return subprocess.Popen(
            [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True
        )

    def seconds(job: subprocess.Popen) -> float:
        return float(job.communicate()[0].split()[-1])

    alone = seconds(start())
    undone(lambda: None)
    killed = start()
    while done_fragments(uri) == 0 and killed.poll() is None:
        time.sleep(0.05)
    begin_of_work = time.perf_counter()
    while done_fragments(uri) < FRAGMENTS // 2 and killed.poll() is None:
        time.sleep(0.05)
    at = time.perf_counter() - begin_of_work
    os.killpg(killed.pid, signal.SIGKILL)
    killed.communicate()
    rest = seconds(start())
    undone(lambda: None)
    print(f"undisturbed {alone:.1f} s; killed {at:.1f} s after its first commit, at half; the rest took {rest:.1f} s")
    return {
        "question": "a kill at half of the fragments (10 ms of sleep per batch)",
        "rows": rows,
        "undisturbed_s": alone,
        "rest_s": rest,
    }


def done_fragments(uri: str) -> int:
    return sum(len(fragment.metadata.files) > 1 for fragment in lance.dataset(uri).get_fragments())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--without-peers", action="store_true", help="measure only this library, and save nothing")
    parser.add_argument("--without-slow", action="store_true", help="leave lance_ray.add_columns_from out")
    arguments = parser.parse_args()
    DATA.mkdir(exist_ok=True)
    uri = generate(arguments.rows, FRAGMENTS, "backfill")
    cluster()
    results = []
    questions = (
        ("norm of a vector", norms, on_arrays(norms)),
        ("score by a torch model", scores, Scorer),
    )
    for question, function, ours in () if arguments.without_peers else questions:
        running = contenders(uri, function, ours, cores=2)
        if arguments.without_slow:
            del running["lance_ray.add_columns_from"]
        results.append(compare(question, running, rows=arguments.rows, rounds=arguments.rounds))
    busy_share(uri, arguments.rows)  # warms up
    results.append(busy_share(uri, arguments.rows))
    ray.shutdown()
    results.append(cost_of_a_kill(uri, arguments.rows))
    if not arguments.without_peers:
        save(results, Path(__file__).parent, NOTE)


if __name__ == "__main__":
    main()
