"""``read_lance(since=)``: only rows that were added or changed, through Ray."""

from __future__ import annotations

import lance
import pyarrow as pa
import pytest

import ray_lance
from ray_lance import InvalidArgumentError, Permutation, read_lance


def ids(dataset) -> list[int]:
    return sorted(row["id"] for row in dataset.take_all())


@pytest.fixture
def uri(uri) -> str:
    """Rows 0 to 9 in version 1; 10 to 19 in 2; in 3 row 3 is updated; files are compacted after that."""
    lance.write_dataset(
        pa.table({"id": range(10), "x": [0] * 10}), uri, enable_stable_row_ids=True, max_rows_per_file=5
    )
    lance.write_dataset(pa.table({"id": range(10, 20), "x": [0] * 10}), uri, mode="append")
    lance.dataset(uri).update({"x": "1"}, where="id = 3")
    lance.dataset(uri).optimize.compact_files()
    return uri


def test_only_what_is_new_is_read(uri):
    assert ids(read_lance(uri, since=1)) == [3, *range(10, 20)]
    assert ids(read_lance(uri, since=1, changes="inserted")) == list(range(10, 20))
    assert ids(read_lance(uri, since=1, changes="updated", columns=["id"])) == [3]
    assert read_lance(uri, since=2).count() == 1


def test_it_goes_together_with_filters_and_shuffles(uri):
    assert ids(read_lance(uri, since=1, filter="id = 3 OR id < 12")) == [3, 10, 11]
    assert ids(read_lance(uri, since=1, scanner_options={"filter": "id = 3 OR id < 12"})) == [3, 10, 11]
    assert ids(read_lance(uri, since=1, shuffle=7)) == [3, *range(10, 20)]


def test_a_nightly_job_reads_each_row_once(tmp_path):
    uri, done = str(tmp_path / "source.lance"), str(tmp_path / "done.lance")
    seen = 1
    lance.write_dataset(pa.table({"id": [0, 1]}), uri)
    ray_lance.write_lance(read_lance(uri), done)
    for night in range(2, 4):
        lance.write_dataset(pa.table({"id": [2 * night, 2 * night + 1]}), uri, mode="append")

        new = read_lance(uri, since=seen)
        ray_lance.write_lance(new, done, mode="append")
        seen = lance.dataset(uri).version

    assert sorted(lance.dataset(done).to_table()["id"].to_pylist()) == [0, 1, 4, 5, 6, 7]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"changes": "inserted"}, r"changes='inserted' needs since="),
        ({"since": 1, "changes": "new"}, "changes='new' must be one of"),
        ({"since": 1, "fragment_ids": [0]}, "since=1 and fragment_ids="),
        ({"since": 1, "filter": pa.compute.field("id") > 3}, r"filter=.*: with since= it must be SQL"),
        ({"since": 99}, "since=99 must be a version number"),
    ],
)
def test_what_contradicts_it_is_refused(uri, arguments, message):
    with pytest.raises(InvalidArgumentError, match=message):
        read_lance(uri, **arguments)


def test_one_dataset_has_one_history(uri, tmp_path):
    with pytest.raises(InvalidArgumentError, match="one dataset has one history"):
        read_lance([uri, uri], since=1)
    with pytest.raises(InvalidArgumentError, match="since=1 does not apply to a permutation"):
        read_lance(Permutation(uri), since=1)
    plain = str(tmp_path / "plain.lance")
    lance.write_dataset(pa.table({"id": range(3)}), plain)
    with pytest.raises(InvalidArgumentError, match="with shuffle= the dataset must have stable row ids"):
        read_lance(plain, since=1, shuffle=7)


def test_rows_whose_key_is_in_another_table_are_not_read(tmp_path):
    source, target = str(tmp_path / "source.lance"), str(tmp_path / "target.lance")
    ids = list(range(40))
    lance.write_dataset(pa.table({"id": ids, "word": [f"w{i}" for i in ids]}), source, max_rows_per_file=10)
    lance.write_dataset(pa.table({"id": pa.array([3, 4, 25, 99], pa.int8())}), target)
    left = [i for i in ids if i not in (3, 4, 25)]

    def read(**options):
        return ray_lance.read_lance(source, without=target, on="id", **options)

    rows = read(columns=["word"])
    assert [row["word"] for row in rows.take_all()] == [f"w{i}" for i in left]
    assert [row["id"] for row in rows.limit(4).take_all() if "id" in row] == []
    assert read().limit(4).count() == 4
    assert sorted(row["id"] for row in read(shuffle=1).take_all()) == left
    assert [row["id"] for row in read(filter="id > 20", fragment_ids=[2, 3]).take_all()] == [*range(21, 25), *left[23:]]
    assert sorted(row["id"] for row in read().filter(expr="id > 30").take_all()) == left[28:]
    assert [row["id"] for row in read(with_row_id=True).take_all()] == left
    assert ray_lance.read_lance(source, without=ray_lance.TableRef.of(source), on=["id", "word"]).count() == 0
    # What is appended meanwhile changes nothing: both versions are pinned.
    planned = read()
    lance.write_dataset(pa.table({"id": pa.array([5], pa.int8())}), target, mode="append")
    assert planned.count() == len(left)
    assert read().count() == len(left) - 1
    with pytest.raises(InvalidArgumentError, match="do not apply with without="):
        read(scanner_options={"limit": 1})
    with pytest.raises(InvalidArgumentError, match="needs without="):
        ray_lance.read_lance(source, on="id")
    with pytest.raises(InvalidArgumentError, match=r"without=.*does not apply to a permutation"):
        ray_lance.read_lance(ray_lance.Permutation(source), without=target, on="id")
