from __future__ import annotations

import lance
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ray_lance.errors import InvalidArgumentError, SchemaMismatchError
from ray_lance.table import TableRef
from ray_lance.write.job import begin
from ray_lance.write.merge import (
    check_keys,
    commit_merge,
)
from ray_lance.write.options import WriteOptions
from ray_lance.write.row_commit import MergeConflictError
from tests.orphans import orphans
from tests.writes import QUICK, Cue, FaultySend, merge

KEYS = st.lists(st.tuples(st.integers(-5, 20), st.sampled_from("ab")), unique=True, max_size=25)


def rows(keys: list[tuple[int, str]], value: int) -> pa.Table:
    return pa.table(
        {
            "k": pa.array([key for key, _ in keys], pa.int64()),
            "s": pa.array([text for _, text in keys], pa.string()),
            "v": pa.array([value] * len(keys), pa.int64()),
        }
    )


def content(uri: str) -> dict[tuple[int, str], int]:
    table = lance.dataset(uri).to_table().to_pydict()
    keys = list(zip(table["k"], table["s"], strict=True))
    assert len(set(keys)) == len(keys)
    return dict(zip(keys, table["v"], strict=True))


def expected(old, new, *, update=True, insert=True, delete_missing=False) -> dict[tuple[int, str], int]:
    result = dict.fromkeys(old, 1)
    for key in new:
        if (key in result and update) or (key not in old and insert):
            result[key] = 2
    return {key: value for key, value in result.items() if not delete_missing or key in new}


@pytest.mark.parametrize("stable", [False, True])
@pytest.mark.parametrize(
    "options",
    [{}, {"insert": False}, {"update": False}, {"delete_missing": True}, {"update": False, "delete_missing": True}],
    ids=lambda options: "-".join(options) or "upsert",
)
@given(old=KEYS, new=KEYS)
def test_a_merge_does_what_its_options_say_and_converges(tmp_path_factory, stable, options, old, new):
    uri = str(tmp_path_factory.mktemp("merge") / "t.lance")
    lance.write_dataset(rows(old, 1), uri, max_rows_per_file=4, enable_stable_row_ids=stable)

    merge(uri, rows(new, 2), **options)
    once = content(uri)
    merge(uri, rows(new, 2), **options)

    assert once == expected(old, new, **options)
    assert content(uri) == once
    assert orphans(uri) == []
    lance.dataset(uri).validate()


def test_rows_keep_their_stable_ids(tmp_path):
    uri = str(tmp_path / "t.lance")
    lance.write_dataset(rows([(i, "a") for i in range(10)], 1), uri, enable_stable_row_ids=True)

    merge(uri, rows([(99, "a"), (3, "a"), (7, "a")], 2))

    table = lance.dataset(uri).to_table(columns=["k"], with_row_id=True).to_pydict()
    ids = dict(zip(table["k"], table["_rowid"], strict=True))
    assert {key: ids[key] for key in range(10)} == {key: key for key in range(10)}
    assert ids[99] == 10


def test_what_was_done_is_counted(tmp_path):
    uri = str(tmp_path / "t.lance")
    lance.write_dataset(rows([(i, "a") for i in range(10)], 1), uri)

    done = merge(uri, rows([(1, "a"), (2, "a"), (50, "a")], 2), delete_missing=True)

    assert (done.version, done.updated, done.deleted) == (2, 2, 8)


def test_every_existing_row_with_the_key_is_replaced(tmp_path):
    uri = str(tmp_path / "t.lance")
    lance.write_dataset(pa.concat_tables([rows([(1, "a"), (2, "a")], 1)] * 3), uri)

    merge(uri, rows([(1, "a")], 2))

    assert sorted(lance.dataset(uri).to_table()["v"].to_pylist()) == [1, 1, 1, 2]


def test_null_keys_of_the_dataset_match_nothing(tmp_path):
    uri = str(tmp_path / "t.lance")
    lance.write_dataset(pa.table({"k": [1, None], "s": ["a", "a"], "v": [1, 1]}), uri)

    merge(uri, rows([(1, "a"), (3, "a")], 2))

    assert sorted(lance.dataset(uri).to_table()["v"].to_pylist()) == [1, 2, 2]


REFUSED = [
    (rows([(1, "a"), (1, "a")], 2), InvalidArgumentError, "hold the key .*1.* more than once"),
    (pa.table({"k": [None, 1], "s": ["a", "a"], "v": [1, 1]}), InvalidArgumentError, "column 'k' is null in row 0"),
    (pa.table({"k": [1], "v": [1]}), InvalidArgumentError, r"the new rows have no column \['s'\]"),
    (pa.table({"k": [1], "s": ["a"]}), SchemaMismatchError, r"key columns \['k', 's'\] only"),
    (pa.table({"k": [1.5], "s": ["a"], "v": [1]}), SchemaMismatchError, "'k': 1.5"),
]


@pytest.mark.parametrize(("new", "error", "message"), REFUSED, ids=["twice", "null", "no key", "partial", "type"])
def test_rows_that_cannot_be_merged_are_refused(tmp_path, new, error, message):
    uri = str(tmp_path / "t.lance")
    lance.write_dataset(rows([(1, "a")], 1), uri)

    with pytest.raises(error, match=message):
        merge(uri, new)

    assert content(uri) == {(1, "a"): 1}


