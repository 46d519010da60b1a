"""Permutations through Ray: the laws of an order, read by tasks in any number."""

from __future__ import annotations

import lance
import lancedb
import numpy as np
import pyarrow as pa
import pytest
import ray
from hypothesis import given, settings
from hypothesis import strategies as st
from lancedb.permutation import Permutation as LanceDbPermutation
from lancedb.permutation import permutation_builder

import ray_lance
from ray_lance import Permutation, read_lance
from tests.datasets import sample_table, write_fragments
from tests.examples import examples
from tests.laws import check_coverage, check_one_order

ROWS = 300


@pytest.fixture(scope="module")
def table(tmp_path_factory) -> str:
    uri = str(tmp_path_factory.mktemp("permutation") / "table.lance")
    write_fragments(uri, [100, 1, 139, 60], deleted="id % 11 = 4")
    return uri


def ids_of(dataset: ray.data.Dataset) -> list[int]:
    dataset.context.execution_options.preserve_order = True
    return [row["id"] for row in dataset.take_all()]


def ids_by_rows(permutation: Permutation) -> list[int]:
    dataset = permutation.table.open()
    rows = permutation.rows()
    taken = dataset.take(rows) if rows.dtype == np.int64 else dataset._take_rows(rows)
    return taken["id"].to_pylist()


class TestLaws:
    @settings(max_examples=examples(15))
    @given(
        seed=st.integers(-5, 2**70),
        epoch=st.integers(0, 5),
        clump=st.sampled_from([1, 2, 7, 64]),
        windows=st.integers(1, 80),
        num_blocks=st.none() | st.integers(1, 12),
    )
    def test_coverage_and_one_order(self, table, seed, epoch, clump, windows, num_blocks):
        permutation = Permutation(table).shuffle(seed, clump, clump * windows).epoch(epoch)
        read = ids_of(read_lance(permutation, override_num_blocks=num_blocks))
        check_coverage(read, [i for i in range(ROWS) if i % 11 != 4])
        check_one_order({"rows()": ids_by_rows(permutation), "read_lance": read})

    @pytest.mark.parametrize("filter", [None, "label < 6", "id > 10000"])
    @pytest.mark.parametrize("rank", [0, 2])
    def test_shards_splits_and_filters_are_read_in_their_order(self, table, filter, rank):
        part = Permutation(table, filter).split({"train": 0.8, "val": 0.2}, seed=1)["train"].shuffle(3, 4, 32)
        shard = part.shard(rank, 3).epoch(1)
        dataset = read_lance(shard, columns=["id", "vec"])
        assert dataset.count() == len(shard)
        assert dataset.schema().names == ["id", "vec"]
        assert ids_of(dataset) == ids_by_rows(shard)

    def test_each_execution_is_the_next_epoch(self, table):
        permutation = Permutation(table).shuffle(3)
        dataset = read_lance(permutation)
        epochs = [ids_of(dataset) for _ in range(3)]
        assert epochs == [ids_by_rows(permutation.epoch(e)) for e in range(3)]

    def test_a_fixed_epoch_is_read_by_every_execution(self, table):
        permutation = Permutation(table).shuffle(3).epoch(2)
        dataset = read_lance(permutation)
        assert ids_of(dataset) == ids_of(dataset) == ids_by_rows(permutation)

    def test_a_seed_is_a_shuffled_permutation(self, table):
        assert ids_of(read_lance(table, shuffle=9)) == ids_by_rows(Permutation(table).shuffle(9))
        assert ids_of(read_lance(table, columns=["id"], shuffle=9)) == ids_by_rows(Permutation(table).shuffle(9))
        filtered = Permutation(table, "label = 2").shuffle(9)
        assert ids_of(read_lance(table, filter="label = 2", shuffle=9)) == ids_by_rows(filtered)

    def test_pinned_while_others_change_the_dataset(self, uri):
        write_fragments(uri, [100, 100])
        permutation = Permutation(uri).shuffle(3, 2, 20).epoch(0)
        dataset = read_lance(permutation, override_num_blocks=10)
        before = ids_of(dataset)
        stream = iter(dataset.iter_batches(batch_size=10))
        seen = list(next(stream)["id"])
        lance.write_dataset(sample_table(50, 200), uri, mode="append")
        changed = lance.dataset(uri)
        changed.delete("id < 150")
        changed.optimize.compact_files()
        seen += [i for batch in stream for i in batch["id"]]
        assert seen == before


