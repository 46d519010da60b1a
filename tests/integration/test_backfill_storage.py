"""Computed columns of datasets in an object store and in a namespace."""

from __future__ import annotations

import sys
import traceback

import lance
import pytest
import ray

import ray_lance
from ray_lance.backfill.compute import Compute
from ray_lance.backfill.run import BackfillOptions, backfill
from ray_lance.errors import CommitError, RayLanceError
from ray_lance.table import TableRef
from tests.datasets import sample_table
from tests.orphans import orphans
from tests.s3 import SECRET, s3_server
from tests.writes import QUICK, Cue, FaultySend

# Workers cannot import this module.
ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])


@pytest.fixture(scope="module")
def s3():
    with s3_server() as server:
        yield server


@pytest.fixture
def table(s3, request) -> TableRef:
    """A dataset of three fragments and some deleted rows."""
    uri = s3.uri(request.node.name)
    for number in range(3):
        mode = "append" if number else "create"
        lance.write_dataset(sample_table(20, number * 20), uri, mode=mode, storage_options=s3.storage_options)
    lance.dataset(uri, storage_options=s3.storage_options).delete("id % 7 = 3")
    return TableRef.of(uri, storage_options=s3.storage_options)


def plus(batch: dict) -> dict:
    return {"plus": batch["id"] + 1}


def fails_at_50(batch: dict) -> dict:
    if 50 in batch["id"]:
        raise ValueError("fifty")
    return plus(batch)


def all_plus(dataset: lance.LanceDataset) -> bool:
    found = dataset.to_table(columns=["id", "plus"])
    return len(found) > 0 and found["plus"].to_pylist() == [i + 1 for i in found["id"].to_pylist()]


def unreferred(s3, table: TableRef) -> list[str]:
    """Data files of no version."""
    referred = set()
    for entry in table.open().versions():
        version = lance.dataset(table.uri, version=entry["version"], storage_options=s3.storage_options)
        referred.update(f"data/{file.path}" for part in version.get_fragments() for file in part.metadata.files)
    files = s3.files(table.uri.rsplit("/", 1)[1])
    return [path for path in files if path.startswith("data/") and path not in referred]


def test_a_column_on_an_object_store(s3, table):
    options = {"input_columns": ["id"], "storage_options": s3.storage_options, "fragments_per_commit": 1}

    summary = ray_lance.add_columns(table.uri, plus, **options)

    assert summary.fragments_done == 3
    assert SECRET not in repr(summary)
    assert all_plus(table.latest().open())
    assert unreferred(s3, table.latest()) == []
    assert ray_lance.add_columns(table.uri, plus, **options).rows == 0


def test_a_failure_on_an_object_store_leaves_no_file_and_shows_no_secret(s3, table):
    with pytest.raises(RayLanceError, match="fifty") as caught:
        ray_lance.add_columns(
            table.uri, fails_at_50, input_columns=["id"], storage_options=s3.storage_options, fragments_per_commit=1
        )

    assert SECRET not in "".join(traceback.format_exception(caught.value))
    assert unreferred(s3, table.latest()) == []


def test_a_commit_whose_answer_is_lost_is_applied_once(s3, table):
    send = FaultySend(after=Cue(frozenset({0, 1})))

    backfill(table, Compute(plus, ("id",)), BackfillOptions(retry=QUICK, fragments_per_commit=1), send)

    assert all_plus(table.latest().open())
    assert unreferred(s3, table.latest()) == []


def test_commits_that_keep_failing_leave_no_file(s3, table):
    names = table.open().schema.names

    with pytest.raises(CommitError) as caught:
        backfill(
            table,
            Compute(plus, ("id",)),
            BackfillOptions(retry=QUICK),
            FaultySend(before=Cue(frozenset(range(100)))),
        )

    assert SECRET not in str(caught.value)
    assert table.latest().open().schema.names == names
    assert unreferred(s3, table.latest()) == []


def test_a_table_of_a_namespace(tmp_path):
    namespace = {
        "table_id": ["table"],
        "namespace_impl": "dir",
        "namespace_properties": {"root": str(tmp_path / "namespace")},
    }
    ray_lance.write_lance(ray.data.from_arrow(sample_table(30)), **namespace)

    summary = ray_lance.add_columns(fn=plus, input_columns=["id"], **namespace)

    assert summary.rows == 30
    found = ray_lance.read_lance(**namespace, columns=["id", "plus"]).take_all()
    assert len(found) == 30
    assert all(row["plus"] == row["id"] + 1 for row in found)
    assert orphans(summary.uri) == [".lance-reserved"]  # the mark of the namespace
    assert ray_lance.add_columns(fn=plus, input_columns=["id"], **namespace).rows == 0
