"""Columns computed with Ray and written back: equal to one process, resumable, safe beside other writers."""

from __future__ import annotations

import sys
import threading
from collections import Counter
from collections.abc import Iterator
from functools import partial

import lance
import numpy as np
import pyarrow as pa
import pytest
import ray
import torch
from ray.data._internal.execution.interfaces import RefBundle

import ray_lance
from ray_lance.backfill.assemble import CompleteFragment
from ray_lance.backfill.compute import Compute
from ray_lance.backfill.pipeline import computed_columns
from ray_lance.backfill.run import BackfillOptions, backfill
from ray_lance.backfill.window import Window
from ray_lance.backfill.writer import ColumnWriter
from ray_lance.errors import (
    CommitError,
    DatasetNotFoundError,
    InvalidArgumentError,
    RayLanceError,
    SchemaMismatchError,
    UnknownColumnError,
)
from ray_lance.table import TableRef
from ray_lance.write.column_plan import FragmentWork, Pass
from tests.datasets import sample_table, write_fragments
from tests.orphans import orphans
from tests.writes import QUICK, Cue, FaultySend

# Workers cannot import this module.
ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])


def values(batch: dict) -> dict:
    """A scalar, a vector, a tensor, a string and a list, all following from the id."""
    ids = batch["id"]
    return {
        "plus": ids + 1,
        "half": batch["vec"][:, 0].astype(np.float16) / 2,
        "odd": torch.tensor(ids % 2 == 1),
        "double": batch["vec"] * 2,
        "grid": np.repeat(ids, 6).reshape(-1, 2, 3).astype(np.float32),
        "text2": [f"{text}!" for text in batch["text"]],
        "ragged": pa.array([list(range(i % 3)) for i in ids], pa.list_(pa.int32())),
    }


def plus(batch: dict) -> dict:
    return {"plus": batch["id"] + 1}


class Adder:
    """Adds what it was constructed with."""

    def __init__(self, addend: int) -> None:
        self.addend = addend

    def __call__(self, batch: dict, factor: int = 1) -> dict:
        return {"plus": batch["id"] * factor + self.addend}


class Keyed(Adder):
    """Is constructed with a secret."""

    def __init__(self, addend: int, key: str) -> None:
        super().__init__(addend)
        self.key = key


def add(uri: str, fn=plus, **options) -> ray_lance.AddColumnsSummary:
    options.setdefault("input_columns", ["id"])
    return ray_lance.add_columns(uri, fn, **options)


def column(uri: str, name: str = "plus") -> dict[int, object]:
    """Values of a column by id."""
    table = lance.dataset(uri).to_table(columns=["id", name])
    return dict(zip(table["id"].to_pylist(), table[name].to_pylist(), strict=True))


def all_plus(uri: str) -> bool:
    found = column(uri)
    return len(found) > 0 and all(value == key + 1 for key, value in found.items())


@pytest.mark.parametrize("sizes", [[1_000], [1] * 40, [10, 300, 1, 64]], ids=["one huge", "tiny", "mixed"])
@pytest.mark.parametrize("deleted", [pytest.param(None, marks=pytest.mark.slow), "id % 7 = 3"])
def test_every_type_equals_the_computation_in_one_process(uri, sizes, deleted):
    dataset = write_fragments(uri, sizes, deleted=deleted)
    inputs = ["id", "vec", "text"]
    rows = dataset.to_table(columns=inputs)

    summary = add(uri, values, input_columns=inputs, batch_size=64)

    check_values(uri, rows)
    assert (summary.rows, summary.fragments_done, summary.fragments_skipped) == (
        len(rows),
        len(dataset.get_fragments()),
        0,
    )
    assert orphans(uri) == []
    lance.dataset(uri).validate()


