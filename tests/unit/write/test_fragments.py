from __future__ import annotations

import json
from dataclasses import dataclass, field

import lance
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ray_lance.errors import SchemaMismatchError, StorageError
from ray_lance.write.fragments import TableRows, plan_files
from tests.datasets import sample_table
from tests.orphans import leftovers, orphans
from tests.writes import QUICK, Cue, FaultyRows, FaultyStorage, write_tables

FILE = 4_000  # bytes: some files for a few hundred rows of sample_table
BLOCKS = st.lists(st.tuples(st.integers(0, 500), st.integers(1, 64)), max_size=12).map(
    lambda blocks: [(rows, rows * width) for rows, width in blocks]
)


@given(BLOCKS, st.integers(1, 10_000), st.none() | st.integers(1, 300))
def test_planned_files_hold_every_row_once_in_order(blocks, target, max_rows):
    ranges = plan_files(blocks, target, max_rows)

    rows = sum(count for count, _ in blocks)
    assert [row for start, stop in ranges for row in range(start, stop)] == list(range(rows))
    assert all(stop > start for start, stop in ranges)
    assert max_rows is None or all(stop - start <= max_rows for start, stop in ranges)


@given(st.lists(st.integers(50, 500), min_size=1, max_size=12), st.integers(8, 64), st.integers(1_000, 20_000))
def test_planned_files_come_within_a_factor_of_two_of_the_target(rows, width, target):
    blocks = [(count, count * width) for count in rows]
    total = sum(rows) * width

    sizes = [(stop - start) * width for start, stop in plan_files(blocks, target)]

    if total >= target * 2 / 3:
        assert all(target / 2 <= size <= target * 2 for size in sizes)
    else:
        assert sizes == [total]


def tables(*sizes: int) -> list[pa.Table]:
    starts = np.cumsum([0, *sizes[:-1]])
    return [sample_table(size, int(start)) for size, start in zip(sizes, starts, strict=True)]


def written(uri: str) -> pa.Table:
    return lance.dataset(uri).to_table()


def test_many_small_blocks_become_few_files(uri):
    blocks = tables(*[5] * 200)

    write_tables(uri, blocks)

    assert len(lance.dataset(uri).get_fragments()) == 1
    assert written(uri).equals(pa.concat_tables(blocks))


def test_one_large_block_becomes_files_of_the_target_size(uri):
    write_tables(uri, tables(1_000), target_bytes_per_file=FILE)

    rows = [fragment.physical_rows for fragment in lance.dataset(uri).get_fragments()]
    assert len(rows) > 5
    assert max(rows) <= 1.1 * min(rows)


def growing_rows(count: int) -> pa.Table:
    """Rows each larger than the one before it, of bytes that do not compress."""
    generator = np.random.default_rng(0)
    return pa.table({"x": pa.array([generator.bytes(20 * i) for i in range(count)], pa.binary())})


def test_files_come_within_a_factor_of_two_of_the_target_however_rows_differ_in_size(uri):
    table = growing_rows(400)
    target = table.nbytes // 5

    write_tables(uri, [table], target_bytes_per_file=target)

    fragments = lance.dataset(uri).get_fragments()
    assert written(uri).equals(table)
    assert all(target / 2 <= fragment.to_table().nbytes <= target * 2 for fragment in fragments)


def test_rows_per_file_can_be_bounded(uri):
    write_tables(uri, tables(100), max_rows_per_file=30)

    assert [fragment.physical_rows for fragment in lance.dataset(uri).get_fragments()] == [25, 25, 25, 25]


def test_files_are_named_by_their_job(uri):
    job = write_tables(uri, tables(10))

    (fragment,) = lance.dataset(uri).get_fragments()
    assert fragment.metadata.files[0].path.startswith(job.job_id)


def test_published_files_are_like_any_other(uri):
    """Deletion, compaction, clean-up and an index work on them."""
    write_tables(uri, tables(300, 300), target_bytes_per_file=FILE)

    dataset = lance.dataset(uri)
    dataset.create_scalar_index("id", "BTREE")
    dataset.delete("id % 3 = 0")
    dataset.optimize.compact_files()
    dataset.cleanup_old_versions(retain_versions=1, delete_unverified=True)

    dataset = lance.dataset(uri)
    assert sorted(dataset.to_table()["id"].to_pylist()) == [i for i in range(600) if i % 3]
    assert dataset.to_table(filter="id = 301")["text"].to_pylist() == ["row 301"]


@pytest.mark.parametrize("failing", range(4))
def test_a_fault_while_any_file_is_published_loses_and_doubles_nothing(uri, failing):
    blocks = tables(200, 200)
    cue = Cue(frozenset({failing}))

    write_tables(uri, blocks, target_bytes_per_file=FILE, storage=lambda inner: FaultyStorage(inner, publishing=cue))

    assert cue.calls > failing
    assert written(uri).equals(pa.concat_tables(blocks))
    assert orphans(uri) == []


@pytest.mark.parametrize("failing", range(4))
def test_a_fault_while_any_chunk_is_read_loses_and_doubles_nothing(uri, failing):
    cue = Cue(frozenset({failing}))
    blocks = tables(200, 200)

    write_tables(
        uri,
        [FaultyRows(block, cue) for block in blocks],
        schema=blocks[0].schema,
        target_bytes_per_file=FILE,
    )

    assert cue.calls > failing
    assert written(uri).equals(pa.concat_tables(blocks))
    assert orphans(uri) == []


