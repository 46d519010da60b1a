"""New columns without Ray: what lacks values, one file per fragment, commits in groups, clean-up."""

from __future__ import annotations

import shutil
from dataclasses import replace
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path

import lance
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ray_lance.errors import CommitError, InvalidArgumentError, SchemaMismatchError
from ray_lance.table import TableRef
from ray_lance.write.column_commit import claim, commit_group, drop_blank, finish, remove_leftovers, renewed
from ray_lance.write.column_files import ROW_ADDRESS, WrittenColumn, place, write_column_file
from ray_lance.write.column_job import ColumnJob
from ray_lance.write.column_plan import FragmentWork, Plan, count_selected, plan
from ray_lance.write.column_record import RECORD_KEY, ColumnRecord, Recipe, check_columns, record_of, recorded_columns
from ray_lance.write.row_commit import MergeConflictError
from ray_lance.write.target import existing_target
from tests.datasets import sample_table, write_fragments
from tests.orphans import orphans
from tests.writes import QUICK, Cue, FaultySend, merge

RECIPE = Recipe(("id",), None, "plus", ())
PLUS = pa.schema([("plus", pa.int64())])


def start(
    uri: str | TableRef, recipe: Recipe = RECIPE, columns: pa.Schema = PLUS, *, overwrite: bool = False
) -> ColumnJob:
    target = existing_target(TableRef.of(uri), QUICK)
    record = check_columns(target.table.open().schema, columns, recipe, overwrite=overwrite)
    return claim(target, record, columns)


def todo(job: ColumnJob) -> Plan:
    """The plan with counted rows."""
    dataset = job.target.table.open()
    found = plan(dataset, job.record)
    passes = []
    for each in found.passes:
        ids = [work.fragment_id for work in each.fragments]
        counted = each if each.filter is None else each.counted(count_selected(dataset, ids, each.filter))
        passes.append(counted)
    return Plan(tuple(each for each in passes if each.fragments), found.done)