def check_values(uri: str, rows: pa.Table) -> None:
    """The dataset holds what ``values`` makes of all of ``rows`` in this process, in their order."""
    batch = ray.data.from_arrow(rows).take_batch(len(rows))
    batch["vec"] = np.stack(batch["vec"])
    expected = ray_lance.tensors.from_tensors(values(batch))
    found = lance.dataset(uri).to_table(columns=expected.column_names)
    assert found.schema.types == expected.schema.types
    for name in expected.column_names:
        assert found[name].to_pylist() == expected[name].to_pylist(), name


class Values:
    """``values`` in an actor."""

    def __call__(self, batch: dict) -> dict:
        return values(batch)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("fn", "options"),
    [(values, {}), (values, {"fragments_per_commit": 200}), (Values, {"concurrency": 1})],
    ids=["at any time", "in groups", "actors"],
)
def test_a_thousand_tiny_fragments_equal_the_computation_in_one_process(uri, fn, options):
    lance.write_dataset(sample_table(1_000), uri, max_rows_per_file=1)
    lance.dataset(uri).delete("id % 7 = 3")
    inputs = ["id", "vec", "text"]
    rows = lance.dataset(uri).to_table(columns=inputs)

    summary = add(uri, fn, input_columns=inputs, **options)

    check_values(uri, rows)
    assert (summary.rows, summary.fragments_done) == (len(rows), len(rows))
    assert orphans(uri) == []


@pytest.mark.parametrize("options", [{}, {"concurrency": 2}, {"batch_format": "torch"}, {"batch_format": "pyarrow"}])
def test_functions_get_batches_in_the_format_asked_for(uri, options):
    write_fragments(uri, [100, 50])

    def fn(batch):
        ids = batch["id"]
        return {"plus": ids + 1} if not isinstance(batch, pa.Table) else pa.table({"plus": pa.compute.add(ids, 1)})

    add(uri, fn, batch_size=32, **options)

    assert all_plus(uri)


def test_a_class_is_constructed_in_actors_with_its_arguments(uri):
    write_fragments(uri, [100, 50])

    add(uri, Adder, fn_constructor_kwargs={"addend": 7}, fn_kwargs={"factor": 3}, concurrency=1, batch_size=16)

    assert all(value == 3 * key + 7 for key, value in column(uri).items())


@pytest.mark.timeout(180)
def test_actors_that_take_every_cpu_are_read_for_all_the_same(uri):
    write_fragments(uri, [30, 30])
    cpus = int(ray.cluster_resources()["CPU"])

    add(uri, Adder, concurrency=cpus, fn_constructor_args=(1,))

    assert column(uri) == {number: number + 1 for number in range(60)}


def test_rows_that_where_leaves_out_are_null(uri):
    write_fragments(uri, [50, 50, 5], deleted="id = 7")

    summary = add(uri, where="label = 2 AND id < 90")

    assert column(uri) == {i: i + 1 if i % 10 == 2 and i < 90 else None for i in range(105) if i != 7}
    assert (summary.rows, summary.fragments_done, summary.fragments_skipped) == (9, 2, 1)


def test_a_second_call_has_nothing_to_do(uri):
    write_fragments(uri, [20, 20])
    first = add(uri)

    second = add(uri)

    assert (second.version, second.rows, second.fragments_skipped) == (first.version, 0, 2)


def test_appended_rows_are_the_next_calls_work(uri):
    write_fragments(uri, [20, 20])
    add(uri)
    lance.write_dataset(sample_table(5, 100), uri, mode="append")
    assert column(uri)[100] is None

    summary = add(uri)

    assert (summary.rows, summary.fragments_done, summary.fragments_skipped) == (5, 1, 2)
    assert all_plus(uri)


def test_null_results_are_results(uri):
    """A row whose value is null is not computed again, until its fragment is rewritten."""
    write_fragments(uri, [20, 20])

    def nothing(batch):
        return {"plus": pa.nulls(len(batch["id"]), pa.int64())}

    add(uri, nothing)

    assert add(uri, nothing).rows == 0
    lance.dataset(uri).optimize.compact_files()
    assert add(uri, nothing).rows == 40
    assert add(uri, nothing).rows == 0


