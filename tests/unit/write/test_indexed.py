"""Writes to tables that have indexes: every kind goes on answering right."""

from __future__ import annotations

import lance
import pyarrow as pa
import pytest

from tests.indexes import INDEXES, indexed_rows
from tests.orphans import orphans
from tests.writes import merge, write_tables


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


MERGES = {"upsert": {}, "update": {"insert": False}, "insert": {"update": False}, "mirror": {"delete_missing": True}}


def merge_like_lance(uri: str, new: pa.Table, *, update=True, insert=True, delete_missing=False) -> None:
    builder = lance.dataset(uri).merge_insert("k")
    if update:
        builder = builder.when_matched_update_all()
    if insert:
        builder = builder.when_not_matched_insert_all()
    if delete_missing:
        builder = builder.when_not_matched_by_source_delete()
    builder.execute(new)


def check_merges(uri: str, oracle: str, kind: str, what: str, *, stable: bool, rounds: int) -> None:
    """Merge into two equal tables, here and by Lance in process, and ask both after each step."""
    index = INDEXES[kind]
    for place in (uri, oracle):
        lance.write_dataset(indexed_rows(range(64)), place, max_rows_per_file=40, enable_stable_row_ids=stable)
        index.create(place)
    for turn in range(1, rounds + 1):
        new = indexed_rows(range(40 - 5 * turn, 64 + 8 * turn), change=turn)
        merge(uri, new, on=["k"], **MERGES[what])
        merge_like_lance(oracle, new, **MERGES[what])
        for step in ("merge_only", "optimize_indices", "compact_files"):
            for place in (uri, oracle):
                getattr(lance.dataset(place).optimize, step, lambda: None)()
            assert (step, index.wrong_answers(uri)) == (step, index.wrong_answers(oracle)) == (step, [])
        ours, theirs = (lance.dataset(place).to_table().sort_by("k").to_pydict() for place in (uri, oracle))
        assert ours == theirs
    lance.dataset(uri).validate()


@pytest.mark.parametrize(
    ("kind", "what", "stable"),
    [
        *((kind, "upsert", True) for kind in INDEXES),
        ("BITMAP", "upsert", False),
        ("BITMAP", "update", True),
        ("INVERTED", "insert", True),
        ("IVF_PQ", "insert", True),
        ("BTREE", "mirror", True),
        ("LABEL_LIST", "mirror", False),
    ],
)
def test_an_index_answers_after_a_merge_as_after_one_of_lance(uri, tmp_path, kind, what, stable):
    check_merges(uri, str(tmp_path / "oracle.lance"), kind, what, stable=stable, rounds=1)


@pytest.mark.slow
@pytest.mark.parametrize("stable", [False, True])
@pytest.mark.parametrize("what", MERGES)
@pytest.mark.parametrize("kind", INDEXES)
def test_an_index_answers_after_many_merges_as_after_those_of_lance(uri, tmp_path, kind, what, stable):
    check_merges(uri, str(tmp_path / "oracle.lance"), kind, what, stable=stable, rounds=3)
