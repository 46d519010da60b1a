from __future__ import annotations

from pathlib import Path

import lance
import pyarrow as pa
import pytest

from ray_lance.errors import (
    CommitError,
    DatasetExistsError,
    DatasetNotFoundError,
    InvalidArgumentError,
    LancePanicError,
)
from ray_lance.write.history import JOB_PROPERTY
from tests.datasets import sample_table
from tests.orphans import leftovers, orphans
from tests.writes import QUICK, Cue, FaultyRows, FaultySend, at_once, write_tables

OLD, NEW = sample_table(20), sample_table(30, 20)
MODES = ["create", "append", "overwrite"]
EXPECTED = {"create": NEW, "append": pa.concat_tables([OLD, NEW]), "overwrite": NEW}
LASTING = frozenset(range(QUICK.max_attempts))


def prepare(uri: str, mode: str) -> int | None:
    """The version before the write under test; None for a dataset that is not there."""
    if mode == "create":
        return None
    write_tables(uri, [OLD])
    return 1


def rows(uri: str) -> pa.Table:
    return lance.dataset(uri).to_table()


@pytest.mark.parametrize("mode", MODES)
def test_each_mode_makes_one_version_with_the_right_rows(uri, mode):
    before = prepare(uri, mode)

    job = write_tables(uri, [NEW], mode=mode)

    dataset = lance.dataset(uri)
    assert rows(uri).equals(EXPECTED[mode])
    assert dataset.version == (before or 0) + 1
    assert dataset.read_transaction(dataset.version).transaction_properties[JOB_PROPERTY] == job.job_id
    assert orphans(uri) == []


@pytest.mark.parametrize("mode", ["create", "overwrite"])
def test_a_commit_without_rows_keeps_its_transaction(uri, mode):
    write_tables(uri, [sample_table(0)], schema=OLD.schema)
    if mode == "overwrite":
        write_tables(uri, [sample_table(0)], mode=mode, schema=OLD.schema)

    transactions = sorted(path.name for path in (Path(uri) / "_transactions").iterdir())
    assert [name.partition("-")[0] for name in transactions] == [str(i) for i in range(lance.dataset(uri).version)]
    assert rows(uri).equals(sample_table(0))


def test_overwrite_keeps_the_old_version_readable(uri):
    prepare(uri, "overwrite")

    write_tables(uri, [NEW], mode="overwrite")

    assert lance.dataset(uri, version=1).to_table().equals(OLD)


def test_overwrite_may_change_the_schema(uri):
    prepare(uri, "overwrite")

    write_tables(uri, [pa.table({"other": ["x"]})], mode="overwrite")

    assert rows(uri).equals(pa.table({"other": ["x"]}))


def test_overwrite_creates_what_is_not_there(uri):
    write_tables(uri, [NEW], mode="overwrite")

    assert rows(uri).equals(NEW)


def test_create_refuses_an_existing_dataset(uri):
    prepare(uri, "append")

    with pytest.raises(DatasetExistsError, match='mode="create": a dataset already stands'):
        write_tables(uri, [NEW])

    assert rows(uri).equals(OLD)
    assert orphans(uri) == []


@pytest.mark.parametrize("mode", ["append", "merge"])
def test_append_and_merge_need_a_dataset(uri, tmp_path, mode):
    with pytest.raises(DatasetNotFoundError, match='mode="create" makes a new one'):
        write_tables(uri, [NEW], mode=mode, on="id" if mode == "merge" else ())

    assert leftovers(tmp_path) == []


@pytest.mark.parametrize("mode", MODES)
def test_a_fault_before_the_commit_is_retried(uri, mode):
    prepare(uri, mode)

    write_tables(uri, [NEW], mode=mode, send=FaultySend(before=Cue(frozenset({0, 1}))))

    assert rows(uri).equals(EXPECTED[mode])
    assert orphans(uri) == []


@pytest.mark.parametrize("mode", MODES)
def test_a_commit_whose_acknowledgement_is_lost_is_not_repeated(uri, mode):
    before = prepare(uri, mode)

    write_tables(uri, [NEW], mode=mode, send=FaultySend(after=Cue(LASTING)))

    assert rows(uri).equals(EXPECTED[mode])
    assert lance.dataset(uri).version == (before or 0) + 1
    assert orphans(uri) == []


