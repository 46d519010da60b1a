"""Which rows have no value of a column yet, as ``read_lance(missing=)`` reads them."""

from __future__ import annotations

import lance
import pyarrow as pa
import pytest

from ray_lance.table import TableRef
from ray_lance.write.column_commit import claim, commit_group, finish
from ray_lance.write.column_missing import missing_rows
from ray_lance.write.column_record import Recipe, check_columns
from ray_lance.write.target import existing_target
from tests.datasets import write_fragments
from tests.unit.write.test_columns import todo, write
from tests.writes import QUICK

PLUS = pa.schema([("plus", pa.int64())])


def missing(uri: str, *names: str):
    return missing_rows(TableRef.of(uri).pin(), names)


def compute(uri: str, fragments: int, where: str | None = None, *, ends: bool = False):
    """Commit the values of the first fragments that lack them."""
    target = existing_target(TableRef.of(uri), QUICK)
    record = check_columns(target.table.open().schema, PLUS, Recipe(("id",), where, "plus", ()), overwrite=False)
    job = claim(target, record, PLUS)
    commit_group(job, write(job, todo(job))[:fragments])
    if ends:
        finish(job)


@pytest.fixture
def uri(tmp_path):
    path = str(tmp_path / "t.lance")
    write_fragments(path, [10, 20, 30, 40])
    return path


def test_all_rows_lack_a_column_that_the_table_lacks(uri):
    found = missing(uri, "plus")

    assert (found.columns, found.fragment_ids, found.condition) == (("plus",), (0, 1, 2, 3), None)


def test_fragments_whose_values_are_committed_are_left_out(uri):
    compute(uri, fragments=2)

    found = missing(uri, "plus")

    assert (found.fragment_ids, found.condition) == ((2, 3), None)
    assert missing(uri, "plus", "another").fragment_ids == (0, 1, 2, 3)
    assert missing(uri, "id").fragment_ids == ()


def test_a_compaction_leaves_rows_without_a_value(uri):
    compute(uri, fragments=2)
    dataset = lance.dataset(uri)
    dataset.optimize.compact_files(target_rows_per_fragment=65)

    found = missing(uri, "plus")

    rows = lance.dataset(uri).scanner(
        columns=["id"],
        filter=found.condition,
        fragments=[lance.dataset(uri).get_fragment(number) for number in found.fragment_ids],
    )
    assert sorted(rows.to_table()["id"].to_pylist()) == list(range(30, 100))


def test_rows_that_were_not_to_be_computed_do_not_lack_a_value(uri):
    compute(uri, fragments=1, where="id % 2 = 0")

    found = missing(uri, "plus")

    assert (found.fragment_ids, found.condition) == ((1, 2, 3), "id % 2 = 0")


def test_rows_appended_later_lack_the_columns_of_others_too(uri):
    compute(uri, fragments=4, ends=True)
    lance.dataset(uri).add_columns({"of_others": "id + 1"})
    rows = lance.dataset(uri).to_table(columns=["id"]).slice(0, 5)

    lance.write_dataset(rows, uri, mode="append")

    assert missing(uri, "plus").fragment_ids == missing(uri, "of_others").fragment_ids == (4,)
