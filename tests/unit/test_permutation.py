"""Permutation: the order of a table's rows, as a recipe."""

from __future__ import annotations

import itertools
import json
import pickle
import shutil

import lance
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import torch

import ray_lance
from ray_lance import Permutation, TableRef
from tests.datasets import sample_table, write_fragments


@pytest.fixture
def table(uri):
    return write_fragments(uri, [40, 1, 39, 20])


def ids_of(permutation: Permutation, **options) -> list[int]:
    return permutation.fetch(range(len(permutation)), columns=["id"], format="python_col", **options)["id"]


def _rewrite(place, change, rows=None) -> None:
    """Replace what a saved permutation says of itself, and its row ids."""
    stored = lance.dataset(place).to_table()
    (key,) = stored.schema.metadata
    changed = change(json.loads(stored.schema.metadata[key]))
    text = changed if isinstance(changed, str) else json.dumps(changed)
    rows = stored["row_id"].combine_chunks() if rows is None else rows
    table = pa.table({"row_id": rows}).replace_schema_metadata({key: text})
    lance.write_dataset(table, place, mode="overwrite")


def _without(saved: dict, key: str) -> dict:
    return {name: value for name, value in saved.items() if name not in (key, "digest")}


def _with(saved: dict, **changes) -> dict:
    return {**_without(saved, "digest"), **changes}


def _with_order(saved: dict, **changes) -> dict:
    return _with(saved, order={**saved["order"], **changes})


class TestOrder:
    def test_is_the_scan_order_at_first(self, table, uri):
        assert ids_of(Permutation(uri)) == table.to_table()["id"].to_pylist()

    def test_skips_deleted_rows(self, table, uri):
        table.delete("id % 3 = 0")
        permutation = Permutation(uri)
        assert len(permutation) == 66
        assert ids_of(permutation) == [i for i in range(100) if i % 3]

    @pytest.mark.parametrize(("clump", "window"), [(1, 1), (4, 16), (8, 8), (16, 1600), ("auto", "auto"), ("auto", 6)])
    def test_a_shuffle_has_every_row_once(self, table, uri, clump, window):
        shuffled = Permutation(uri).shuffle(5, clump, window)
        assert sorted(ids_of(shuffled)) == list(range(100))
        assert ids_of(shuffled) != list(range(100))

    def test_depends_on_seed_and_epoch_alone(self, table, uri):
        shuffled = Permutation(uri).shuffle(5)
        assert ids_of(shuffled) == ids_of(Permutation(uri).shuffle(5))
        assert ids_of(shuffled) == ids_of(shuffled.epoch(0))
        assert ids_of(shuffled) != ids_of(shuffled.epoch(1))
        assert ids_of(shuffled) != ids_of(Permutation(uri).shuffle(6))

    def test_shards_are_disjoint_and_complete(self, table, uri):
        shuffled = Permutation(uri).shuffle(5)
        shards = [ids_of(shuffled.shard(rank, 3)) for rank in range(3)]
        assert list(itertools.chain(*shards)) == ids_of(shuffled)

    def test_slices_like_a_sequence(self, table, uri):
        shuffled = Permutation(uri).shuffle(5)
        assert ids_of(shuffled[10:-20]) == ids_of(shuffled)[10:-20]

    def test_of_a_filter(self, table, uri):
        table.delete("id = 13")
        permutation = Permutation(uri, filter="label = 3")
        assert ids_of(permutation) == [3, 23, 33, 43, 53, 63, 73, 83, 93]
        assert sorted(ids_of(permutation.shuffle(1))) == ids_of(permutation)

    def test_of_a_filter_that_nothing_passes(self, table, uri):
        assert len(Permutation(uri, filter="id > 1000")) == 0

    def test_with_stable_row_ids(self, uri):
        lance.write_dataset(sample_table(50), uri, enable_stable_row_ids=True, max_rows_per_file=10)
        dataset = lance.dataset(uri)
        dataset.delete("id < 5")
        dataset.optimize.compact_files()
        assert ids_of(Permutation(uri)) == list(range(5, 50))
        assert ids_of(Permutation(uri, filter="label = 7")) == [7, 17, 27, 37, 47]

    def test_stays_pinned(self, table, uri):
        shuffled = Permutation(uri).shuffle(5)
        before = ids_of(shuffled)
        recipe = pickle.dumps(shuffled)
        lance.write_dataset(sample_table(30, 100), uri, mode="append")
        changed = lance.dataset(uri)
        changed.delete("id < 50")
        changed.optimize.compact_files()
        assert ids_of(shuffled) == before
        assert ids_of(pickle.loads(recipe)) == before


