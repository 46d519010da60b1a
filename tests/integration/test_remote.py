"""The laws on an object store that is slow, refuses requests and cuts answers short; and what reads ask of it."""

from __future__ import annotations

import itertools
import json
import pickle
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import lance
import numpy as np
import pyarrow as pa
import pytest
import ray
import ray.train
from lance.file import LanceFileSession
from ray.train.torch import TorchTrainer

import ray_lance
from ray_lance import Permutation, read_lance
from ray_lance.order import BatchSchedule
from ray_lance.scan.pushdown import build_scan
from ray_lance.scan.take import take_rows
from ray_lance.table import TableRef
from ray_lance.train import LanceDataConfig
from tests.datasets import sample_table
from tests.executors import check_other_orders_refused, ranks
from tests.laws import (
    check_coverage,
    check_one_order,
    check_resume,
    check_same_batches,
    check_undisturbed,
    sequence,
)
from tests.proxy import Proxy, Trouble, troubled_s3

# Workers cannot import this module.
ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])

CALM = Trouble()
# With this seed there is some trouble of each kind among the first three requests, and the first eight.
READING = Trouble(latency_s=0.005, refused=0.1, cut=0.15, seed=4)
WRITING = Trouble(latency_s=0.005, refused=0.1, lost=0.15, seed=4)
FILES = 4
ROWS = 4000

OPEN = """
import pickle, sys
with open(sys.argv[1], "rb") as file:
    table = pickle.load(file)
print(table.open().count_rows())
"""


@pytest.fixture(scope="module")
def store():
    with troubled_s3() as both:
        yield both


