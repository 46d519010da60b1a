"""Columns of a Ray pipeline stored beside their rows: equal to one process, whatever order rows come in; resumable."""

from __future__ import annotations

import sys

import lance
import numpy as np
import pyarrow as pa
import pytest
import ray

import ray_lance
from ray_lance.backfill import gather
from ray_lance.backfill.claim import ColumnClaim
from ray_lance.backfill.merge import MergeColumnsOptions, merge_columns
from ray_lance.errors import CommitError, InvalidArgumentError
from ray_lance.table import TableRef
from tests.datasets import sample_table, write_fragments
from tests.orphans import orphans
from tests.writes import FaultySend

# Workers cannot import this module.
ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])

SIZES = [40, 1, 90, 30]


def first_stage(batch: dict) -> dict:
    return {"_rowaddr": batch["_rowaddr"], "n": batch["id"] + 1}


class SecondStage:
    """What a model in an actor would be."""

    def __call__(self, batch: dict) -> dict:
        n = batch["n"]
        return {
            "_rowaddr": batch["_rowaddr"],
            "plus": n,
            "vector": np.repeat(n[:, None], 4, axis=1).astype(np.float32),
            "grid": np.repeat(n, 6).reshape(-1, 2, 3).astype(np.float32),
            "text2": np.array([f"{each}!" for each in n], object),
            "ragged": [list(range(each % 3)) for each in n.tolist()],
        }


def pipeline(uri: str, **options):
    options.setdefault("columns", ["id"])
    return ray_lance.read_lance(uri, with_row_address=True, override_num_blocks=3, **options).map_batches(
        first_stage, batch_size=16
    )


def plus(batch: dict) -> dict:
    return {"_rowaddr": batch["_rowaddr"], "plus": batch["n"]}


def merge(uri: str, dataset, **options):
    return ray_lance.merge_columns_from(uri, dataset, **options)


def column(uri: str, name: str = "plus") -> dict[int, object]:
    table = lance.dataset(uri).to_table(columns=["id", name])
    return dict(zip(table["id"].to_pylist(), table[name].to_pylist(), strict=True))


def is_plus(found: dict[int, object]) -> bool:
    return len(found) > 0 and all(value == key + 1 for key, value in found.items())


def check_all(uri: str) -> None:
    """The dataset holds what one process computes of the same rows."""
    names = ["plus", "vector", "grid", "text2", "ragged"]
    ids = lance.dataset(uri).to_table(columns=["id"])["id"].to_numpy()
    expected = SecondStage()({"n": ids + 1, "_rowaddr": None})
    del expected["_rowaddr"]
    found = lance.dataset(uri).to_table(columns=names)
    for name in names:
        values = ray_lance.tensors.from_tensors({name: expected[name]})[name].to_pylist()
        assert found[name].to_pylist() == values, name
    lance.dataset(uri).validate()
    assert orphans(uri) == []


@pytest.mark.parametrize("shuffled", [False, True], ids=["in order", "shuffled"])
def test_two_stages_and_an_actor_equal_one_process(uri, shuffled, monkeypatch):
    write_fragments(uri, SIZES, deleted="id % 7 = 3")
    computed = pipeline(uri).map_batches(SecondStage, batch_size=16, concurrency=1)
    if shuffled:
        monkeypatch.setattr(gather.FragmentGatherer.__init__, "__defaults__", (1,))  # sorts where few blocks are mixed
        computed = computed.repartition(6).random_shuffle(seed=1)

    summary = merge(uri, computed)

    rows = lance.dataset(uri).count_rows()
    assert (summary.rows, summary.fragments_done, summary.fragments_skipped) == (rows, len(SIZES), 0)
    check_all(uri)