class TestSplit:
    def test_parts_are_disjoint_and_complete(self, table, uri):
        parts = Permutation(uri).split({"train": 0.8, "val": 0.2}, seed=3)
        assert {name: len(part) for name, part in parts.items()} == {"train": 80, "val": 20}
        assert sorted(ids_of(parts["train"]) + ids_of(parts["val"])) == list(range(100))

    def test_parts_are_the_same_in_every_epoch(self, table, uri):
        part = Permutation(uri).split({"val": 0.2}, seed=3)["val"].shuffle(1)
        assert sorted(ids_of(part.epoch(0))) == sorted(ids_of(part.epoch(1)))

    def test_without_a_seed_is_sequential(self, table, uri):
        parts = Permutation(uri).split({"a": 0.5, "b": 0.25}, seed=None)
        assert ids_of(parts["a"]) == list(range(50))
        assert ids_of(parts["b"]) == list(range(50, 75))

    @pytest.mark.parametrize("by", ["label", "text", ["label", "text"]])
    @pytest.mark.parametrize("filter", [None, "id > 20"])
    def test_by_columns_keeps_equal_values_together_and_stays_when_rows_are_appended(self, table, uri, by, filter):
        fractions = {"train": 0.7, "val": 0.3}
        before = {name: ids_of(part) for name, part in Permutation(uri, filter).split(fractions, by=by).items()}
        lance.write_dataset(sample_table(40, 100), uri, mode="append")
        after = {name: ids_of(part) for name, part in Permutation(uri, filter).split(fractions, by=by).items()}
        assert sorted(itertools.chain(*after.values())) == list(range(0 if filter is None else 21, 140))
        for name in fractions:
            assert before[name] == [i for i in after[name] if i < 100]
        if by == "label":
            assert {i % 10 for i in after["train"]}.isdisjoint(i % 10 for i in after["val"])

    def test_by_columns_a_shuffle_keeps_neighbours_together(self, table, uri):
        fractions = {"train": 0.7, "val": 0.3}
        first = Permutation(uri).shuffle(3, clump=4, window=8).split(fractions, by="text")
        second = Permutation(uri).split(fractions, by="text")
        for name in fractions:
            assert ids_of(first[name]) == ids_of(second[name].shuffle(3, clump=4, window=8))

    def test_of_a_table_of_a_namespace_can_be_sent_to_workers(self, tmp_path):
        lance.write_dataset(sample_table(20), str(tmp_path / "words.lance"))
        ref = TableRef(None, namespace_impl="dir", namespace_properties={"root": str(tmp_path)}, table_id=("words",))
        permutation = Permutation(ref).shuffle(1)

        assert ids_of(pickle.loads(pickle.dumps(permutation))) == ids_of(permutation)

    @pytest.mark.parametrize(
        ("fractions", "options", "message"),
        [
            ({"a": 0.7, "b": 0.7}, {}, "add up to"),
            ({"a": 0.7, "b": 0.7}, {"by": "label"}, "add up to"),
            ({"a": -0.1}, {}, "must be a positive number"),
            ({}, {}, "fractions is empty"),
            ({"a": 0.5}, {"by": "lable"}, "'lable'. Did you mean 'label'"),
            ({"a": 0.5}, {"by": "label", "seed": None}, "seed=None"),
            ({"a": 0.5}, {"by": "vec"}, "columns"),
        ],
    )
    def test_wrong_fractions_are_refused(self, table, uri, fractions, options, message):
        with pytest.raises(ray_lance.InvalidArgumentError, match=message):
            Permutation(uri).split(fractions, **options)


class TestFingerprint:
    def test_is_the_same_wherever_the_dataset_lies(self, table, uri, tmp_path):
        shutil.copytree(uri, tmp_path / "elsewhere.lance")
        here, there = Permutation(uri).shuffle(5), Permutation(tmp_path / "elsewhere.lance").shuffle(5)
        assert here.fingerprint == there.fingerprint

    def test_does_not_cover_the_epoch(self, table, uri):
        shuffled = Permutation(uri).shuffle(5)
        assert shuffled.epoch(3).fingerprint == shuffled.fingerprint

    def test_differs_for_every_other_order(self, table, uri, tmp_path):
        other = str(tmp_path / "other.lance")
        lance.write_dataset(table.to_table(), other)
        base = Permutation(uri)
        shuffled = base.shuffle(5, 4, 16)
        orders = [
            base,
            shuffled,
            base.shuffle(6, 4, 16),
            base.shuffle(5, 2, 16),
            base.shuffle(5, 4, 32),
            shuffled[1:],
            shuffled.shard(0, 2),
            base.split({"a": 0.5})["a"],
            Permutation(uri, filter="id >= 0"),
            Permutation(uri, version=2),
            Permutation(other),
        ]
        assert len({order.fingerprint for order in orders}) == len(orders)