@pytest.fixture(scope="module")
def table(store) -> TableRef:
    """Some files of rows, with a few deleted."""
    s3, _ = store
    options = {"storage_options": s3.storage_options}
    lance.write_dataset(sample_table(ROWS), s3.uri("table"), max_rows_per_file=ROWS // FILES, **options)
    lance.dataset(s3.uri("table"), **options).delete("id % 1000 = 77")
    return TableRef.of(s3.uri("table"), **options).pin()


@pytest.fixture
def wide(store) -> TableRef:
    """Rows that are so large that reads of neighbouring clumps are not merged."""
    s3, _ = store
    options = {"storage_options": s3.storage_options}
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(np.arange(ROWS * 1024, dtype=np.float32)), 1024)
    rows = pa.table({"id": np.arange(ROWS), "vec": vectors})
    lance.write_dataset(rows, s3.uri("wide"), mode="overwrite", max_rows_per_file=ROWS // FILES, **options)
    return TableRef.of(s3.uri("wide"), **options).pin()


@contextmanager
def making(proxy: Proxy, trouble: Trouble) -> Iterator[None]:
    """Some trouble of each kind, or the test has shown nothing."""
    before = Counter(proxy.made)
    proxy.set_trouble(trouble)
    try:
        yield
    finally:
        proxy.set_trouble(CALM)
    assert all(proxy.made[kind] > before[kind] for kind in trouble.kinds), proxy.made - before


@pytest.fixture
def reading(store) -> Iterator[None]:
    """Trouble with requests that read."""
    _, proxy = store
    with making(proxy, READING):
        yield


@pytest.fixture
def counted(store) -> Proxy:
    """The proxy, which makes no trouble."""
    _, proxy = store
    return proxy


def live_ids() -> list[int]:
    return [number for number in range(ROWS) if number % 1000 != 77]


def shuffled_ids(permutation: Permutation) -> list[int]:
    """The order by arithmetic alone: rows count up in this dataset."""
    return [live_ids()[row] for row in permutation.rows()]


def in_order(dataset: ray.data.Dataset) -> list[dict]:
    dataset.context.execution_options.preserve_order = True
    return dataset.take_all()


def check_values(rows: list[dict]) -> None:
    for row in rows:
        assert row["label"] == row["id"] % 10
        assert list(row["vec"]) == [float(row["id"])] * 4
        assert row["text"] == f"row {row['id']}"


class TestLawsUnderTrouble:
    def test_a_read_delivers_every_row_once(self, table, reading):
        rows = read_lance(table, override_num_blocks=8).take_all()

        check_coverage([row["id"] for row in rows], live_ids())
        check_values(rows)

    def test_a_filtered_read_delivers_every_row_once(self, table, reading):
        rows = read_lance(table, filter="label < 5", override_num_blocks=8).take_all()

        check_coverage([row["id"] for row in rows], [number for number in live_ids() if number % 10 < 5])
        check_values(rows)

    def test_a_shuffled_read_keeps_its_order(self, table, reading):
        permutation = Permutation(table).shuffle(5, clump=8, window=256)

        rows = in_order(read_lance(permutation, override_num_blocks=8))

        check_one_order({"arithmetic": shuffled_ids(permutation), "read_lance": [row["id"] for row in rows]})
        check_values(rows)

    def test_the_iterable_dataset_yields_the_global_batches_of_a_calm_store(self, table, store):
        _, proxy = store
        options = {"columns": ["id", "text"], "shuffle": 5, "lanes": 2}
        calm = ranks(table, **options)(1)

        with making(proxy, READING):
            runs = {f"{size} ranks": ranks(table, prefetch=size, **options)(size) for size in (1, 2, 4)}

        check_same_batches({"calm": calm, **runs})

    def test_a_dataset_is_opened_although_the_listing_of_its_versions_is_cut_short(self, table, store):
        _, proxy = store
        proxy.requests.clear()

        with making(proxy, READING):
            opened = table.latest().open()

        assert opened.version == table.version
        assert len(proxy.listings) > 1

    def test_a_stopped_run_goes_on_with_exactly_the_rest(self, table, reading):
        execute = ranks(table, columns=["id", "text"], shuffle=5, lanes=4, tail="uneven")

        check_resume(execute, [(2, 3), (1, 2)], 4)

        check_coverage(sequence(execute(1)), live_ids())

    def test_what_others_write_meanwhile_changes_nothing(self, store):
        s3, proxy = store
        options = {"storage_options": s3.storage_options}
        lance.write_dataset(sample_table(ROWS), s3.uri("pinned"), max_rows_per_file=ROWS // FILES, **options)
        pinned = TableRef.of(s3.uri("pinned"), **options).pin()

        def disturb() -> None:
            proxy.set_trouble(CALM)
            lance.write_dataset(sample_table(100, ROWS), s3.uri("pinned"), mode="append", **options).delete("id < 9")
            proxy.set_trouble(READING)

        with making(proxy, READING):
            check_undisturbed(ranks(pinned, columns=["id"], shuffle=5), disturb, 2)

    def test_states_of_other_orders_are_refused(self, table, reading):
        check_other_orders_refused(table.latest())

    @pytest.mark.slow
    def test_training_gets_the_global_batches_of_a_calm_store(self, table, reading, tmp_path):
        permutation = Permutation(table).shuffle(5)
        ids = shuffled_ids(permutation)
        schedule = BatchSchedule(len(ids), 2, 200, 1)
        wanted = [[i for a, b in schedule.ranges(step) for i in ids[a:b]] for step in range(schedule.steps)]

        TorchTrainer(
            log_batches,
            train_loop_config={"folder": str(tmp_path)},
            scaling_config=ray.train.ScalingConfig(num_workers=2),
            run_config=ray.train.RunConfig(storage_path=str(tmp_path / "runs")),
            datasets={"train": read_lance(permutation, columns=["id"], override_num_blocks=8)},
            dataset_config=LanceDataConfig(global_batch_size=200),
        ).fit()

        found = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2)]
        assert [left + right for left, right in zip(*found, strict=True)] == wanted

    @pytest.mark.parametrize("mode", ["create", "append", "overwrite", "merge"])
    def test_a_write_is_whole_and_leaves_nothing_behind(self, store, mode):
        s3, proxy = store
        name = f"written-{mode}"
        options = {"storage_options": s3.storage_options}
        if mode != "create":
            lance.write_dataset(sample_table(100), s3.uri(name), **options)
        new = [sample_table(500, start) for start in range(50, 3050, 500)]
        how = {"mode": mode, "on": "id" if mode == "merge" else None, "target_bytes_per_file": 20_000}

        with making(proxy, WRITING):
            summary = ray_lance.write_lance(ray.data.from_arrow(new), s3.uri(name), **how, **options)

        kept = {"append": range(100), "merge": range(50)}.get(mode, [])
        rows = lance.dataset(s3.uri(name), **options).to_table()
        assert summary.rows == 3000
        assert sorted(rows["id"].to_pylist()) == sorted([*kept, *range(50, 3050)])
        check_values(rows.to_pylist())
        assert s3.orphans(name) == []

    def test_new_columns_are_whole_and_leave_nothing_behind(self, store):
        s3, proxy = store
        options = {"storage_options": s3.storage_options}
        lance.write_dataset(sample_table(3000), s3.uri("columns"), max_rows_per_file=300, **options)

        with making(proxy, WRITING):
            summary = ray_lance.add_columns(s3.uri("columns"), double, input_columns="id", batch_size=100, **options)

        rows = lance.dataset(s3.uri("columns"), **options).to_table(columns=["id", "double"])
        assert summary.rows == 3000
        assert rows["double"].to_pylist() == [2 * number for number in rows["id"].to_pylist()]
        assert s3.orphans("columns") == []


