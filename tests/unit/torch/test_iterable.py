"""LanceIterableDataset: the laws of the order, ranks, state, epochs."""

from __future__ import annotations

import itertools
import json
import pickle

import lance
import numpy as np
import pyarrow as pa
import pytest
import torch
import torch.testing._internal.distributed.fake_pg
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader
from torchdata.stateful_dataloader import StatefulDataLoader

import ray_lance
from ray_lance import Permutation
from ray_lance.order import BatchSchedule, DenseRows, RowPermutation
from ray_lance.torch import LanceIterableDataset
from ray_lance.torch.prefetch import plan_reads
from tests.datasets import sample_table, write_fragments
from tests.examples import examples
from tests.laws import (
    Run,
    check_elasticity,
    check_equal_steps,
    check_one_order,
    check_refusal,
    check_resume,
    check_same_batches,
    check_undisturbed,
    sequence,
)

GLOBAL_BATCH = 12
WORLD_SIZES = [1, 2, 3, 4]
TAILS = ["drop", "pad", "uneven"]


@pytest.fixture(scope="module")
def table(tmp_path_factory) -> str:
    """100 rows in four fragments, of which 94 are left."""
    uri = str(tmp_path_factory.mktemp("data") / "table.lance")
    write_fragments(uri, [40, 1, 39, 20], deleted="id % 16 = 5")
    return uri


class DatasetExecutor:
    """Every rank as a fresh dataset object: a cursor crosses only as JSON. Rows are read from storage each time."""

    def __init__(self, source, **options):
        own = {"shuffle": 3, "columns": ["id"], "prefetch": 1, "cache_bytes": 0}
        self.source, self.options = source, {**own, **options}

    def __call__(self, world_size, cursor=None, steps=None):
        ranks = [self.rank(world_size, rank, cursor) for rank in range(world_size)]
        batches = [[batch["id"].numpy() for batch in itertools.islice(rank, steps)] for rank in ranks]
        states = [rank.state_dict() for rank in ranks]
        assert all(state == states[0] for state in states), "the ranks differ in where they stand"
        return Run(batches, json.loads(json.dumps(states[0])))

    def rank(self, world_size, rank, cursor):
        batch_size = GLOBAL_BATCH // world_size
        dataset = LanceIterableDataset(
            self.source, batch_size=batch_size, rank=rank, world_size=world_size, **self.options
        )
        if cursor is not None:
            dataset.load_state_dict(cursor)
        return dataset