class TestReads:
    def test_all_columns_follow_the_rows(self, table):
        dataset = read_lance(Permutation(table).shuffle(1, 4, 64), with_row_id=True, with_metadata=True)
        for row in dataset.take_all():
            assert row["label"] == row["id"] % 10
            assert row["vec"].tolist() == [float(row["id"])] * 4
            assert row["text"] == f"row {row['id']}"
            assert row["_rowaddr"] >> 32 == row["_fragid"]

    @pytest.mark.fast_ways("_plans", "_pushdown")
    def test_projection_is_pushed_down(self, table):
        dataset = read_lance(table, shuffle=1).select_columns(["label", "id"])
        assert "columns   label: int64, id: int64" in ray_lance.explain(dataset)
        assert list(dataset.take(1)[0]) == ["label", "id"]

    def test_filters_stay_with_ray(self, table):
        from ray.data.expressions import col

        permutation = Permutation(table).shuffle(1)
        read = ids_of(read_lance(permutation).filter(expr=col("label") == 3))
        assert read == [i for i in ids_by_rows(permutation) if i % 10 == 3]

    @pytest.mark.parametrize("limit", [0, 1, 50, 1000])
    def test_limit(self, table, limit):
        permutation = Permutation(table).shuffle(1)
        dataset = read_lance(permutation, override_num_blocks=6)
        dataset.context.execution_options.preserve_order = True
        assert [row["id"] for row in dataset.limit(limit).take_all()] == ids_by_rows(permutation)[:limit]

    def test_count_of_no_columns(self, table):
        assert read_lance(table, shuffle=1).select_columns([]).count() == len(Permutation(table))

    def test_nested_columns_and_blobs(self, uri):
        blob = pa.field("blob", pa.large_binary(), metadata={"lance-encoding:blob": "true"})
        schema = pa.schema([("id", pa.int64()), ("a", pa.struct([("b", pa.int64()), ("c", pa.string())])), blob])
        blobs = [None if i % 5 == 0 else bytes([i]) * i for i in range(40)]
        rows = {"id": range(40), "a": [{"b": -i, "c": str(i)} for i in range(40)], "blob": blobs}
        lance.write_dataset(pa.table(rows, schema=schema), uri, max_rows_per_file=7)
        lance.dataset(uri).delete("id = 7")
        for source in (Permutation(uri), Permutation(uri, filter="id > 3")):
            read = read_lance(source.shuffle(1, 2, 8), columns=["id", "a.b", "blob"]).take_all()
            assert {row["id"]: row["a.b"] for row in read} == {row["id"]: -row["id"] for row in read}
            assert {row["id"]: row["blob"] for row in read} == {row["id"]: blobs[row["id"]] for row in read}
            assert 7 not in {row["id"] for row in read}

    def test_stable_row_ids(self, uri):
        lance.write_dataset(sample_table(60), uri, enable_stable_row_ids=True, max_rows_per_file=10)
        lance.dataset(uri).delete("id < 7")
        lance.dataset(uri).optimize.compact_files()
        for source in (Permutation(uri), Permutation(uri, filter="id >= 0")):
            check_coverage(ids_of(read_lance(source.shuffle(2))), range(7, 60))

    def test_an_empty_filter_result_is_an_empty_ray_dataset(self, table):
        dataset = read_lance(Permutation(table, filter="id < 0").shuffle(1))
        assert dataset.count() == 0
        assert dataset.take_all() == []
        assert dataset.schema().names == ["id", "label", "vec", "text"]

    def test_tasks_are_small_whatever_the_number_of_rows(self, table):
        from ray import cloudpickle

        for source in (Permutation(table), Permutation(table, filter="id >= 0")):
            tasks = read_lance(source.shuffle(1))._logical_plan.dag.datasource.get_read_tasks(1)
            assert all(len(cloudpickle.dumps(task.read_fn)) < 2048 for task in tasks)

    def test_explain_tells_the_quality(self, table):
        text = ray_lance.explain(Permutation(table).shuffle(1))
        assert "order     shuffled with seed 1: clumps of 1" in text
        assert "1.00x" in text


