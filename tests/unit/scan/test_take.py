"""Rows taken by number: the same rows in the same order, however they are read."""

from __future__ import annotations

import lance
import numpy as np
import pyarrow as pa
import pytest

from ray_lance.retry import RetryPolicy
from ray_lance.scan import take
from ray_lance.scan.pushdown import build_scan
from ray_lance.scan.scan import Scan
from ray_lance.scan.take import take_in_pieces, take_rows
from ray_lance.table import TableRef
from tests.datasets import sample_table


@pytest.fixture(scope="module")
def scattered(tmp_path_factory) -> TableRef:
    """Fragments of 150 rows, some of them deleted, with a struct and a blob beside the usual columns."""
    uri = str(tmp_path_factory.mktemp("take") / "table.lance")
    table = sample_table(600)
    ids = table["id"]
    table = table.append_column("nested", pa.StructArray.from_arrays([ids.combine_chunks()], ["id"]))
    blob = pa.field("blob", pa.large_binary(), metadata={"lance-encoding:blob": "true"})
    contents = [None if i % 5 == 0 else bytes([i % 256]) * (i % 7) for i in range(600)]
    table = table.append_column(blob, pa.array(contents, pa.large_binary()))
    lance.write_dataset(table, uri, max_rows_per_file=150).delete("id % 13 = 2")
    return TableRef.of(uri).pin()


COLUMNS = [
    None,
    [],
    ["blob"],
    ["text", "nested.id"],
    {"twice": "id * 2", "vec": "vec"},
    ["_rowid", "id"],
    ["_fragid", "vec"],
]


@pytest.mark.parametrize("columns", COLUMNS)
def test_neighbours_are_the_same_rows_as_when_they_are_taken_one_by_one(scattered, columns):
    scan = build_scan([scattered], columns, None, [], {})
    rows = np.arange(97, 401)

    run = take_rows(scan, rows)
    restored = take_rows(scan, rows[::-1].copy()).take(pa.array(np.arange(len(rows))[::-1]))

    assert run.num_rows == len(rows)
    assert run.to_pydict() == restored.to_pydict()
    assert run.schema.types == restored.schema.types


@pytest.mark.parametrize("piece_bytes", [1, 100, 10_000])
@pytest.mark.parametrize("are_offsets", [True, False])
def test_rows_in_pieces_are_the_rows_of_one_take(uri, monkeypatch, piece_bytes, are_offsets):
    monkeypatch.setattr(take, "_FIRST_PIECE_ROWS", 7)
    monkeypatch.setattr(take, "_PIECE_BYTES", piece_bytes)
    lance.write_dataset(sample_table(100), uri, max_rows_per_file=30)
    scan = build_scan([TableRef.of(uri).pin()], None, None, [], {})
    dataset = lance.dataset(uri)
    rows = np.random.default_rng(0).integers(0, 100, 60)  # some of them more than once
    addresses = dataset.to_table(columns=["id"], with_row_id=True)["_rowid"].to_numpy()
    taken = take_rows(scan, rows if are_offsets else addresses[rows])
    assert taken.to_pylist() == dataset.take(rows.tolist()).to_pylist()


ROWS = 9000  # in fragments of 3,000: as many as it takes for windows of clumps to be scanned


@pytest.fixture
def scanned(monkeypatch) -> list[int]:
    """The numbers of rows that were scanned as a set, read by read."""
    counts: list[int] = []
    make = take.row_set
    monkeypatch.setattr(take, "row_set", lambda addresses: counts.append(len(addresses)) or make(addresses))
    return counts


