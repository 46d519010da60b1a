"""Three nodes, one lost half-way: every result is exact and nothing is left behind."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import lance
import pytest

from ray_lance import Permutation
from ray_lance.order import BatchSchedule
from tests.datasets import sample_table, write_fragments
from tests.orphans import orphans
from tests.programs.nodes import EPOCH

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

ROWS = 1000
ROOT = Path(__file__).parents[2]


@pytest.fixture
def table(uri) -> str:
    write_fragments(uri, [300, 1, 399, 300])
    return uri


def with_a_node_lost(job: str, uri: str, folder: Path) -> Any:
    command = [sys.executable, "-m", "tests.programs.nodes", job, uri, str(folder)]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=500)
    assert run.returncode == 0, run.stderr[-3000:]
    outcome = json.loads((folder / "outcome.json").read_text())  # Ray writes to the output, too
    assert outcome["lost"], "the job was over before a node had done any of it"
    return outcome["result"]


def test_a_read_delivers_every_row_once(table, tmp_path):
    assert with_a_node_lost("read", table, tmp_path) == list(range(ROWS))


def test_a_shuffled_read_keeps_its_order(table, tmp_path):
    permutation = Permutation(table).shuffle(7)
    ids = lance.dataset(table).take(permutation.rows(0, ROWS), columns=["id"])["id"].to_pylist()

    assert with_a_node_lost("shuffled", table, tmp_path) == ids


def test_training_gets_the_global_batches_of_an_undisturbed_run(table, tmp_path):
    permutation = Permutation(table).shuffle(7)
    batch = EPOCH["global_batch_size"]
    schedules = [BatchSchedule(ROWS, 2, batch, 2, rank) for rank in range(2)]
    ids = lance.dataset(table).take(permutation.rows(0, ROWS), columns=["id"])["id"].to_pylist()
    wanted = [
        sorted(i for schedule in schedules for piece in schedule.pieces(step) for i in ids[piece.start : piece.stop])
        for step in range(schedules[0].steps)
    ]

    assert with_a_node_lost("train", table, tmp_path) == wanted


def test_a_write_is_whole_and_leaves_nothing_behind(table, tmp_path):
    assert with_a_node_lost("write", table, tmp_path) == ROWS

    written = f"{tmp_path}/written.lance"
    assert lance.dataset(written).to_table().sort_by("id").equals(sample_table(ROWS))
    assert orphans(written) == []


def test_new_columns_are_whole_and_leave_nothing_behind(table, tmp_path):
    assert with_a_node_lost("columns", table, tmp_path) == ROWS

    rows = lance.dataset(table).to_table(columns=["id", "double"])
    assert rows["double"].to_pylist() == [2 * number for number in rows["id"].to_pylist()]
    assert orphans(table) == []