def test_rows_that_a_filter_leaves_out(uri):
    write_fragments(uri, SIZES)
    even = pipeline(uri).map_batches(plus).filter(lambda row: row["plus"] % 2 == 0)

    with pytest.raises(InvalidArgumentError, match="rows too few"):
        merge(uri, even)
    assert "plus" not in lance.dataset(uri).schema.names

    merge(uri, even, require_full_coverage=False)
    assert column(uri) == {key: key + 1 if key % 2 else None for key in range(sum(SIZES))}

    # Fragment 1 has one row, which was left out: it has no values yet.
    rest = pipeline(uri, missing="plus").map_batches(plus)
    assert merge(uri, rest).rows == 1
    odd = (
        pipeline(uri)
        .map_batches(lambda batch: {**plus(batch), "plus": -batch["n"]})
        .filter(lambda row: row["plus"] % 3 == 0)
    )
    merge(uri, odd, columns="plus", overwrite=True, require_full_coverage=False)

    kept = {key: key + 1 if key % 2 or key == 40 else None for key in range(sum(SIZES))}
    assert column(uri) == {key: -(key + 1) if (key + 1) % 3 == 0 else kept[key] for key in kept}


def test_rows_that_come_twice_or_are_of_others_are_refused(uri):
    dataset = write_fragments(uri, [20, 20], deleted="id = 5")
    rows = lance.dataset(uri).to_table(columns=["id"], with_row_address=True).rename_columns(["plus", "_rowaddr"])
    version = dataset.version
    foreign = pa.table({"plus": [1], "_rowaddr": pa.array([5], pa.uint64())})

    for wrong, text in [
        (pa.concat_tables([rows, rows.slice(3, 1)]), "more"),
        (pa.concat_tables([rows.slice(1), foreign.cast(rows.schema)]), "offset 5.*no such row"),
        (
            pa.concat_tables([rows, pa.table({"plus": [1], "_rowaddr": [9 << 32]}).cast(rows.schema)]),
            "no such fragment",
        ),
    ]:
        with pytest.raises(InvalidArgumentError, match=text):
            merge(uri, ray.data.from_arrow(wrong), read_version=version)
        assert "plus" not in lance.dataset(uri).schema.names
    assert orphans(uri) == []


@pytest.mark.parametrize("on", ["_rowaddr", "_rowid"])
def test_stable_row_ids_and_concurrent_appends_and_deletions(uri, on):
    lance.write_dataset(sample_table(sum(SIZES)), uri, max_rows_per_file=50, enable_stable_row_ids=True)
    lance.dataset(uri).delete("id % 10 = 4")
    lance.dataset(uri).optimize.compact_files(target_rows_per_fragment=60)
    read = ray_lance.read_lance(uri, columns=["id"], with_row_id=True, with_row_address=True, override_num_blocks=3)
    computed = read.map_batches(lambda batch: {on: batch[on], "plus": batch["id"] + 1})

    def others() -> None:
        lance.write_dataset(lance.dataset(uri).to_table().slice(0, 3), uri, mode="append")
        lance.dataset(uri).delete("id = 2")

    merge_columns(TableRef.of(uri), computed, MergeColumnsOptions(on=on), FaultySend(meanwhile=others))

    found = lance.dataset(uri).to_table(columns=["id", "plus"]).to_pylist()
    assert [row for row in found if row["plus"] not in (row["id"] + 1, None)] == []
    assert sum(row["plus"] is None for row in found) == 2
    assert merge(uri, pipeline(uri, missing="plus").map_batches(plus)).rows == 2
    assert is_plus(column(uri))


def test_fragments_that_were_rewritten_are_refused(uri):
    write_fragments(uri, [20, 20, 200])
    computed = pipeline(uri).map_batches(plus)
    late = FaultySend(meanwhile=lambda: lance.dataset(uri).optimize.compact_files(target_rows_per_fragment=50))

    with pytest.raises(CommitError, match=r"2 fragments of version .*run the program again"):
        merge_columns(TableRef.of(uri), computed, MergeColumnsOptions(), late)
    with pytest.raises(CommitError, match=r"2 fragments of version .*run the program again"):
        merge(uri, computed)

    assert column(uri)[239] == 240
    assert merge(uri, pipeline(uri, missing="plus").map_batches(plus)).rows == 40
    assert is_plus(column(uri))