class TestLaws:
    @pytest.mark.parametrize("tail", TAILS)
    @pytest.mark.parametrize("lanes", [1, 4])
    @pytest.mark.parametrize("cache_bytes", [0, "auto"])
    def test_2_global_batches_do_not_depend_on_the_world_size(self, table, tail, lanes, cache_bytes):
        check_elasticity(DatasetExecutor(table, tail=tail, lanes=lanes, cache_bytes=cache_bytes), WORLD_SIZES)

    @pytest.mark.parametrize("prefetch", [0, 1, 3])
    def test_2_nor_on_threads_and_reads(self, table, monkeypatch, prefetch):
        reference = DatasetExecutor(table, tail="uneven", lanes=3, prefetch=0)(1)
        monkeypatch.setattr("ray_lance.torch.prefetch.READ_BYTES", 100)
        run = DatasetExecutor(table, tail="uneven", lanes=3, prefetch=prefetch)(3)
        check_same_batches({"one read": reference, "many reads": run})

    @settings(max_examples=examples(20), suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(
        legs=st.lists(st.tuples(st.sampled_from(WORLD_SIZES), st.integers(0, 5)), max_size=4),
        last=st.sampled_from(WORLD_SIZES),
        options=st.fixed_dictionaries(
            {
                "tail": st.sampled_from(TAILS),
                "lanes": st.sampled_from([1, 2, 4]),
                "shuffle": st.sampled_from([None, 3]),
                "cache_bytes": st.sampled_from([0, "auto"]),
            }
        ),
    )
    def test_3_any_chain_of_restarts_yields_exactly_the_rest(self, table, legs, last, options):
        check_resume(DatasetExecutor(table, **options), legs, last)

    def test_3_lanes_of_the_first_start_travel_in_the_state(self, table):
        execute = DatasetExecutor(table)
        whole = execute(4)
        first = execute(4, steps=2)
        rest = execute(2, cursor=first.cursor)
        joined = [*zip(*first.batches, strict=True), *zip(*rest.batches, strict=True)]
        check_same_batches({"whole": whole, "joined": Run([[np.concatenate(batch) for batch in joined]])})

    @pytest.mark.parametrize("clump", [1, 4])
    def test_4_the_sequence_is_that_of_the_permutation(self, table, clump):
        shuffled = Permutation(table, filter="label != 7").shuffle(5, clump, clump * 4)
        run = DatasetExecutor(shuffled, shuffle=None, tail="uneven", lanes=1)(1)
        fetched = shuffled.fetch(range(len(shuffled)), columns=["id"], format="python_col")["id"]
        check_one_order({"permutation": fetched, "iterable dataset": sequence(run)})

    @pytest.mark.parametrize("cache_bytes", [0, "auto"])
    def test_5_what_others_write_changes_nothing(self, uri, cache_bytes):
        dataset = write_fragments(uri, [40, 1, 39, 20])
        version = dataset.version

        def disturb():
            lance.write_dataset(sample_table(30, 100), uri, mode="append")
            changed = lance.dataset(uri)
            changed.delete("id < 50")
            changed.optimize.compact_files()

        check_undisturbed(DatasetExecutor(uri, version=version, cache_bytes=cache_bytes), disturb)

    def test_7_a_state_of_another_order_is_refused(self, table, uri):
        write_fragments(uri, [94])

        def state(source=table, **options):
            options = {"shuffle": 3, "lanes": 2, **options}
            return LanceIterableDataset(source, batch_size=4, rank=0, world_size=1, **options).state_dict()

        here = LanceIterableDataset(table, batch_size=4, shuffle=3, lanes=2, rank=0, world_size=1)
        foreign = {
            "seed": state(shuffle=4),
            "no shuffle": state(shuffle=None),
            "filter": state(filter="id < 50"),
            "dataset": state(uri),
            "clump": state(Permutation(table).shuffle(3, 4, 8), shuffle=None),
            "lanes": state(lanes=4),
        }
        check_refusal(here.load_state_dict, foreign, here.state_dict())


@settings(max_examples=examples(60), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    below=st.integers(0, 100),
    world_size=st.integers(1, 6),
    batch_size=st.integers(1, 9),
    tail=st.sampled_from(["drop", "pad"]),
    shuffle=st.sampled_from([None, 1]),
)
def test_ranks_make_equal_steps(table, below, world_size, batch_size, tail, shuffle):
    options = {"filter": f"id < {below}", "shuffle": shuffle, "tail": tail, "columns": ["id"], "prefetch": 0}

    def rank_of(rank: int) -> LanceIterableDataset:
        return LanceIterableDataset(table, batch_size=batch_size, rank=rank, world_size=world_size, **options)

    count = lance.dataset(table).count_rows(options["filter"])
    if tail == "drop" and 0 < count < batch_size * world_size:
        with pytest.raises(ray_lance.InvalidArgumentError, match="no step"):
            rank_of(0)
        return
    ranks = [rank_of(rank) for rank in range(world_size)]
    run = Run([[batch["id"].numpy() for batch in rank] for rank in ranks])
    check_equal_steps(run)
    assert {len(rank) for rank in ranks} == {len(run.batches[0])}
    assert all(len(batch) == batch_size for batch in run.batches[0])


def ids(dataset) -> list[int]:
    return [row for batch in dataset for row in batch["id"].tolist()]


@pytest.fixture
def dataset(table):
    return LanceIterableDataset(table, batch_size=10, shuffle=1, columns=["id"])


class TestEpochs:
    def test_move_on_by_themselves(self, table, dataset):
        passes = [ids(dataset) for _ in range(3)]
        for number, found in enumerate(passes):
            again = LanceIterableDataset(table, batch_size=10, shuffle=1, columns=["id"])
            again.set_epoch(number)
            assert ids(again) == found
        assert passes[0] != passes[1] != passes[2]

    def test_a_pass_that_was_left_early_counts(self, dataset):
        reference = [ids(dataset), ids(dataset)]
        dataset.set_epoch(0)
        next(iter(dataset))
        assert ids(dataset) == reference[1]

    def test_set_epoch_can_go_back(self, dataset):
        first = ids(dataset)
        dataset.set_epoch(0)
        assert ids(dataset) == first

    def test_a_permutation_with_a_fixed_epoch_repeats_it(self, table):
        fixed = Permutation(table).shuffle(1).epoch(2)
        dataset = LanceIterableDataset(fixed, batch_size=10, columns=["id"])
        assert ids(dataset) == ids(dataset)
        assert dataset.state_dict()["epoch"] == 2

    def test_are_taken_with_the_first_batch(self, dataset):
        reference = [ids(dataset), ids(dataset)]
        dataset.set_epoch(0)
        iter(dataset), iter(dataset)
        assert dataset.state_dict()["epoch"] == 0
        assert [ids(dataset), ids(dataset)] == reference

    @pytest.mark.parametrize("tail", TAILS)
    @pytest.mark.parametrize("reading", ["to the end", "break", "islice", "zip"])
    def test_end_when_no_step_is_left(self, table, reading, tail):
        def read(dataset) -> None:
            steps = len(dataset)
            if reading == "zip":
                list(zip(range(steps), dataset))  # noqa: B905  the range is shorter
            elif reading == "islice":
                list(itertools.islice(dataset, steps))
            else:
                for number, _ in enumerate(dataset, 1):
                    if number == steps and reading == "break":
                        break

        dataset = LanceIterableDataset(table, batch_size=10, shuffle=1, columns=["id"], tail=tail)
        reference = [ids(dataset) for _ in range(3)]
        dataset.set_epoch(0)
        read(dataset)
        state = dataset.state_dict()
        assert (state["epoch"], state["rows"]) == (1, 0)
        resumed = LanceIterableDataset(table, batch_size=10, shuffle=1, columns=["id"], tail=tail)
        resumed.load_state_dict(state)
        for each in (dataset, resumed):
            assert [ids(each), ids(each)] == reference[1:]

    def test_end_for_all_ranks_when_no_rank_has_a_step_left(self, table):
        ranks = [
            LanceIterableDataset(table, batch_size=10, columns=["id"], tail="uneven", lanes=1, rank=rank, world_size=3)
            for rank in range(3)
        ]
        assert [len(rank) for rank in ranks] == [4, 3, 3]
        states = []
        for rank in ranks:
            assert len(list(itertools.islice(rank, 3))) == 3
            states.append(rank.state_dict())
        assert states == [states[0]] * 3
        assert states[0]["epoch"] == 0
        for rank, left in zip(ranks, (1, 0, 0), strict=True):
            rank.load_state_dict(states[0])
            assert len(list(rank)) == left
            assert rank.state_dict()["epoch"] == 1
            assert len(list(rank)) == len(rank)

    def test_that_a_state_says_are_at_their_end_are_over(self, table, dataset):
        reference = [ids(dataset), ids(dataset)]
        state = {**dataset.state_after(0), "epoch": 0, "rows": 90}  # as earlier releases wrote it
        resumed = LanceIterableDataset(table, batch_size=10, shuffle=1, columns=["id"])
        resumed.load_state_dict(state)
        assert resumed.state_dict()["epoch"] == 1
        assert ids(resumed) == reference[1]

    def test_of_two_live_iterators_are_two(self, dataset):
        reference = [[batch["id"].tolist() for batch in dataset] for _ in range(3)]
        dataset.set_epoch(0)
        first, second = iter(dataset), iter(dataset)
        found = [(next(first)["id"].tolist(), next(second)["id"].tolist()) for _ in range(4)]
        assert found == list(zip(reference[0], reference[1], strict=True))[:4]
        assert dataset.state_dict() == dataset.state_after(4)
        assert dataset.state_dict()["epoch"] == 1, "the state is that of the iterator that began last"
        assert [batch["id"].tolist() for batch in first] == reference[0][4:]
        assert dataset.state_dict()["rows"] == 40
        assert [batch["id"].tolist() for batch in dataset] == reference[2]

    def test_that_are_broken_off_are_gone_on_with_only_from_a_state(self, dataset):
        reference = [ids(dataset), ids(dataset)]
        dataset.set_epoch(0)
        assert len(list(itertools.islice(dataset, 2))) == 2
        state = dataset.state_dict()
        assert ids(dataset) == reference[1]
        dataset.load_state_dict(state)
        assert ids(dataset) == reference[0][20:]

    def test_after_a_resumed_one_comes_the_next(self, table, dataset):
        ids(dataset)
        whole = iter(dataset)
        head = [batch["id"].tolist() for batch in itertools.islice(whole, 3)]
        state = dataset.state_dict()
        tail, following = [batch["id"].tolist() for batch in whole], ids(dataset)
        resumed = LanceIterableDataset(table, batch_size=10, shuffle=1, columns=["id"])
        resumed.load_state_dict(state)
        resumed.set_epoch(state["epoch"])  # as training loops do
        assert len(head) == 3
        assert [batch["id"].tolist() for batch in resumed] == tail
        assert ids(resumed) == following

    def test_another_epoch_than_the_state_s_starts_at_its_beginning(self, dataset):
        first = ids(dataset)
        dataset.load_state_dict(dataset.state_after(2))
        dataset.set_epoch(1)
        second = ids(dataset)
        dataset.set_epoch(0)
        assert ids(dataset) == first
        assert len(second) == len(first)


class TestState:
    def test_of_another_epoch_is_refused_where_one_is_fixed(self, table):
        permutation = Permutation(table).shuffle(3)
        first = LanceIterableDataset(permutation.epoch(0), batch_size=10)
        next(iter(first))

        LanceIterableDataset(permutation, batch_size=10).load_state_dict(first.state_dict())
        with pytest.raises(ray_lance.CursorMismatchError, match=r"epoch 0, and here .* epoch 3"):
            LanceIterableDataset(permutation.epoch(3), batch_size=10).load_state_dict(first.state_dict())

    def test_counts_what_was_returned_not_what_was_read(self, table):
        dataset = LanceIterableDataset(table, batch_size=10, shuffle=1, prefetch=4)
        assert dataset.state_dict()["rows"] == 0
        iterator = iter(dataset)
        assert dataset.state_dict()["rows"] == 0
        for returned in (10, 20, 30):
            next(iterator)
            assert dataset.state_dict()["rows"] == returned

    def test_can_be_told_for_steps_that_the_caller_counts(self, dataset):
        iterator = iter(dataset)
        next(iterator), next(iterator)
        assert dataset.state_after(2) == dataset.state_dict()
        with pytest.raises(IndexError, match="9 steps"):
            dataset.state_after(10)

    def test_survives_pickling(self, dataset):
        iterator = iter(dataset)
        next(iterator)
        copy = pickle.loads(pickle.dumps(dataset))
        assert copy.state_dict() == dataset.state_dict()

    @pytest.mark.parametrize("state", [{}, {"epoch": 1}, "text", None, 3, [("epoch", 1)]])
    def test_that_is_none(self, dataset, state):
        with pytest.raises(ray_lance.InvalidArgumentError, match="state"):
            dataset.load_state_dict(state)

    @pytest.mark.parametrize("worker", [3, {}, {"number": 0}, {"number": 0, "size": 2, "steps": "3"}])
    def test_of_no_worker(self, dataset, worker):
        with pytest.raises(ray_lance.InvalidArgumentError, match="worker"):
            dataset.load_state_dict({**dataset.state_dict(), "worker": worker})

    def test_beyond_the_last_row(self, dataset):
        with pytest.raises(ray_lance.CursorMismatchError, match=r"1000000000 .*94 rows"):
            dataset.load_state_dict({**dataset.state_dict(), "rows": 10**9})

    def test_of_lanes_that_do_not_divide_the_global_batch(self, table):
        three = LanceIterableDataset(table, batch_size=3, lanes=3, rank=0, world_size=1)
        four = LanceIterableDataset(table, batch_size=4, rank=0, world_size=1)
        state = {**three.state_dict(), "global_batch": 4}
        with pytest.raises(ray_lance.InvalidArgumentError, match="lanes=3 does not divide global_batch=4"):
            four.load_state_dict(state)

    def test_of_another_global_batch_is_refused_or_changed_on_purpose(self, table):
        def rank(batch_size, world_size=1):
            return LanceIterableDataset(
                table, batch_size=batch_size, shuffle=1, columns=["id"], rank=0, world_size=world_size, lanes=1
            )

        five = rank(5, 2)
        next(iter(five))
        state = five.state_dict()
        with pytest.raises(ray_lance.CursorMismatchError, match="global_batch: cursor 10, here 20"):
            rank(10, 2).load_state_dict(state)
        ten, twenty = rank(10), rank(20)
        ten.load_state_dict(state)
        twenty.load_state_dict({**state, "global_batch": 20})
        assert ids(ten)[:80] == ids(twenty)
        assert ten.state_dict()["global_batch"] == 10
        of_an_older_release = {key: value for key, value in state.items() if key != "global_batch"}
        rank(20).load_state_dict(of_an_older_release)

    def test_of_another_global_batch_is_refused_when_ranks_are_known(self, table):
        state = LanceIterableDataset(table, batch_size=5, lanes=4, rank=0, world_size=4).state_dict()
        launcher = LanceIterableDataset(table, batch_size=5)
        launcher.load_state_dict({**state, "rows": 20})
        with pytest.raises(ray_lance.CursorMismatchError, match="global_batch: cursor 20, here 5"):
            iter(launcher)  # it is no launcher

    def test_of_a_process_that_has_read_nothing_suits_any_number_of_ranks(self, table):
        launcher = LanceIterableDataset(table, batch_size=5, lanes=2)
        rank = LanceIterableDataset(table, batch_size=5, lanes=2, rank=0, world_size=2)
        rank.load_state_dict(launcher.state_dict())
        assert "global_batch" not in launcher.state_dict()
        assert rank.state_dict()["global_batch"] == 10


class TestTail:
    def test_is_delivered_where_one_process_reads_in_order(self, table):
        dataset = LanceIterableDataset(table, batch_size=64, columns=["id"])
        assert [len(batch["id"]) for batch in dataset] == [64, 30]
        assert len(dataset) == 2

    @pytest.mark.parametrize("options", [{"shuffle": 1}, {"rank": 0, "world_size": 1}, {"tail": "drop"}])
    def test_is_dropped_for_ranks_and_with_a_shuffle(self, table, options):
        assert len(LanceIterableDataset(table, batch_size=64, columns=["id"], **options)) == 1

    @pytest.mark.parametrize(("tail", "level"), [(None, "WARNING"), ("drop", "INFO")])
    def test_that_is_dropped_is_reported_once(self, table, caplog, tail, level):
        caplog.set_level("INFO", logger="ray_lance")
        ranks = [
            LanceIterableDataset(table, batch_size=10, columns=["id"], rank=rank, world_size=2, tail=tail)
            for rank in range(2)
        ]
        assert not caplog.records
        for _ in range(2):
            assert [len(list(rank)) for rank in ranks] == [4, 4]

        (record,) = caplog.records
        assert record.levelname == level
        assert "14 of 94 rows are dropped" in record.message
        assert "2 x 10 rows" in record.message

    @pytest.mark.parametrize("options", [{"tail": "uneven"}, {"tail": "pad"}, {}])
    def test_that_is_delivered_is_not_reported(self, table, caplog, options):
        caplog.set_level("INFO", logger="ray_lance")
        assert len(list(LanceIterableDataset(table, batch_size=10, columns=["id"], **options))) == 10
        assert not caplog.records

    @pytest.mark.parametrize("options", [{"shuffle": 1}, {"tail": "drop"}, {"rank": 1, "world_size": 2}])
    def test_is_not_all_there_is(self, table, options):
        with pytest.raises(ray_lance.InvalidArgumentError, match=r"batch_size=95: there are 94 rows.*no step"):
            LanceIterableDataset(table, batch_size=95, **options)

    def test_is_not_all_there_is_for_as_many_ranks_as_are_found_later(self, table):
        dataset = LanceIterableDataset(table, batch_size=60)
        torch.distributed.init_process_group(
            "fake", store=torch.testing._internal.distributed.fake_pg.FakeStore(), rank=1, world_size=2
        )
        try:
            for use in (len, list):
                with pytest.raises(ray_lance.InvalidArgumentError, match="2 x 60 rows is never full"):
                    use(dataset)
        finally:
            torch.distributed.destroy_process_group()


class TestSteps:
    def test_are_known_before_the_first_batch(self, table):
        for tail, steps in (("drop", 9), ("pad", 10), ("uneven", 10)):
            dataset = LanceIterableDataset(table, batch_size=10, tail=tail)
            assert len(dataset) == steps == len(list(dataset))

    def test_of_an_empty_selection(self, table):
        dataset = LanceIterableDataset(table, batch_size=10, filter="id > 1000", tail="pad")
        assert len(dataset) == 0
        assert list(dataset) == []

    def test_planning_is_lazy_whatever_the_size(self):
        order = RowPermutation(DenseRows(10**11)).shuffle(1, 64, 65536)
        schedule = BatchSchedule(10**11, 8, 8192, world_size=8, rank=7, consumed=9 * 10**9 // 8192 * 8192)
        reads = list(itertools.islice(plan_reads(schedule, range(schedule.rank_steps), order, 528.0), 3))
        assert [read.ranges[-1][1] % 65536 for read in reads[1:]] == [0, 0]  # where windows end
        assert all(sum(stop - start for start, stop in read.ranges) <= 2 * 65536 for read in reads)

    def test_the_first_read_of_each_lane_is_small(self):
        order = RowPermutation(DenseRows(10**6)).shuffle(1, 64, 65536)
        schedule = BatchSchedule(10**6, 4, 1024)
        reads = list(plan_reads(schedule, range(schedule.steps), order, 528.0))
        rows = [sum(stop - start for start, stop in read.ranges) for read in reads]
        assert [read.lane for read in reads[:4]] == [0, 1, 2, 3]
        assert all(count * 528 <= 2**19 for count in rows[:4])
        assert sum(rows) == schedule.steps * 1024

    def test_the_first_read_of_a_lane_holds_its_part_of_the_first_batch(self):
        order = RowPermutation(DenseRows(10**6)).shuffle(1, 64, 65536)
        schedule = BatchSchedule(10**6, 2, 8192)
        first, second, *_ = plan_reads(schedule, range(schedule.steps), order, 528.0)
        assert first.ranges == ((0, 4096),)
        assert second.ranges == ((500_000, 504_096),)

    def test_where_parts_of_windows_cost_as_much_as_windows_the_first_reads_are_windows(self):
        order = RowPermutation(DenseRows(10**6)).shuffle(1, 64, 65536)
        schedule = BatchSchedule(10**6, 1, 1024)
        first = next(plan_reads(schedule, range(schedule.steps), order, 528.0, small_first=False))
        assert first.ranges == ((0, int(order.window_edges()[1])),)


class TestRanks:
    def test_are_found_in_torch_distributed(self, table):
        torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
        try:
            assert len(LanceIterableDataset(table, batch_size=10)) == 9
        finally:
            torch.distributed.destroy_process_group()

    def test_arguments_go_first(self, table):
        dataset = LanceIterableDataset(table, batch_size=10, rank=1, world_size=3)
        assert len(dataset) == 3


class TestBatches:
    def test_are_tensors_of_every_column(self, table):
        batch = next(iter(LanceIterableDataset(table, batch_size=8, shuffle=2)))
        assert batch["vec"].shape == (8, 4)
        assert torch.equal(batch["vec"][:, 0], batch["id"].float())
        assert batch["text"] == [f"row {i}" for i in batch["id"].tolist()]

    @pytest.mark.parametrize(
        ("format", "kind"), [("numpy", dict), ("python", list), ("arrow", object), ("pandas", object)]
    )
    def test_in_other_formats(self, table, format, kind):
        batch = next(iter(LanceIterableDataset(table, batch_size=8, columns=["id"], format=format)))
        assert isinstance(batch, kind)
        assert len(batch["id"] if isinstance(batch, dict) else batch) == 8

    def test_pass_through_a_transform(self, table):
        dataset = LanceIterableDataset(table, batch_size=8, columns=["id"], transform=lambda batch: batch["id"] * 2)
        assert torch.equal(next(iter(dataset)), torch.tensor([0, 2, 4, 6, 8, 12, 14, 16]))

    def test_do_not_depend_on_the_other_rows_of_a_read(self, uri):
        rows = [[1], [1, 2], [1, 2, 3], [1], [2], [3]]
        lance.write_dataset(pa.table({"x": rows}), uri)
        shapes = [tuple(batch["x"].shape) for batch in LanceIterableDataset(uri, batch_size=2, ragged="pad")]
        assert shapes == [(2, 2), (2, 3), (2, 1)]

    def test_of_nulls_name_the_column(self, uri):
        lance.write_dataset(pa.table({"x": [1, None, 3]}), uri)
        with pytest.raises(ray_lance.TensorConversionError, match=r"'x'.*fill"):
            list(LanceIterableDataset(uri, batch_size=3))
        (batch,) = LanceIterableDataset(uri, batch_size=3, fill=-1)
        assert batch["x"].tolist() == [1, -1, 3]


class TestArguments:
    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"batch_size": 0}, "batch_size=0"),
            ({"batch_size": 4, "tail": "trim"}, "tail='trim' must be one of"),
            ({"batch_size": 4, "rank": 1}, "give both"),
            ({"batch_size": 4, "rank": 2, "world_size": 2}, "rank=2 must be from 0"),
            ({"batch_size": 4, "lanes": 3, "rank": 0, "world_size": 2}, "lanes=3 does not divide global_batch=8"),
            ({"batch_size": 4, "format": "jax"}, "format='jax' must be one of"),
            ({"batch_size": 4, "ragged": "cut"}, "ragged='cut'"),
            ({"batch_size": 4, "format": "numpy", "fill": 0}, "fill, ragged and categories are for format='torch'"),
            ({"batch_size": 4, "transform": 3}, "transform=3 must be callable"),
            ({"batch_size": 4, "columns": ["idd"]}, "no column 'idd'"),
            ({"batch_size": 4, "fill": {"idd": 0}}, "no column 'idd'"),
            ({"batch_size": 4, "prefetch": -1}, "prefetch=-1"),
            ({"batch_size": 4, "lanes": 3, "rank": 0, "world_size": 1}, "lanes=3 does not divide global_batch=4"),
            ({"batch_size": 4, "lanes": 0}, "lanes=0"),
        ],
    )
    def test_that_cannot_work(self, table, options, message):
        with pytest.raises(ray_lance.InvalidArgumentError, match=message):
            LanceIterableDataset(table, **options)

    def test_the_refusal_of_storage_options_does_not_show_them(self, table):
        with pytest.raises(ray_lance.InvalidArgumentError, match="storage_options") as refused:
            LanceIterableDataset(Permutation(table), batch_size=1, storage_options={"aws_secret_access_key": "hunter2"})
        assert "hunter2" not in str(refused.value)

    @pytest.mark.parametrize("options", [{"filter": "id > 3"}, {"version": 1}, {"storage_options": {}}])
    def test_that_a_permutation_has_decided(self, table, options):
        with pytest.raises(ray_lance.InvalidArgumentError, match="does not apply to a permutation"):
            LanceIterableDataset(Permutation(table), batch_size=4, **options)

    @pytest.mark.parametrize("kind", [DataLoader, StatefulDataLoader])
    @pytest.mark.parametrize("options", [{}, {"batch_size": 4}])
    def test_of_a_loader_that_would_stack_batches(self, dataset, kind, options):
        with pytest.raises(ray_lance.InvalidArgumentError, match=r"batch_size=None.*make_loader"):
            next(iter(kind(dataset, **options)))
        assert dataset.state_dict()["rows"] == 0

    def test_of_a_loader_that_does_something_else_with_batches(self, dataset):
        joined = DataLoader(dataset, batch_size=3, collate_fn=lambda parts: torch.cat([part["id"] for part in parts]))
        assert next(iter(joined)).shape == (30,)
        assert next(iter(DataLoader(dataset, batch_size=None)))["id"].shape == (10,)

    def test_names_the_epoch(self, dataset):
        with pytest.raises(ray_lance.InvalidArgumentError, match="epoch=-1"):
            dataset.set_epoch(-1)
