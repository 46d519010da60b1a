"""Peak memory of the driver and of the workers that compute a column, in a cluster of their own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import lance
import numpy as np
import pyarrow as pa
import pytest

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc"),
]

ROWS, WIDTH = 1024, 1024  # 4 MiB per fragment
FRAGMENTS = 12

# Notes the peak of each process's own memory, without the object store that all of them share.
JOB = """
import json, os, re, sys, threading
os.environ["RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"] = "0"
from pathlib import Path
import ray
import ray_lance

uri, in_actors = sys.argv[1], sys.argv[2] == "actors"
peaks = {}

def look(ended):
    own = str(os.getpid())
    while not ended.wait(0.05):
        for process in Path("/proc").glob("[0-9]*"):
            try:
                session = (process / "stat").read_text().rpartition(")")[2].split()[3]
                name = (process / "cmdline").read_text()
                status = (process / "status").read_text()
            except OSError:
                continue
            if session == str(os.getsid(0)) and (process.name == own or name.startswith("ray::")):
                kind = "driver" if process.name == own else "worker"
                found = re.search(r"RssAnon:\\s+(\\d+)", status)
                if found:
                    peaks[kind] = max(peaks.get(kind, 0), int(found.group(1)) * 1024)

def double(batch):
    return {"double": batch["vec"] * 2}

class Double:
    def __call__(self, batch):
        return double(batch)

ray.init("local", num_cpus=2, include_dashboard=False, object_store_memory=200 * 2**20, logging_level="ERROR")
ray.data.DataContext.get_current().enable_progress_bars = False
ended = threading.Event()
threading.Thread(target=look, args=(ended,), daemon=True).start()
summary = ray_lance.add_columns(
    uri, Double if in_actors else double, input_columns=["vec"], batch_size=128, concurrency=1, fragments_per_commit=4
)
ended.set()
print(json.dumps({**peaks, "rows": summary.rows}))
"""


def write(uri: str, fragments: int) -> None:
    """Fragments of equal size; one that exists only once on disk would be compressed or shared, so all differ."""
    for number in range(fragments):
        values = np.random.default_rng(number).random(ROWS * WIDTH, dtype=np.float32)
        rows = pa.table({"vec": pa.FixedSizeListArray.from_arrays(pa.array(values), WIDTH)})
        lance.write_dataset(rows, uri, mode="append" if number else "create")


def peaks(uri: str, workers: str) -> dict[str, int]:
    """Peak bytes of the driver and of the largest worker, and rows computed."""
    done = subprocess.run(
        [sys.executable, "-c", JOB, uri, workers],
        check=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
        cwd=Path(__file__).parents[2],
    )
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("workers", ["tasks", "actors"])
def test_memory_does_not_grow_with_the_dataset(tmp_path, workers):
    write(str(tmp_path / "small.lance"), FRAGMENTS)
    write(str(tmp_path / "large.lance"), 8 * FRAGMENTS)

    small = peaks(str(tmp_path / "small.lance"), workers)
    large = peaks(str(tmp_path / "large.lance"), workers)

    assert (small["rows"], large["rows"]) == (FRAGMENTS * ROWS, 8 * FRAGMENTS * ROWS)
    assert large["driver"] <= 1.3 * small["driver"]
    assert large["worker"] <= 1.3 * small["worker"]
