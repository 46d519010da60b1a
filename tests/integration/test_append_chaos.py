"""A program that appends in groups is killed with SIGKILL again and again, then loses a worker, and is finished."""

from __future__ import annotations

import random
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import lance
import pyarrow as pa
import pytest
import ray

from tests.orphans import orphans

BLOCKS, ROWS, GROUP = 60, 10, 20
KILLS = 10
MOST_BLOCKS = 5

# Writes down which rows it computes; a kill is sent after a random number of these lines.
PROGRAM = """
import os, sys, time
sys.path.insert(0, {root!r})
import ray
import ray_lance

def compute(batch):
    if {exits_at} in batch["id"] and not os.path.exists({log!r} + ".exited"):
        open({log!r} + ".exited", "w").close()
        os._exit(1)  # Ray runs the task again
    with open({log!r}, "a") as log:
        log.write(" ".join(map(str, batch["id"])) + "\\n")
    time.sleep(0.05)
    return {{"id": batch["id"], "x": batch["id"] * 2}}

ray.init({address!r}, logging_level="ERROR", log_to_driver=False)
ray.data.DataContext.get_current().enable_progress_bars = False
rows = ray_lance.read_lance({source!r}, without={target!r}, on="id", override_num_blocks={blocks})
summary = ray_lance.write_lance(
    rows.map_batches(compute, batch_size=None), {target!r}, mode="append", commit_every={group}, id_column="id",
    concurrency=1,
)
print("done", summary.rows, flush=True)
"""


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_ten_kills_lose_no_row_and_repeat_none(tmp_path):
    source, target, log = str(tmp_path / "source.lance"), str(tmp_path / "target.lance"), tmp_path / "computed"
    lance.write_dataset(pa.table({"id": range(BLOCKS * ROWS)}), source)
    lance.write_dataset(pa.table({"id": pa.array([], pa.int64()), "x": pa.array([], pa.int64())}), target)
    log.touch()
    code = PROGRAM.format(
        root=str(Path(__file__).parents[2]),
        log=str(log),
        address=ray.get_runtime_context().gcs_address,
        source=source,
        target=target,
        blocks=BLOCKS,
        group=GROUP,
        exits_at=BLOCKS * ROWS - 1,
    )
    choice = random.Random(0)

    for _ in range(KILLS):
        kill_after(choice.randrange(MOST_BLOCKS), code, log)
    output = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, timeout=300, check=True)

    assert "done" in output.stdout
    found = lance.dataset(target).to_table().sort_by("id").to_pydict()
    assert found == {"id": list(range(BLOCKS * ROWS)), "x": [2 * i for i in range(BLOCKS * ROWS)]}
    assert 0 < int(output.stdout.split()[-1]) < BLOCKS * ROWS
    assert Path(f"{log}.exited").exists()
    assert orphans(target) == []


def kill_after(blocks: int, code: str, log: Path) -> None:
    """Run the program, and kill it once that many more blocks have been computed."""
    wanted = len(log.read_text().splitlines()) + blocks
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as program:
        while len(log.read_text().splitlines()) <= wanted:
            with suppress(subprocess.TimeoutExpired):
                program.wait(timeout=0.01)
                pytest.fail("the program ended before it was killed")
        program.kill()