def test_a_lost_acknowledgement_is_recognised_behind_another_writers_version(uri):
    prepare(uri, "append")
    others = sample_table(5, 100)

    class Send(FaultySend):
        def __call__(self, *arguments, **options):
            lance.LanceDataset.commit(*arguments, **options)
            lance.write_dataset(others, uri, mode="append")
            raise ConnectionError("connection reset")

    write_tables(uri, [NEW], mode="append", send=Send())

    assert rows(uri).equals(pa.concat_tables([OLD, NEW, others]))
    assert lance.dataset(uri).version == 3


@pytest.mark.parametrize("mode", MODES)
def test_a_commit_that_keeps_failing_leaves_nothing_behind(uri, tmp_path, mode):
    prepare(uri, mode)

    with pytest.raises(CommitError, match="nothing was committed after 3 attempts"):
        write_tables(uri, [NEW], mode=mode, send=FaultySend(before=Cue(LASTING)))

    if mode == "create":
        assert leftovers(tmp_path) == []
    else:
        assert rows(uri).equals(OLD)
        assert orphans(uri) == []


class PanicException(BaseException):
    """What a panic of Lance is raised as."""


def panic() -> None:
    raise PanicException("index out of bounds")


def test_a_panic_while_files_are_written_is_an_error_and_leaves_nothing_behind(uri, tmp_path):
    with pytest.raises(LancePanicError, match=r"Lance panicked while writing data files.*index out of bounds"):
        write_tables(uri, [FaultyRows(NEW, panic)], schema=NEW.schema)

    assert leftovers(tmp_path) == []


@pytest.mark.parametrize("mode", MODES)
def test_a_panic_at_the_commit_is_an_error_and_leaves_nothing_behind(uri, tmp_path, mode):
    prepare(uri, mode)

    with pytest.raises(CommitError, match="Lance panicked while committing"):
        write_tables(uri, [NEW], mode=mode, send=FaultySend(before=panic))

    if mode == "create":
        assert leftovers(tmp_path) == []
    else:
        assert rows(uri).equals(OLD)
        assert orphans(uri) == []


def test_a_commit_that_was_made_counts_although_lance_panicked_after_it(uri):
    write_tables(uri, [NEW], send=FaultySend(after=panic))

    assert rows(uri).equals(NEW)
    assert orphans(uri) == []


@pytest.mark.parametrize("given", [".", "table.lance"])
def test_a_create_that_fails_leaves_the_folders_that_were_there(tmp_path, given):
    (tmp_path / "mine" / given).mkdir(parents=True)
    before = leftovers(tmp_path)

    for rows_that_fail, send in ((NEW, FaultySend(before=Cue(LASTING))), (FaultyRows(NEW, panic), FaultySend())):
        with pytest.raises((CommitError, LancePanicError)):
            write_tables(str(tmp_path / "mine" / "table.lance"), [rows_that_fail], schema=NEW.schema, send=send)

    assert leftovers(tmp_path) == before


def test_create_refuses_a_dataset_that_appears_during_the_write(uri):
    send = FaultySend(meanwhile=lambda: lance.write_dataset(OLD, uri))

    with pytest.raises(DatasetExistsError, match=r"appeared at .* during the write"):
        write_tables(uri, [NEW], send=send)

    assert rows(uri).equals(OLD)
    assert lance.dataset(uri).version == 1
    assert orphans(uri) == []


def test_overwrite_replaces_a_dataset_that_appears_during_the_write(uri):
    send = FaultySend(meanwhile=lambda: lance.write_dataset(OLD, uri))

    write_tables(uri, [NEW], mode="overwrite", send=send)

    assert rows(uri).equals(NEW)
    assert lance.dataset(uri, version=1).to_table().equals(OLD)
    assert orphans(uri) == []


@pytest.mark.parametrize("mode", ["ignore", "merge"])
def test_rows_are_never_replaced_by_a_mode_that_does_not_say_so(uri, mode):
    prepare(uri, "append")

    with pytest.raises(DatasetExistsError, match="its rows are not replaced"):
        write_tables(uri, [NEW], mode=mode, on="id" if mode == "merge" else ())

    assert rows(uri).equals(OLD)
    assert orphans(uri) == []


def test_of_many_creators_one_wins(uri):
    contenders = [sample_table(10, 100 * number) for number in range(4)]

    results = at_once(*(lambda table=table: write_tables(uri, [table]) for table in contenders))

    winners = [index for index, result in enumerate(results) if not isinstance(result, Exception)]
    assert len(winners) == 1
    assert all(isinstance(result, DatasetExistsError) for result in results if isinstance(result, Exception))
    assert rows(uri).equals(contenders[winners[0]])
    assert orphans(uri) == []