def test_what_was_interrupted_is_resumed(uri):
    write_fragments(uri, SIZES)

    def fails_late(batch: dict) -> dict:
        if 140 in batch["n"]:
            raise OSError("a disk is full")
        return plus(batch)

    with pytest.raises(Exception, match="a disk is full"):
        merge(uri, pipeline(uri).map_batches(fails_late, batch_size=8))
    done = [key for key, value in column(uri).items() if value is not None] if "plus" in names(uri) else []

    rest = pipeline(uri, missing="plus").map_batches(plus)
    assert rest.count() == sum(SIZES) - len(done)
    merge(uri, rest)
    assert is_plus(column(uri))
    version = lance.dataset(uri).version
    summary = merge(uri, pipeline(uri, missing="plus").map_batches(plus))
    assert (summary.rows, summary.fragments_skipped, lance.dataset(uri).version) == (0, len(SIZES), version)


class Killed(BaseException):
    """The driver is killed."""


def killed_after_a_commit(*arguments, **options):
    """Commits, and kills the driver once values are committed."""
    dataset = lance.LanceDataset.commit(*arguments, **options)
    if isinstance(dataset.read_transaction(dataset.version).operation, lance.LanceOperation.DataReplacement):
        raise Killed
    return dataset


def test_a_killed_driver_costs_what_was_not_committed(uri, monkeypatch):
    write_fragments(uri, [10] * 12, deleted="id % 7 = 3")

    with monkeypatch.context() as killed:
        killed.setattr(ColumnClaim, "_wind_up", lambda *_: None)
        with pytest.raises(Killed):
            merge_columns(
                TableRef.of(uri),
                pipeline(uri).map_batches(plus),
                MergeColumnsOptions(fragments_per_commit=1),
                killed_after_a_commit,
            )
    done = lance.dataset(uri).count_rows("plus IS NOT NULL")
    assert done > 0
    lance.write_dataset(sample_table(5, 500), uri, mode="append")

    rest = pipeline(uri, missing="plus")
    assert rest.count() == lance.dataset(uri).count_rows() - done
    # The columns that the pipeline adds are those that it reads the missing rows of: the same program, run again.
    assert merge(uri, rest.map_batches(plus)).rows == lance.dataset(uri).count_rows() - done
    assert is_plus(column(uri))
    assert orphans(uri) == []
    assert merge(uri, pipeline(uri, missing="plus").map_batches(plus)).fragments_done == 0


def names(uri: str) -> list[str]:
    return lance.dataset(uri).schema.names


def test_what_does_not_fit_is_refused_before_anything_runs(uri, tmp_path):
    version = write_fragments(uri, [5]).version
    other = str(tmp_path / "other.lance")
    write_fragments(other, [5])
    read = ray_lance.read_lance(uri, with_row_address=True)
    for wrong, options, text in [
        (ray_lance.read_lance(uri), {}, "with_row_address=True"),
        (read, {"on": "_rowid"}, "with_row_id=True"),
        (read, {"columns": ["id"]}, "exists already"),
        (read, {"overwrite": True}, "name the columns"),
        (read, {"columns": ["x", "_rowaddr"]}, "none of"),
        (read.materialize(), {}, "read_version="),
        (ray_lance.read_lance(other, with_row_address=True), {}, "reads .*other.lance"),
        (ray_lance.read_lance([uri, other], with_row_address=True), {}, "several datasets"),
        (read, {"read_version": 70}, "reads version"),
        ([1], {}, "ray.data.Dataset"),
    ]:
        with pytest.raises(InvalidArgumentError, match=text):
            merge(uri, wrong, **options)
    assert lance.dataset(uri).version == version
