"""Writes to tables that have indexes: every kind goes on answering right."""

from __future__ import annotations

import lance
import pytest

from tests.indexes import INDEXES, indexed_rows
from tests.orphans import orphans
from tests.writes import write_tables


@pytest.mark.parametrize("kind", INDEXES)
def test_an_index_of_any_kind_answers_right_after_appends(uri, kind):
    index = INDEXES[kind]
    lance.write_dataset(indexed_rows(range(64)), uri, max_rows_per_file=40)
    index.create(uri)

    for start in (64, 80):
        write_tables(uri, [indexed_rows(range(start, start + 16))], mode="append")

        assert index.wrong_answers(uri) == []
    assert orphans(uri) == []

    lance.dataset(uri).optimize.optimize_indices()
    lance.dataset(uri).optimize.compact_files()
    assert index.wrong_answers(uri) == []
    assert lance.dataset(uri).to_table().sort_by("k").to_pydict() == indexed_rows(range(96)).to_pydict()


@pytest.mark.parametrize("storage", ["0.1", "2.0", "2.2"])
def test_files_fit_a_table_with_indexes_categories_and_dropped_columns(uri, storage):
    index = INDEXES["BITMAP"]
    lance.write_dataset(indexed_rows(range(20)), uri, data_storage_version=storage)
    index.create(uri)
    lance.dataset(uri).drop_columns(["tags"])
    lance.dataset(uri).add_columns({"double": "k * 2"})
    new = indexed_rows(range(20, 30)).drop_columns(["tags"])

    write_tables(uri, [new.append_column("double", [[2 * key for key in range(20, 30)]])], mode="append")

    assert index.wrong_answers(uri) == []
    found = lance.dataset(uri).to_table()
    assert found["double"].to_pylist() == [2 * key for key in range(30)]
    assert found["category"].to_pylist() == indexed_rows(range(30))["category"].to_pylist()
    assert lance.dataset(uri).data_storage_version == storage
