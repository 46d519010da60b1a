"""TableRef: resolved once, small, one handle per process, no secret shown."""

from __future__ import annotations

import datetime
import multiprocessing
import os
import pickle
from pathlib import Path

import lance
import pyarrow as pa
import pytest

from ray_lance.errors import DatasetNotFoundError, InvalidArgumentError
from ray_lance.handles import handles
from ray_lance.table import TableRef


@pytest.fixture
def two_versions(uri):
    lance.write_dataset(pa.table({"a": [1]}), uri)
    dataset = lance.write_dataset(pa.table({"a": [2, 3]}), uri, mode="append")
    dataset.tags.create("first", 1)
    return uri


class TestVersion:
    @pytest.mark.parametrize(("version", "rows"), [(None, 3), (1, 1), (2, 3), ("first", 1)])
    def test_is_resolved_once_to_a_number(self, two_versions, version, rows):
        pinned = TableRef.of(two_versions, version=version).pin()
        lance.write_dataset(pa.table({"a": [4]}), two_versions, mode="append")
        assert isinstance(pinned.version, int)
        assert pinned.open().count_rows() == rows

    def test_of_an_open_dataset_is_the_one_it_has_open(self, two_versions):
        ref = TableRef.of(lance.dataset(two_versions, version=1))
        assert ref.version == 1
        assert ref.open().count_rows() == 1

    def test_of_a_reference_is_kept(self, two_versions):
        pinned = TableRef.of(two_versions).pin()
        assert TableRef.of(pinned) == pinned

    def test_that_contradicts_the_source_is_refused(self, two_versions):
        with pytest.raises(InvalidArgumentError, match="version=1 contradicts the source"):
            TableRef.of(lance.dataset(two_versions), version=1)

    @pytest.mark.parametrize("version", [0, -1, 1.5, True])
    def test_must_be_a_number_or_tag(self, uri, version):
        with pytest.raises(InvalidArgumentError, match="version="):
            TableRef.of(uri, version=version)

    def test_of_a_time_is_resolved_when_pinned(self, two_versions):
        written = lance.dataset(two_versions).versions()[-1]["timestamp"]
        pinned = TableRef.of(two_versions, dataset_options={"asof": written}).pin()
        assert (pinned.version, dict(pinned.dataset_options)) == (1, {})

    def test_of_a_time_before_the_first_is_not_found(self, two_versions):
        with pytest.raises(DatasetNotFoundError, match=r"dataset_options\['asof'\]: .*earlier than the first"):
            TableRef.of(two_versions, dataset_options={"asof": datetime.datetime(2001, 1, 1)}).pin()

    def test_of_a_time_that_is_none_is_refused(self, two_versions):
        with pytest.raises(InvalidArgumentError, match=r"dataset_options\['asof'\]: "):
            TableRef.of(two_versions, dataset_options={"asof": "long ago"}).pin()

    @pytest.mark.parametrize("version", [99, "release"])
    def test_that_does_not_exist(self, two_versions, version):
        with pytest.raises(DatasetNotFoundError, match=r"version=.*no such version or tag \(versions kept: 1 to 2\)"):
            TableRef.of(two_versions, version=version).pin()


