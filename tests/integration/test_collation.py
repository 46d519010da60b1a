"""What batches of tensors hold by default, and that rows stay rows on every way to them."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import lance
import numpy as np
import pyarrow as pa
import pytest
import ray
import torch
from ray.data import Dataset
from ray.data._internal.object_extensions.arrow import ArrowPythonObjectType
from ray.data.collate_fn import ArrowBatchCollateFn
from ray.data.expressions import col

import ray_lance
from ray_lance import Permutation, TensorCollate, TensorConversionError, read_lance
from ray_lance.tensors import from_tensors
from ray_lance.train import LanceDataConfig, LanceShard
from tests.unit.tensors.test_objects import Payload
from tests.unit.tensors.type_cases import plain

LIST = TensorCollate(ragged="list")


def shard(dataset: Dataset, rows: int) -> LanceShard:
    (shards,) = LanceDataConfig(global_batch_size=rows).configure({"train": dataset}, 1, None, None)
    return shards["train"]


def lists(batch: Any) -> dict[str, list[Any]]:
    return {name: [row.tolist() for row in batch[name]] for name in batch}


def in_order(uri: str, **options: Any) -> Dataset:
    dataset = read_lance(uri, **options)
    dataset.context.execution_options.preserve_order = True
    return dataset


class Doubled(TensorCollate):
    """A collation that a user has derived."""

    def __call__(self, batch: pa.Table) -> Any:
        return super().__call__(pa.concat_tables([batch, batch]))


WAYS: dict[str, Callable[[str], Iterator[Any]]] = {
    "read": lambda uri: read_lance(uri).iter_torch_batches(collate_fn=LIST),
    "whole blocks": lambda uri: read_lance(uri).iter_torch_batches(collate_fn=LIST, batch_size=None),
    "converted": lambda uri: read_lance(uri).iter_torch_batches(collate_fn=TensorCollate("list", dtypes=torch.float64)),
    "shuffled": lambda uri: read_lance(uri).iter_torch_batches(
        collate_fn=LIST, batch_size=2, local_shuffle_buffer_size=2, local_shuffle_seed=1
    ),
    "materialized": lambda uri: read_lance(uri).materialize().iter_torch_batches(collate_fn=LIST),
    "of another library": lambda uri: ray.data.from_arrow(lance.dataset(uri).to_table()).iter_torch_batches(
        collate_fn=LIST
    ),
    "shard": lambda uri: shard(read_lance(uri), 2).iter_torch_batches(collate_fn=LIST),
}


class TestRagged:
    @pytest.mark.parametrize("way", WAYS)
    @pytest.mark.parametrize("columns", [["x"], ["x", "y"]])
    def test_rows_stay_apart_where_every_column_is_a_list_of_tensors(self, uri, way, columns):
        stored = pa.table({"x": [[1.0, 2.0], [3.0]], "y": [[4.0], [5.0, 6.0]]}).select(columns)
        lance.write_dataset(stored, uri)

        (batch,) = WAYS[way](uri)

        rows = [dict(zip(columns, row, strict=True)) for row in zip(*lists(batch).values(), strict=True)]
        assert sorted(rows, key=repr) == sorted(stored.to_pylist(), key=repr)

    def test_one_row_and_equal_rows(self, uri):
        lance.write_dataset(pa.table({"x": [[1, 2], [3, 4], [5, 6]]}), uri)
        batches = in_order(uri).iter_torch_batches(collate_fn=LIST, batch_size=2)
        assert [lists(batch) for batch in batches] == [{"x": [[1, 2], [3, 4]]}, {"x": [[5, 6]]}]

    def test_images_of_different_sizes_alone(self, uri):
        images = [torch.ones(2, 3, 3), torch.zeros(1, 1, 3)]
        lance.write_dataset(from_tensors({"image": images}), uri)
        for batches in (
            read_lance(uri).iter_torch_batches(),
            read_lance(uri).iter_torch_batches(device="meta"),
            shard(read_lance(uri), 2).iter_torch_batches(),
        ):
            (batch,) = batches
            assert [tuple(image.shape) for image in batch["image"]] == [(2, 3, 3), (1, 1, 3)]

    def test_lists_go_to_the_device_with_the_rest(self, uri):
        lance.write_dataset(pa.table({"x": [[1], [2, 3]], "n": [1, 2], "s": ["a", "b"]}), uri)
        for collate in (LIST, TensorCollate("list", device="meta")):
            (batch,) = read_lance(uri).iter_torch_batches(collate_fn=collate, device="meta")
            assert {row.device.type for row in batch["x"]} == {batch["n"].device.type} == {"meta"}
            assert batch["s"] == ["a", "b"]

    def test_derived_collations_and_other_ones(self, uri):
        lance.write_dataset(pa.table({"x": [[1, 2], [3]]}), uri)

        class Parts(ArrowBatchCollateFn):
            def __call__(self, batch: pa.Table) -> dict[str, list[torch.Tensor]]:
                return {"x": [torch.tensor(row) for row in batch["x"].to_pylist()]}

        (batch,) = read_lance(uri).iter_torch_batches(collate_fn=Doubled(ragged="list"))
        assert lists(batch) == {"x": [[1, 2], [3], [1, 2], [3]]}
        (batch,) = read_lance(uri).iter_torch_batches(collate_fn=Parts())
        assert batch["x"].tolist() == [1, 2, 3]  # a caller's own function means what it means to Ray


class TestDefault:
    ROWS = pa.table(
        {
            "n": [1, 2],
            "text": ["a", None],
            "raw": [b"x", b"y"],
            "ragged": [[1], [2, 3]],
            "words": [["a"], ["b", "c"]],
            "leaf": [{"a": 1.5, "b": "x"}, None],
            "when": pa.array([5, 6], pa.timestamp("s")),
            "kind": pa.array(["u", "v"]).dictionary_encode(),
            "gap": [1.5, None],
        }
    )
    EXPECTED: ClassVar = {
        "n": [1, 2],
        "text": ["a", None],
        "raw": [b"x", b"y"],
        "ragged": [[1], [2, 3]],
        "words": [["a"], ["b", "c"]],
        "leaf.a": [1.5, "NaN"],
        "leaf.b": ["x", None],
        "when": [5, 6],
        "kind": ["u", "v"],
        "gap": [1.5, "NaN"],
    }

    def test_every_type_is_collated_as_shards_and_torch_datasets_do(self, uri):
        lance.write_dataset(self.ROWS, uri)
        for batches in (
            read_lance(uri).iter_torch_batches(),
            read_lance(uri).iterator().iter_torch_batches(),
            read_lance(uri).map_batches(lambda batch: batch, batch_format="pyarrow").iter_torch_batches(),
            shard(read_lance(uri), 2).iter_torch_batches(),
            [Permutation(uri).fetch([0, 1])],
        ):
            (batch,) = batches
            assert batch["ragged"].is_nested
            found = {name: list(v.unbind()) if name == "ragged" else v for name, v in batch.items()}
            assert {name: plain(value) for name, value in found.items()} == self.EXPECTED

    def test_one_dtype_is_for_all_tensors_and_a_mapping_for_what_it_names(self, uri):
        lance.write_dataset(self.ROWS, uri)
        for reader in (lambda: read_lance(uri), lambda: shard(read_lance(uri), 2)):
            (batch,) = reader().iter_torch_batches(dtypes=torch.float16)
            tensors = [value for value in batch.values() if isinstance(value, torch.Tensor)]
            assert {tensor.dtype for tensor in tensors} == {torch.float16}
            (batch,) = reader().iter_torch_batches(dtypes={"n": torch.int8})
            assert (batch["n"].dtype, batch["gap"].dtype) == (torch.int8, torch.float64)

    def test_nulls_of_integers_are_named_with_the_way_out(self, uri):
        lance.write_dataset(pa.table({"cnt": [1, None], "flag": [None, True]}), uri)
        with pytest.raises(TensorConversionError, match=r"column 'cnt' .*fill=\{'cnt': value\}"):
            list(read_lance(uri).iter_torch_batches())
        (batch,) = read_lance(uri, fill={"cnt": -1, "flag": False}).iter_torch_batches()
        assert (batch["cnt"].tolist(), batch["flag"].tolist()) == ([1, -1], [False, True])
        assert batch["cnt"].dtype == torch.int64

    def test_plain_numbers_share_the_memory_of_the_block(self, uri):
        lance.write_dataset(
            pa.table({"n": np.arange(1000), "v": pa.array(np.ones((1000, 2)).tolist(), pa.list_(pa.float32(), 2))}), uri
        )
        dataset = read_lance(uri).materialize()
        blocks = [ray.get(ref) for ref in dataset.get_internal_block_refs()]
        (batch,) = dataset.iter_torch_batches(batch_size=1000)
        assert batch["n"].data_ptr() in {block["n"].chunk(0).buffers()[1].address for block in blocks}


class TestFill:
    TABLE = pa.table(
        {
            "id": range(4),
            "cnt": [1, None, 3, None],
            "s": pa.array([{"a": 1}, {"a": None}, None, {"a": 4}], pa.struct([("a", pa.int8())])),
            "name": ["a", None, None, "d"],
        }
    )

    @pytest.fixture(autouse=True)
    def _stored(self, uri):
        lance.write_dataset(self.TABLE, uri, max_rows_per_file=2)

    @pytest.mark.parametrize("source", [lambda uri: uri, Permutation], ids=["uri", "permutation"])
    def test_rows_arrays_and_tensors_hold_what_was_given(self, uri, source):
        dataset = in_order(source(uri), fill={"cnt": -1, "s.a": 9, "name": "?"})
        rows = [
            {"id": 0, "cnt": 1, "s": {"a": 1}, "name": "a"},
            {"id": 1, "cnt": -1, "s": {"a": 9}, "name": "?"},
            {"id": 2, "cnt": 3, "s": {"a": 9}, "name": "?"},
            {"id": 3, "cnt": -1, "s": {"a": 4}, "name": "d"},
        ]
        assert dataset.take_all() == rows
        assert dataset.schema().base_schema.types == self.TABLE.schema.types
        (batch,) = dataset.iter_torch_batches()
        assert batch["cnt"].tolist() == [1, -1, 3, -1]
        assert dataset.take_batch(4)["cnt"].tolist() == [1, -1, 3, -1]

    @pytest.mark.parametrize("fill", [{"cnt": -1}, -1])
    def test_filters_of_ray_see_what_is_filled(self, uri, fill):
        filled = read_lance(uri, columns=["id", "cnt"], fill=fill)
        assert {row["id"] for row in filled.filter(expr=col("cnt") == -1).take_all()} == {1, 3}
        assert filled.filter(expr=col("cnt").is_null()).count() == 0
        assert filled.filter(expr=col("id") > 1).count() == 2

    def test_the_filter_of_the_read_sees_what_is_stored(self, uri):
        rows = read_lance(uri, filter="cnt IS NULL", columns=["id", "cnt"], fill=-1).take_all()
        assert {row["id"]: row["cnt"] for row in rows} == {1: -1, 3: -1}

    @pytest.mark.fast_ways("_plans", "_pushdown")
    def test_filters_on_other_columns_are_pushed_down(self, uri):
        filled = read_lance(uri, fill={"cnt": -1}).filter(expr=col("id") > 1)
        assert "in Lance" in ray_lance.explain(filled)
        assert "in Lance" not in ray_lance.explain(read_lance(uri, fill={"cnt": -1}).filter(expr=col("cnt") > 1))

    def test_a_value_that_a_column_cannot_hold_is_refused_before_anything_is_read(self, uri):
        for fill in ({"cnt": 0.5}, {"s.a": 128}, {"name": 0}):
            with pytest.raises(TensorConversionError, match="fill="):
                read_lance(uri, fill=fill)


class TestCategories:
    @pytest.fixture(autouse=True)
    def _stored(self, uri):
        for words in (["cat", "dog"], ["dog", "cat"], [None, "emu"]):
            rows = {"c": pa.array(words).dictionary_encode(), "id": [0, 1]}
            lance.write_dataset(pa.table(rows), uri, mode="append")

    CODES = TensorCollate(categories="codes", fill=-1)

    def test_are_what_they_mean_by_default(self, uri):
        words = [["cat", "dog"], ["dog", "cat"], [None, "emu"]]
        for collate in (None, TensorCollate(), TensorCollate(fill=-1)):
            batches = in_order(uri, columns=["c"]).iter_torch_batches(batch_size=2, collate_fn=collate)
            assert [batch["c"] for batch in batches] == words
        batches = shard(in_order(uri, columns=["c"]), 2).iter_torch_batches()
        assert [batch["c"] for batch in batches] == words

    @pytest.mark.parametrize("change", ["none", "pyarrow", "numpy", "pandas"])
    def test_codes_are_of_one_dictionary_whatever_is_done_in_between(self, uri, change):
        dataset = in_order(uri)
        if change != "none":
            dataset = dataset.map_batches(lambda batch: batch, batch_format=change)
        batches = dataset.iter_torch_batches(batch_size=2, collate_fn=self.CODES)
        assert [batch["c"].tolist() for batch in batches] == [[0, 1], [1, 0], [-1, 2]]

    def test_codes_in_shards(self, uri):
        ranks = shard(in_order(uri, columns=["c"]), 2)
        batches = ranks.iter_torch_batches(collate_fn=self.CODES)
        assert [batch["c"].tolist() for batch in batches] == [[0, 1], [1, 0], [-1, 2]]
        assert ranks.categories["c"] == ["cat", "dog", "emu"]

    def test_they_can_be_had_of_the_version_that_is_pinned(self, uri):
        dataset = read_lance(uri, filter="id = 0")
        rows = {"c": pa.array(["gnu"]).dictionary_encode(), "id": [0]}
        lance.write_dataset(pa.table(rows), uri, mode="append")
        assert dataset.categories["c"] == Permutation(uri, version=3).categories["c"] == ["cat", "dog", "emu"]
        assert dataset.map_batches(lambda batch: batch).categories == {"c": ["cat", "dog", "emu"]}
        assert read_lance(uri).categories["c"] == ["cat", "dog", "emu", "gnu"]
        assert read_lance(uri, columns=["id"]).categories == {}

    def test_a_dataset_that_does_not_know_them_says_where_they_are(self, uri):
        for dataset in (read_lance(uri).materialize(), ray.data.from_arrow(lance.dataset(uri).to_table())):
            with pytest.raises(ray_lance.InvalidArgumentError, match=r"categories=ray_lance.read_lance\(...\)"):
                list(dataset.iter_torch_batches(collate_fn=self.CODES))
            known = TensorCollate(categories=read_lance(uri).categories, fill=-1)
            (batch,) = dataset.iter_torch_batches(collate_fn=known)
            assert sorted(batch["c"].tolist()) == [-1, 0, 0, 1, 1, 2]

    def test_arrays_hold_nulls_as_nulls(self, uri):
        dataset = in_order(uri)
        expected = ["cat", "dog", "dog", "cat", None, "emu"]
        assert dataset.take_batch(6)["c"].tolist() == expected
        copied = dataset.map_batches(lambda batch: {"c": batch["c"]})
        assert [row["c"] for row in copied.take_all()] == expected
        assert [
            row["c"] for row in dataset.map_batches(lambda batch: batch, batch_format="pandas").take_all()
        ] == expected

    def test_functions_that_compute_columns_see_what_they_mean(self, uri):
        seen = {}

        def length(batch: dict[str, Any]) -> dict[str, Any]:
            return {"length": [len(word or "") for word in batch["c"]]}

        for batch_format in ("torch", "numpy"):
            ray_lance.add_columns(uri, length, input_columns=["c"], batch_format=batch_format, overwrite=bool(seen))
            seen[batch_format] = lance.dataset(uri).to_table()["length"].to_pylist()
        assert seen["torch"] == seen["numpy"] == [3, 3, 3, 3, 0, 3]


class TestNoColumns:
    def test_rows_without_columns(self, uri):
        lance.write_dataset(pa.table({"a": range(5)}), uri, max_rows_per_file=2)

        for dataset in (
            read_lance(uri, columns=[]),
            read_lance(uri).select_columns([]),
            read_lance(uri, columns=[], shuffle=1),
        ):
            assert dataset.count() == 5
            assert dataset.schema().names == []
            assert dataset.take_all() == [{}] * 5
            assert list(dataset.iter_rows()) == [{}] * 5
            assert list(dataset.iter_batches(batch_size=2)) == [{}] * 3
            assert list(dataset.iter_torch_batches(batch_size=2)) == [{}] * 3
            assert dataset.take_batch(5, batch_format="pyarrow").shape == (5, 0)
            assert dataset.take_batch(5, batch_format="pandas").shape == (5, 0)

    def test_cannot_be_written(self, uri, tmp_path):
        lance.write_dataset(pa.table({"a": range(5)}), uri)
        with pytest.raises(ray_lance.SchemaMismatchError, match="no columns"):
            ray_lance.write_lance(read_lance(uri, columns=[]), tmp_path / "copy.lance")


class TestPickles:
    def test_no_way_through_ray_runs_one(self, uri, tmp_path):
        made = tmp_path / "made"
        pickles = pa.array([pickle.dumps(Payload(made))] * 2, pa.large_binary())
        objects = ArrowPythonObjectType().wrap_array(pickles)
        rows = {"id": [0, 1], "o": objects, "s": pa.StructArray.from_arrays([objects], names=["o"])}
        lance.write_dataset(pa.table(rows), uri)

        for column in ("o", "s"):
            for read in (
                lambda dataset: dataset.take(1),
                lambda dataset: dataset.to_pandas(),
                lambda dataset: list(dataset.iter_rows()),
                lambda dataset: dataset.map_batches(lambda batch: batch).materialize(),
                lambda dataset: list(dataset.iter_torch_batches()),
                lambda dataset: list(dataset.iter_batches(batch_format="pandas")),
            ):
                with pytest.raises(TensorConversionError, match="pickled Python objects"):
                    read(read_lance(uri, columns=["id", column]))
            with pytest.raises(ray_lance.RayLanceError, match=r"pickled|types that only Ray can read"):
                ray_lance.add_columns(uri, lambda batch: {"y": batch["id"]}, input_columns=["id", column])
        assert not made.exists()
        assert lance.dataset(uri).version == 1
        assert sorted(row["id"] for row in read_lance(uri, columns=["id"]).take_all()) == [0, 1]
