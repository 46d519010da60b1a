"""A job that is killed with SIGKILL again and again, by process group, and finished in the end."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import lance
import pytest

from tests.datasets import write_fragments
from tests.orphans import orphans

FRAGMENTS, ROWS, GROUP, BATCH = 120, 40, 3, 10
KILLS = 10
BATCHES_PER_GROUP = GROUP * ROWS // BATCH
# A kill comes after at most this many groups: without commits half of them would be repeated on average.
MOST_GROUPS = 8

# Writes down which rows it computes; a kill is sent after a random number of these lines. A batch takes a while, as
# that of a model does: otherwise all would be computed before the first group is written.
JOB = """
import os, sys, time
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
        time.sleep(0.05)
        kept = {{"_rowaddr": batch["_rowaddr"]}} if "_rowaddr" in batch else {{}}
        return {{**kept, "plus": batch["id"] + 1}}

ray.init("local", num_cpus=2, include_dashboard=False, object_store_memory=200 * 2**20, logging_level="ERROR")
ray.data.DataContext.get_current().enable_progress_bars = False
print("ready", flush=True)
summary = {call}
print("done", summary.rows, flush=True)
"""

ADD_COLUMNS = """ray_lance.add_columns(
    {uri!r}, Plus, input_columns=["id"], batch_size={batch}, concurrency=1, fragments_per_commit={group},
    fn_constructor_kwargs={{"log": {log!r}}},
)"""
PIPELINE = """ray_lance.merge_columns_from(
    {uri!r},
    ray_lance.read_lance(
        {uri!r}, columns=["id"], missing="plus", with_row_address=True, override_num_blocks=20
    ).map_batches(Plus, batch_size={batch}, concurrency=1, fn_constructor_kwargs={{"log": {log!r}}}),
    fragments_per_commit={group},
)"""


class Job:
    """The job in a process group of its own, Ray included."""

    def __init__(self, uri: str, log: Path, call: str = ADD_COLUMNS) -> None:
        root = str(Path(__file__).parents[2])
        call = call.format(uri=uri, log=str(log), batch=BATCH, group=GROUP)
        code = JOB.format(root=root, call=call)
        self.log = log
        self.process = subprocess.Popen(
            [sys.executable, "-c", code],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            start_new_session=True,
        )

    def kill_after(self, batches: int) -> None:
        """Kill everything once that many more batches have been computed."""
        target = len(batches_in(self.log)) + batches
        while len(batches_in(self.log)) < target:
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(timeout=0.01)
                pytest.fail("the job ended before it was killed")
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.communicate()

    def finish(self) -> str:
        output, _ = self.process.communicate(timeout=300)
        return output


def batches_in(log: Path) -> list[list[int]]:
    """Row ids of the batches that were computed."""
    return [[int(text) for text in line.split()] for line in log.read_text().splitlines()]


def rows_in(log: Path) -> int:
    return sum(map(len, batches_in(log)))


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_ten_kills_lose_nothing_and_repeat_little(uri, tmp_path):
    write_fragments(uri, [ROWS] * FRAGMENTS, deleted="id % 11 = 4")
    live = lance.dataset(uri).to_table(columns=["id"])["id"].to_pylist()
    log = tmp_path / "computed"
    log.touch()
    choice = random.Random(0)

    for _ in range(KILLS):
        has_column, done_before, computed_before = "plus" in lance.dataset(uri).schema.names, done(uri), rows_in(log)
        Job(uri, log).kill_after(choice.randrange(0, MOST_GROUPS * BATCHES_PER_GROUP))
        computed, kept = rows_in(log) - computed_before, done(uri) - done_before
        # Until there is a column, a batch is computed that only tells its type.
        assert 0 <= computed - kept <= GROUP * ROWS + (0 if has_column else BATCH)

    output = Job(uri, log).finish()

    assert "done" in output
    table = lance.dataset(uri).to_table(columns=["id", "plus"])
    assert table["id"].to_pylist() == live
    assert table["plus"].to_pylist() == [i + 1 for i in live]
    assert orphans(uri) == []
    computed = [row for batch in batches_in(log) for row in batch]
    assert set(computed) == set(live)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_pipeline_that_is_killed_computes_the_rest(uri, tmp_path):
    write_fragments(uri, [ROWS] * FRAGMENTS, deleted="id % 11 = 4")
    log = tmp_path / "computed"
    log.touch()

    Job(uri, log, PIPELINE).kill_after(200)
    before, computed = set(committed(uri)), len(batches_in(log))
    assert before
    output = Job(uri, log, PIPELINE).finish()

    assert "done" in output
    assert before.isdisjoint(row for batch in batches_in(log)[computed:] for row in batch)
    table = lance.dataset(uri).to_table(columns=["id", "plus"])
    assert table["plus"].to_pylist() == [i + 1 for i in table["id"].to_pylist()]
    assert orphans(uri) == []


def committed(uri: str) -> list[int]:
    if "plus" not in lance.dataset(uri).schema.names:
        return []
    return lance.dataset(uri).to_table(columns=["id"], filter="plus IS NOT NULL")["id"].to_pylist()


def done(uri: str) -> int:
    dataset = lance.dataset(uri)
    return dataset.count_rows("plus IS NOT NULL") if "plus" in dataset.schema.names else 0