class TestPickled:
    def test_is_a_recipe_of_less_than_2_kb(self, uri):
        write_fragments(uri, [1] * 300)
        shuffled = Permutation(uri).split({"a": 0.5})["a"].shuffle(5).shard(1, 3)
        recipe = pickle.dumps(shuffled)
        assert len(recipe) < 2048
        assert ids_of(pickle.loads(recipe)) == ids_of(shuffled)

    def test_of_a_dataset_that_was_replaced_is_refused(self, table, uri):
        recipe = pickle.dumps(Permutation(uri))
        shutil.rmtree(uri)
        write_fragments(uri, [40, 1, 39, 20])
        with pytest.raises(ray_lance.InvalidArgumentError, match="is of another dataset"):
            pickle.loads(recipe).fetch([0])


class TestFetch:
    @pytest.fixture
    def permutation(self, table, uri):
        return Permutation(uri)

    def test_torch(self, permutation):
        batch = permutation.fetch([3, 99, 3], columns=["id", "vec", "text"])
        assert torch.equal(batch["id"], torch.tensor([3, 99, 3]))
        assert torch.equal(batch["vec"], torch.tensor([[3.0] * 4, [99.0] * 4, [3.0] * 4]))
        assert batch["text"] == ["row 3", "row 99", "row 3"]

    def test_torch_row_and_col(self, permutation):
        rows = permutation.fetch([3, 99], columns=["id", "label"], format="torch_row")
        assert [row.tolist() for row in rows] == [[3, 3], [99, 9]]
        assert permutation.fetch([3, 99], columns=["id", "label"], format="torch_col").tolist() == [[3, 99], [3, 9]]

    def test_numpy(self, permutation):
        batch = permutation.fetch([3, 99], format="numpy")
        assert batch["vec"].shape == (2, 4)
        assert batch["vec"].dtype == np.float32
        assert batch["text"].tolist() == ["row 3", "row 99"]

    def test_python(self, permutation):
        assert permutation.fetch([3], format="python") == [{"id": 3, "label": 3, "vec": [3.0] * 4, "text": "row 3"}]
        assert permutation.fetch([3, 4], columns=["id"], format="python_col") == {"id": [3, 4]}

    def test_frames(self, permutation):
        assert isinstance(permutation.fetch([3], format="arrow"), pa.Table)
        assert isinstance(permutation.fetch([3], format="pandas"), pd.DataFrame)
        assert isinstance(permutation.fetch([3], format="polars"), pl.DataFrame)
        assert permutation.fetch([3, 1], format="polars")["id"].to_list() == [3, 1]

    @pytest.mark.parametrize(("indices", "expected"), [(7, [7]), (-1, [99]), ([-100, 5], [0, 5]), ([], [])])
    def test_indices_as_python_has_them(self, permutation, indices, expected):
        assert permutation.fetch(indices, columns=["id"], format="python_col")["id"] == expected

    @pytest.mark.parametrize("indices", [[100], [-101], [0, 5, 1000]])
    def test_out_of_range(self, permutation, indices):
        with pytest.raises(IndexError, match="out of range for 100 rows"):
            permutation.fetch(indices)

    def test_unknown_format_and_column(self, permutation):
        with pytest.raises(ray_lance.InvalidArgumentError, match="format='tensor' must be one of"):
            permutation.fetch([0], format="tensor")
        with pytest.raises(ray_lance.UnknownColumnError, match="'idd'"):
            permutation.fetch([0], columns=["idd"])
        with pytest.raises(ray_lance.TensorConversionError, match="column 'vec' does not hold numbers"):
            permutation.fetch([0], columns=["vec"], format="torch_col")


class TestBatches:
    @pytest.mark.parametrize("batch_size", [1, 7, 50, 100, 1000])
    @pytest.mark.parametrize("window", [2, 24, 200])
    def test_come_in_order_and_of_one_size(self, table, uri, batch_size, window):
        shuffled = Permutation(uri).shuffle(5, 2, window)[3:]
        batches = [batch["id"].tolist() for batch in shuffled.iter_batches(batch_size, ["id"])]
        assert list(itertools.chain(*batches)) == ids_of(shuffled)
        assert {len(batch) for batch in batches[:-1]} <= {batch_size}

    def test_of_nothing(self, table, uri):
        assert list(Permutation(uri, filter="id < 0").iter_batches(10)) == []

    @pytest.mark.parametrize("arguments", [{"batch_size": 0}, {"batch_size": 8, "threads": 0}])
    def test_wrong_sizes(self, table, uri, arguments):
        with pytest.raises(ray_lance.InvalidArgumentError, match="=0 must be a whole number"):
            Permutation(uri).iter_batches(**arguments)


