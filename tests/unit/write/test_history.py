"""Commits whose version others removed before anybody could look: committed rows stay, none is there twice."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

import lance
import pyarrow as pa
import pytest

from ray_lance.errors import CommitError
from ray_lance.table import TableRef
from ray_lance.write.cleanup import remove_unreferred
from ray_lance.write.column_commit import commit_group, drop_blank, remove_leftovers
from ray_lance.write.history import LostHistoryError
from ray_lance.write.row_commit import MergeConflictError
from ray_lance.write.target import existing_target
from tests.orphans import orphans
from tests.unit.write.test_columns import start, values, write
from tests.writes import TransientFault, merge, write_tables


def keys(*values: int) -> pa.Table:
    return pa.table({"k": pa.array(values, pa.int64())})


def found(uri: str) -> list[int]:
    return sorted(lance.dataset(uri).to_table()["k"].to_pylist())


def clean_up(uri: str) -> None:
    lance.dataset(uri).cleanup_old_versions(older_than=timedelta(0), error_if_tagged_old_versions=False)


def append_and_clean_up(uri: str) -> None:
    lance.write_dataset(keys(99), uri, mode="append")
    clean_up(uri)


def overwrite_and_clean_up(uri: str) -> None:
    lance.write_dataset(keys(99), uri, mode="overwrite")
    clean_up(uri)


class LostAnswer:
    """Commits; then others do something, and the answer is lost."""

    def __init__(self, others: Callable[[], object], error: BaseException | None = None) -> None:
        self.others = others
        self.error = error or TransientFault()
        self.calls = 0

    def __call__(self, *arguments: object, **options: object) -> lance.LanceDataset:
        self.calls += 1
        lance.LanceDataset.commit(*arguments, **options)
        self.others()
        raise self.error


@pytest.mark.parametrize(
    ("mode", "expected"), [("create", [1, 2, 99]), ("append", [0, 1, 2, 99]), ("overwrite", [1, 2, 99])]
)
def test_rows_stay_once_when_the_answer_is_lost_and_others_append_and_clean_up(uri, mode, expected):
    if mode != "create":
        write_tables(uri, [keys(0)])
    send = LostAnswer(lambda: append_and_clean_up(uri))

    write_tables(uri, [keys(1, 2)], mode=mode, send=send)

    assert found(uri) == expected
    assert send.calls == 1
    assert orphans(uri) == []


@pytest.mark.parametrize(
    ("options", "expected"),
    [({}, [0, 1, 2, 99]), ({"insert": False, "update": False, "delete_missing": True}, [1, 99])],
    ids=["upsert", "only deletes"],
)
def test_a_merge_is_applied_once_when_the_answer_is_lost_and_others_append_and_clean_up(uri, options, expected):
    lance.write_dataset(keys(0, 1), uri)
    send = LostAnswer(lambda: append_and_clean_up(uri))

    done = merge(uri, keys(1, 2), on=["k"], send=send, **options)

    assert found(uri) == expected
    assert (send.calls, done.version) == (1, 3)
    lance.dataset(uri).validate()


@pytest.mark.parametrize("mode", ["create", "append", "overwrite"])
def test_an_interrupt_after_the_commit_keeps_the_rows_whatever_others_clean_up(uri, mode):
    if mode != "create":
        write_tables(uri, [keys(0)])
    send = LostAnswer(lambda: append_and_clean_up(uri), KeyboardInterrupt())

    with pytest.raises(KeyboardInterrupt):
        write_tables(uri, [keys(1)], mode=mode, send=send)

    assert {1, 99} <= set(found(uri))
    lance.dataset(uri).validate()


def test_an_interrupt_after_a_merge_keeps_its_rows_and_deletions_whatever_others_clean_up(uri):
    lance.write_dataset(keys(0, 1), uri)

    with pytest.raises(KeyboardInterrupt):
        merge(uri, keys(1, 2), on=["k"], send=LostAnswer(lambda: append_and_clean_up(uri), KeyboardInterrupt()))

    assert found(uri) == [0, 1, 2, 99]


def test_where_nothing_tells_whether_a_commit_was_made_it_is_not_repeated(uri):
    write_tables(uri, [keys(0)])
    send = LostAnswer(lambda: overwrite_and_clean_up(uri))

    with pytest.raises(LostHistoryError, match="versions after 1 were removed during the commit"):
        write_tables(uri, [keys(1)], mode="append", send=send)

    assert (found(uri), send.calls) == ([99], 1)
    assert orphans(uri) == []


@pytest.mark.parametrize("kind", ["branch", "branch of a branch", "tag"])
def test_files_that_a_branch_or_a_tag_refers_to_stay(uri, kind):
    write_tables(uri, [keys(0)])

    def others() -> None:
        dataset = lance.dataset(uri)
        if kind == "tag":
            dataset.tags.create("kept", dataset.version)
        else:
            dataset.create_branch("kept")
        if kind == "branch of a branch":
            lance.dataset(uri).checkout_version(("kept", None)).create_branch("kept/too")
            lance.write_dataset(keys(5), f"{uri}/tree/kept", mode="overwrite")
        overwrite_and_clean_up(uri)

    with pytest.raises(KeyboardInterrupt):
        write_tables(uri, [keys(1)], mode="append", send=LostAnswer(others, KeyboardInterrupt()))

    version = {"tag": "kept", "branch": ("kept", None), "branch of a branch": ("kept/too", None)}[kind]
    assert sorted(lance.dataset(uri).checkout_version(version).to_table()["k"].to_pylist()) == [0, 1]


@pytest.mark.parametrize("mode", ["append", "overwrite"])
def test_a_write_outlives_the_version_it_began_with(uri, mode):
    write_tables(uri, [keys(0)])

    write_tables(uri, [keys(1)], mode=mode, before_commit=lambda: append_and_clean_up(uri))

    assert found(uri) == ([1] if mode == "overwrite" else [0, 1, 99])
    assert orphans(uri) == []


def test_rows_are_not_appended_to_columns_that_others_changed_in_versions_that_are_gone(uri):
    write_tables(uri, [keys(0)])
    lance.dataset(uri).tags.create("kept", 1)

    def others() -> None:
        lance.dataset(uri).add_columns({"double": "k * 2"})
        lance.dataset(uri).delete("false")
        clean_up(uri)

    with pytest.raises(CommitError, match="changed the schema"):
        write_tables(uri, [keys(1)], mode="append", before_commit=others)

    assert found(uri) == [0]


@pytest.mark.parametrize("tagged", [True, False])
def test_a_merge_does_not_bring_back_what_others_deleted_in_versions_that_are_gone(uri, tagged):
    lance.write_dataset(keys(0, 1, 2, 3), uri)
    if tagged:
        lance.dataset(uri).tags.create("kept", 1)

    def others() -> None:
        lance.dataset(uri).delete("k = 3")
        append_and_clean_up(uri)

    with pytest.raises(MergeConflictError, match="run the merge again"):
        merge(uri, keys(1, 7), on=["k"], before_commit=others)

    assert found(uri) == [0, 1, 2, 99]


def test_columns_stay_when_their_commit_was_made_and_others_append_and_clean_up(uri):
    lance.write_dataset(pa.table({"id": range(4)}), uri)
    job = start(uri)

    def others() -> None:
        lance.write_dataset(pa.table({"id": [99]}), uri, mode="append")
        clean_up(uri)

    with pytest.raises(KeyboardInterrupt):
        commit_group(job, write(job), LostAnswer(others, KeyboardInterrupt()))
    drop_blank(job)
    remove_leftovers(job, [])

    assert values(uri) == {0: 1, 1: 2, 2: 3, 3: 4, 99: None}


def test_columns_are_committed_when_the_answer_is_lost_and_others_append_and_clean_up(uri):
    lance.write_dataset(pa.table({"id": range(4)}), uri)
    job = start(uri)
    send = LostAnswer(lambda: (lance.write_dataset(pa.table({"id": [99]}), uri, mode="append"), clean_up(uri)))

    commit_group(job, write(job), send)
    remove_leftovers(job, [])

    assert values(uri) == {0: 1, 1: 2, 2: 3, 3: 4, 99: None}


def test_files_that_nothing_refers_to_are_removed(uri):
    write_tables(uri, [keys(0)])
    job = existing_target(TableRef.of(uri))
    storage = job.storage()
    (used,) = storage.list("data")
    staged = lance.fragment.write_fragments(keys(5), uri, mode="append")[0].files[0].path

    remove_unreferred(job, [used, f"data/{staged}"], since=0)

    assert storage.list("data") == [used]
