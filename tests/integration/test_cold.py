"""The laws while the kernel forgets the dataset's files all the time, so that every read goes to the disk."""

from __future__ import annotations

from pathlib import Path

import lance
import numpy as np
import pytest

from ray_lance import Permutation, TableRef, read_lance
from tests.datasets import sample_table
from tests.executors import check_other_orders_refused, ranks
from tests.laws import (
    check_coverage,
    check_one_order,
    check_resume,
    check_same_batches,
    check_undisturbed,
    sequence,
)
from tests.page_cache import drop_from_page_cache, forgetting

ROWS = 40_000


@pytest.fixture(scope="module")
def table(tmp_path_factory) -> str:
    """Eight files, with a few rows deleted."""
    uri = tmp_path_factory.mktemp("cold") / "table.lance"
    lance.write_dataset(sample_table(ROWS), uri, max_rows_per_file=ROWS // 8).delete("id % 1000 = 77")
    return str(uri)


@pytest.fixture
def cold(table):
    """The files are not in the page cache; a test that ends without having read from the disk has shown nothing."""
    with forgetting(Path(table)) as held:
        if drop_from_page_cache([Path(table)]):
            pytest.skip("this file system keeps its files in memory")
        yield
    assert sum(held) > 0  # the reads have brought them back


def live_ids() -> list[int]:
    return [number for number in range(ROWS) if number % 1000 != 77]


def test_a_read_delivers_every_row_once(table, cold):
    rows = read_lance(table, override_num_blocks=8).take_all()

    check_coverage([row["id"] for row in rows], live_ids())
    assert all(list(row["vec"]) == [float(row["id"])] * 4 and row["text"] == f"row {row['id']}" for row in rows)


def test_every_way_to_read_has_the_order_of_arithmetic(table, cold):
    permutation = Permutation(table).shuffle(5, clump=8, window=1024)
    dataset = read_lance(permutation, columns=["id"], override_num_blocks=8)
    dataset.context.execution_options.preserve_order = True

    check_one_order(
        {
            "arithmetic": np.array(live_ids())[permutation.rows()],
            "read_lance": [row["id"] for row in dataset.take_all()],
            "LanceIterableDataset": sequence(ranks(permutation, columns=["id"], tail="uneven")(1)),
        }
    )


def test_the_global_batches_are_the_same_for_every_number_of_ranks(table, cold):
    options = {"columns": ["id", "text"], "shuffle": 5, "lanes": 2}

    check_same_batches({f"{size} ranks": ranks(table, prefetch=size, **options)(size) for size in (1, 2, 4)})


def test_a_stopped_run_goes_on_with_exactly_the_rest(table, cold):
    execute = ranks(table, columns=["id", "text"], shuffle=5, lanes=4, tail="uneven")

    check_resume(execute, [(2, 30), (1, 20)], 4)


def test_what_others_write_meanwhile_changes_nothing(tmp_path):
    uri = tmp_path / "table.lance"
    lance.write_dataset(sample_table(ROWS), uri, max_rows_per_file=ROWS // 8)
    pinned = TableRef.of(uri).pin()

    def disturb() -> None:
        lance.write_dataset(sample_table(100, ROWS), uri, mode="append").delete("id % 3 = 0")
        lance.dataset(uri).optimize.compact_files()

    with forgetting(tmp_path) as held:
        check_undisturbed(ranks(pinned, columns=["id"], shuffle=5), disturb, 2)
    assert sum(held) > 0


def test_states_of_other_orders_are_refused(table, cold):
    check_other_orders_refused(table)