class TestSaved:
    @pytest.mark.parametrize(
        "make",
        [
            lambda p: p,
            lambda p: p.shuffle(5, 4, 16).epoch(3),
            lambda p: p.split({"a": 0.5}, seed=2)["a"].shuffle(1)[5:20],
            lambda p: p.split({"a": 0.5}, by="label")["a"].shuffle(1),
            lambda p: p.split({"a": 0.5}, seed=None)["a"],
        ],
    )
    @pytest.mark.parametrize("filter", [None, "id > 10"])
    def test_comes_back_as_it_was(self, table, uri, tmp_path, make, filter):
        permutation = make(Permutation(uri, filter))
        permutation.save(tmp_path / "saved.lance")
        loaded = Permutation.load(tmp_path / "saved.lance")
        assert loaded == permutation
        assert loaded.fixed_epoch == permutation.fixed_epoch
        assert ids_of(loaded) == ids_of(permutation)

    def test_never_replaces_anything(self, table, uri):
        with pytest.raises(ray_lance.DatasetExistsError, match="choose another place"):
            Permutation(uri).save(uri)

    def test_holds_no_storage_option(self, table, uri, tmp_path):
        ref = ray_lance.TableRef.of(uri, storage_options={"aws_secret_access_key": "hunter2"})
        Permutation(ref).save(tmp_path / "saved.lance")
        assert not any(b"hunter2" in file.read_bytes() for file in tmp_path.rglob("*") if file.is_file())

    def test_of_a_dataset_that_was_replaced_is_refused(self, table, uri, tmp_path):
        Permutation(uri).save(tmp_path / "saved.lance")
        shutil.rmtree(uri)
        write_fragments(uri, [40, 1, 39, 20])
        with pytest.raises(ray_lance.InvalidArgumentError, match="is of another dataset"):
            Permutation.load(tmp_path / "saved.lance")

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda saved: "{not json", "damaged"),
            (lambda saved: "[]", "damaged"),
            (lambda saved: "null", "damaged"),
            *((lambda saved, key=key: _without(saved, key), key) for key in ("order", "epoch", "table", "version")),
            *((lambda saved, key=key: _without(saved, key), key) for key in ("identity", "filter", "fixed_epoch")),
            (lambda saved: _with(saved, table=7), "table=7 is of the wrong type"),
            (lambda saved: _with(saved, fixed_epoch="yes"), "fixed_epoch='yes'"),
            (lambda saved: _with(saved, version=-1), "version=-1"),
            (lambda saved: _with(saved, epoch="one"), "epoch='one'"),
            (lambda saved: _with(saved, more=1), "more"),
            (lambda saved: _with_order(saved, rows=None), "damaged"),
            (lambda saved: _with_order(saved, rows={"kind": "dense", "count": 10**9}), "rows, and"),
            (lambda saved: _with_order(saved, rows={"kind": "explicit", "count": 3}), "not those that were saved"),
            (lambda saved: _with_order(saved, positions=[0, 10**9]), "stop=1000000000"),
            (lambda saved: _with_order(saved, positions=7), "damaged"),
            (lambda saved: _with_order(saved, shuffle={"seed": 1}), "damaged"),
            (lambda saved: _with_order(saved, shuffle={"seed": 1, "clump": 3, "window": 7}), "not nested"),
            (lambda saved: _with_order(saved, order_version=99), "version 99 of the arithmetic"),
        ],
    )
    @pytest.mark.parametrize("filter", [None, "id > 10"])
    def test_that_is_damaged_is_refused(self, table, uri, tmp_path, filter, change, message):
        place = tmp_path / "saved.lance"
        Permutation(uri, filter).shuffle(5, 4, 16).save(place)
        _rewrite(place, change)
        with pytest.raises(ray_lance.InvalidArgumentError, match=f"(?s)permutation.*{message}"):
            Permutation.load(place)

    def test_whose_description_was_edited_is_refused(self, table, uri, tmp_path):
        Permutation(uri).shuffle(5, 4, 16).save(tmp_path / "saved.lance")
        _rewrite(tmp_path / "saved.lance", lambda saved: {**saved, "epoch": 7})
        with pytest.raises(ray_lance.InvalidArgumentError, match="description is not the one that was saved"):
            Permutation.load(tmp_path / "saved.lance")

    def test_of_earlier_releases_has_no_digest(self, table, uri, tmp_path):
        permutation = Permutation(uri, "id > 10").shuffle(5, 4, 16)
        permutation.save(tmp_path / "saved.lance")
        _rewrite(tmp_path / "saved.lance", lambda saved: _without(saved, "digest"))
        assert Permutation.load(tmp_path / "saved.lance") == permutation

    @pytest.mark.parametrize("rows", [pa.array(range(89), pa.uint64()), pa.array([1.5]), pa.array([None], pa.uint64())])
    def test_whose_row_ids_are_others_is_refused(self, table, uri, tmp_path, rows):
        Permutation(uri, "id > 10").save(tmp_path / "saved.lance")
        _rewrite(tmp_path / "saved.lance", lambda saved: saved, rows)
        with pytest.raises(ray_lance.InvalidArgumentError, match=r"is damaged: (its rows are not|row_id is)"):
            Permutation.load(tmp_path / "saved.lance")

    @pytest.mark.parametrize("part", ["data/*.lance", "_versions/*.manifest"])
    def test_whose_files_are_cut_off_is_refused(self, table, uri, tmp_path, part):
        Permutation(uri, "id > 10").save(tmp_path / "saved.lance")
        (file,) = (tmp_path / "saved.lance").glob(part)
        file.write_bytes(file.read_bytes()[:-20])
        with pytest.raises(ray_lance.InvalidArgumentError, match="cannot be read"):
            Permutation.load(tmp_path / "saved.lance")

    def test_of_something_else(self, table, uri, tmp_path):
        with pytest.raises(ray_lance.InvalidArgumentError, match=r"was not written by Permutation.save"):
            Permutation.load(uri)
        with pytest.raises(ray_lance.DatasetNotFoundError):
            Permutation.load(tmp_path / "nothing.lance")


