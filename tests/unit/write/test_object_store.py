"""The same laws as on a file system, on an S3 server."""

from __future__ import annotations

import traceback
from datetime import timedelta

import lance
import pyarrow as pa
import pytest

from ray_lance.errors import CommitError, DatasetExistsError, StorageError
from ray_lance.table import TableRef
from ray_lance.write.column_commit import commit_group
from tests.datasets import sample_table
from tests.indexes import INDEXES, indexed_rows
from tests.s3 import SECRET, s3_server
from tests.unit.write.test_columns import start, write
from tests.unit.write.test_history import LostAnswer
from tests.writes import QUICK, Cue, FaultySend, FaultyStorage, at_once, merge, write_tables

OLD, NEW = sample_table(20), sample_table(200, 20)
FILE = 2_000


@pytest.fixture(scope="module")
def s3():
    with s3_server() as server:
        yield server


@pytest.fixture
def table(s3, request) -> TableRef:
    name = request.node.name.replace("[", "-").replace("]", "")
    return TableRef.of(s3.uri(name), storage_options=s3.storage_options)


def test_create_append_and_overwrite(s3, table):
    write_tables(table, [OLD])
    write_tables(table, [NEW], mode="append", target_bytes_per_file=FILE)
    assert table.open().to_table().equals(pa.concat_tables([OLD, NEW]))

    write_tables(table, [NEW], mode="overwrite")

    dataset = table.open()
    assert dataset.to_table().equals(NEW)
    assert dataset.version == 3
    assert s3.orphans(table.uri.rsplit("/", 1)[1]) == []


@pytest.mark.parametrize("failing", range(3))
def test_a_fault_at_any_file_loses_and_doubles_nothing(s3, table, failing):
    cue = Cue(frozenset({failing}))

    write_tables(table, [NEW], target_bytes_per_file=FILE, storage=lambda inner: FaultyStorage(inner, publishing=cue))

    assert cue.calls > failing
    assert table.open().to_table().equals(NEW)
    assert s3.orphans(table.uri.rsplit("/", 1)[1]) == []


def test_a_lasting_fault_leaves_nothing_behind(s3, table):
    cue = Cue(frozenset({2, 3, 4}))

    with pytest.raises(StorageError, match=r"publishing data.*connection reset by peer"):
        write_tables(
            table, [NEW], target_bytes_per_file=FILE, storage=lambda inner: FaultyStorage(inner, publishing=cue)
        )

    assert s3.files(table.uri.rsplit("/", 1)[1]) == []


def test_a_commit_that_keeps_failing_leaves_nothing_behind(s3, table):
    with pytest.raises(CommitError):
        write_tables(table, [NEW], send=FaultySend(before=Cue(frozenset(range(QUICK.max_attempts)))))

    assert s3.files(table.uri.rsplit("/", 1)[1]) == []


def test_a_lost_acknowledgement_is_recognised(s3, table):
    write_tables(table, [OLD])

    write_tables(table, [NEW], mode="append", send=FaultySend(after=Cue(frozenset({0}))))

    assert table.open().version == 2
    assert table.open().count_rows() == 220
    assert s3.orphans(table.uri.rsplit("/", 1)[1]) == []


def test_of_many_creators_one_wins(s3, table):
    contenders = [sample_table(10, 100 * number) for number in range(3)]

    results = at_once(*(lambda part=part: write_tables(table, [part]) for part in contenders))

    winners = [index for index, result in enumerate(results) if not isinstance(result, Exception)]
    assert len(winners) == 1
    assert all(isinstance(result, DatasetExistsError) for result in results if isinstance(result, Exception))
    assert table.open().to_table().equals(contenders[winners[0]])
    assert s3.orphans(table.uri.rsplit("/", 1)[1]) == []


