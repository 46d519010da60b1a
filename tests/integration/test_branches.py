"""Branches and clones through Ray: every operation, held against Lance's own on a branch beside."""

from __future__ import annotations

import lance
import pyarrow as pa
import pytest
import ray

import ray_lance
from ray_lance import TableRef, read_lance
from ray_lance.cli import main
from ray_lance.train import LanceDataConfig
from tests.branches import WAYS, branched, open_branch, rows_of
from tests.datasets import sample_table

NEW = pa.concat_tables([sample_table(3, start=500), sample_table(2)])


@pytest.fixture
def table(uri):
    return branched(uri)


def by_id(rows: pa.Table) -> pa.Table:
    return rows.sort_by("id")


@pytest.mark.parametrize("way", WAYS)
def test_a_read_has_the_rows_of_the_branch(table, way):
    dataset = read_lance(WAYS[way](table, "team/x"), filter="id > 2")

    assert dataset.count() == 7
    assert sorted(row["id"] for row in dataset.take_all()) == [3, 4, 5, 6, 7, 100, 101]


@pytest.mark.parametrize("version", [("team/x", None), ("team/x", 3), "tag-of-1"])
def test_a_read_takes_the_branch_as_version(table, version):
    assert read_lance(table, version=version).count() == 9


def test_what_is_said_of_a_read_names_the_branch(table, capsys):
    assert f"{table}/tree/dev" in ray_lance.explain(TableRef.of(table, version=("dev", None)))
    assert main(["explain", f"{table}/tree/team/x"]) == 0
    assert "rows      9" in capsys.readouterr().out


def test_train_shards_are_of_the_branch(table):
    dataset = read_lance(open_branch(table, "dev"), columns=["id"])
    (shards,) = LanceDataConfig(batch_size=4, tail="uneven").configure({"train": dataset}, 1, None, None)

    ids = [number for batch in shards["train"].iter_torch_batches() for number in batch["id"].tolist()]
    assert ids == rows_of(table, "dev")["id"].to_pylist()


@pytest.mark.parametrize("delete_missing", [False, True])
def test_a_merge_into_a_branch_is_lances(table, delete_missing):
    before = rows_of(table)
    merge = lance.dataset(table).create_branch("lances", ("dev", None)).merge_insert("id")
    merge = merge.when_matched_update_all().when_not_matched_insert_all()
    (merge.when_not_matched_by_source_delete() if delete_missing else merge).execute(NEW)

    ray_lance.write_lance(
        ray.data.from_arrow(NEW),
        TableRef.of(open_branch(table, "dev")),
        mode="merge",
        on="id",
        delete_missing=delete_missing,
    )

    assert by_id(rows_of(table, "dev")) == by_id(rows_of(table, "lances"))
    assert rows_of(table) == before


def test_columns_of_a_branch_are_added_there_and_resumed(table):
    def add(target: object) -> ray_lance.AddColumnsSummary:
        return ray_lance.add_columns(target, lambda batch: {"double": batch["id"] * 2}, input_columns=["id"])

    summary = add(TableRef.of(table, version=("dev", None)))
    assert summary.uri == f"{table}/tree/dev"
    lance.write_dataset(sample_table(2, start=300), f"{table}/tree/dev", mode="append")
    again = add(open_branch(table, "dev"))

    rows = rows_of(table, "dev")
    assert rows["double"].to_pylist() == [number * 2 for number in rows["id"].to_pylist()]
    assert (again.fragments_done, again.rows) == (1, 2)
    assert lance.dataset(table).schema.names == sample_table(0).column_names


def test_a_shallow_clone_is_merged_into_and_gets_columns(table, tmp_path):
    before, uri = rows_of(table), str(tmp_path / "clone")
    lance.dataset(table).shallow_clone(uri, 2)

    ray_lance.write_lance(ray.data.from_arrow(NEW), uri, mode="merge", on="id")
    ray_lance.add_columns(uri, lambda batch: {"double": batch["id"] * 2}, input_columns=["id"])

    rows = lance.dataset(uri).to_table()
    assert sorted(rows["id"].to_pylist()) == [0, 1, 2, 3, 4, 5, 6, 7, 500, 501, 502]
    assert rows["double"].to_pylist() == [number * 2 for number in rows["id"].to_pylist()]
    assert rows_of(table) == before
