"""A job that is killed with SIGKILL again and again, by process group, and finished in the end."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import lance
import pytest

from tests.datasets import write_fragments
from tests.orphans import orphans

FRAGMENTS, ROWS, GROUP, BATCH = 24, 40, 2, 10
KILLS = 10
# Fragments that are being read, computed or written besides those of the uncommitted group.
IN_FLIGHT = 6

# Says on standard output which rows it computes; a kill is sent after a random number of these lines.
JOB = """
import os, sys
os.environ["RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"] = "0"
sys.path.insert(0, {root!r})
import ray
import ray_lance

class Plus:
    def __init__(self, log):
        self.log = log

    def __call__(self, batch):
        with open(self.log, "a") as log:
            log.write(" ".join(map(str, batch["id"])) + "\\n")
        return {{"plus": batch["id"] + 1}}

ray.init(num_cpus=2, include_dashboard=False, object_store_memory=200 * 2**20, logging_level="ERROR")
ray.data.DataContext.get_current().enable_progress_bars = False
print("ready", flush=True)
summary = ray_lance.add_columns(
    {uri!r}, Plus, input_columns=["id"], batch_size={batch}, concurrency=1, fragments_per_commit={group},
    fn_constructor_kwargs={{"log": {log!r}}},
)
print("done", summary.rows, flush=True)
"""


@pytest.fixture(scope="session", autouse=True)
def ray_session():
    """No cluster in this process: each job has its own."""
    return


class Job:
    """The job in a process group of its own, Ray included."""

    def __init__(self, uri: str, log: Path) -> None:
        root = str(Path(__file__).parents[2])
        code = JOB.format(root=root, uri=uri, log=str(log), batch=BATCH, group=GROUP)
        self.log = log
        self.process = subprocess.Popen(
            [sys.executable, "-c", code],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            start_new_session=True,
        )

    def kill_after(self, batches: int) -> None:
        """Kill everything once that many more batches have been computed; returns at once where the job ends before."""
        target = self.computed() + batches
        while self.computed() < target and self.process.poll() is None:
            pass
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.communicate()

    def computed(self) -> int:
        return len(self.log.read_text().splitlines())

    def finish(self) -> str:
        output, _ = self.process.communicate(timeout=300)
        return output


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_ten_kills_lose_nothing_and_repeat_little(uri, tmp_path):
    write_fragments(uri, [ROWS] * FRAGMENTS, deleted="id % 11 = 4")
    live = lance.dataset(uri).to_table(columns=["id"])["id"].to_pylist()
    log = tmp_path / "computed"
    log.touch()
    choice = random.Random(0)

    for _ in range(KILLS):
        before = _done(uri)
        Job(uri, log).kill_after(choice.randrange(0, 2 * GROUP * ROWS // BATCH))
        assert _done(uri) >= before

    output = Job(uri, log).finish()

    assert "done" in output
    table = lance.dataset(uri).to_table(columns=["id", "plus"])
    assert table["id"].to_pylist() == live
    assert table["plus"].to_pylist() == [i + 1 for i in live]
    assert orphans(uri) == []
    computed = [int(text) for line in log.read_text().splitlines() for text in line.split()]
    assert set(computed) == set(live)
    # Of a killed job at most what it had not committed is computed again: what waited for its group, and what the
    # actor and the write tasks had at hand.
    assert len(computed) - len(live) <= KILLS * (GROUP + IN_FLIGHT) * ROWS


def _done(uri: str) -> int:
    dataset = lance.dataset(uri)
    return dataset.count_rows("plus IS NOT NULL") if "plus" in dataset.schema.names else 0
