"""Which rows have changed since a version: Lance's own history of each row, or of fragments, is the oracle."""

from __future__ import annotations

import datetime
import time
from typing import Any

import lance
import numpy as np
import pyarrow as pa
import pytest

from ray_lance import DatasetNotFoundError, InvalidArgumentError, TableRef
from ray_lance.changes import changed_since


def create(uri: str, ids: range, *, stable: bool = True, **options: Any) -> lance.LanceDataset:
    table = pa.table({"id": pa.array(ids, pa.int64())})
    return lance.write_dataset(table, uri, enable_stable_row_ids=stable, **options)


def changed(uri: str, since: Any, changes: str = "all", **source: Any) -> list[int]:
    """The ids of the rows, read by Lance as it is told to."""
    table = TableRef.of(uri, **source).pin()
    found, dataset = changed_since(table, since, changes), table.open()
    fragments = None if found.fragment_ids is None else [dataset.get_fragment(each) for each in found.fragment_ids]
    if fragments == []:
        return []
    scanner = dataset.scanner(filter=found.condition, fragments=fragments, columns=["id"])
    return sorted(scanner.to_table()["id"].to_pylist())


class TestStableRowIds:
    @pytest.fixture
    def uri(self, uri) -> str:
        """Versions: 1 has rows 0 to 4, 2 adds 5 to 7, 3 makes row 1 row 101 and row 6 row 106, 4 deletes row 2."""
        create(uri, range(5))
        create(uri, range(5, 8), mode="append")
        lance.dataset(uri).update({"id": "id + 100"}, where="id = 1 OR id = 6")
        lance.dataset(uri).delete("id = 2")
        return uri

    @pytest.mark.parametrize(
        ("since", "changes", "ids"),
        [
            (1, "all", [5, 7, 101, 106]),
            (1, "inserted", [5, 7, 106]),
            (1, "updated", [101]),
            (2, "all", [101, 106]),
            (2, "inserted", []),
            (2, "updated", [101, 106]),
            (np.int64(3), "all", []),
            (4, "all", []),
        ],
    )
    def test_each_row_is_told(self, uri, since, changes, ids):
        assert changed(uri, since, changes) == ids

    def test_compaction_changes_nothing(self, uri):
        lance.dataset(uri).optimize.compact_files()

        assert changed(uri, 1) == [5, 7, 101, 106]

    def test_merges_by_key_are_updates_and_inserts(self, uri):
        version = lance.dataset(uri).version
        new = pa.table({"id": pa.array([0, 500], pa.int64())})
        lance.dataset(uri).merge_insert("id").when_matched_update_all().when_not_matched_insert_all().execute(new)

        assert changed(uri, version, "updated") == [0]
        assert changed(uri, version, "inserted") == [500]

    def test_an_earlier_version_may_be_read(self, uri):
        assert changed(uri, 1, version=2) == [5, 6, 7]

    def test_a_version_that_was_cleaned_up_still_counts(self, uri):
        lance.dataset(uri).cleanup_old_versions(datetime.timedelta(0))

        assert changed(uri, 2) == [101, 106]


class TestWithoutStableRowIds:
    @pytest.fixture
    def uri(self, uri) -> str:
        """Versions: 1 has rows 0 to 4, 2 adds 5 to 7, 3 deletes 2 and 6, 4 adds an index, 5 a column."""
        create(uri, range(5), stable=False)
        create(uri, range(5, 8), stable=False, mode="append")
        lance.dataset(uri).delete("id = 2 OR id = 6")
        lance.dataset(uri).create_scalar_index("id", "BTREE")
        lance.dataset(uri).add_columns({"x": "id + 1"})
        return uri

    @pytest.mark.parametrize("changes", ["all", "inserted"])
    def test_fragments_are_new_or_old(self, uri, changes):
        assert changed(uri, 1, changes) == [5, 7]
        assert changed(uri, 2, changes) == []

    def test_updates_are_no_question_for_them(self, uri):
        with pytest.raises(InvalidArgumentError, match=r"changes='updated'.*no stable row ids.*enable_stable_row_ids"):
            changed(uri, 1, "updated")

    @pytest.mark.parametrize(
        "move",
        [
            lambda dataset: dataset.update({"id": "id + 100"}, where="id = 1"),
            lambda dataset: dataset.optimize.compact_files(),
            lambda dataset: create(dataset.uri, range(3), stable=False, mode="overwrite"),
        ],
        ids=["update", "compaction", "overwrite"],
    )
    def test_what_moves_rows_is_an_error(self, uri, move):
        version = lance.dataset(uri).version
        move(lance.dataset(uri))

        with pytest.raises(InvalidArgumentError, match=rf"since={version}: version \d+ was made by something else"):
            changed(uri, version)
        assert changed(uri, lance.dataset(uri).version) == []

    def test_a_version_that_was_cleaned_up_is_an_error(self, uri):
        lance.dataset(uri).cleanup_old_versions(datetime.timedelta(0))

        with pytest.raises(InvalidArgumentError, match="how version 2 was made is not known any more"):
            changed(uri, 1)


@pytest.mark.parametrize("stable", [True, False])
class TestSince:
    def test_may_be_a_tag(self, uri, stable):
        create(uri, range(5), stable=stable).tags.create("nightly", 1)
        create(uri, range(5, 8), stable=stable, mode="append")

        assert changed(uri, "nightly") == [5, 6, 7]

    def test_may_be_a_time(self, uri, stable):
        create(uri, range(5), stable=stable)
        time.sleep(0.01)
        now = datetime.datetime.now()
        time.sleep(0.01)
        create(uri, range(5, 8), stable=stable, mode="append")

        assert changed(uri, now) == [5, 6, 7]
        assert changed(uri, now.astimezone(datetime.timezone.utc)) == [5, 6, 7]
        assert changed(uri, now - datetime.timedelta(1)) == list(range(8))
        assert changed(uri, now + datetime.timedelta(1)) == []

    def test_of_the_branch_that_is_read(self, uri, stable):
        main = create(uri, range(5), stable=stable)
        main.create_branch("dev", 1)
        create(uri, range(5, 8), stable=stable, mode="append").tags.create("main", 2)

        with pytest.raises(InvalidArgumentError, match="since='main': the tag is of another branch"):
            changed(uri, "main", version=("dev", None))

    @pytest.mark.parametrize("since", [0, -1, 9, 2.5, True, "", ("dev", None), b"x", [1]])
    def test_must_be_one_of_these_and_not_later(self, uri, stable, since):
        create(uri, range(5), stable=stable)

        with pytest.raises(InvalidArgumentError, match=r"since=.* must be a version number, a tag or a datetime"):
            changed(uri, since)

    def test_must_be_known(self, uri, stable):
        create(uri, range(5), stable=stable)

        with pytest.raises(DatasetNotFoundError, match="nightly"):
            changed(uri, "nightly")
        with pytest.raises(InvalidArgumentError, match="changes='new' must be one of"):
            changed(uri, 1, "new")