@pytest.mark.parametrize("failing", range(4))
def test_a_lasting_fault_leaves_nothing_behind(uri, tmp_path, failing):
    cue = Cue(frozenset(range(failing, failing + QUICK.max_attempts)))

    with pytest.raises(StorageError, match=r"publishing data/.* \(uri='.*'\): .*connection reset by peer"):
        write_tables(
            uri,
            tables(200, 200),
            target_bytes_per_file=FILE,
            storage=lambda inner: FaultyStorage(inner, publishing=cue),
        )

    assert leftovers(tmp_path) == []


def test_a_lasting_fault_leaves_an_existing_dataset_as_it_was(uri):
    write_tables(uri, tables(10))

    with pytest.raises(StorageError, match=r"publishing data/.* \(uri='.*'\): .*connection reset by peer"):
        write_tables(
            uri,
            tables(400),
            mode="append",
            target_bytes_per_file=FILE,
            storage=lambda inner: FaultyStorage(inner, publishing=Cue(frozenset({3, 4, 5}))),
        )

    assert lance.dataset(uri).version == 1
    assert written(uri).equals(sample_table(10))
    assert orphans(uri) == []


def test_an_error_of_the_rows_arrives_as_itself(uri, tmp_path):
    good, bad = pa.table({"x": [1, 2]}), pa.table({"x": [3.0, 4.5]})

    with pytest.raises(SchemaMismatchError, match=r"'x': 4\.5"):
        write_tables(uri, [good, bad], schema=good.schema)

    assert leftovers(tmp_path) == []


@dataclass(frozen=True)
class Measured(TableRows):
    """Rows that note the bytes of each piece that was asked for."""

    sizes: list[int] = field(default_factory=list)

    def table(self, start: int, stop: int) -> pa.Table:
        piece = super().table(start, stop)
        self.sizes.append(piece.nbytes)
        return piece


def test_memory_does_not_grow_with_the_file(uri):
    """One file of 64 MB passes through in pieces that are all small."""
    rows = Measured(pa.table({"x": np.zeros(8_000_000)}))

    write_tables(uri, [rows], target_bytes_per_file=2**30)

    assert len(lance.dataset(uri).get_fragments()) == 1
    assert max(rows.sizes) <= 8 * 2**20


def test_memory_does_not_grow_with_rows_that_are_much_larger_than_the_others(uri):
    block = pa.table({"x": pa.array([b""] * 200_000 + [bytes(2**20)] * 40, pa.binary())})
    rows = Measured(block)

    write_tables(uri, [rows], schema=block.schema)

    assert lance.dataset(uri).count_rows() == block.num_rows
    assert max(rows.sizes) <= 8 * 2**20


@pytest.mark.parametrize("at", [0, 1])
def test_an_interrupt_while_rows_are_read_ends_the_write(uri, tmp_path, at):
    class Interrupted(Cue):
        def __call__(self) -> None:
            self.calls += 1
            if self.calls > at:
                raise KeyboardInterrupt

    cue = Interrupted(frozenset())

    with pytest.raises(KeyboardInterrupt):
        write_tables(uri, [FaultyRows(sample_table(200), cue)] * 3, schema=sample_table(0).schema)

    assert cue.calls == at + 1
    assert leftovers(tmp_path) == []


def test_fragments_travel_as_json(uri):
    from ray_lance.table import TableRef
    from ray_lance.write.fragments import write_files
    from ray_lance.write.job import begin
    from ray_lance.write.options import WriteOptions

    job = begin(TableRef.of(uri), WriteOptions()).with_schema(sample_table(0).schema)

    (file,) = write_files([TableRows(sample_table(10))], job)

    assert json.loads(file.fragment)["physical_rows"] == file.rows == 10


def at_odd_address(array: pa.Array) -> pa.Array:
    """The same values, 8 bytes off a 16-byte boundary, as Ray's object store may hand them out."""
    validity, values = array.buffers()
    memory = pa.allocate_buffer(values.size + 8)
    np.frombuffer(memory, np.uint8)[8:] = np.frombuffer(values, np.uint8)
    return pa.Array.from_buffers(array.type, len(array), [validity, memory.slice(8)])


@pytest.mark.parametrize("nested", [False, True])
def test_decimals_at_any_address_are_written(uri, nested):
    decimals = at_odd_address(pa.array([1, None, 3], pa.decimal128(10, 2)))
    column = pa.StructArray.from_arrays([decimals], ["inner"]) if nested else decimals

    write_tables(uri, [pa.table({"x": column})])

    assert written(uri)["x"].to_pylist() == column.to_pylist()


@pytest.mark.parametrize("scheme", [True, False])
def test_dictionary_columns_are_appended(uri, scheme):
    def codes(*words: str) -> pa.Table:
        return pa.table({"x": pa.array(words).dictionary_encode()})

    lance.write_dataset(codes("a", "b"), uri, enable_v2_manifest_paths=scheme)

    write_tables(uri, [codes("c", "a")], mode="append")

    assert written(uri)["x"].to_pylist() == ["a", "b", "c", "a"]
    assert orphans(uri) == []
