"""Writes to branches: what Lance itself makes of them, and nothing on any other branch."""

from __future__ import annotations

import lance
import pytest

from ray_lance.errors import DatasetExistsError, DatasetNotFoundError, InvalidArgumentError
from ray_lance.table import TableRef
from ray_lance.write.job import begin
from ray_lance.write.options import WriteOptions
from tests.branches import BRANCHES, WAYS, branched, open_branch, rows_of
from tests.datasets import sample_table
from tests.orphans import orphans
from tests.writes import QUICK, Cue, FaultySend, write_tables

NEW = sample_table(3, start=500)


@pytest.fixture
def table(uri):
    return branched(uri)


@pytest.mark.parametrize("name", BRANCHES)
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("mode", ["append", "overwrite"])
def test_a_write_goes_to_its_branch_and_to_no_other(table, mode, way, name):
    others = {other: rows_of(table, other) for other in ("main", *BRANCHES) if other != name}
    lances = lance.dataset(table).create_branch("lances", (name, None))
    expected = lance.write_dataset(NEW, lances, mode=mode).to_table()

    job = write_tables(TableRef.of(WAYS[way](table, name)), [NEW], mode=mode)

    assert job.shown_uri == f"{table}/tree/{name}"
    assert rows_of(table, name) == expected
    assert {other: rows_of(table, other) for other in others} == others


@pytest.mark.parametrize("version", ["legacy", "2.0", "2.2"])
def test_a_write_to_a_branch_has_the_file_version_of_the_dataset(uri, version):
    lance.write_dataset(NEW, uri, data_storage_version=version).create_branch("team/x")

    write_tables(f"{uri}/tree/team/x", [NEW], mode="append")

    assert open_branch(uri, "team/x").count_rows() == 6
    assert not orphans(f"{uri}/tree/team/x")


def test_an_append_goes_on_top_of_the_latest_version_however_old_the_handle(table):
    old = open_branch(table, "dev")
    lance.write_dataset(sample_table(1, start=400), old, mode="append")

    write_tables(TableRef.of(old), [NEW], mode="append")

    assert rows_of(table, "dev")["id"].to_pylist()[-4:] == [400, 500, 501, 502]


def test_a_write_that_fails_leaves_nothing_in_the_branch(table):
    send = FaultySend(before=Cue(frozenset(range(QUICK.max_attempts))))
    with pytest.raises(Exception, match="nothing was committed"):
        write_tables(f"{table}/tree/dev", [NEW], mode="append", send=send)

    assert not orphans(f"{table}/tree/dev")


def test_a_lost_answer_is_found_again_on_the_branch(table):
    write_tables(f"{table}/tree/dev", [NEW], mode="append", send=FaultySend(after=Cue(frozenset([0]))))

    assert rows_of(table, "dev")["id"].to_pylist()[-4:] == [100, 500, 501, 502]


@pytest.mark.parametrize("way", WAYS)
def test_a_branch_is_not_created_again(table, way):
    with pytest.raises(DatasetExistsError, match="tree/dev"):
        begin(TableRef.of(WAYS[way](table, "dev")), WriteOptions(mode="create"))


@pytest.mark.parametrize("mode", ["create", "append", "overwrite", "ignore"])
@pytest.mark.parametrize("ref", ["version", "uri"])
def test_a_branch_that_is_not_there_is_not_made(table, ref, mode):
    nowhere = TableRef.of(table, version=("nope", None)) if ref == "version" else TableRef.of(f"{table}/tree/nope")

    with pytest.raises(DatasetNotFoundError, match="no such branch"):
        begin(nowhere, WriteOptions(mode=mode))


def test_a_dataset_in_a_folder_named_tree_is_no_branch(tmp_path):
    uri = f"{tmp_path}/tree/oaks"

    write_tables(uri, [NEW])
    write_tables(uri, [NEW], mode="append")

    assert lance.dataset(uri).count_rows() == 6


@pytest.mark.parametrize("version", [("dev", 2), ("main", 1), 1, "old"])
def test_no_version_but_the_latest_can_be_written_on(table, version):
    lance.dataset(table).tags.create("old", ("dev", 2))

    with pytest.raises(InvalidArgumentError, match=r"version=.*: writes go on top of the latest version, which is \d"):
        begin(TableRef.of(table, version=version), WriteOptions(mode="append"))


def test_no_time_can_be_written_on(table):
    ref = TableRef.of(table, dataset_options={"asof": lance.dataset(table).versions()[-1]["timestamp"]})

    with pytest.raises(InvalidArgumentError, match=r"'asof'\]: writes go on top of the latest version"):
        begin(ref, WriteOptions(mode="append"))


@pytest.mark.parametrize("mode", ["append", "overwrite"])
def test_a_shallow_clone_is_written_like_any_dataset(table, tmp_path, mode):
    main, clone = rows_of(table), str(tmp_path / "clone")
    lance.dataset(table).shallow_clone(clone, 2)
    lances = lance.dataset(table).shallow_clone(str(tmp_path / "lances"), 2)
    expected = lance.write_dataset(NEW, lances, mode=mode).to_table()

    write_tables(clone, [NEW], mode=mode)

    assert lance.dataset(clone).to_table() == expected
    assert rows_of(table) == main