def test_after_a_compaction_only_rows_without_values_are_computed(uri):
    write_fragments(uri, [20, 20], deleted="id = 3")
    add(uri)
    lance.write_dataset(sample_table(5, 100), uri, mode="append")
    lance.dataset(uri).optimize.compact_files()
    assert len(lance.dataset(uri).get_fragments()) == 1

    assert add(uri).rows == 5

    assert all_plus(uri)
    assert orphans(uri) == []


def test_stable_row_ids_are_kept(uri):
    lance.write_dataset(sample_table(30), uri, max_rows_per_file=10, enable_stable_row_ids=True)
    lance.dataset(uri).delete("id = 12")
    lance.dataset(uri).update({"label": "77"}, where="id = 3")
    before = lance.dataset(uri).to_table(columns=["id"], with_row_id=True)

    add(uri)

    assert all_plus(uri)
    assert lance.dataset(uri).to_table(columns=["id"], with_row_id=True).equals(before)


def test_overwrite_computes_anew_and_can_be_taken_back(uri):
    write_fragments(uri, [20, 20])
    add(uri)

    summary = add(uri, lambda batch: {"plus": -batch["id"]}, overwrite=True)

    assert all(value == -key for key, value in column(uri).items())
    assert orphans(uri) == []
    lance.dataset(uri, version=summary.version_before).restore()
    assert all_plus(uri)


def test_overwrite_with_where_keeps_the_other_values(uri):
    write_fragments(uri, [20, 20, 20], deleted="id = 5")
    add(uri)

    add(uri, lambda batch: {"plus": -batch["id"]}, where="id < 10 OR id = 30", overwrite=True)

    expected = {i: -i if i < 10 or i == 30 else i + 1 for i in range(60) if i != 5}
    assert column(uri) == expected


def test_an_index_on_an_overwritten_column_finds_the_new_values(uri):
    write_fragments(uri, [20, 20])
    add(uri)
    lance.dataset(uri).create_scalar_index("plus", "BTREE")

    add(uri, lambda batch: {"plus": -batch["id"]}, overwrite=True)

    assert lance.dataset(uri).to_table(filter="plus = -7")["id"].to_pylist() == [7]
    assert lance.dataset(uri).to_table(filter="plus = 7").num_rows == 0


def fails_on_30(batch: dict) -> dict:
    if 30 in batch["id"]:
        raise ValueError("thirty")
    return {"plus": batch["id"] + 1}


class FailsOn30:
    """Fails on the row of id 30, once the first fragment has been committed."""

    def __init__(self, uri: str, repaired: bool = False) -> None:
        self.uri, self.repaired = uri, repaired

    def __call__(self, batch: dict) -> dict:
        if 30 in batch["id"] and not self.repaired:
            while lance.dataset(self.uri).count_rows("plus IS NOT NULL") < 20:
                pass
            raise ValueError("thirty")
        return {"plus": batch["id"] + 1}


def test_a_failing_batch_raises_and_keeps_what_is_finished(uri):
    write_fragments(uri, [20, 20, 20])

    with pytest.raises(RayLanceError, match=rf"first row address is {(1 << 32) + 10}.*ValueError: thirty") as caught:
        add(uri, FailsOn30(uri), batch_size=5, fragments_per_commit=1)

    assert "Traceback" not in str(caught.value)
    assert {key: value for key, value in column(uri).items() if key < 20} == {i: i + 1 for i in range(20)}
    assert orphans(uri) == []
    with pytest.raises(InvalidArgumentError, match=r"another value of fn's attribute 'repaired'"):
        add(uri, FailsOn30(uri, repaired=True))
    assert add(uri, FailsOn30(uri, repaired=True), where="plus IS NULL", overwrite=True).rows <= 40
    assert all_plus(uri)


def test_a_failing_batch_can_be_left_null_and_is_reported(uri):
    write_fragments(uri, [20, 20, 20])

    summary = add(uri, fails_on_30, batch_size=5, on_error="null")

    assert column(uri) == {i: None if 30 <= i < 35 else i + 1 for i in range(60)}
    assert summary.rows_failed == 5
    (failure,) = summary.failures
    assert failure.row_addresses == tuple((1 << 32) + 10 + i for i in range(5))
    assert failure.reason == "ValueError: thirty"


