"""The tables of docs/scaling.md are what the formulas give, and the formulas are what the code plans."""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass
from pathlib import Path

import lance
import numpy as np
import pyarrow as pa
import pytest

from ray_lance.order import BatchSchedule, DenseRows, RowPermutation
from ray_lance.permutation import Permutation
from ray_lance.scan.planning import TaskSizing, plan_steps
from ray_lance.scan.pushdown import build_scan
from ray_lance.scan.take import take_rows
from ray_lance.torch.prefetch import READ_BYTES, plan_reads

PAGE = Path(__file__).parents[2] / "docs" / "scaling.md"
RANKS = (8, 64, 1000)
BATCH = 256
# Defaults of LanceIterableDataset.
PREFETCH = THREADS = 3
WINDOWS_READ_WHOLE = 4 * READ_BYTES


@dataclass(frozen=True)
class Job:
    """A training job: N rows of b bytes in k columns, shuffled in clumps of c and windows of w, S rows/s per rank."""

    rows: int
    row_bytes: int
    columns: int
    clump: int
    window: int
    rate: int

    @property
    def read_rows(self) -> int:
        wanted = READ_BYTES // self.row_bytes
        return wanted if self.window == 1 else self.window * -(-wanted // (2 * self.window))

    @property
    def task_rows(self) -> int:
        task_bytes = min(max(32 * 2**20, self.window * self.row_bytes), 128 * 2**20)
        return BATCH * max(1, task_bytes // (BATCH * self.row_bytes))

    def order(self) -> RowPermutation:
        return RowPermutation(DenseRows(self.rows)).shuffle(0, self.clump, self.window)

    def schedule(self, ranks: int) -> BatchSchedule:
        return BatchSchedule(self.rows, ranks, BATCH * ranks, ranks)

    def line(self, ranks: int) -> dict[str, str]:
        read_bytes = self.read_rows * self.row_bytes
        requests, network = self.columns * self.rate / self.clump, self.rate * self.row_bytes
        return {
            "rows per rank and epoch": f"{self.rows // ranks:,}",
            "time of an epoch": _time(self.rows / ranks / self.rate),
            "steps": f"{self.rows // (BATCH * ranks):,}",
            "rows dropped at its end": f"{self.rows % (BATCH * ranks):,}",
            "requests/s per rank": f"{requests:,.0f}",
            "requests/s of all ranks": f"{requests * ranks:,.0f}",
            "network per rank": _rate(network),
            "network of all ranks": _rate(network * ranks),
            "reads per rank and epoch": f"{_two_digits(self.rows / ranks / self.read_rows):,}",
            "a read": f"{read_bytes / 2**20:.0f} MiB",
            "memory per rank, in process": f"{(1 + 1 + PREFETCH + THREADS) * read_bytes / 2**20:,.0f} MiB",
            "tasks per rank and epoch, in Ray": f"{_two_digits(self.rows / ranks / self.task_rows):,}",
            "a task, in Ray": f"{self.task_rows * self.row_bytes / 2**20:.0f} MiB",
        }


JOBS = {
    "Vectors": Job(1_000_000_000, 2056, 2, 64, 32_768, 20_000),
    "Images": Job(100_000_000, 110_008, 2, 1, 1, 1000),
    "Images in clumps": Job(100_000_000, 110_008, 2, 8, 1216, 1000),
}


def expected_table(job: Job) -> str:
    lines = [job.line(ranks) for ranks in RANKS]
    head = ["| GPUs | " + " | ".join(f"{ranks:,}" for ranks in RANKS) + " |", "|---|" + "---|" * len(RANKS)]
    return "\n".join(head + [f"| {name} | " + " | ".join(line[name] for line in lines) + " |" for name in lines[0]])


@pytest.mark.parametrize("name", JOBS)
def test_the_table_is_what_the_formulas_give(name):
    section = PAGE.read_text().partition(f"### {name}\n")[2]
    table = re.search(r"^\| GPUs.*?(?=\n\n|\Z)", section, re.MULTILINE | re.DOTALL)

    assert table is not None
    assert table.group(0).strip() == expected_table(JOBS[name])


@pytest.mark.parametrize("ranks", RANKS)
@pytest.mark.parametrize("name", JOBS)
def test_the_steps_are_the_schedules(name, ranks):
    job, line = JOBS[name], JOBS[name].line(ranks)
    schedule = job.schedule(ranks)

    assert f"{schedule.steps:,}" == line["steps"]
    assert f"{schedule.dropped:,}" == line["rows dropped at its end"]


@pytest.mark.parametrize("ranks", RANKS)
@pytest.mark.parametrize("name", JOBS)
def test_reads_in_process_are_planned_of_that_size(name, ranks):
    job = JOBS[name]
    schedule = job.schedule(ranks)
    steps = min(schedule.steps, 6 * job.read_rows // BATCH)

    reads = list(itertools.islice(plan_reads(schedule, range(steps), job.order(), job.row_bytes), 6))

    rows = [sum(stop - start for start, stop in read.ranges) for read in reads]
    # The first is a batch, or 512 KiB. The second ends with the window in which the lane begins; windows differ by a
    # clump.
    assert rows[0] == max(BATCH, 2**19 // job.row_bytes)
    assert all(job.read_rows - job.clump <= count <= job.read_rows for count in rows[2:])
    assert max(rows) * job.row_bytes <= WINDOWS_READ_WHOLE


@pytest.mark.parametrize("ranks", RANKS)
@pytest.mark.parametrize("name", JOBS)
def test_tasks_in_ray_are_planned_of_that_number(name, ranks):
    job = JOBS[name]
    sizing = TaskSizing.for_cluster(job.rows, job.row_bytes, cpus=4 * ranks)

    tasks = plan_steps(job.schedule(ranks), sizing, job.window)

    said = int(job.line(ranks)["tasks per rank and epoch, in Ray"].replace(",", ""))
    small = [task for task in tasks if task.num_rows * job.row_bytes <= 2**20]
    assert len(small) <= 4
    assert len(tasks) - len(small) == pytest.approx(said, rel=0.06)


@pytest.mark.parametrize("clump", [1, 16, 64])
def test_a_window_costs_at_most_a_request_for_each_clump_and_column(clump, uri):
    rows, columns, files = 100_000, ["label", "vec", "text"], 4
    values = pa.FixedSizeListArray.from_arrays(pa.array(np.arange(rows * 32, dtype=np.float32)), 32)
    texts = pa.array([f"text of row {row}" for row in range(rows)])
    table = pa.table({"label": np.arange(rows), "vec": values, "text": texts})
    lance.write_dataset(table, uri, max_rows_per_file=rows // files)
    order = Permutation(uri).shuffle(0, clump=clump, window=256 * clump)
    edges = order.order.window_edges()[:3] if clump > 1 else [0, 256, 512]
    scan, dataset = build_scan([order.table], columns, None, [], {}), order.table.open_for_takes()

    def requests(start: int, stop: int) -> int:
        dataset.io_stats_incremental()
        take_rows(scan, order.rows(int(start), int(stop)))
        return int(dataset.io_stats_incremental().read_iops)

    first, second = requests(edges[0], edges[1]), requests(edges[1], edges[2])

    clumps = [-(-int(stop - start) // clump) for start, stop in itertools.pairwise(edges)]
    assert 0 < second <= len(columns) * clumps[1]
    assert first <= len(columns) * (clumps[0] + 3 * files)


def _time(seconds: float) -> str:
    return f"{seconds / 3600:.1f} h" if seconds >= 3600 else f"{seconds / 60:.1f} min"


def _rate(value: float) -> str:
    return f"{value / 1e9:,.2f} GB/s" if value >= 1e9 else f"{value / 1e6:,.0f} MB/s"


def _two_digits(value: float) -> int:
    digits = len(str(int(value)))
    return int(round(value, 2 - digits))