def test_a_local_copy_has_the_same_order(store, uri):
    s3, _ = store
    lance.write_dataset(pa.table({"id": np.arange(20_000)}), uri)
    bucket = LanceFileSession(s3.uri("copy"), storage_options=s3.storage_options)
    for file in (path for path in Path(uri).rglob("*") if path.is_file()):
        bucket.upload_file(str(file), file.relative_to(uri).as_posix())

    remote = Permutation(s3.uri("copy"), storage_options=s3.storage_options)

    assert Permutation(uri).shuffle(1).fingerprint == remote.shuffle(1).fingerprint


class TestRequests:
    def test_a_fresh_process_opens_a_pinned_version_by_two_requests_at_most(self, table, counted, tmp_path):
        pickled = tmp_path / "table"
        pickled.write_bytes(pickle.dumps(table))
        counted.requests.clear()

        run = subprocess.run([sys.executable, "-c", OPEN, str(pickled)], capture_output=True, text=True)

        assert run.stdout == f"{ROWS - FILES}\n", run.stderr
        assert len(counted.requests) <= 2
        assert counted.listings == []

    @pytest.mark.parametrize("clump", [1, 8])
    def test_a_permutation_range_costs_a_request_for_each_run_and_column(self, wide, counted, clump):
        permutation = Permutation(wide).shuffle(5, clump, 16 * clump)
        scan = build_scan([permutation.table], ["id", "vec"], None, [], {})
        first, second = permutation.rows(0, 16 * clump), permutation.rows(16 * clump, 32 * clump)
        counted.requests.clear()

        take_rows(scan, first)
        of_first, _ = len(counted.requests), counted.requests.clear()
        take_rows(scan, second)

        assert runs_of(second) <= len(counted.requests) <= 2 * runs_of(second)
        assert of_first <= 2 * (runs_of(first) + 3 * FILES)
        assert counted.listings == []

    def test_tasks_cost_a_request_for_each_run_and_column_and_list_nothing(self, wide, counted):
        permutation = Permutation(wide).shuffle(5, 8, 256)
        dataset = read_lance(permutation, override_num_blocks=16)
        bounds = [task * len(permutation) // 16 for task in range(17)]
        runs = sum(runs_of(permutation.rows(start, stop)) for start, stop in itertools.pairwise(bounds))
        processes = int(ray.cluster_resources()["CPU"])
        counted.requests.clear()

        rows = in_order(dataset)

        assert len(rows) == ROWS
        assert counted.listings == []
        opening, first_touch = 2 * processes, 3 * 2 * FILES * processes
        assert 0 < len(counted.requests) <= 2 * runs + opening + first_touch

    def test_a_sequential_read_lists_nothing_once_it_is_planned(self, table, counted):
        dataset = read_lance(table, override_num_blocks=16)
        counted.requests.clear()

        assert len(dataset.take_all()) == ROWS - FILES

        assert len(counted.requests) > 0
        assert counted.listings == []


def double(batch: dict) -> dict:
    return {"double": 2 * batch["id"]}


def log_batches(config: dict[str, str]) -> None:
    shard = ray.train.get_dataset_shard("train")
    batches = [batch["id"].tolist() for batch in shard.iter_torch_batches()]
    Path(config["folder"], f"{ray.train.get_context().get_world_rank()}.json").write_text(json.dumps(batches))


def runs_of(rows: np.ndarray) -> int:
    """Runs of neighbouring rows, which lie together in a file."""
    return 1 + int(np.count_nonzero(np.diff(np.sort(rows)) > 1))