class NotFarAhead:
    """Refuses rows of a fragment that lies further behind the last one committed than it should."""

    def __init__(self, uri: str, sizes: list[int], most: int) -> None:
        self.uri, self.ends, self.most = uri, np.cumsum(sizes), most

    def __call__(self, batch: dict) -> dict:
        committed = sum(len(fragment.metadata.files) > 1 for fragment in lance.dataset(self.uri).get_fragments())
        begun = int(np.searchsorted(self.ends, max(batch["id"]), side="right")) + 1
        if begun - committed > self.most:
            raise ValueError(f"{begun} fragments begun, {committed} committed")
        return {"plus": batch["id"] + 1}


@pytest.mark.parametrize(
    ("most", "where"), [(1, None), (2, "label < 5"), pytest.param(7, None, marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("in_actors", [True, False], ids=["actors", "tasks"])
def test_no_more_is_computed_ahead_of_the_commits_than_asked_for(uri, most, in_actors, where):
    """What a kill can cost, at any moment: ``fragments_per_commit`` fragments, computed wholly or in part."""
    sizes = [100, 20, 20, 15, 15, 15, 15, 40, 300, 20, 20, 20]
    write_fragments(uri, sizes)
    how = (uri, sizes, most)
    fn, arguments = (NotFarAhead, how) if in_actors else (NotFarAhead(*how).__call__, ())

    summary = add(
        uri,
        fn,
        fn_constructor_args=arguments,
        schema=pa.schema([("plus", pa.int64())]),
        where=where,
        batch_size=16,
        concurrency=2,
        fragments_per_commit=most,
    )

    assert summary.fragments_done == len(sizes)
    assert all(value == (key + 1 if where is None or key % 10 < 5 else None) for key, value in column(uri).items())


@pytest.mark.parametrize("size", [None, 3])
def test_actors_do_not_read_themselves(uri, size):
    write_fragments(uri, [20])
    table = TableRef.of(uri).pin()
    todo = Pass(None, (FragmentWork(0, 20, 20, keeps=False, sources=()),))
    window = None if size is None else Window(size)

    compute = Compute(Adder, ("id",), constructor_arguments=(1,), concurrency=1)
    computed = computed_columns(compute, table, todo, pa.schema([("plus", pa.int64())]), exact=False, window=window)

    assert "->" not in computed.materialize().stats()


class Started(ColumnWriter):
    """Starts no tasks, but notes how many there would be."""

    def __init__(self) -> None:
        super().__init__(None, 0, lance.LanceDataset.commit)
        self.most = 0

    def _start(self, fragments) -> None:
        self._tasks.append(ray.put([]))
        self.most = max(self.most, len(self._tasks))


def test_however_many_fragments_are_finished_at_once_few_tasks_write_them():
    """Beside actors they reserve no CPU, so that each of them may cost a process."""
    finished = [CompleteFragment(FragmentWork(number, 1, 1, keeps=False, sources=()), ()) for number in range(2_000)]
    writer = Started()

    writer.submit(finished)

    assert 1 <= writer.most <= ray.cluster_resources()["CPU"]


def test_after_a_failed_task_those_that_ended_with_it_are_still_committed(monkeypatch):
    committed: list = []
    monkeypatch.setattr(ColumnWriter, "_commit", lambda self: committed.extend(self._finished))
    writer = Started()
    fail = ray.remote(num_cpus=0)(lambda: 1 / 0).remote()
    writer._tasks = [fail, ray.put(["second"]), ray.put(["third"])]
    ray.wait([fail])

    with pytest.raises(ZeroDivisionError):
        writer._collect(wait=False)
    writer.salvage()

    assert sorted(committed) == ["second", "third"]


def test_arguments_of_the_function_are_not_written_down(uri):
    write_fragments(uri, [20])
    secret = {"fn_constructor_kwargs": {"addend": 7, "key": "hunter2"}, "concurrency": 1}
    add(uri, Keyed, **secret)

    metadata = str(lance.dataset(uri).schema.field("plus").metadata) + str(lance.dataset(uri).lance_schema)
    assert "hunter2" not in metadata
    other = {**secret, "fn_constructor_kwargs": {"addend": 7, "key": "hunter3"}}
    with pytest.raises(InvalidArgumentError, match=r"another value of fn_constructor_kwargs\['key'\]") as refused:
        add(uri, Keyed, **other)
    assert "hunter" not in str(refused.value)
    assert add(uri, Keyed, **secret).fragments_done == 0


def computed_blocks(uri: str, fn, schema: pa.Schema, **options) -> list[int]:
    """Rows of the blocks in which the columns of all the rows come, in order."""
    return [block.metadata.num_rows for bundle in bundles_of(uri, fn, schema, **options) for block in bundle.blocks]


def bundles_of(uri: str, fn, schema: pa.Schema, **options) -> Iterator[RefBundle]:
    table = TableRef.of(uri).pin()
    fragments = tuple(
        FragmentWork(each.fragment_id, each.physical_rows, each.count_rows(), keeps=False, sources=())
        for each in table.open().get_fragments()
    )
    computed = computed_columns(Compute(fn, ("id",), **options), table, Pass(None, fragments), schema, exact=False)
    return computed.iter_internal_ref_bundles()


def test_a_task_hands_on_large_results_while_it_goes_on(uri):
    write_fragments(uri, [40])
    width = 2**20  # float32: 4 MiB per row, 32 MiB per block, 40 MiB per task

    def wide(batch):
        return {"wide": np.zeros((len(batch["id"]), width), np.float32)}

    rows = computed_blocks(uri, wide, pa.schema([("wide", pa.list_(pa.float32(), width))]), batch_size=1, concurrency=1)

    # Blocks end at 32 MiB, or after two seconds where the machine is slow.
    assert sum(rows) == 40
    assert max(rows) <= 8
    assert len(rows) >= 8, "four tasks, each with more than one block"


@pytest.mark.parametrize("options", [{}, {"constructor_keywords": {"addend": 1}}], ids=["tasks", "actors"])
def test_small_inputs_are_shared_among_all_workers(uri, options):
    write_fragments(uri, [64])
    fn = NamesItsTask if options else name_of_task

    bundles = bundles_of(uri, fn, pa.schema([("task", pa.string())]), batch_size=4, concurrency=2, **options)

    # A task that takes long hands on more than one block.
    blocks = [block for bundle in bundles for block in ray.get(bundle.block_refs)]
    tasks = Counter(task for block in blocks for task in block["task"].to_pylist())
    assert list(tasks.values()) == [8] * 8


def name_of_task(batch: dict) -> dict:
    return {"task": [ray.get_runtime_context().get_task_id()] * len(batch["id"])}


class NamesItsTask(Adder):
    def __call__(self, batch: dict) -> dict:
        return name_of_task(batch)


def test_slow_functions_get_tasks_that_end_soon(uri):
    write_fragments(uri, [1_000])

    rows = computed_blocks(uri, plus, pa.schema([("plus", pa.int64())]), batch_size=1, concurrency=1)

    assert max(rows) <= 64
    assert sum(rows) == 1_000


@pytest.mark.parametrize(
    ("fn", "message"),
    [
        (lambda batch: {"plus": batch["id"][1:]}, r"returned 4 rows for 5"),
        (lambda batch: {"minus": batch["id"]}, r"did not return the columns \['plus'\]"),
        (lambda batch: {"plus": batch["id"] * 0.5}, "plus"),
        (lambda batch: [1, 2, 3, 4, 5], "it returned a list"),
        (lambda batch: {"plus": batch["id"], "more": batch["id"]}, "more"),
    ],
    ids=["too few rows", "other columns", "another type", "no columns", "too many columns"],
)
def test_wrong_output_is_refused_and_nothing_is_committed(uri, fn, message):
    write_fragments(uri, [20, 20])

    def in_the_second_batch(batch):
        return fn(batch) if 5 in batch["id"] else {"plus": batch["id"] + 1}

    with pytest.raises(SchemaMismatchError, match=message) as caught:
        add(uri, in_the_second_batch, batch_size=5)

    assert "whose first row address is 5 (fragment 0, offset 5)" in str(caught.value)
    assert lance.dataset(uri).schema.names == ["id", "label", "vec", "text"]
    assert orphans(uri) == []


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"input_columns": ["ids"]}, UnknownColumnError, "Did you mean 'id'"),
        ({"input_columns": []}, InvalidArgumentError, "input_columns"),
        ({"where": "nosuch = 1"}, UnknownColumnError, "nosuch"),
        ({"where": "id ="}, InvalidArgumentError, "where"),
        ({"batch_size": 0}, InvalidArgumentError, "batch_size=0"),
        ({"batch_format": "tf"}, InvalidArgumentError, "batch_format='tf'"),
        ({"fragments_per_commit": 0}, InvalidArgumentError, "fragments_per_commit=0"),
        ({"on_error": "ignore"}, InvalidArgumentError, "on_error='ignore'"),
        ({"fn": 3}, InvalidArgumentError, "fn=3"),
        ({"fn": lambda batch: threading.Lock}, SchemaMismatchError, "it returned"),
        ({"fn": partial(plus, lock=threading.Lock())}, InvalidArgumentError, "fn: cannot be pickled"),
        ({"fn_kwargs": {"lock": threading.Lock()}}, InvalidArgumentError, "arguments of fn: cannot be pickled"),
        ({"fn": lambda batch: {"n": batch["id"][1:]}}, SchemaMismatchError, "first row address is 0 .*19 rows for 20"),
        (
            {"fn": lambda batch: {"n": [*batch["id"], 1]}},
            SchemaMismatchError,
            "first row address is 0 .*21 rows",
        ),
        ({"fn": lambda batch: batch["nosuch"]}, RayLanceError, "first row address is 0 .*KeyError"),
        ({"fn_constructor_kwargs": {"a": 1}}, InvalidArgumentError, "fn is a function"),
        ({"fn": lambda batch: {"label": batch["id"]}}, InvalidArgumentError, "'label' exists already"),
        ({"fn": lambda batch: {"id": batch["id"]}, "overwrite": True}, InvalidArgumentError, "computed from itself"),
        ({"fn": lambda batch: {"label": batch["id"] / 2}, "overwrite": True}, SchemaMismatchError, "'label' is int64"),
        ({"schema": pa.schema([("label", pa.int64())])}, InvalidArgumentError, "'label' exists already"),
        ({"schema": pa.schema([pa.field("n", pa.int64(), nullable=False)])}, InvalidArgumentError, "not nullable"),
        ({"where": "id > 1000"}, InvalidArgumentError, "give the schema"),
        ({"fn": lambda batch: {"n": [None] * len(batch["id"])}}, SchemaMismatchError, "only nulls"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else None,
)
def test_bad_arguments_are_refused_and_nothing_is_committed(uri, options, error, message):
    version = write_fragments(uri, [20]).version

    with pytest.raises(error, match=message):
        add(uri, **{"fn": plus, **options})

    assert lance.dataset(uri).version == version


def test_a_dataset_that_does_not_exist_is_refused(uri):
    with pytest.raises(DatasetNotFoundError):
        add(uri)


def test_files_of_the_oldest_version_are_refused(uri):
    lance.write_dataset(pa.table({"id": range(3)}), uri, data_storage_version="legacy")

    with pytest.raises(InvalidArgumentError, match=r"files of version 0\.1: copy the dataset"):
        add(uri)

    assert lance.dataset(uri).version == 1


@pytest.mark.parametrize(
    "changed",
    [{"where": "id > 3"}, {"fn": lambda batch: {"plus": batch["id"]}}, {"fn_kwargs": {}, "input_columns": ["label"]}],
    ids=["where", "fn", "inputs"],
)
def test_another_computation_of_the_same_column_needs_overwrite(uri, changed):
    write_fragments(uri, [20])
    add(uri)
    call = {"fn": plus, "schema": pa.schema([("plus", pa.int64())]), **changed}

    with pytest.raises(InvalidArgumentError, match="overwrite=True"):
        add(uri, **call)


def run(uri: str, send, **options):
    return backfill(TableRef.of(uri), Compute(plus, ("id",)), BackfillOptions(retry=QUICK, **options), send)


class Meanwhile:
    """Lets another writer act just before the first commit of column files."""

    def __init__(self, act) -> None:
        self.act = act

    def __call__(self, uri, transaction, **options):
        if isinstance(transaction.operation, lance.LanceOperation.DataReplacement):
            act, self.act = self.act, lambda: None
            act()
        return lance.LanceDataset.commit(uri, transaction, **options)


OTHERS = {
    "append": lambda uri: lance.write_dataset(sample_table(5, 100), uri, mode="append"),
    "delete": lambda uri: lance.dataset(uri).delete("id IN (3, 25)"),
    "delete a fragment": lambda uri: lance.dataset(uri).delete("id < 20"),
    "update": lambda uri: lance.dataset(uri).update({"label": "77"}, where="id = 3"),
    "change inputs": lambda uri: lance.dataset(uri).update({"id": "id + 500"}, where="id = 3"),
    "compact": lambda uri: lance.dataset(uri).optimize.compact_files(),
    "delete and compact": lambda uri: (
        lance.dataset(uri).delete("id IN (3, 25)"),
        lance.dataset(uri).optimize.compact_files(materialize_deletions_threshold=0.0),
    ),
    "another column": lambda uri: lance.dataset(uri).add_columns({"other": "id * 2"}),
    "index": lambda uri: lance.dataset(uri).create_scalar_index("id", "BTREE"),
}


@pytest.mark.parametrize("other", OTHERS)
@pytest.mark.parametrize("per_commit", [1, None])
def test_other_writers_during_the_work_misalign_nothing(uri, other, per_commit):
    write_fragments(uri, [20, 20, 20])

    run(uri, Meanwhile(lambda: OTHERS[other](uri)), fragments_per_commit=per_commit)

    assert all(value in (key + 1, None) for key, value in column(uri).items())
    assert orphans(uri) == []
    run(uri, lance.LanceDataset.commit)
    assert all_plus(uri)
    assert run(uri, lance.LanceDataset.commit).rows == 0


def test_a_lost_acknowledgement_is_no_failure(uri):
    write_fragments(uri, [20, 20])

    run(uri, FaultySend(after=Cue(frozenset({0, 1}))), fragments_per_commit=1)

    assert all_plus(uri)
    assert orphans(uri) == []


def test_commits_that_keep_failing_leave_nothing_behind(uri):
    names = write_fragments(uri, [20, 20]).schema.names

    with pytest.raises(CommitError):
        run(uri, FaultySend(before=Cue(frozenset(range(100)))))

    assert lance.dataset(uri).schema.names == names
    assert orphans(uri) == []


def test_a_job_that_another_call_takes_over_commits_nothing_more(uri):
    write_fragments(uri, [20, 20])

    with pytest.raises(CommitError, match="taken over"):
        run(uri, Meanwhile(lambda: run(uri, lance.LanceDataset.commit)))

    assert all_plus(uri)
    assert orphans(uri) == []


def test_only_the_new_column_is_written(uri):
    rows = 20_000
    lance.write_dataset(pa.table({"id": np.arange(rows), "payload": pa.array([b"x" * 500] * rows)}), uri)
    noise = np.random.default_rng(0).random((rows, 16), dtype=np.float32)

    summary = add(uri, lambda batch: {"noise": noise[batch["id"]]})

    assert summary.bytes == pytest.approx(noise.nbytes, rel=0.1)