@pytest.mark.parametrize("dtype", [pa.float64(), pa.list_(pa.int8()), pa.struct([("a", pa.int8())])], ids=str)
def test_keys_must_have_an_exact_equality(dtype):
    with pytest.raises(InvalidArgumentError, match="on: column 'k' is"):
        check_keys(pa.schema([("k", dtype)]), ["k"])


def test_a_change_of_the_replaced_rows_by_another_writer_is_a_conflict(tmp_path):
    uri = str(tmp_path / "t.lance")
    lance.write_dataset(rows([(1, "a"), (2, "a")], 1), uri)
    send = FaultySend(meanwhile=lambda: lance.dataset(uri).update({"v": "7"}))

    with pytest.raises(MergeConflictError, match="run the merge again"):
        merge(uri, rows([(1, "a")], 2), send=send)

    assert content(uri) == {(1, "a"): 7, (2, "a"): 7}
    assert [path for path in orphans(uri) if not path.startswith("data/")] == []


def test_an_interrupted_merge_that_was_committed_keeps_its_files(tmp_path):
    uri = str(tmp_path / "t.lance")
    lance.write_dataset(rows([(1, "a"), (2, "a")], 1), uri)

    def interrupted(*arguments, **options):
        lance.LanceDataset.commit(*arguments, **options)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        merge(uri, rows([(1, "a")], 2), send=interrupted)

    assert content(uri) == {(1, "a"): 2, (2, "a"): 1}


def test_a_merge_that_fails_while_it_deletes_rows_leaves_no_deletion_file(tmp_path):
    uri = str(tmp_path / "t.lance")
    lance.write_dataset(rows([(1, "a"), (2, "a")], 1), uri)
    job = begin(TableRef.of(uri), WriteOptions(mode="merge", on=["k"], retry=QUICK))
    in_no_fragment = np.uint64(77 << 32)

    with pytest.raises(AttributeError):
        commit_merge(job, [], np.array([0, in_no_fragment], np.uint64), lance.LanceDataset.commit)

    assert content(uri) == {(1, "a"): 1, (2, "a"): 1}
    assert orphans(uri) == []


@pytest.mark.parametrize("cue", ["before", "after"])
def test_a_fault_at_the_commit_applies_the_merge_once(tmp_path, cue):
    uri = str(tmp_path / "t.lance")
    lance.write_dataset(rows([(1, "a"), (2, "a")], 1), uri)

    merge(uri, rows([(1, "a"), (3, "a")], 2), send=FaultySend(**{cue: Cue(frozenset({0}))}))

    assert content(uri) == {(1, "a"): 2, (2, "a"): 1, (3, "a"): 2}
    assert lance.dataset(uri).version == 2
    assert orphans(uri) == []


def wide(keys: list[tuple[int, str]]) -> pa.Table:
    """Rows with columns that a merge is not given."""
    image = pa.array([bytes([abs(key)]) * 10 for key, _ in keys], pa.large_binary())
    blob = pa.field("image", pa.large_binary(), metadata={"lance-encoding:blob": "true"})
    return rows(keys, 1).append_column(blob, image).append_column("n", pa.array([None] * len(keys), pa.int32()))


@settings(max_examples=20)
@given(
    stable=st.booleans(),
    options=st.sampled_from([{}, {"insert": True}, {"insert": True, "delete_missing": True}]),
    old=KEYS.filter(len),
    new=KEYS,
    deleted=st.integers(-5, 20),
)
def test_a_part_of_the_columns_updates_these_alone(tmp_path_factory, stable, options, old, new, deleted):
    uri = str(tmp_path_factory.mktemp("merge") / "t.lance")
    lance.write_dataset(wide(old), uri, max_rows_per_file=4, enable_stable_row_ids=stable)
    lance.dataset(uri).delete(f"k = {deleted}")
    old = [key for key in old if key[0] != deleted]
    places = addresses(uri)

    done = merge(uri, rows(new, 2).select(["v", "s", "k"]), **options)

    inserts, deletes = options.get("insert", False), options.get("delete_missing", False)
    assert content(uri) == expected(old, new, insert=inserts, delete_missing=deletes)
    assert done.updated == len(set(old) & set(new))
    found = lance.dataset(uri).scanner(blob_handling="all_binary").to_table().to_pydict()
    images = dict(zip(zip(found["k"], found["s"], strict=True), found["image"], strict=True))
    assert images == {key: bytes([abs(key[0])]) * 10 if key in old else None for key in content(uri)}
    assert {key: place for key, place in addresses(uri).items() if key in old} == {
        key: place for key, place in places.items() if not deletes or key in new
    }
    assert orphans(uri) == []
    lance.dataset(uri).validate()


def addresses(uri: str) -> dict[tuple[int, str], tuple[int, int]]:
    """Row addresses and row ids by key."""
    table = lance.dataset(uri).to_table(columns=["k", "s"], with_row_id=True, with_row_address=True).to_pydict()
    return dict(
        zip(zip(table["k"], table["s"], strict=True), zip(table["_rowid"], table["_rowaddr"], strict=True), strict=True)
    )
