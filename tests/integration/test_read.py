"""read_lance: the rows, types and counts that Lance itself gives, through Ray."""

from __future__ import annotations

import copy

import lance
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
import torch
from ray.data.expressions import col

import ray_lance
from ray_lance import read_lance
from tests.datasets import sample_table, write_fragments

FRAGMENTS = {
    "one": [100],
    "several": [30, 1, 40, 29],
    "tiny": [1] * 40,
}


def rows_of(dataset) -> list[dict]:
    return sorted(dataset.take_all(), key=lambda row: row["id"])


def ids_of(dataset) -> list[int]:
    return sorted(row["id"] for row in dataset.take_all())


class TestRows:
    @pytest.mark.parametrize("sizes", FRAGMENTS.values(), ids=FRAGMENTS)
    @pytest.mark.parametrize("deleted", [None, "id % 3 = 1"])
    @pytest.mark.parametrize("num_blocks", [None, 7])
    def test_are_those_of_a_lance_scan(self, uri, sizes, deleted, num_blocks):
        lances = write_fragments(uri, sizes, deleted=deleted)
        dataset = read_lance(uri, override_num_blocks=num_blocks)
        assert dataset.count() == lances.count_rows()
        assert ids_of(dataset) == lances.to_table()["id"].to_pylist()

    def test_of_an_empty_dataset(self, uri):
        lance.write_dataset(sample_table(0), uri)
        dataset = read_lance(uri)
        assert dataset.count() == 0
        assert dataset.schema().names == ["id", "label", "vec", "text"]
        assert dataset.take_all() == []
        assert list(dataset.iter_torch_batches(batch_size=4)) == []

    def test_of_chosen_fragments(self, uri):
        write_fragments(uri, [3, 4, 5])
        assert ids_of(read_lance(uri, fragment_ids=[0, 2])) == [0, 1, 2, 7, 8, 9, 10, 11]

    def test_of_no_fragments_are_none(self, uri):
        write_fragments(uri, [3, 4])
        assert read_lance(uri, fragment_ids=[]).count() == 0

    def test_of_several_datasets_follow_one_another_and_missing_columns_are_null(self, tmp_path):
        first, second = str(tmp_path / "a.lance"), str(tmp_path / "b.lance")
        lance.write_dataset(pa.table({"id": [1, 2], "x": [1.0, 2.0]}), first)
        lance.write_dataset(pa.table({"y": ["a"], "id": [3]}), second)
        dataset = read_lance([first, second])
        assert dataset.schema().names == ["id", "x", "y"]
        assert rows_of(dataset) == [
            {"id": 1, "x": 1.0, "y": None},
            {"id": 2, "x": 2.0, "y": None},
            {"id": 3, "x": None, "y": "a"},
        ]
        assert rows_of(dataset.select_columns(["y", "id"])) == [
            {"id": 1, "y": None},
            {"id": 2, "y": None},
            {"id": 3, "y": "a"},
        ]

    @pytest.mark.parametrize("limit", [0, 1, 17, 100, 1000])
    @pytest.mark.parametrize("filter", [None, "label = 3"])
    def test_limit(self, uri, limit, filter):
        write_fragments(uri, FRAGMENTS["several"])
        expected = min(limit, 100 if filter is None else 10)
        assert len(read_lance(uri, filter=filter).limit(limit).take_all()) == expected

    def test_arrive_as_tensors(self, uri):
        write_fragments(uri, FRAGMENTS["several"])
        batches = list(read_lance(uri, columns=["id", "vec"]).iter_torch_batches(batch_size=32))
        vectors = torch.cat([batch["vec"] for batch in batches])
        ids = torch.cat([batch["id"] for batch in batches])
        assert vectors.shape == (100, 4)
        assert vectors.dtype == torch.float32
        assert torch.equal(vectors[:, 0], ids.float())

    def test_keep_scan_order_under_preserve_order(self, uri):
        lances = write_fragments(uri, FRAGMENTS["several"], deleted="id % 7 = 2")
        dataset = read_lance(uri, override_num_blocks=9)
        dataset.context.execution_options.preserve_order = True
        assert [row["id"] for row in dataset.take_all()] == lances.to_table()["id"].to_pylist()

    def test_with_blobs_come_in_bulk_as_bytes(self, uri):
        blob = pa.field("blob", pa.large_binary(), metadata={"lance-encoding:blob": "true"})
        values = [b"x" * (1000 * i) if i != 3 else None for i in range(6)]
        lance.write_dataset(
            pa.table({"id": range(6), "blob": values}, schema=pa.schema([pa.field("id", pa.int64()), blob])), uri
        )
        assert [row["blob"] for row in rows_of(read_lance(uri))] == values