def write(job: ColumnJob, found: Plan | None = None, change: int = 1) -> list[WrittenColumn]:
    """Files with ``id + change`` for all the work there is."""
    written = []
    dataset = job.target.table.open()
    for each in (found or todo(job)).passes:
        for work in each.fragments:
            rows = dataset.scanner(
                columns=["id"],
                filter=each.filter,
                with_row_address=True,
                fragments=[dataset.get_fragment(work.fragment_id)],
            ).to_table()
            column = pa.compute.add(rows["id"], change)
            table = pa.table({ROW_ADDRESS: rows[ROW_ADDRESS], "plus": column})
            parts = [table.slice(0, len(table) // 3), table.slice(len(table) // 3)]
            written.append(write_column_file(job, work, lambda parts=parts: parts))
    return written


def work_through(job: ColumnJob, change: int = 1) -> None:
    written = write(job, change=change)
    commit_group(job, written)
    finish(job)
    remove_leftovers(job, [each.file["path"] for each in written])


def values(uri: str) -> dict[int, int | None]:
    table = lance.dataset(uri).to_table(columns=["id", "plus"])
    return dict(zip(table["id"].to_pylist(), table["plus"].to_pylist(), strict=True))


def test_a_merge_of_some_columns_conflicts_with_values_that_are_computed_meanwhile(tmp_path):
    uri = str(tmp_path / "t.lance")
    lance.write_dataset(pa.table({"id": [1, 2], "text": ["a", "b"]}), uri)
    job = start(uri)
    send = FaultySend(meanwhile=lambda: work_through(job))

    with pytest.raises(MergeConflictError):
        merge(uri, pa.table({"id": [2], "text": ["new"]}), on=["id"], send=send)

    assert values(uri) == {1: 2, 2: 3}
    assert merge(uri, pa.table({"id": [2], "text": ["new"]}), on=["id"]).updated == 1
    assert values(uri) == {1: 2, 2: 3}


# ---- placing rows ------------------------------------------------------------------------------------------------

SCHEMA = pa.schema([("n", pa.int64()), ("v", pa.list_(pa.float32(), 2)), ("s", pa.string())])


def rows_at(offsets: list[int], scale: int) -> list[tuple[np.ndarray, pa.Table]]:
    """Rows whose values follow from their offset, in two tables."""
    columns = {
        "n": [offset * scale for offset in offsets],
        "v": [[offset, scale] for offset in offsets],
        "s": [f"{offset}-{scale}" for offset in offsets],
    }
    table = pa.table(columns, schema=SCHEMA)
    half = len(offsets) // 2
    array = np.array(offsets, np.int64)
    return [(array[:half], table.slice(0, half)), (array[half:], table.slice(half))]


@given(
    st.sets(st.integers(0, 200)).map(sorted),
    st.sets(st.integers(0, 200)).map(sorted),
    st.integers(0, 50),
)
def test_every_row_lies_at_its_offset(new, old, deleted_at_the_end):
    physical = max([*new, *old, 0]) + 1 + deleted_at_the_end

    batches = list(place(rows_at(new, 3), rows_at(old, 7), physical, SCHEMA))

    table = pa.Table.from_batches(batches, SCHEMA)
    expected = [i * 3 if i in new else i * 7 if i in old else None for i in range(physical)]
    assert table["n"].to_pylist() == expected
    assert table["v"].to_pylist() == [None if n is None else [i, 3 if i in new else 7] for i, n in enumerate(expected)]
    assert table["s"].to_pylist() == [
        None if n is None else f"{i}-{3 if i in new else 7}" for i, n in enumerate(expected)
    ]


@pytest.mark.parametrize("offsets", [[3, 2], [2, 2], [5, 6, 5]])
def test_rows_out_of_order_are_refused(offsets):
    table = pa.table({"n": offsets, "v": [[0, 0]] * len(offsets), "s": ["x"] * len(offsets)}, schema=SCHEMA)

    with pytest.raises(CommitError, match="out of order"):
        list(place([(np.array(offsets), table)], [], 10, SCHEMA))


@pytest.mark.parametrize(
    ("addresses", "message"),
    [([0, 1], "2 rows were computed where 20"), ([1 << 32, (1 << 32) + 1], "another fragment")],
)
def test_a_file_of_other_rows_is_refused(uri, addresses, message):
    write_fragments(uri, [20, 20])
    job = start(uri)
    work = todo(job).passes[0].fragments[0]
    table = pa.table({ROW_ADDRESS: pa.array(addresses, pa.uint64()), "plus": [1, 2]})

    with pytest.raises(CommitError, match=message):
        write_column_file(job, work, lambda: [table])

    assert not any("_ray_lance" in path for path in orphans(uri))


# ---- records and recipes -----------------------------------------------------------------------------------------


def test_kept_rows_are_placed_in_batches_of_bounded_bytes():
    """Also where no new row is left, whose size could tell."""
    schema = pa.schema({"value": pa.binary()})
    kept = pa.table({"value": pa.array([bytes(100_000)] * 2000, pa.binary())}, schema=schema)
    new = pa.table({"value": [b"new"]}, schema=schema)

    batches = list(place([(np.array([0]), new)], [(np.arange(1, 2001), kept)], 2001, schema))

    assert sum(batch.num_rows for batch in batches) == 2001
    assert max(batch.nbytes for batch in batches) <= 64 * 2**20


@given(
    st.lists(st.text(min_size=1), min_size=1, unique=True),
    st.none() | st.text(),
    st.lists(st.text("0123456789abcdef", min_size=16, max_size=16)),
    st.booleans(),
)
def test_a_record_survives_as_text(columns, where, unfinished, replaces):
    record = ColumnRecord(
        tuple(columns), Recipe(tuple(columns), where, "f", (("fn_args", "0f"),)), unfinished=tuple(unfinished)
    )
    record = replace(record, replaces=replaces).claimed(7)

    assert ColumnRecord.from_json(record.to_json()) == record


def test_claims_accumulate_until_a_job_comes_to_its_end():
    first = ColumnRecord(("a",), RECIPE).claimed(3)
    second = first.claimed(8)

    assert (first.unfinished, first.since) == ((), 3)
    assert (second.unfinished, second.since) == ((first.file_prefix,), 3)
    assert second.finished().claimed(9).unfinished == ()


@pytest.mark.parametrize(
    "changed",
    [
        {"where": "id > 3"},
        {"function": "other"},
        {"input_columns": ("label",)},
        {"arguments": (("fn_kwargs['size']", "0f"),)},
    ],
    ids=lambda changed: next(iter(changed)),
)
def test_another_recipe_is_refused_without_overwrite(uri, changed):
    write_fragments(uri, [5])
    work_through(start(uri))
    other = replace(RECIPE, **changed)
    schema = lance.dataset(uri).schema

    named = r"fn_kwargs\['size'\]" if "arguments" in changed else next(iter(changed))
    with pytest.raises(InvalidArgumentError, match=named):
        check_columns(schema, PLUS, other, overwrite=False)
    assert check_columns(schema, PLUS, other, overwrite=True).replaces


def test_the_columns_of_an_earlier_call_are_found_by_its_recipe(uri):
    write_fragments(uri, [5])
    job = start(uri)

    assert recorded_columns(lance.dataset(uri).schema, RECIPE) == PLUS
    assert recorded_columns(lance.dataset(uri).schema, replace(RECIPE, function="other")) is None
    assert record_of(lance.dataset(uri).schema, "plus") == job.record
    assert record_of(lance.dataset(uri).schema, "id") is None


OF_AN_EARLIER_RELEASE = (
    '{"columns": ["plus"], "recipe": {"input_columns": ["id"], "where": null, "function": "plus", "arguments": '
    '[["fn_args", "9d5e8a1f0b7c4e36a2d1c0b9f8e7d6c5"], ["fn_constructor_args", "9d5e8a1f0b7c4e36a2d1c0b9f8e7d6c5"]]}, '
    '"generation": "0123456789abcdef", "owner": "fedcba9876543210", "unfinished": [], "since": 3, "replaces": false}'
)
OF_FUNCTION = {"fn's code": "0a", "fn_args": "9d5e8a1f0b7c4e36a2d1c0b9f8e7d6c5", "Python": "cpython-311"}


def test_a_record_of_an_earlier_release_is_read_but_not_taken_for_the_same_function():
    record = ColumnRecord.from_json(OF_AN_EARLIER_RELEASE)
    schema = pa.schema([PLUS.field("plus").with_metadata({RECORD_KEY: OF_AN_EARLIER_RELEASE})])
    recipe = Recipe(("id",), None, "plus", tuple(sorted(OF_FUNCTION.items())))

    assert recorded_columns(schema, recipe) is None
    with pytest.raises(InvalidArgumentError, match=r'earlier release of ray_lance.*where="plus IS NULL" to keep'):
        check_columns(schema, PLUS, recipe, overwrite=False)

    goes_on = check_columns(schema, PLUS, recipe, overwrite=True)
    assert goes_on.unfinished == (record.file_prefix,)  # whose files the new job removes
    assert (goes_on.since, goes_on.replaces) == (3, True)


@pytest.mark.parametrize(
    ("then", "message"),
    [
        ({**OF_FUNCTION, "fn's code": "0b"}, "with another value of fn's code"),
        ({**OF_FUNCTION, "fn's code": "0b", "Python": "cpython-312"}, "under cpython-312, and this is cpython-311"),
        ({**OF_FUNCTION, "fn's variable 'k'": "0c"}, "with another value of fn's variable 'k'"),
    ],
    ids=["code", "Python", "a part more"],
)
def test_what_differs_between_recipes_is_named(then, message):
    one, other = (Recipe(("id",), None, "f", tuple(sorted(each.items()))) for each in (OF_FUNCTION, then))

    assert message in one.difference(other)
    assert one.difference(one) == ""


def test_a_column_of_another_type_is_refused_also_with_overwrite(uri):
    write_fragments(uri, [5])
    schema = lance.dataset(uri).schema

    with pytest.raises(InvalidArgumentError, match="exists already"):
        check_columns(schema, pa.schema([("label", pa.int64())]), RECIPE, overwrite=False)
    with pytest.raises(SchemaMismatchError, match="int64"):
        check_columns(schema, pa.schema([("label", pa.string())]), RECIPE, overwrite=True)


# ---- what is to be done ------------------------------------------------------------------------------------------


def test_only_fragments_without_values_are_work(uri):
    write_fragments(uri, [20, 20, 20], deleted="id = 3")
    job = start(uri)
    first = write(job)[:1]
    commit_group(job, first)

    found = plan(lance.dataset(uri), job.record)

    assert found.done == 1
    assert [work.fragment_id for work in found.passes[0].fragments] == [
        fragment.fragment_id for fragment in lance.dataset(uri).get_fragments()[1:]
    ]


def test_of_a_rewritten_fragment_only_rows_without_values_are_work(uri):
    write_fragments(uri, [20, 20])
    job = start(uri)
    commit_group(job, write(job)[:1])
    lance.dataset(uri).optimize.compact_files()

    job = renewed(job)
    found = todo(job)

    (each,) = found.passes
    assert each.filter == "`plus` IS NULL"
    assert [(work.rows, work.keeps) for work in each.fragments] == [(20, True)]
    commit_group(job, write(job))
    assert values(uri) == {i: i + 1 for i in range(40)}


def test_an_overwrite_is_work_until_every_fragment_has_a_file_of_it(uri):
    write_fragments(uri, [20, 20])
    work_through(start(uri))
    job = start(uri, overwrite=True)
    commit_group(job, write(job, change=5)[:1])

    interrupted = start(uri)

    assert interrupted.record.generation == job.record.generation
    assert plan(interrupted.target.table.open(), interrupted.record).done == 1
    work_through(interrupted, change=5)
    assert values(uri) == {i: i + 5 for i in range(40)}
    assert orphans(uri) == []


# ---- commits -----------------------------------------------------------------------------------------------------

SAFE = {
    "append": lambda dataset: lance.write_dataset(sample_table(5, 100), dataset.uri, mode="append"),
    "delete": lambda dataset: dataset.delete("id = 3 OR id = 25"),
    "index": lambda dataset: dataset.create_scalar_index("id", "BTREE"),
    "another column": lambda dataset: dataset.add_columns({"other": "id * 2"}),
    "update of other rows": lambda dataset: dataset.update({"label": "0"}, where="id = 45"),
}
HARMFUL = {
    "compaction": lambda dataset: dataset.optimize.compact_files(),
    "deletion of the fragment": lambda dataset: dataset.delete("id < 40"),
}


@pytest.mark.parametrize("stable", [False, True])
@pytest.mark.parametrize("other", SAFE)
def test_files_still_fit_after(uri, other, stable):
    lance.write_dataset(sample_table(60), uri, max_rows_per_file=20, enable_stable_row_ids=stable)
    job = start(uri)
    written = write(job)
    SAFE[other](lance.dataset(uri))

    done = commit_group(job, written)

    assert done.lost == ()
    assert all(value in (key + 1, None) for key, value in values(uri).items())
    assert sum(value is not None for value in values(uri).values()) >= 57


@pytest.mark.parametrize("other", HARMFUL)
def test_files_of_fragments_that_are_gone_are_left_out(uri, other):
    write_fragments(uri, [20, 20, 20])
    job = start(uri)
    written = write(job)
    HARMFUL[other](lance.dataset(uri))

    done = commit_group(job, written)

    assert len(done.lost) >= 2
    assert all(value in (key + 1, None) for key, value in values(uri).items())
    finish(job)
    remove_leftovers(job, [each.file["path"] for each in done.committed])
    assert orphans(uri) == []


def test_values_of_inputs_that_changed_in_place_are_left_out(uri):
    write_fragments(uri, [20, 20])
    job = start(uri)
    written = write(job)
    dataset = lance.dataset(uri)
    fragment = dataset.get_fragments()[0]
    changed, fields = fragment.update_columns(
        pa.table({"_rowid": pa.array([0], pa.uint64()), "id": [777]}), left_on="_rowid"
    )
    operation = lance.LanceOperation.Update(updated_fragments=[changed], fields_modified=fields)
    lance.LanceDataset.commit(uri, operation, read_version=dataset.version)

    done = commit_group(job, written)

    assert [each.work.fragment_id for each in done.lost] == [fragment.fragment_id]
    work_through(renewed(job))
    assert all(value == key + 1 for key, value in values(uri).items())
    assert 777 in values(uri)


@pytest.mark.parametrize("send", [FaultySend(before=Cue(frozenset({0}))), FaultySend(after=Cue(frozenset({0})))])
def test_a_fault_during_a_commit_is_overcome_and_nothing_applied_twice(uri, send):
    write_fragments(uri, [20])
    job = start(uri)
    version = lance.dataset(uri).version

    done = commit_group(job, write(job), send)

    assert done.version == lance.dataset(uri).version == version + 1
    assert values(uri) == {i: i + 1 for i in range(20)}


def test_a_job_whose_columns_another_has_claimed_commits_nothing(uri):
    write_fragments(uri, [20])
    first = start(uri)
    written = write(first)
    second = start(uri)

    with pytest.raises(CommitError, match="taken over"):
        commit_group(first, written)

    work_through(second)
    assert values(uri) == {i: i + 1 for i in range(20)}
    assert orphans(uri) == []


def test_a_commit_that_checked_before_the_claim_and_arrives_behind_it_fails(uri):
    """The fence: between the check and the commit of one job another claims the columns."""
    write_fragments(uri, [20])
    first = start(uri)
    send = FaultySend(meanwhile=lambda: start(uri))

    with pytest.raises(CommitError, match="taken over"):
        commit_group(first, write(first), send)

    assert set(values(uri).values()) == {None}


def test_a_finished_job_removes_what_killed_ones_left(uri):
    write_fragments(uri, [20, 20])
    killed = [start(uri) for _ in range(3)]
    for job in killed:
        write(job)
    assert len(orphans(uri)) == 6

    work_through(start(uri))

    assert orphans(uri) == []
    assert values(uri) == {i: i + 1 for i in range(40)}
    assert record_of(lance.dataset(uri).schema, "plus").unfinished == ()


@pytest.mark.parametrize("exists", [False, True], ids=["the columns are added", "the columns exist"])
def test_a_finished_job_removes_the_claim_of_one_that_was_killed_before_it_landed(uri, tmp_path, exists):
    write_fragments(uri, [10, 10])
    if exists:
        commit_group(job := start(uri), write(job)[:1])
    killed_before_landing(uri, tmp_path / "copy")
    assert [path for path in orphans(uri) if path.startswith("_transactions/")]

    work_through(start(uri))

    assert orphans(uri) == []
    assert all(value == key + 1 for key, value in values(uri).items())


def killed_before_landing(uri: str, copy: Path) -> None:
    """What a call leaves that was killed between the transaction file of its claim and the version."""
    shutil.copytree(uri, copy)
    start(str(copy))
    added = next(path for path in (copy / "_transactions").iterdir() if path.name.startswith(f"{version_of(uri)}-"))
    shutil.copy(added, Path(uri) / "_transactions")


def version_of(uri: str) -> int:
    return int(lance.dataset(uri).version)


@pytest.mark.parametrize("columns", [["other"], ["plus", "other"]], ids=" ".join)
def test_claims_of_other_columns_are_left_where_they_are(uri, tmp_path, columns):
    write_fragments(uri, [10, 10])
    shutil.copytree(uri, tmp_path / "copy")
    start(str(tmp_path / "copy"), columns=pa.schema([(name, pa.int64()) for name in columns]))
    (claim_file,) = set((tmp_path / "copy" / "_transactions").iterdir()) - {
        tmp_path / "copy" / "_transactions" / path.name for path in (Path(uri) / "_transactions").iterdir()
    }
    shutil.copy(claim_file, Path(uri) / "_transactions")

    work_through(start(uri))

    assert orphans(uri) == [f"_transactions/{claim_file.name}"]


@pytest.mark.parametrize("exists", [False, True], ids=["the columns are added", "the columns exist"])
def test_a_claim_that_is_based_on_a_version_before_another_one_cannot_land(uri, tmp_path, exists):
    """Why the transactions of claims that did not land may be removed. The copy shows what was to land."""
    write_fragments(uri, [10])
    if exists:
        start(uri)
    before = lance.dataset(uri).version
    shutil.copytree(uri, tmp_path / "copy")
    start(str(tmp_path / "copy"))
    late = lance.dataset(tmp_path / "copy").read_transaction(before + 1)
    start(uri)

    with pytest.raises(OSError, match="onflict"):
        lance.LanceDataset.commit(uri, late)


def test_a_job_that_overwrites_removes_what_a_killed_one_left_and_lets_it_commit_no_more(uri):
    write_fragments(uri, [20, 20])
    killed = start(uri)
    written = write(killed)
    assert len(orphans(uri)) == 2

    successor = start(uri, replace(RECIPE, function="other"), overwrite=True)
    work_through(successor, change=5)

    assert orphans(uri) == []
    assert values(uri) == {i: i + 5 for i in range(40)}
    with pytest.raises(CommitError, match="taken over"):
        commit_group(killed, written)


def test_clean_up_keeps_what_an_older_version_refers_to(uri):
    """A killed job committed a fragment that a compaction has replaced since."""
    write_fragments(uri, [20, 20])
    killed = start(uri)
    version = commit_group(killed, write(killed)[:1]).version
    lance.dataset(uri).optimize.compact_files()

    work_through(start(uri))

    assert lance.dataset(uri, version=version).to_table()["plus"].to_pylist() == [*range(1, 21), *[None] * 20]
    assert orphans(uri) == []


def test_columns_without_any_value_can_be_taken_back(uri):
    names = write_fragments(uri, [20]).schema.names

    drop_blank(start(uri))

    assert lance.dataset(uri).schema.names == names


TYPES = [
    pa.int8(),
    pa.float16(),
    pa.bool_(),
    pa.string(),
    pa.binary(),
    pa.timestamp("us"),
    pa.date32(),
    pa.decimal128(10, 2),
    pa.list_(pa.float32()),
    pa.list_(pa.list_(pa.int8())),
    pa.list_(pa.float32(), 3),
    pa.fixed_shape_tensor(pa.float32(), [2, 3]),
    pa.struct([("data", pa.list_(pa.float32())), ("shape", pa.list_(pa.int32(), 2))]),
    pa.dictionary(pa.int32(), pa.string()),
]
STORED = {
    pa.types.is_float16: np.float16(1.5),  # before pyarrow 21 it takes no others
    pa.types.is_floating: 1.5,
    pa.types.is_integer: 3,
    pa.types.is_boolean: True,
    pa.types.is_string: "x",
    pa.types.is_binary: b"x",
    pa.types.is_decimal: Decimal("1.25"),
}


def example(dtype: pa.DataType) -> pa.Array:
    """Three values, the second of them null."""
    if isinstance(dtype, pa.BaseExtensionType):
        return pa.ExtensionArray.from_storage(dtype, example(dtype.storage_type))
    if pa.types.is_list(dtype):
        return pa.array([[example(dtype.value_type)[0].as_py()] * 2, None, []], dtype)
    if pa.types.is_fixed_size_list(dtype):
        row = [example(dtype.value_type)[0].as_py()] * dtype.list_size
        return pa.array([row, None, row], dtype)
    if pa.types.is_struct(dtype):
        row = {field.name: example(field.type)[0].as_py() for field in dtype}
        return pa.array([row, None, row], dtype)
    if pa.types.is_dictionary(dtype):
        return pa.array(["x", None, "y"]).dictionary_encode()
    if pa.types.is_temporal(dtype):
        moment = datetime(2020, 1, 2) if pa.types.is_timestamp(dtype) else date(2020, 1, 2)
        return pa.array([moment, None, moment], dtype)
    value = next(value for holds, value in STORED.items() if holds(dtype))
    return pa.array([value, None, value], dtype)


@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize("version", ["2.0", "2.1", "2.2"])
def test_every_type_is_stored_beside_deleted_rows(uri, dtype, version):
    if version == "2.0" and pa.types.is_struct(dtype):
        pytest.skip("Lance 2.0 files have no null structs")
    lance.write_dataset(sample_table(5), uri, data_storage_version=version)
    lance.dataset(uri).delete("id IN (0, 3)")
    columns = pa.schema([("a", dtype), ("b", dtype)])
    job = start(uri, columns=columns)
    (work,) = todo(job).passes[0].fragments
    array = example(dtype)
    table = pa.table({ROW_ADDRESS: pa.array([1, 2, 4], pa.uint64()), "a": array, "b": array})

    commit_group(job, [write_column_file(job, work, lambda: [table])])

    found = lance.dataset(uri).to_table()
    assert found["id"].to_pylist() == [1, 2, 4]
    assert found.schema.field("a").type == dtype
    assert found["a"].to_pylist() == found["b"].to_pylist() == array.to_pylist()


def test_work_fits_only_fragments_with_the_files_it_read():
    from lance.fragment import DataFile, FragmentMetadata

    work = FragmentWork(1, 10, 10, keeps=False, sources=(("a.lance", (0, 1)),))
    same = FragmentMetadata(1, [DataFile("a.lance", [0, 1])], 10)
    with_column = FragmentMetadata(1, [DataFile("a.lance", [0, 1]), DataFile("b.lance", [2])], 10)
    rewritten = FragmentMetadata(1, [DataFile("a.lance", [0, -2]), DataFile("c.lance", [1])], 10)

    assert work.fits(same, [2])
    assert work.fits(with_column, [2])
    assert not work.fits(rewritten, [2])
    assert not replace(work, physical_rows=9).fits(same, [2])