class TestOpen:
    def test_no_dataset(self, uri):
        with pytest.raises(DatasetNotFoundError, match="uri: there is no Lance dataset at"):
            TableRef.of(uri).open()

    def test_gives_one_handle_per_process_and_reference(self, two_versions):
        ref = TableRef.of(two_versions, version=1)
        assert ref.open() is TableRef.of(two_versions, version=1).open()
        assert ref.open() is not TableRef.of(two_versions, version=2).open()

    def test_of_an_unpinned_reference_sees_the_latest(self, two_versions):
        ref = TableRef.of(two_versions)
        assert ref.open().count_rows() == 3
        lance.write_dataset(pa.table({"a": [4]}), two_versions, mode="append")
        assert ref.open().count_rows() == 4

    def test_in_a_forked_child_never_uses_the_parents_handle(self, two_versions):
        ref = TableRef.of(two_versions, version=1)
        parents = id(ref.open())
        receiver, sender = multiprocessing.Pipe(duplex=False)
        child = os.fork()
        if child == 0:
            sender.send((len(handles), parents))
            os._exit(0)
        os.waitpid(child, 0)
        assert receiver.recv() == (0, parents)

    def test_of_a_pinned_reference_reads_no_listing(self, two_versions):
        pinned = TableRef.of(two_versions).pin()
        Path(two_versions, "_versions").rename(Path(two_versions, "hidden"))
        fresh = pickle.loads(pickle.dumps(pinned))
        handles.after_fork()  # as a new process would be: nothing cached
        assert fresh.open().to_table()["a"].to_pylist() == [1, 2, 3]

    def test_through_a_directory_namespace(self, tmp_path):
        lance.write_dataset(pa.table({"a": [1, 2]}), str(tmp_path / "words.lance"))
        ref = TableRef(None, namespace_impl="dir", namespace_properties={"root": str(tmp_path)}, table_id=("words",))
        pinned = pickle.loads(pickle.dumps(ref.pin()))
        assert pinned.open().count_rows() == 2

    def test_without_manifest_a_pinned_table_of_a_namespace_is_found_again_at_its_version(self, tmp_path):
        lance.write_dataset(pa.table({"a": [1, 2]}), str(tmp_path / "words.lance"))
        ref = TableRef(None, namespace_impl="dir", namespace_properties={"root": str(tmp_path)}, table_id=("words",))
        recipe = pickle.loads(pickle.dumps(ref.pin().without_manifest()))
        lance.write_dataset(pa.table({"a": [3]}), str(tmp_path / "words.lance"), mode="append")

        assert recipe.manifest is None
        assert recipe.pin().open().count_rows() == 2

    def test_a_home_directory_is_resolved_here_and_not_by_each_worker(self, tmp_path, monkeypatch):
        monkeypatch.setenv("HOME", str(tmp_path))

        assert TableRef.of("~/words.lance").uri == str(tmp_path / "words.lance")

    def test_the_latest_version_of_a_pinned_table_of_a_namespace(self, tmp_path):
        lance.write_dataset(pa.table({"a": [1, 2]}), str(tmp_path / "words.lance"))
        ref = TableRef(None, namespace_impl="dir", namespace_properties={"root": str(tmp_path)}, table_id=("words",))
        pinned = ref.pin()
        lance.write_dataset(pa.table({"a": [3]}), str(tmp_path / "words.lance"), mode="append")

        latest = pinned.latest().pin()

        assert latest.open().count_rows() == 3
        assert latest.namespace_arguments()["table_id"] == ["words"]

    def test_of_a_table_that_the_namespace_lacks(self, tmp_path):
        ref = TableRef(None, namespace_impl="dir", namespace_properties={"root": str(tmp_path)}, table_id=("words",))
        with pytest.raises(DatasetNotFoundError, match="words"):
            ref.open()


class TestConstruction:
    def test_does_no_io(self):
        TableRef.of("s3://nowhere/at/all.lance", version="tag")

    @pytest.mark.parametrize("source", ["", 7, None, ["a"]])
    def test_of_something_else_is_refused(self, source):
        with pytest.raises(InvalidArgumentError, match=r"uri=|source="):
            TableRef.of(source)

    @pytest.mark.parametrize(
        "arguments",
        [
            {"uri": None},
            {"uri": "x", "namespace_impl": "dir", "table_id": ("t",)},
            {"uri": None, "namespace_impl": "dir"},
            {"uri": "x", "table_id": ("t",)},
            {"uri": "x", "dataset_options": {"version": 3}},
        ],
    )
    def test_of_arguments_that_contradict_each_other(self, arguments):
        with pytest.raises(InvalidArgumentError):
            TableRef(**arguments)

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"default_scan_options": {"limit": 3}}, "scanner_options"),
            ({"session": object()}, "'session' belongs to one process"),
            ({"asof": "2024-01-01"}, "'asof' contradicts version=1"),
        ],
    )
    def test_of_dataset_options_that_cannot_be_kept(self, options, message):
        with pytest.raises(InvalidArgumentError, match=f"dataset_options: .*{message}"):
            TableRef.of("x", version=1, dataset_options=options)

    @pytest.mark.parametrize("uri", ["s3://bucket/a.lance", "file:///a.lance", "memory://a", "/a.lance"])
    def test_keeps_what_is_no_relative_path(self, uri):
        assert TableRef.of(uri).uri == uri

    def test_makes_a_relative_path_absolute(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        assert TableRef.of("a.lance").uri == str(tmp_path / "a.lance")

    def test_leaves_the_callers_dicts_alone(self, uri):
        options = {"aws_region": "nowhere"}
        ref = TableRef.of(uri, storage_options=options)
        options["aws_region"] = "changed"
        assert ref.storage_options == {"aws_region": "nowhere"}


class TestSecrets:
    def test_never_show(self):
        ref = TableRef(
            "s3://user:hunter2@bucket/a.lance?token=hunter2",
            storage_options={"aws_secret_access_key": "hunter2"},
        )
        assert "hunter2" not in repr(ref)
        assert "hunter2" not in str(ref)
        assert "aws_secret_access_key" in repr(ref)

    def test_never_show_in_errors(self, tmp_path):
        ref = TableRef.of(str(tmp_path / "none.lance"), storage_options={"secret": "hunter2"})
        with pytest.raises(DatasetNotFoundError) as caught:
            ref.open()
        assert "hunter2" not in str(caught.value)