@pytest.mark.parametrize("mode", ["append", "overwrite"])
def test_an_append_by_another_writer_meanwhile_is_no_obstacle(uri, mode):
    prepare(uri, mode)
    others = sample_table(5, 100)
    send = FaultySend(meanwhile=lambda: lance.write_dataset(others, uri, mode="append"))

    write_tables(uri, [NEW], mode=mode, send=send)

    expected = NEW if mode == "overwrite" else pa.concat_tables([OLD, others, NEW])
    assert rows(uri).equals(expected)
    assert orphans(uri) == []


def test_eight_concurrent_appends_are_all_there_once(uri):
    prepare(uri, "append")
    parts = [sample_table(10, 100 * number) for number in range(1, 9)]

    results = at_once(*(lambda part=part: write_tables(uri, [part], mode="append") for part in parts))

    assert [result for result in results if isinstance(result, Exception)] == []
    ids = rows(uri)["id"].to_pylist()
    assert sorted(ids) == sorted(pa.concat_tables([OLD, *parts])["id"].to_pylist())
    assert orphans(uri) == []


def test_an_append_after_the_schema_changed_is_refused(uri):
    prepare(uri, "append")
    send = FaultySend(meanwhile=lambda: lance.write_dataset(pa.table({"z": [1]}), uri, mode="overwrite"))

    with pytest.raises(CommitError, match="nothing was committed"):
        write_tables(uri, [NEW], mode="append", send=send)

    assert rows(uri).equals(pa.table({"z": [1]}))
    assert orphans(uri) == []


@pytest.mark.parametrize("mode", MODES)
def test_an_interrupted_commit_that_succeeded_keeps_its_files(uri, mode):
    prepare(uri, mode)

    class Send(FaultySend):
        def __call__(self, *arguments, **options):
            lance.LanceDataset.commit(*arguments, **options)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_tables(uri, [NEW], mode=mode, send=Send())

    assert rows(uri).equals(EXPECTED[mode])


def test_stable_row_ids_take_effect_and_stay(uri):
    write_tables(uri, [OLD], enable_stable_row_ids=True)
    write_tables(uri, [NEW], mode="append")

    dataset = lance.dataset(uri)
    before = dataset.to_table(columns=["id"], with_row_id=True)
    dataset.delete("id < 5")
    dataset.optimize.compact_files()

    assert dataset.has_stable_row_ids
    assert lance.dataset(uri).to_table(columns=["id"], with_row_id=True).equals(before.slice(5).combine_chunks())


def test_stable_row_ids_cannot_be_added_later(uri):
    prepare(uri, "overwrite")

    with pytest.raises(InvalidArgumentError, match="enable_stable_row_ids=True: the dataset was created without"):
        write_tables(uri, [NEW], mode="overwrite", enable_stable_row_ids=True)


@pytest.mark.parametrize("version", ["2.0", "2.1", "2.2"])
def test_the_storage_version_is_the_one_asked_for(uri, version):
    write_tables(uri, [OLD], data_storage_version=version)
    write_tables(uri, [NEW], mode="append")
    write_tables(uri, [OLD], mode="overwrite")

    dataset = lance.dataset(uri)
    assert dataset.data_storage_version == version
    files = [file for fragment in dataset.get_fragments() for file in fragment.metadata.files]
    assert {f"{file.file_major_version}.{file.file_minor_version}" for file in files} == {version}


def test_another_storage_version_is_refused_where_a_dataset_stands(uri):
    write_tables(uri, [OLD], data_storage_version="2.0")

    with pytest.raises(InvalidArgumentError, match=r"data_storage_version='2\.1': the dataset has '2\.0'"):
        write_tables(uri, [NEW], mode="append", data_storage_version="2.1")


def test_appends_fit_a_dataset_whose_columns_changed(uri):
    """Field ids are then no longer in order."""
    dataset = lance.write_dataset(sample_table(3), uri)
    dataset.drop_columns(["label"])
    lance.dataset(uri).add_columns(pa.field("extra", pa.struct([("a", pa.int64()), ("b", pa.list_(pa.int8()))])))

    write_tables(uri, [sample_table(2, 3).drop_columns(["label"])], mode="append")

    table = rows(uri)
    assert table["id"].to_pylist() == [0, 1, 2, 3, 4]
    assert table["text"].to_pylist() == [f"row {i}" for i in range(5)]
    assert table["extra"].to_pylist()[-1] is None
    lance.dataset(uri).validate()