def _window() -> np.ndarray:
    """Offsets of most of the rows: clumps of 64 neighbours, whose rows are mixed."""
    rng = np.random.default_rng(0)
    clumps = rng.permutation(ROWS // 64)[:112]
    return rng.permutation((clumps[:, None] * 64 + np.arange(64)).ravel())


@pytest.fixture(scope="module")
def large(tmp_path_factory) -> TableRef:
    """Three fragments of 3,000 rows, the second of which is gone, with a struct beside the usual columns."""
    uri = str(tmp_path_factory.mktemp("take") / "large.lance")
    table = sample_table(ROWS + 3000)
    table = table.append_column("nested", pa.StructArray.from_arrays([table["id"].combine_chunks()], ["id"]))
    lance.write_dataset(table, uri, max_rows_per_file=3000).delete("id >= 3000 AND id < 6000")
    return TableRef.of(uri).pin()


@pytest.mark.parametrize("columns", [columns for columns in COLUMNS if columns != ["blob"]])
@pytest.mark.parametrize("are_offsets", [False, True])
@pytest.mark.parametrize("is_sorted", [False, True])
def test_rows_that_are_scanned_are_those_that_are_taken(large, scanned, columns, are_offsets, is_sorted):
    addresses = large.open().to_table(columns=[], with_row_id=True)["_rowid"].to_numpy()
    rows = _window()
    rows = np.sort(rows) if is_sorted else rows
    numbers = rows if are_offsets else addresses[rows]
    scan = build_scan([large], columns, None, [], {})

    by_scan = take_rows(scan, numbers)
    assert scanned == [len(rows)]
    twice = take_rows(scan, np.append(numbers, numbers[-1:]))  # a set has each row once
    assert scanned == [len(rows)]

    assert by_scan.num_rows == len(rows)
    assert by_scan.to_pydict() == twice.slice(0, len(rows)).to_pydict()
    assert by_scan.schema.equals(twice.schema, check_metadata=True)


@pytest.mark.parametrize("version", ["2.1", "2.2"])
def test_windows_are_scanned_in_files_of_these_versions(uri, scanned, version):
    lance.write_dataset(sample_table(ROWS), uri, max_rows_per_file=3000, data_storage_version=version)
    rows = _window()
    taken = take_rows(build_scan([TableRef.of(uri).pin()], None, None, [], {}), rows)
    assert scanned == [len(rows)]
    assert taken.to_pylist() == lance.dataset(uri).take(rows.tolist()).to_pylist()


def _of_old_files(uri: str, version: str) -> None:
    lance.write_dataset(sample_table(ROWS), uri, max_rows_per_file=3000, data_storage_version=version)


def _with_deleted_rows(uri: str) -> None:
    lance.write_dataset(sample_table(ROWS + 1), uri, max_rows_per_file=3000).delete("id = 3")


def _with_stable_row_ids(uri: str) -> None:
    lance.write_dataset(sample_table(ROWS), uri, max_rows_per_file=3000, enable_stable_row_ids=True)


def _with_fragments_in_another_order(uri: str) -> None:
    dataset = lance.write_dataset(sample_table(ROWS), uri, max_rows_per_file=3000)
    fragments = [fragment.metadata for fragment in dataset.get_fragments()]
    operation = lance.LanceOperation.Overwrite(dataset.schema, fragments[::-1])
    lance.LanceDataset.commit(uri, operation, read_version=1)


OTHER_TABLES = {
    "legacy": lambda uri: _of_old_files(uri, "legacy"),
    "2.0": lambda uri: _of_old_files(uri, "2.0"),
    "deleted rows": _with_deleted_rows,
    "stable row ids": _with_stable_row_ids,
    "fragments in another order": _with_fragments_in_another_order,
}


@pytest.mark.parametrize("are_offsets", [False, True])
@pytest.mark.parametrize("kind", OTHER_TABLES)
def test_windows_of_other_tables_are_read_as_well(uri, kind, are_offsets):
    OTHER_TABLES[kind](uri)
    dataset = lance.dataset(uri)
    row_ids = dataset.to_table(columns=["id"], with_row_id=True)["_rowid"].to_numpy()
    rows = _window()

    scan = build_scan([TableRef.of(uri).pin()], None, None, [], {})
    taken = take_rows(scan, rows if are_offsets else row_ids[rows])

    assert taken["id"].to_pylist() == dataset.to_table(columns=["id"])["id"].take(rows).to_pylist()
    assert taken["text"].to_pylist() == [f"row {number}" for number in taken["id"].to_pylist()]


@pytest.mark.parametrize(
    ("clump", "fragments", "count", "is_scanned"),
    [(64, 2, 8192, True), (8, 2, 8192, False), (64, 10, 8192, False), (64, 2, 1024, False)],
)
def test_many_rows_in_long_runs_are_scanned_and_others_are_not(uri, scanned, clump, fragments, count, is_scanned):
    lance.write_dataset(pa.table({"id": range(20_480)}), uri, max_rows_per_file=20_480 // fragments)
    clumps = np.random.default_rng(0).permutation(np.arange(20_480).reshape(-1, clump))
    rows = clumps[: count // clump].ravel()

    taken = take_rows(build_scan([TableRef.of(uri).pin()], None, None, [], {}), rows)

    assert taken["id"].to_pylist() == rows.tolist()
    assert scanned == ([count] if is_scanned else [])


@pytest.mark.parametrize("is_sorted", [False, True])
def test_rows_that_are_gone_are_an_error(uri, scanned, is_sorted):
    lance.write_dataset(sample_table(3000), uri).delete("id = 50")
    rows = np.arange(3000, dtype=np.uint64)
    scan = build_scan([TableRef.of(uri).pin()], None, None, [], {})
    with pytest.raises(IndexError, match="only 2999 of 3000 rows exist"):
        take_rows(scan, rows if is_sorted else rows[::-1].copy())
    assert scanned == [3000]


def test_offsets_that_do_not_exist_are_an_error(uri):
    lance.write_dataset(sample_table(3000), uri)
    scan = build_scan([TableRef.of(uri).pin()], None, None, [], {})
    with pytest.raises((ValueError, OSError), match="non-existent"):
        take_rows(scan, np.arange(3000, -1, -1))
    with pytest.raises(IndexError, match="only 100 of 101 rows exist"):
        take_rows(scan, np.arange(2900, 3001))


@pytest.mark.parametrize("columns", [["id", "blob"], {"blob": "blob"}, ["nested"]])
def test_blobs_are_the_same_whatever_the_number_of_rows(uri, columns):
    """So that batches can be made of rows that were read in different ways."""
    contents = pa.array([bytes([number % 256]) for number in range(ROWS)], pa.large_binary())
    blob = pa.field("blob", pa.large_binary(), nullable=False, metadata={"lance-encoding:blob": "true"})
    nested = pa.StructArray.from_arrays([contents], fields=[blob])
    schema = pa.schema([pa.field("id", pa.int64(), nullable=False), blob, pa.field("nested", nested.type)])
    table = pa.Table.from_arrays([pa.array(range(ROWS)), contents, nested], schema=schema)
    lance.write_dataset(table, uri, data_storage_version="2.1")
    scan = build_scan([TableRef.of(uri).pin()], columns, None, [], {})
    rows = _window()

    many, few = (take_rows(scan, part) for part in (rows, rows[:100]))

    assert many.schema.equals(few.schema)
    assert many.slice(0, 100).to_pydict() == few.to_pydict()


class TestPieces:
    @pytest.fixture
    def scan(self, uri) -> Scan:
        table = pa.table({"other": range(40_000), "id": range(40_000)})
        lance.write_dataset(table, uri, max_rows_per_file=10_000)
        return build_scan([TableRef.of(uri).pin()], ["id", "_fragid"], None, [], {})

    @pytest.mark.parametrize("rows", [np.arange(100, 39_000), np.arange(0, 40_000, 3), np.arange(0)])
    def test_are_all_rows_in_order(self, scan, rows):
        numbers: list[np.ndarray] = []
        ids: list[int] = []

        def receive(part: np.ndarray, piece: pa.Table) -> bool:
            numbers.append(part)
            ids.extend(piece["id"].to_pylist())
            assert piece.column_names == ["id", "_fragid"]
            assert piece["_fragid"].to_pylist() == (part // 10_000).tolist()
            return True

        assert take_in_pieces(scan, rows, receive)
        assert np.concatenate([*numbers, rows[:0]]).tolist() == ids == rows.tolist()
        assert len(numbers) > 1 or not len(rows)

    def test_come_again_from_the_first_one_after_a_fault(self, scan):
        rows, retries = np.arange(0, 40_000, 2), []
        received: list[np.ndarray] = []

        def receive(part: np.ndarray, piece: pa.Table) -> bool:
            assert piece["id"].to_pylist() == part.tolist()
            if len(received) == 1 and not retries:
                raise OSError("LanceError(IO): connection reset")
            received.append(part)
            return True

        retry = RetryPolicy(base_delay_s=0)
        assert take_in_pieces(scan, rows, receive, retry, lambda: retries.append(len(received)))

        assert retries == [1]
        assert received[0].tolist() == received[1].tolist()
        assert np.concatenate(received[1:]).tolist() == rows.tolist()

    def test_end_when_no_more_are_wanted(self, scan):
        received = []

        assert not take_in_pieces(scan, np.arange(40_000), lambda part, _piece: bool(received.append(len(part))))
        assert len(received) == 1
