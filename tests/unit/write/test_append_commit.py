"""Appends in groups without Ray: claims, commits, what killed jobs leave, and who may commit."""

from __future__ import annotations

import lance
import pyarrow as pa
import pytest

from ray_lance.errors import CommitError
from ray_lance.table import TableRef
from ray_lance.write.append_commit import (
    AppendRecord,
    claim_append,
    commit_rows_of_group,
    finish_append,
    record_of_append,
    remove_rest,
)
from ray_lance.write.fragments import TableRows, write_files
from ray_lance.write.job import WriteJob, begin
from ray_lance.write.options import WriteOptions
from tests.orphans import orphans
from tests.writes import QUICK, Cue, FaultySend

OPTIONS = WriteOptions(mode="append", commit_every=1, id_column="id", retry=QUICK)


@pytest.fixture
def uri(tmp_path) -> str:
    uri = str(tmp_path / "t.lance")
    lance.write_dataset(pa.table({"id": [0]}), uri)
    return uri


class Program:
    """One run of a program that appends groups."""

    def __init__(self, uri: str) -> None:
        self.job: WriteJob = begin(TableRef.of(uri), OPTIONS)
        self.record: AppendRecord = claim_append(self.job, "id")
        self.committed: list[str] = []

    def write(self, *ids: int) -> list:
        return [file.metadata() for file in write_files([TableRows(pa.table({"id": list(ids)}))], self.job)]

    def append(self, *ids: int, **options) -> None:
        fragments = self.write(*ids)
        commit_rows_of_group(self.job, self.record, fragments, **options)
        self.committed += [file.path for fragment in fragments for file in fragment.files]

    def finish(self) -> None:
        remove_rest(self.job, self.record, self.committed)
        finish_append(self.job, self.record)


def ids(uri: str) -> list[int]:
    return lance.dataset(uri).to_table()["id"].to_pylist()


def test_each_group_is_there_at_once_and_nothing_else_is_left(uri):
    program = Program(uri)
    program.append(1, 2)
    assert ids(uri) == [0, 1, 2]
    program.append(3)
    program.finish()

    assert ids(uri) == [0, 1, 2, 3]
    assert record_of_append(lance.dataset(uri)) is None
    assert orphans(uri) == []


def test_a_run_after_killed_ones_removes_what_they_left(uri):
    for number in (1, 3):
        killed = Program(uri)
        killed.append(number)
        killed.write(number + 1)
    last = Program(uri)
    last.append(2, 4)
    assert len(orphans(uri)) == 2
    last.finish()

    assert ids(uri) == [0, 1, 3, 2, 4]
    assert orphans(uri) == []


def test_a_job_that_only_seemed_dead_commits_nothing_more(uri):
    first = Program(uri)
    first.append(1)
    late = first.write(2)
    second = Program(uri)

    with pytest.raises(CommitError, match="another append"):
        commit_rows_of_group(first.job, first.record, late)
    second.finish()

    assert ids(uri) == [0, 1]
    assert orphans(uri) == []


def test_a_job_is_stopped_by_one_that_begins_between_its_check_and_its_commit(uri):
    first = Program(uri)

    with pytest.raises(CommitError, match="another append"):
        first.append(1, send=FaultySend(meanwhile=lambda: Program(uri)))

    assert ids(uri) == [0]


@pytest.mark.parametrize("fault", ["before", "after"])
def test_a_group_is_committed_once_whatever_its_answer(uri, fault):
    program = Program(uri)
    program.append(1, send=FaultySend(**{fault: Cue(frozenset({0}))}))
    program.finish()

    assert ids(uri) == [0, 1]
    assert orphans(uri) == []


def test_others_may_append_and_delete_meanwhile(uri):
    program = Program(uri)
    send = FaultySend(meanwhile=lambda: lance.write_dataset(pa.table({"id": [9]}), uri, mode="append"))
    program.append(1, send=send)
    lance.dataset(uri).delete("id = 0")
    program.append(2)
    program.finish()

    assert sorted(ids(uri)) == [1, 2, 9]


def test_a_changed_schema_ends_the_job(uri):
    program = Program(uri)
    lance.dataset(uri).add_columns({"x": "id"})

    with pytest.raises(CommitError, match="schema"):
        program.append(1)

    assert ids(uri) == [0]