class TestPinning:
    def test_appends_deletes_and_compactions_change_nothing(self, uri):
        write_fragments(uri, [40, 40, 20])
        dataset = read_lance(uri, override_num_blocks=8)
        stream = iter(dataset.iter_batches(batch_size=10))
        seen = list(next(stream)["id"])
        changed = lance.dataset(uri)
        lance.write_dataset(sample_table(50, 100), uri, mode="append")
        changed = lance.dataset(uri)
        changed.delete("id < 30")
        changed.optimize.compact_files()
        seen += [i for batch in stream for i in batch["id"]]
        assert sorted(seen) == list(range(100))
        assert ids_of(dataset) == list(range(100))
        assert dataset.count() == 100

    @pytest.mark.parametrize("version", [2, "tagged"])
    def test_an_older_version(self, uri, version):
        lances = write_fragments(uri, [10, 5])  # versions 2 and 3; version 1 is empty
        lances.tags.create("tagged", 2)
        assert ids_of(read_lance(uri, version=version)) == list(range(10))

    def test_a_path_relative_to_the_drivers_working_directory(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        write_fragments("table.lance", [10])
        dataset, opened = read_lance("table.lance"), read_lance(lance.dataset("table.lance"))
        monkeypatch.chdir("/")
        assert ids_of(dataset) == ids_of(opened) == list(range(10))

    def test_the_version_of_a_time(self, uri):
        lances = write_fragments(uri, [10, 5])
        written = lances.versions()[-1]["timestamp"]
        dataset = read_lance(uri, dataset_options={"asof": written})
        assert ids_of(dataset) == list(range(10))

    def test_an_open_dataset_and_a_reference(self, uri):
        write_fragments(uri, [10, 5])
        assert read_lance(lance.dataset(uri, version=2)).count() == 10
        assert read_lance(ray_lance.TableRef.of(uri, version=2)).count() == 10


class TestColumns:
    @pytest.mark.parametrize("names", [["label"], ["vec", "id"], ["text", "label", "id"]])
    def test_are_delivered_in_the_order_asked_for(self, uri, names):
        write_fragments(uri, [20])
        for dataset in (read_lance(uri, columns=names), read_lance(uri).select_columns(names)):
            assert dataset.schema().names == names
            assert dataset.materialize().schema().names == names
            assert list(dataset.take(1)[0]) == names

    @pytest.mark.fast_ways("_plans", "_pushdown")
    def test_select_columns_is_read_by_lance(self, uri):
        write_fragments(uri, [20])
        assert "columns   label: int64\n" in ray_lance.explain(read_lance(uri).select_columns(["label"]))

    def test_of_structs(self, uri):
        lance.write_dataset(pa.table({"id": [1, 2], "a": [{"b": 3, "c": "x"}, {"b": 4, "c": "y"}]}), uri)
        dataset = read_lance(uri, columns=["id", "a.b"])
        assert dataset.schema().names == ["id", "a.b"]
        assert rows_of(dataset) == [{"id": 1, "a.b": 3}, {"id": 2, "a.b": 4}]

    def test_of_sql_expressions(self, uri):
        write_fragments(uri, [5])
        assert rows_of(read_lance(uri, columns={"id": "id", "twice": "id * 2"}))[3] == {"id": 3, "twice": 6}

    def test_of_metadata(self, uri):
        lances = write_fragments(uri, [3, 4], deleted="id = 1")
        expected = lances.to_table(columns=["id"], with_row_id=True, with_row_address=True).to_pylist()
        dataset = read_lance(uri, columns=["id"], with_row_id=True, with_row_address=True)
        assert rows_of(dataset) == expected
        dataset = read_lance(uri, columns=["id"], with_metadata=True)
        assert dataset.schema().names == ["id", "_rowaddr", "_fragid"]
        assert {row["id"]: row["_fragid"] for row in dataset.take_all()} == {0: 0, 2: 0, 3: 1, 4: 1, 5: 1, 6: 1}

    @pytest.mark.parametrize("name", ["with_row_id", "with_row_address"])
    def test_of_metadata_asked_for_twice_come_once(self, uri, name):
        write_fragments(uri, [3])
        dataset = read_lance(uri, columns=["id"], **{name: True}, scanner_options={name: True})
        assert len(dataset.take(1)[0]) == 2

    @pytest.mark.parametrize("filter", [None, "label < 5"])
    def test_schema_is_the_one_delivered(self, uri, filter):
        write_fragments(uri, [10, 10])
        dataset = read_lance(uri, filter=filter)
        delivered = {table.schema for table in dataset.materialize().iter_batches(batch_format="pyarrow")}
        assert delivered == {dataset.schema().base_schema}

    def test_count_of_no_columns(self, uri):
        write_fragments(uri, [10, 10])
        assert read_lance(uri).filter(expr=col("id") < 13).count() == 13


class TestWholeDatasetOptions:
    def test_nearest(self, uri):
        write_fragments(uri, [10, 10, 10])
        nearest = {"column": "vec", "q": np.full(4, 17.0, np.float32), "k": 3}
        rows = rows_of(read_lance(uri, columns=["id"], scanner_options={"nearest": nearest}))
        assert [row["id"] for row in rows] == [16, 17, 18]
        assert rows[1]["_distance"] == 0.0

    def test_the_columns_of_a_search_can_be_chosen(self, uri):
        write_fragments(uri, [10, 10])
        nearest = {"column": "vec", "q": np.full(4, 7.0, np.float32), "k": 2}
        dataset = read_lance(uri, columns=["_distance", "id"], scanner_options={"nearest": nearest})
        assert dataset.schema().names == ["_distance", "id"]
        assert {"_distance": 0.0, "id": 7} in dataset.take_all()

    def test_limit_and_offset_count_over_the_whole_dataset(self, uri):
        write_fragments(uri, [10, 10, 10])
        assert ids_of(read_lance(uri, scanner_options={"limit": 4, "offset": 8})) == [8, 9, 10, 11]


class TestArguments:
    """Wrong arguments are refused on the driver, before any task starts, and by name."""

    @pytest.fixture(autouse=True)
    def table(self, uri):
        write_fragments(uri, [10, 10])
        return uri

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"columns": ["lable"]}, r"columns: there is no column 'lable'. Did you mean 'label'\?"),
            ({"columns": "id"}, r"columns='id' must be a list"),
            ({"columns": ["id", "id"]}, "columns=.* names a column twice"),
            ({"columns": {"x": "nope + 1"}}, "columns: .*nope"),
            ({"filter": "id >"}, "filter='id >'"),
            ({"filter": "lable = 2"}, r"filter='lable = 2': there is no column 'lable'. Did you mean 'label'\?"),
            ({"filter": "id = 'x'"}, "filter="),
            ({"filter": ""}, "filter=''"),
            ({"version": 77}, "version=77.*no such version"),
            ({"version": "gone"}, "version='gone'.*no such version or tag"),
            ({"version": -1}, "version=-1 must be at least 1"),
            ({"fragment_ids": [0, 9]}, r"fragment_ids: the dataset has no fragments \[9\]"),
            ({"override_num_blocks": 0}, "override_num_blocks=0"),
            ({"override_num_blocks": -3}, "override_num_blocks=-3"),
            ({"concurrency": 0}, "concurrency=0"),
            ({"num_cpus": -1}, "num_cpus=-1"),
            ({"memory": -1}, "memory=-1"),
            ({"scanner_options": {"batch_size": 0}}, r"scanner_options\['batch_size'\]=0"),
            ({"scanner_options": {"no_such_option": 1}}, "scanner_options: .*no_such_option"),
            ({"columns": ["id"], "scanner_options": {"columns": ["label"]}}, "columns=.* conflicts with"),
            ({"filter": "id = 1", "scanner_options": {"filter": "id = 2"}}, "filter=.* conflicts with"),
            ({"version": 1, "dataset_options": {"version": 2}}, "version=1 conflicts with 2"),
            ({"fragment_ids": [0], "scanner_options": {"limit": 3}}, r"fragment_ids=\[0\] conflicts with"),
            ({"table_id": ["t"], "namespace_impl": "dir"}, "give either a uri or a namespace"),
            ({"fragment_ids": 0}, "fragment_ids=0 must be a list of whole numbers"),
            ({"fragment_ids": ["a", 9]}, r"fragment_ids=\['a', 9\] must be a list of whole numbers"),
            ({"columns": 3}, "columns=3 must be a list of names"),
            ({"columns": ["id", 3]}, r"columns=\['id', 3\] must be a list of names"),
            ({"columns": ["_distance"]}, "columns: there is no column '_distance'"),
            ({"scanner_options": "id"}, "scanner_options=str must be a mapping"),
            ({"dataset_options": ["a"]}, "dataset_options=list must be a mapping"),
            ({"dataset_options": {"no_such": 1}}, "dataset_options.*no_such"),
            ({"storage_options": "a"}, "storage_options=str must be a mapping"),
            ({"shuffle": 1, "filter": pc.field("id") > 3}, "filter=.*with shuffle= it must be SQL"),
        ],
    )
    def test_are_refused(self, table, arguments, message):
        with pytest.raises(ray_lance.RayLanceError, match=message):
            read_lance(table, **arguments)

    @pytest.mark.parametrize(
        ("source", "message"),
        [
            ([], r"uri=\[\] must name at least one"),
            (None, "uri=None: give a uri"),
            ("", "uri=''"),
            ("/no/such/dataset.lance", "uri: there is no Lance dataset at /no/such/dataset.lance"),
            (__file__, "uri: there is no Lance dataset at "),
            ("nope://bucket/table.lance", "uri='nope://bucket/table.lance': Lance knows no storage of this scheme"),
        ],
    )
    def test_no_dataset(self, source, message):
        with pytest.raises(ray_lance.RayLanceError, match=message):
            read_lance(source)

    @pytest.mark.parametrize("name", ["storage_options", "base_store_params"])
    def test_a_conflict_of_credentials_shows_none_of_them(self, table, name):
        options = [{"base": {"key": secret}} for secret in ("hunter2", "hunter3")]
        with pytest.raises(ray_lance.InvalidArgumentError, match=f"{name} conflicts with") as caught:
            read_lance(table, **{name: options[0]}, dataset_options={name: options[1]})
        assert "hunter" not in str(caught.value)

    def test_a_uri_beside_a_namespace_is_shown_without_credentials(self):
        with pytest.raises(ray_lance.InvalidArgumentError) as caught:
            read_lance("s3://key:hunter2@bucket/a.lance", table_id=["t"], namespace_impl="dir")
        assert "hunter2" not in str(caught.value)

    def test_columns_of_two_types_in_two_datasets(self, table, tmp_path):
        other = str(tmp_path / "other.lance")
        lance.write_dataset(pa.table({"id": ["a"]}), other)
        with pytest.raises(ray_lance.SchemaMismatchError, match="column 'id' is int64 in one dataset and string"):
            read_lance([table, other])

    def test_select_of_an_unknown_column(self, table):
        with pytest.raises(Exception, match="lable"):
            read_lance(table).select_columns(["lable"]).take(1)

    @pytest.mark.fast_ways("_pushdown")
    def test_filter_on_an_unknown_column(self, table):
        with pytest.raises(ray_lance.UnknownColumnError, match=r"'lable'. Did you mean 'label'"):
            read_lance(table).filter(expr=col("lable") == 1).take(1)

    def test_dicts_of_the_caller_are_never_changed(self, table):
        scanner_options = {"batch_size": 5, "columns": ["id"], "filter": "id < 5"}
        dataset_options = {"version": 3, "block_size": 4096}
        storage_options = {"some": "option"}
        before = copy.deepcopy((scanner_options, dataset_options, storage_options))
        dataset = read_lance(
            table,
            scanner_options=scanner_options,
            dataset_options=dataset_options,
            storage_options=storage_options,
        )
        assert ids_of(dataset) == [0, 1, 2, 3, 4]
        assert (scanner_options, dataset_options, storage_options) == before
