"""The row ids of offsets are those that Lance gives, whatever has been deleted and updated."""

from __future__ import annotations

import lance
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ray_lance.scan.pushdown import build_scan
from ray_lance.scan.row_ids import layout_of
from ray_lance.scan.take import take_rows
from ray_lance.table import TableRef
from tests.datasets import sample_table
from tests.examples import examples

ROWS = 60


@settings(max_examples=examples(30), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    deleted=st.lists(st.integers(0, ROWS - 1), max_size=40),
    updated=st.lists(st.integers(0, ROWS - 1), max_size=5),
    is_stable=st.booleans(),
    offsets=st.lists(st.integers(0, ROWS - 1)),
)
def test_row_ids_are_those_of_a_scan(tmp_path_factory, deleted, updated, is_stable, offsets):
    uri = str(tmp_path_factory.mktemp("layout") / "table.lance")
    table = pa.table({"id": range(ROWS)})
    dataset = lance.write_dataset(table, uri, max_rows_per_file=17, enable_stable_row_ids=is_stable)
    if updated:
        dataset.update({"id": "id"}, where=f"id IN ({', '.join(map(str, updated))})")
    if deleted:
        dataset.delete(f"id IN ({', '.join(map(str, deleted))})")
    expected = lance.dataset(uri).to_table(columns=[], with_row_id=True)["_rowid"].to_numpy()
    layout = layout_of(TableRef.of(uri).pin())
    assert layout is not None

    asked = np.sort(np.array([offset for offset in offsets if offset < len(expected)], np.int64))
    found, everything = layout.row_ids(asked), layout.row_ids(np.arange(len(expected)))

    assert found is not None
    assert everything is not None
    assert found.tolist() == expected[asked].tolist()
    assert everything.tolist() == expected.tolist()
    assert layout.row_ids(np.arange(len(expected) + 1)) is None


@pytest.mark.parametrize("is_stable", [False, True])
@pytest.mark.parametrize("columns", [["id", "text"], ["_rowid", "_fragid", "vec"], {"twice": "id * 2"}, []])
def test_of_tables_with_deleted_rows_no_row_is_taken_by_offset(uri, monkeypatch, is_stable, columns):
    """Lance takes milliseconds for each of them."""
    dataset = lance.write_dataset(sample_table(4000), uri, max_rows_per_file=900, enable_stable_row_ids=is_stable)
    dataset.delete("id % 7 = 3")
    rows = np.random.default_rng(0).permutation(3000)[:500]
    stored = columns if isinstance(columns, dict) else [name for name in columns if name[0] != "_"]
    expected = lance.dataset(uri).to_table(columns=stored, with_row_id=True).take(rows)

    def refuse(*_args: object, **_options: object) -> None:
        raise AssertionError("rows were taken by offset")

    monkeypatch.setattr(lance.LanceDataset, "take", refuse)
    taken = take_rows(build_scan([TableRef.of(uri).pin()], columns, None, [], {}), rows)

    assert taken.num_rows == len(rows)
    for name in set(taken.column_names) - {"_fragid"}:
        assert taken[name].to_pylist() == expected[name].to_pylist()