class TestLanceDb:
    @pytest.fixture
    def base(self, tmp_path):
        base = lancedb.connect(tmp_path).create_table("base", sample_table(100))
        base.delete("id = 5")
        return base

    @pytest.mark.parametrize("split", ["train", "test", 0, 1, None])
    def test_orders_are_read_as_lancedb_reads_them(self, base, split):
        builder = permutation_builder(base).split_random(ratios=[0.8, 0.2], seed=1, split_names=["train", "test"])
        orders = builder.shuffle(seed=3).execute()
        theirs = LanceDbPermutation.from_tables(base, orders, split)
        ours = Permutation.from_lancedb(base, orders, split)
        expected = [row["id"] for batch in theirs.iter(7, False) for row in batch]
        assert len(ours) == len(theirs)
        assert ours.fetch(range(len(ours)), columns=["id"], format="python_col")["id"] == expected
        assert ids_of(read_lance(ours, columns=["id"])) == expected

    def test_stay_at_their_base_version(self, base):
        orders = permutation_builder(base).shuffle(seed=3).execute()
        base.delete("id > 50")
        assert len(Permutation.from_lancedb(base, orders)) == 99
        assert sorted(ids_of(read_lance(Permutation.from_lancedb(base, orders)))) == [i for i in range(100) if i != 5]

    def test_whose_base_version_is_gone(self, base):
        orders = permutation_builder(base).shuffle(seed=3).execute().to_arrow()
        gone = orders.replace_schema_metadata({**orders.schema.metadata, b"base_version": b"77"})
        with pytest.raises(ray_lance.DatasetNotFoundError, match=r"was made from version 77 of .* which is gone"):
            Permutation.from_lancedb(base, gone)

    @pytest.mark.parametrize("split", ["valid", 7, -1])
    def test_unknown_split(self, base, split):
        orders = permutation_builder(base).split_random(ratios=[0.5, 0.5], split_names=["a", "b"]).execute()
        with pytest.raises(ray_lance.InvalidArgumentError, match=f"split={split!r} is none of"):
            Permutation.from_lancedb(base, orders, split)

    def test_something_else(self, base):
        with pytest.raises(ray_lance.InvalidArgumentError, match="permutation_table has the columns"):
            Permutation.from_lancedb(base, base)


class TestArguments:
    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"filter": "id = 1"}, "filter='id = 1' does not apply to a permutation"),
            ({"fragment_ids": [0]}, r"fragment_ids=\[0\] does not apply"),
            ({"version": 1}, "version=1 does not apply to a permutation"),
            ({"scanner_options": {"batch_size": 5}}, "scanner_options=.* does not apply"),
            ({"columns": ["idd"]}, "'idd'. Did you mean 'id'"),
            ({"override_num_blocks": 0}, "override_num_blocks=0"),
            ({"table_id": ["t"]}, "table_id=.* does not apply"),
            ({"storage_options": {"a": "b"}}, "storage_options"),
        ],
    )
    def test_that_do_not_apply_are_refused(self, table, arguments, message):
        with pytest.raises(ray_lance.InvalidArgumentError, match=message):
            read_lance(Permutation(table), **arguments)

    def test_a_shuffle_of_several_datasets_is_refused(self, table):
        with pytest.raises(ray_lance.InvalidArgumentError, match="shuffle=1: one dataset can be shuffled"):
            read_lance([table, table], shuffle=1)
