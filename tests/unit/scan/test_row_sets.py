"""Sets of row addresses: a scanner that is given one reads these rows and no others."""

from __future__ import annotations

import lance
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ray_lance.scan.row_sets import number_of_runs, row_set

# A container has 65,536 rows: bitmaps of four and more of them begin with offsets.
FRAGMENTS = (270_000, 10, 10, 140_000)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> lance.LanceDataset:
    """Fragments 0, 2 and 3: the first one has five containers, and number 1 is gone."""
    uri = str(tmp_path_factory.mktemp("row_sets") / "table.lance")
    for number, rows in enumerate(FRAGMENTS):
        lance.write_dataset(pa.table({"a": np.full(rows, number, np.int8)}), uri, mode="append" if number else "create")
    dataset = lance.dataset(uri)
    dataset.delete("a = 1")
    return lance.dataset(uri)


@pytest.fixture(scope="module")
def addresses(dataset) -> np.ndarray:
    return dataset.to_table(columns=[], with_row_id=True)["_rowid"].to_numpy()


@given(
    runs=st.lists(st.tuples(st.integers(0, sum(FRAGMENTS)), st.integers(1, 70_000)), min_size=1, max_size=20),
    single=st.lists(st.integers(0, sum(FRAGMENTS)), max_size=20),
    step=st.sampled_from([1, 2, 3]),
)
def test_a_scanner_reads_the_rows_of_the_set(dataset, addresses, runs, single, step):
    wanted = np.zeros(len(addresses), np.bool_)
    for start, length in runs:
        wanted[start : start + length : step] = True
    wanted[[place for place in single if place < len(wanted)]] = True
    if not wanted.any():
        wanted[0] = True

    scanner = dataset.scanner(columns=[], with_row_id=True, row_addr_allowlist=row_set(addresses[wanted]))

    assert np.array_equal(scanner.to_table()["_rowid"].to_numpy(), addresses[wanted])


def test_all_rows_are_a_set(dataset, addresses):
    scanner = dataset.scanner(columns=[], with_row_id=True, row_addr_allowlist=row_set(addresses))
    assert np.array_equal(scanner.to_table()["_rowid"].to_numpy(), addresses)


@pytest.mark.parametrize(("rows", "runs"), [([5], 1), ([5, 6, 7], 1), ([1, 3, 5], 3), ([1, 2, 9, 10, 12], 3)])
def test_runs_are_counted(rows, runs):
    assert number_of_runs(np.array(rows)) == runs
