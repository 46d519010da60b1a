"""The same laws as on a file system, on an S3 server."""

from __future__ import annotations

import traceback

import lance
import pyarrow as pa
import pytest

from ray_lance.errors import CommitError, DatasetExistsError
from ray_lance.table import TableRef
from tests.datasets import sample_table
from tests.s3 import SECRET, s3_server
from tests.writes import QUICK, Cue, FaultySend, FaultyStorage, TransientFault, at_once, write_tables

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


def orphans(s3, table: TableRef) -> list[str]:
    """Data and transaction files of no version."""
    name = table.uri.rsplit("/", 1)[1]
    latest = table.open()
    referred = set()
    for entry in latest.versions():
        version = lance.dataset(table.uri, version=entry["version"], storage_options=s3.storage_options)
        transaction = version.read_transaction(entry["version"])
        referred.add(f"_transactions/{transaction.read_version}-{transaction.uuid}.txn")
        referred.update(f"data/{file.path}" for part in version.get_fragments() for file in part.metadata.files)
    return [path for path in s3.files(name) if not path.startswith("_versions/") and path not in referred]


def test_create_append_and_overwrite(s3, table):
    write_tables(table, [OLD])
    write_tables(table, [NEW], mode="append", target_bytes_per_file=FILE)
    assert table.open().to_table().equals(pa.concat_tables([OLD, NEW]))

    write_tables(table, [NEW], mode="overwrite")

    dataset = table.open()
    assert dataset.to_table().equals(NEW)
    assert dataset.version == 3
    assert orphans(s3, table) == []


@pytest.mark.parametrize("failing", range(3))
def test_a_fault_at_any_file_loses_and_doubles_nothing(s3, table, failing):
    cue = Cue(frozenset({failing}))

    write_tables(table, [NEW], target_bytes_per_file=FILE, storage=lambda inner: FaultyStorage(inner, publishing=cue))

    assert cue.calls > failing
    assert table.open().to_table().equals(NEW)
    assert orphans(s3, table) == []


def test_a_lasting_fault_leaves_nothing_behind(s3, table):
    cue = Cue(frozenset({2, 3, 4}))

    with pytest.raises(TransientFault):
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
    assert orphans(s3, table) == []


def test_of_many_creators_one_wins(s3, table):
    contenders = [sample_table(10, 100 * number) for number in range(3)]

    results = at_once(*(lambda part=part: write_tables(table, [part]) for part in contenders))

    winners = [index for index, result in enumerate(results) if not isinstance(result, Exception)]
    assert len(winners) == 1
    assert all(isinstance(result, DatasetExistsError) for result in results if isinstance(result, Exception))
    assert table.open().to_table().equals(contenders[winners[0]])
    assert orphans(s3, table) == []


def test_concurrent_appends_are_all_there_once(s3, table):
    write_tables(table, [OLD])
    parts = [sample_table(10, 100 * number) for number in range(1, 5)]

    results = at_once(*(lambda part=part: write_tables(table, [part], mode="append") for part in parts))

    assert [result for result in results if isinstance(result, Exception)] == []
    ids = table.open().to_table()["id"].to_pylist()
    assert sorted(ids) == sorted(pa.concat_tables([OLD, *parts])["id"].to_pylist())
    assert orphans(s3, table) == []


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