class TestArguments:
    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"clump": 0}, "clump=0"),
            ({"window": -1}, "window=-1"),
            ({"clump": 3, "window": 10}, "window=10 is not nested with clump=3"),
            ({"clump": "big"}, "clump='big'"),
            ({"seed": 1.5}, "seed"),
        ],
    )
    def test_of_a_shuffle(self, table, uri, arguments, message):
        with pytest.raises(ray_lance.InvalidArgumentError, match=message):
            Permutation(uri).shuffle(**{"seed": 1, **arguments})

    @pytest.mark.parametrize("position", [0, -1, np.int64(3), "a", [1, 2]])
    def test_a_position_is_no_slice(self, table, uri, position):
        with pytest.raises(ray_lance.InvalidArgumentError, match=r"only slices .*fetch\(\[10, 11\]\).*LanceMapDataset"):
            Permutation(uri)[position]

    def test_iterating_names_what_does(self, table, uri):
        for iterate in (iter, list, lambda permutation: 3 in permutation):
            with pytest.raises(ray_lance.InvalidArgumentError, match=r"use iter_batches\(batch_size\)"):
                iterate(Permutation(uri))

    @pytest.mark.parametrize("seed", [True, "abc", 1.5, None])
    def test_a_seed_is_an_integer(self, table, uri, seed):
        with pytest.raises(ray_lance.InvalidArgumentError, match=f"seed={seed!r} must be an integer"):
            Permutation(uri).shuffle(seed)

    @pytest.mark.parametrize("integer", [np.int64, np.uint8])
    def test_integers_of_numpy_are_taken(self, table, uri, integer):
        permutation = Permutation(uri, version=integer(lance.dataset(uri).version))
        expected = permutation.shuffle(7, 2, 8).epoch(3).shard(1, 2)[2:9]
        found = permutation.shuffle(integer(7), integer(2), integer(8)).epoch(integer(3))
        assert found.shard(integer(1), integer(2))[integer(2) : integer(9)] == expected
        assert permutation.fetch(integer(5), ["id"])["id"].tolist() == [5]
        assert permutation.rows(integer(2), integer(4)).tolist() == [2, 3]
        assert permutation.split([0.5], integer(4)) == permutation.split([0.5], 4)

    def test_others(self, table, uri):
        with pytest.raises(ray_lance.UnknownColumnError, match="filter="):
            Permutation(uri, filter="lable = 1")
        with pytest.raises(ray_lance.DatasetNotFoundError):
            Permutation("/no/such/place.lance")
        with pytest.raises(ray_lance.InvalidArgumentError, match="rank=3"):
            Permutation(uri).shard(3, 3)
        with pytest.raises(ray_lance.InvalidArgumentError, match="number=-1"):
            Permutation(uri).epoch(-1)