def test_concurrent_appends_are_all_there_once(s3, table):
    write_tables(table, [OLD])
    parts = [sample_table(10, 100 * number) for number in range(1, 5)]

    results = at_once(*(lambda part=part: write_tables(table, [part], mode="append") for part in parts))

    assert [result for result in results if isinstance(result, Exception)] == []
    ids = table.open().to_table()["id"].to_pylist()
    assert sorted(ids) == sorted(pa.concat_tables([OLD, *parts])["id"].to_pylist())
    assert s3.orphans(table.uri.rsplit("/", 1)[1]) == []


def test_secrets_are_in_no_error_and_no_repr(table, caplog):
    write_tables(table, [OLD])
    job = write_tables(table, [NEW], mode="append")

    shown = [repr(job), repr(table)]
    for send in (FaultySend(before=Cue(frozenset(range(9)))), FaultySend(before=Cue(frozenset({0})))):
        try:
            write_tables(table, [NEW], mode="append", send=send)
        except CommitError as error:
            shown += traceback.format_exception(error)
    try:
        write_tables(table, [NEW])
    except DatasetExistsError as error:
        shown += traceback.format_exception(error)

    assert len(shown) > 4
    assert all(SECRET not in text for text in [*shown, caplog.text])


def numbered(keys: range, change: int = 0) -> pa.Table:
    rows = indexed_rows(keys, change)
    return rows.append_column("id", rows["k"])


def by_key(table: pa.Table) -> dict[int, dict]:
    return {row["k"]: row for row in table.to_pylist()}


@pytest.fixture
def indexed(table) -> TableRef:
    """Rows 0 to 39 in two files with an index and stable row ids."""
    options = table.storage_options
    lance.write_dataset(
        numbered(range(40)), table.uri, max_rows_per_file=25, enable_stable_row_ids=True, storage_options=options
    )
    INDEXES["BTREE"].create(table.uri, storage_options=options)
    return table


def test_a_table_with_an_index_and_stable_row_ids_takes_rows_and_columns(s3, indexed):
    write_tables(indexed, [numbered(range(40, 50))], mode="append")
    ids = by_key(indexed.open().to_table(columns=["k"], with_row_id=True))
    merge(indexed, numbered(range(30, 55), change=1), on=["k"])
    job = start(indexed)
    commit_group(job, write(job))

    for step in (lambda: None, lambda: indexed.open().optimize.optimize_indices()):
        step()
        assert INDEXES["BTREE"].wrong_answers(indexed.uri, storage_options=indexed.storage_options) == []
    found = by_key(indexed.open().to_table(with_row_id=True))
    assert {key: found[key].pop("_rowid") for key in ids} == {key: row["_rowid"] for key, row in ids.items()}
    assert {key: row["plus"] for key, row in found.items()} == {key: key + 1 for key in range(55)}
    expected = by_key(pa.concat_tables([numbered(range(30)), numbered(range(30, 55), change=1)]))
    assert {key: {name: found[key][name] for name in row} for key, row in expected.items()} == expected
    indexed.open().validate()
    assert s3.orphans(indexed.uri.rsplit("/", 1)[1]) == []


@pytest.mark.parametrize("clean_up", [False, True], ids=["appended", "and cleaned up"])
@pytest.mark.parametrize("mode", ["append", "merge"])
def test_rows_stay_once_where_the_answer_is_lost_and_others_append(indexed, mode, clean_up):
    def others() -> None:
        dataset = lance.write_dataset(
            numbered(range(90, 95)), indexed.uri, mode="append", storage_options=indexed.storage_options
        )
        if clean_up:
            dataset.cleanup_old_versions(older_than=timedelta(0))

    send, rows = LostAnswer(others), numbered(range(40, 50))
    if mode == "append":
        write_tables(indexed, [rows], mode=mode, send=send)
    else:
        merge(indexed, rows, on=["k"], send=send)

    assert send.calls == 1
    assert sorted(indexed.open().to_table()["k"].to_pylist()) == [*range(50), *range(90, 95)]
    assert INDEXES["BTREE"].wrong_answers(indexed.uri, storage_options=indexed.storage_options) == []
    indexed.open().validate()
