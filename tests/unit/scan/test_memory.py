"""Memory of a read task is bounded by the task, not by the fragment it reads from."""

from __future__ import annotations

import json
import subprocess
import sys

import lance
import numpy as np
import pyarrow as pa
import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="peak memory is read from /proc")

SMALL_ROWS = 100_000  # of 512 bytes: more than one task

PROBE = """
import json, re, sys
from pathlib import Path
from ray_lance.scan.planning import FragmentRows, TaskSizing, plan_scan
from ray_lance.scan.reader import ReadPlan
from ray_lance.scan.pushdown import build_scan
from ray_lance.scan.size import row_bytes
from ray_lance.table import TableRef

scan = build_scan([TableRef.of(sys.argv[1]).pin()], None, sys.argv[2] or None, [], {})
fragments = [[FragmentRows(f.fragment_id, f.count_rows()) for f in scan.tables[0].open().get_fragments()]]
size = row_bytes(scan)
plan = ReadPlan(scan, scan.schema(), size)
tasks = plan_scan(scan, fragments, TaskSizing(size, 16 * 2**20))
rows = sum(table.num_rows for task in tasks for table in plan.read(task))
# Not ru_maxrss, which a child inherits from its parent.
peak = int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text()).group(1))
print(json.dumps({"peak": peak, "rows": rows, "tasks": len(tasks)}))
"""


def one_fragment(uri: str, rows: int) -> str:
    values = pa.array(np.random.default_rng(0).random(rows * 128, dtype=np.float32))
    table = pa.table({"id": np.arange(rows), "vec": pa.FixedSizeListArray.from_arrays(values, 128)})
    assert len(lance.write_dataset(table, uri, max_rows_per_file=rows).get_fragments()) == 1
    return uri


def probe(uri: str, filter: str) -> dict:
    run = subprocess.run([sys.executable, "-c", PROBE, uri, filter], capture_output=True, text=True, check=True)
    return json.loads(run.stdout)


@pytest.mark.slow
@pytest.mark.parametrize("filter", ["", "id >= 0"], ids=["all rows", "filtered"])
def test_a_fragment_eight_times_larger_takes_at_most_1_3_times_the_memory(tmp_path, filter):
    small = probe(one_fragment(str(tmp_path / "small.lance"), SMALL_ROWS), filter)
    large = probe(one_fragment(str(tmp_path / "large.lance"), 8 * SMALL_ROWS), filter)
    assert (small["rows"], large["rows"]) == (SMALL_ROWS, 8 * SMALL_ROWS)
    assert large["tasks"] > small["tasks"] or filter
    assert large["peak"] <= 1.3 * small["peak"], (small, large)
