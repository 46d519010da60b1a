"""Shards of Ray Train: the laws of an order, for every rank that reads its own ranges."""

from __future__ import annotations

import gc
import itertools
import json
import threading
from pathlib import Path

import lance
import numpy as np
import pytest
import ray
import ray.train
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from ray.train.torch import TorchTrainer

from ray_lance import CursorMismatchError, InvalidArgumentError, Permutation, read_lance
from ray_lance.order import BatchSchedule
from ray_lance.torch import LanceIterableDataset
from ray_lance.train import DatasetOptions, LanceDataConfig, LanceShard
from ray_lance.train.closing import close_abandoned
from tests.datasets import sample_table, write_fragments
from tests.examples import examples
from tests.laws import (
    Run,
    check_coverage,
    check_elasticity,
    check_equal_steps,
    check_one_order,
    check_refusal,
    check_resume,
    check_same_batches,
    check_undisturbed,
    global_batches,
    sequence,
)

ROWS = 300
WORLD_SIZES = [1, 2, 4]
TAILS = ["drop", "pad", "uneven"]


@pytest.fixture(scope="module")
def table(tmp_path_factory) -> str:
    uri = str(tmp_path_factory.mktemp("train") / "table.lance")
    write_fragments(uri, [100, 1, 139, 60], deleted="id % 11 = 4")
    return uri


def shards_of(dataset, world_size=1, name="train", **config) -> list[LanceShard]:
    ranks = LanceDataConfig(**config).configure({name: dataset}, world_size, None, None)
    return [rank[name] for rank in ranks]


def ids(batches) -> list[np.ndarray]:
    return [np.asarray(batch["id"]) for batch in batches]


class ShardExecutor:
    """Runs every rank of a config after the other, in this process."""

    def __init__(self, dataset, prefetch_batches=1, **config) -> None:
        self.dataset, self.prefetch_batches, self.config = dataset, prefetch_batches, config

    def __call__(self, world_size, cursor=None, steps=None):
        shards = shards_of(self.dataset, world_size, **self.config)
        batches = [self.rank_batches(shard, cursor, steps) for shard in shards]
        return Run(batches, max((shard.state_dict() for shard in shards), key=lambda at: (at["epoch"], at["rows"])))

    def rank_batches(self, shard, cursor, steps):
        if cursor is not None:
            shard.load_state_dict(json.loads(json.dumps(cursor)))
            shard.set_epoch(cursor["epoch"])  # for what is left of it, also where that is nothing
        left = shard.schedule.resume(shard.state_dict()["rows"]).rank_steps
        steps = left + 1 if steps is None else min(steps, left)
        return ids(itertools.islice(shard.iter_batches(prefetch_batches=self.prefetch_batches), steps))


@st.composite
def executors(draw, table):
    source = Permutation(table, draw(st.sampled_from([None, "label < 6"])))
    if draw(st.booleans()):
        source = source.shuffle(draw(st.integers(0, 99)), 4, 4 * draw(st.integers(1, 20)))
    return ShardExecutor(
        read_lance(source, columns=["id"], override_num_blocks=draw(st.sampled_from([1, 5, 9]))),
        global_batch_size=4 * draw(st.sampled_from([1, 4, 11])),
        lanes=draw(st.sampled_from([1, 2, 4])),
        tail=draw(st.sampled_from(TAILS)),
    )


class TestLaws:
    @settings(max_examples=examples(6))
    @given(data=st.data())
    def test_global_batches_do_not_depend_on_the_world_size(self, table, data):
        check_elasticity(data.draw(executors(table)), WORLD_SIZES)

    @settings(max_examples=examples(6))
    @given(data=st.data())
    def test_any_chain_of_restarts_yields_exactly_the_rest(self, table, data):
        legs = data.draw(st.lists(st.tuples(st.sampled_from(WORLD_SIZES), st.integers(0, 5)), max_size=3))
        check_resume(data.draw(executors(table)), legs, data.draw(st.sampled_from(WORLD_SIZES)))

    @settings(max_examples=examples(6))
    @given(data=st.data(), world_size=st.sampled_from(WORLD_SIZES))
    def test_the_sequence_is_that_of_the_permutation(self, table, data, world_size):
        permutation = Permutation(table).shuffle(data.draw(st.integers(0, 99)), 2, 16)
        config = {"global_batch_size": 24, "lanes": 4, "tail": data.draw(st.sampled_from(TAILS))}
        run = ShardExecutor(read_lance(permutation), **config)(world_size)
        schedule = BatchSchedule(len(permutation), 4, 24, tail=config["tail"])
        ranges = [span for step in range(schedule.steps) for span in schedule.ranges(step)]
        by_rows = permutation.table.open().take(np.concatenate([permutation.rows(*span) for span in ranges]))["id"]
        check_one_order({"rows()": by_rows.to_pylist(), "shards": sequence(run)})
        if config["tail"] == "uneven":
            check_coverage(sequence(run), [i for i in range(ROWS) if i % 11 != 4])
        else:
            check_equal_steps(run)

    def test_prefetching_task_sizes_and_concurrency_change_nothing(self, table):
        config = {"global_batch_size": 16, "lanes": 2}
        reads = {"one task": {"override_num_blocks": 1}, "many": {"override_num_blocks": 20}, "by bytes": {}}
        reads["one at a time"] = {"override_num_blocks": 20, "concurrency": 1}
        runs = {
            f"{name}, prefetch {prefetch}": ShardExecutor(read_lance(table, shuffle=3, **read), prefetch, **config)(2)
            for (name, read), prefetch in zip(reads.items(), [0, 1, 4, 2], strict=True)
        }
        check_same_batches(runs)

    @pytest.mark.slow
    def test_transformations_keep_order_and_resume(self, table):
        def doubled(batch):
            return {"id": batch["id"], "double": 2 * batch["id"]}

        class Labelled:
            def __call__(self, batch):
                return {**batch, "ones": np.ones(len(batch["id"]))}

        plain = read_lance(table, shuffle=3, columns=["id"], override_num_blocks=9)
        chain = plain.map_batches(doubled, batch_size=7).select_columns(["id"]).map_batches(Labelled, concurrency=2)
        config = {"global_batch_size": 16, "lanes": 2}
        check_same_batches(
            {"plain": ShardExecutor(plain, **config)(2), "transformed": ShardExecutor(chain, **config)(2)}
        )
        check_resume(ShardExecutor(chain, **config), [(2, 3), (1, 4)], 4)

    def test_what_others_do_to_the_dataset_changes_nothing(self, uri):
        write_fragments(uri, [100, 100])
        executor = ShardExecutor(read_lance(uri, shuffle=3, override_num_blocks=8), global_batch_size=16)

        def disturb():
            lance.write_dataset(sample_table(50, 200), uri, mode="append")
            changed = lance.dataset(uri)
            changed.delete("id < 150")
            changed.optimize.compact_files()

        check_undisturbed(executor, disturb, world_size=2)

    def test_states_of_other_orders_are_refused(self, table):
        def state(source, **config):
            return shards_of(read_lance(source), **{"batch_size": 16, "lanes": 2, **config})[0].state_dict()

        base = Permutation(table)
        mine = base.shuffle(1, 4, 32)
        foreign = {
            "seed": state(base.shuffle(2, 4, 32)),
            "clump": state(base.shuffle(1, 8, 32)),
            "window": state(base.shuffle(1, 4, 64)),
            "no shuffle": state(base),
            "filter": state(Permutation(table, "label = 1").shuffle(1, 4, 32)),
            "version": state(Permutation(table, version=2).shuffle(1, 4, 32)),
            "lanes": state(mine, lanes=4),
        }
        shard = shards_of(read_lance(mine), batch_size=16, lanes=2)[0]
        check_refusal(shard.load_state_dict, foreign, state(mine))


class TestShard:
    @pytest.fixture
    def shard(self, table):
        return shards_of(read_lance(table, shuffle=3), global_batch_size=32, world_size=2)[0]

    def test_tells_its_steps_before_the_first_batch(self, shard):
        assert (shard.batch_size, shard.steps_per_epoch) == (16, 8)
        assert (shard.schedule.dropped, shard.schedule.padded) == (273 - 8 * 32, 0)
        assert "rank=0, world_size=2, batch_size=16, steps_per_epoch=8, dropped=17" in repr(shard)

    def test_counts_what_was_returned_and_not_what_was_prefetched(self, shard):
        for step, _ in enumerate(shard.iter_torch_batches(prefetch_batches=4), 1):
            assert shard.state_dict()["rows"] == (step * 32 if step < 8 else 0)
        assert (shard.state_dict()["epoch"], shard.state_dict()["rows"]) == (1, 0)

    def test_rows_are_counted_by_whole_steps(self, shard):
        rows = iter(shard.iter_rows())
        counted = [shard.state_dict()["rows"] for _ in zip(range(33), rows, strict=False)]
        assert counted == [0] * 15 + [32] * 16 + [64] * 2
        assert len(list(rows)) == 8 * 16 - 33

    def test_each_pass_is_the_next_epoch(self, table):
        permutation = Permutation(table).shuffle(3)
        shard = shards_of(read_lance(permutation), global_batch_size=1, tail="uneven")[0]
        for epoch in range(2):
            expected = permutation.epoch(epoch).fetch(range(len(permutation)), ["id"], "python_col")["id"]
            assert np.concatenate(ids(shard.iter_batches())).tolist() == expected
        shard.set_epoch(0)
        assert shard.state_dict()["epoch"] == 0

    def test_a_fixed_epoch_is_read_by_every_pass(self, table):
        shard = shards_of(read_lance(Permutation(table).shuffle(3).epoch(2)), global_batch_size=16)[0]
        first, second = ids(shard.iter_batches()), ids(shard.iter_batches())
        assert [batch.tolist() for batch in first] == [batch.tolist() for batch in second]

    @pytest.mark.parametrize("steps", [1, 3, 8])
    def test_a_pass_that_is_broken_off_is_continued_after_loading_its_state_only(self, shard, steps):
        epochs = [[batch.tolist() for batch in ids(shard.iter_batches())] for _ in range(2)]
        shard.set_epoch(0)
        for _ in zip(range(steps), shard.iter_batches(), strict=False):
            pass
        state = shard.state_dict()
        assert (state["epoch"], state["rows"]) == ((0, 32 * steps) if steps < 8 else (1, 0))
        assert [batch.tolist() for batch in ids(shard.iter_batches())] == epochs[1]
        shard.load_state_dict(state)
        assert [batch.tolist() for batch in ids(shard.iter_batches())] == (epochs[0][steps:] or epochs[1])

    def test_passes_that_run_at_once_are_epochs_of_their_own(self, shard):
        whole = [[batch.tolist() for batch in ids(shard.iter_batches())] for _ in range(2)]
        shard.set_epoch(0)
        batches = shard.iter_batches()
        steps = zip(batches, batches, strict=True)
        assert [[one.tolist() for one in ids(pair)] for pair in steps] == [
            list(pair) for pair in zip(*whole, strict=True)
        ]

    def test_asking_for_an_iterator_takes_no_epoch(self, shard):
        for _ in range(3):
            iter(shard.iter_torch_batches())
        assert len(list(shard.iter_batches())) == 8
        assert shard.state_dict()["epoch"] == 1

    def test_lengths_are_those_of_a_whole_epoch(self, shard):
        shard.load_state_dict({**shard.state_dict(), "rows": 64})
        assert len(shard) == len(shard.iter_torch_batches()) == len(shard.iter_batches()) == 8
        assert len(shard.iter_rows()) == 8 * 16
        assert len(list(shard.iter_batches())) == 8 - 2

    def test_steps_that_the_caller_counts_make_a_state_too(self, shard):
        shard.load_state_dict({**shard.state_dict(), "rows": 64})
        states = [shard.state_after(0)]
        for step, _ in enumerate(shard.iter_batches(), 1):
            assert shard.state_dict() == shard.state_after(step)
            states.append(shard.state_after(step))
        # All batches are there, and the trainer is at the one before the last.
        assert [state["rows"] for state in states] == [64 + 32 * step for step in range(6)] + [0]
        assert [state["epoch"] for state in states] == [0] * 6 + [1]
        assert shard.state_after(5) == states[5]
        with pytest.raises(IndexError):
            shard.state_after(7)

    def test_what_iterates_is_of_the_type_that_rays_integrations_look_for(self, shard):
        from ray.data.iterator import _IterableFromIterator

        assert isinstance(shard.iter_torch_batches(), _IterableFromIterator)
        assert isinstance(shard.iter_batches(), _IterableFromIterator)

    def test_states_of_another_global_batch_are_refused(self, table):
        dataset = read_lance(table, shuffle=3)
        state = shards_of(dataset, 2, global_batch_size=32)[0].state_dict()
        with pytest.raises(CursorMismatchError, match="global_batch: cursor 32, here 16"):
            shards_of(dataset, 2, global_batch_size=16)[0].load_state_dict(state)
        of_an_older_release = {key: value for key, value in state.items() if key != "global_batch"}
        shards_of(dataset, 2, global_batch_size=16)[0].load_state_dict(of_an_older_release)

    @pytest.mark.parametrize("state", [None, [], "state", {}, {"epoch": 0}])
    def test_what_is_no_state_is_refused(self, shard, state):
        with pytest.raises(InvalidArgumentError, match="state"):
            shard.load_state_dict(state)

    def test_a_state_beyond_the_end_is_refused(self, shard):
        with pytest.raises(CursorMismatchError, match="more than an epoch of 273 rows"):
            shard.load_state_dict({**shard.state_dict(), "rows": 10**9})

    def test_what_was_delivered_is_counted(self, table):
        shard = shards_of(read_lance(table, columns=["id"]), 2, global_batch_size=32, tail="uneven")[0]
        nothing = shard.metrics()
        assert (nothing.batches, nothing.rows, nothing.bytes, nothing.queue_depth) == (0, 0, 0, 0)
        rows = sum(len(batch) for batch in ids(shard.iter_batches())) + 16
        next(iter(shard.iter_torch_batches()))
        read = shard.metrics()
        assert (read.batches, read.rows, read.bytes) == (9 + 1, rows, 8 * rows)
        assert read.seconds_waited > 0
        assert (read.queue_depth, read.retries, read.rows_from_memory) == (0, 0, 0)

    def test_tensors_go_to_the_device_that_is_asked_for(self, shard):
        for device in ("cpu", "meta"):
            assert next(iter(shard.iter_torch_batches(device=device)))["id"].device.type == device

    @pytest.mark.fast_ways("_passes")
    def test_a_pass_left_in_a_cycle_leaves_no_threads(self, shard):
        next(iter(shard.iter_batches()))  # with which threads begin that stay
        before = set(threading.enumerate())
        iterator = iter(shard.iter_batches())
        next(iterator)
        begun, cycle = set(threading.enumerate()) - before, [iterator]
        cycle.append(cycle)
        del iterator, cycle
        gc.collect()
        close_abandoned()
        for thread in begun:
            thread.join(timeout=30)
        assert begun
        assert not any(thread.is_alive() for thread in begun)

    @pytest.mark.parametrize(("epoch", "rows"), [(4, 64), (5, 0), (0, 0)])
    def test_set_epoch_keeps_a_loaded_position_in_that_epoch(self, shard, epoch, rows):
        shard.load_state_dict({**shard.state_dict(), "epoch": 4, "rows": 64})
        shard.set_epoch(epoch)
        assert (shard.state_dict()["epoch"], shard.state_dict()["rows"]) == (epoch, rows)
        next(iter(shard.iter_batches()))
        shard.set_epoch(epoch)
        assert shard.state_dict()["rows"] == 0

    def test_a_state_at_the_end_of_an_epoch_has_nothing_left_but_the_next(self, shard):
        state = {**shard.state_dict(), "rows": 8 * 32}
        for epochs, steps in [([], 8), ([0], 0), ([1], 8)]:
            shard.load_state_dict(state)
            for epoch in epochs:
                shard.set_epoch(epoch)
            assert len(list(shard.iter_batches())) == steps
            assert shard.state_dict()["epoch"] == 1 + (steps > 0)

    def test_lanes_come_from_the_state_unless_they_are_set(self, table):
        dataset = read_lance(table, shuffle=3)
        state = shards_of(dataset, 4, global_batch_size=16)[0].state_dict()
        assert state["lanes"] == 4
        shard = shards_of(dataset, 2, global_batch_size=16)[0]
        shard.load_state_dict(state)
        assert shard.state_dict() == state
        with pytest.raises(CursorMismatchError, match="lanes: cursor 4, here 2"):
            shards_of(dataset, 2, global_batch_size=16, lanes=2)[0].load_state_dict(state)

    def test_materialize_is_a_pass_too(self, shard):
        shard.load_state_dict({**shard.state_dict(), "rows": 64})
        rest = shard.materialize()
        assert rest.count() == (8 - 2) * 16
        assert shard.state_dict()["epoch"] == 1
        assert shard.schema().names == ["id", "label", "vec", "text"]
        assert "ReadLance" in shard.stats()

    def test_tensors_of_every_type(self, shard):
        batch = next(iter(shard.iter_torch_batches(dtypes={"vec": torch.float64}, prefetch_batches=2)))
        assert batch["vec"].shape == (16, 4)
        assert batch["vec"].dtype == torch.float64
        assert batch["text"] == [f"row {i}" for i in batch["id"].tolist()]

    def test_a_collate_function_makes_the_batches(self, shard):
        from ray.data.collate_fn import ArrowBatchCollateFn

        class Ids(ArrowBatchCollateFn):
            def __call__(self, batch):
                return torch.tensor(batch["id"].to_pylist())

        assert next(iter(shard.iter_torch_batches(collate_fn=Ids(), batch_size=16))).shape == (16,)

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"batch_size": 17}, "batch_size=17: this rank's batches have 16 rows"),
            ({"batch_size": 0}, "batch_size=0: this rank's batches have 16 rows"),
            ({"batch_size": "16"}, "batch_size='16': this rank's batches have 16 rows"),
            ({"prefetch_batches": -1}, "prefetch_batches=-1 must be at least 0"),
            ({"prefetch_batches": "2"}, "prefetch_batches='2' must be an integer"),
            ({"local_shuffle_buffer_size": 100}, "local_shuffle_buffer_size=100.*the order is the permutation's"),
            ({"local_shuffle_seed": 1}, "the order is the permutation's"),
        ],
    )
    @pytest.mark.parametrize("method", ["iter_batches", "iter_torch_batches"])
    def test_arguments_that_contradict_the_config_are_refused(self, shard, method, arguments, message):
        with pytest.raises(InvalidArgumentError, match=message):
            getattr(shard, method)(**arguments)

    def test_drop_last_contradicts_an_uneven_tail(self, table, shard):
        assert len(list(shard.iter_batches(drop_last=True))) == 8
        with pytest.raises(InvalidArgumentError, match="drop_last=True contradicts tail='uneven'"):
            shards_of(read_lance(table), batch_size=16, tail="uneven")[0].iter_batches(drop_last=True)


class Passes:
    """Runs one script over a shard or a dataset, and notes the rows and states that it shows."""

    def __init__(self, reader) -> None:
        self.reader, self.live = reader, {}
        self.trace: list = []

    def run(self, script: str) -> list:
        """``a3`` reads three batches of pass a, ``a*`` the rest; ``=4`` sets an epoch; ``4:64`` loads a state."""
        for step in script.split():
            if step[0] == "=":
                self.reader.set_epoch(int(step[1:]))
            elif step[0].isdigit():
                epoch, rows = map(int, step.split(":"))
                self.reader.load_state_dict({**self.reader.state_dict(), "epoch": epoch, "rows": rows})
            else:
                self._read(step[0], None if step[1] == "*" else int(step[1:]))
            self._note(step)
        return self.trace

    def _read(self, name: str, steps: int | None) -> None:
        if name not in self.live:
            is_shard = isinstance(self.reader, LanceShard)
            self.live[name] = iter(self.reader.iter_torch_batches() if is_shard else self.reader)
        for batch in itertools.islice(self.live[name], steps):
            self._note(batch["id"].tolist())

    def _note(self, what) -> None:
        states = [self.reader.state_dict(), self.reader.state_after(0)]
        self.trace.append((what, *((state["epoch"], state["rows"], state["global_batch"]) for state in states)))


class TestPassesAndStates:
    @pytest.mark.parametrize(
        ("script", "end"),
        [
            ("a* b* c1", (2, 128)),
            ("a2 b*", (2, 0)),  # broken off
            ("a* a* b1", (1, 128)),
            ("a2 =0 b1", (0, 128)),
            ("4:128 a1", (5, 0)),  # the last batch
            ("4:128 a* b1", (5, 128)),
            ("4:256 a1", (5, 128)),  # nothing left
            ("4:256 =4 a* b1", (5, 128)),
            ("4:256 =5 a1", (5, 128)),
            ("4:128 =4 =4 a* =4 b1", (4, 128)),
            ("4:128 =5 =4 a1", (4, 128)),
            ("a1 b1 a1", (1, 128)),  # two at once: the state is that of the one that began last
            ("a1 b* a*", (2, 0)),
            ("a1 b1 a* b* c1", (2, 128)),
            ("a1 4:128 a* b*", (5, 0)),
            ("a1 =7 a* b1", (7, 128)),
        ],
    )
    def test_are_the_same_for_a_shard_and_an_iterable_dataset(self, table, script, end):
        source = Permutation(table).shuffle(3)
        shard = shards_of(read_lance(source, columns=["id"]), 2, global_batch_size=128)[1]
        dataset = LanceIterableDataset(source, columns=["id"], batch_size=64, rank=1, world_size=2)

        of_shard, of_dataset = Passes(shard).run(script), Passes(dataset).run(script)

        assert of_shard == of_dataset
        assert of_shard[-1][1] == (*end, 128)

    def test_a_state_of_one_is_continued_by_the_other(self, table):
        source = Permutation(table).shuffle(3)
        shard = shards_of(read_lance(source, columns=["id"]), 2, global_batch_size=32)[1]
        dataset = LanceIterableDataset(source, columns=["id"], batch_size=32, rank=0, world_size=1)
        dataset.load_state_dict({**shard.state_dict(), "rows": 64})
        rest = [batch[16:].tolist() for batch in ids(dataset)]
        shard.load_state_dict({**dataset.state_dict(), "epoch": 0, "rows": 64})
        assert [batch.tolist() for batch in ids(shard.iter_batches())] == rest


class TestConfig:
    def test_reads_in_scan_order_are_identity_permutations(self, table):
        for filter in (None, "label < 6"):
            scanned = shards_of(read_lance(table, filter=filter), batch_size=16, tail="uneven")[0]
            permuted = shards_of(read_lance(Permutation(table, filter)), batch_size=16, tail="uneven")[0]
            assert scanned.state_dict() == permuted.state_dict()
            in_order = [row["id"] for row in lance.dataset(table).to_table(filter=filter).to_pylist()]
            assert np.concatenate(ids(scanned.iter_batches())).tolist() == in_order

    def test_states_name_the_order_as_the_permutation_does(self, table):
        permutation = Permutation(table, "label < 6").shuffle(3)
        state = shards_of(read_lance(permutation), batch_size=16)[0].state_dict()
        assert state["fingerprint"] == permutation.fingerprint

    def test_datasets_differ_in_their_options(self, table):
        config = LanceDataConfig(global_batch_size=32, datasets={"val": DatasetOptions(batch_size=50, tail="uneven")})
        datasets = {"train": read_lance(table, shuffle=1), "val": read_lance(table)}
        ranks = config.configure(datasets, 2, None, None)
        assert [(rank["train"].batch_size, rank["val"].batch_size) for rank in ranks] == [(16, 50)] * 2
        assert sum(len(batch) for rank in ranks for batch in ids(rank["val"].iter_batches())) == 273

    def test_the_users_datasets_stay_as_they_were(self, table):
        dataset = read_lance(table, override_num_blocks=4)
        shards_of(dataset, 2, batch_size=16)
        assert dataset.name is None
        assert not dataset.context.execution_options.preserve_order
        assert dataset.count() == 273

    @pytest.mark.parametrize(
        ("make", "message"),
        [
            (lambda uri: ray.data.range(10), "dataset 'train' does not read a Lance table through ray_lance"),
            (lambda uri: read_lance(uri).materialize(), "does not read a Lance table through ray_lance"),
            (lambda uri: ray.data.read_lance(uri), "does not read a Lance table through ray_lance"),
            (lambda uri: read_lance(uri).limit(5), "changes which rows there are or their order"),
            (lambda uri: read_lance(uri).random_shuffle(), "RandomShuffle changes which rows there are"),
            (lambda uri: read_lance(uri).filter(lambda row: True), "Filter.* changes which rows there are"),
            (lambda uri: read_lance(uri).union(read_lance(uri)), "dataset 'train': Union changes which rows"),
            (lambda uri: read_lance(uri).union(ray.data.range(5)), "dataset 'train': Union changes which rows"),
            (lambda uri: read_lance([uri, uri]), "dataset 'train': uri names 2 datasets"),
            (lambda uri: read_lance(uri, fragment_ids=[1]), "dataset 'train': fragment_ids do not apply"),
            (
                lambda uri: read_lance(uri, scanner_options={"limit": 5}),
                r"dataset 'train': scanner_options=\['limit'\]",
            ),
        ],
    )
    def test_datasets_whose_rows_cannot_be_counted_are_refused(self, table, make, message):
        with pytest.raises(InvalidArgumentError, match=message):
            shards_of(make(table), batch_size=16)

    @pytest.mark.parametrize(
        ("function", "message"),
        [
            (lambda batch: {"id": batch["id"][1:]}, r"made 2\d\d rows of 256"),
            (lambda batch: {"id": np.repeat(batch["id"], 2)}, "made more than 256 rows of 256"),
        ],
    )
    def test_transformations_that_change_the_number_of_rows_are_noticed(self, table, function, message):
        shard = shards_of(read_lance(table).map_batches(function), batch_size=32)[0]
        with pytest.raises(InvalidArgumentError, match=message):
            list(shard.iter_batches())

    @pytest.mark.fast_ways("_resources")
    def test_trainers_that_leave_no_cpu_for_reading_are_refused(self, table):
        group = ray.util.placement_group([{"CPU": 1}] * 4)
        ray.get(group.ready())
        try:
            with pytest.raises(InvalidArgumentError, match="of the cluster's 4 CPUs 4 are reserved"):
                shards_of(read_lance(table), batch_size=16)
            assert shards_of(read_lance(table, num_cpus=0), batch_size=16)
        finally:
            ray.util.remove_placement_group(group)

    @pytest.mark.parametrize("tail", ["pad", "uneven"])
    def test_fewer_rows_than_a_batch(self, table, tail):
        run = ShardExecutor(read_lance(table, filter="id < 3"), global_batch_size=8, lanes=2, tail=tail)(2)
        assert max(len(batches) for batches in run.batches) == 1

    @pytest.mark.parametrize(
        ("filter", "tail", "message"),
        [
            ("id < 3", "drop", "dataset 'train' has 3 rows, and a step takes 8 over all ranks: no step could be made"),
            *(("id < 0", tail, "dataset 'train' has no rows") for tail in TAILS),
        ],
    )
    def test_an_epoch_without_a_step_is_refused(self, table, filter, tail, message):
        with pytest.raises(InvalidArgumentError, match=message):
            shards_of(read_lance(table, filter=filter), 2, global_batch_size=8, tail=tail)

    def test_dropped_rows_are_reported_once(self, table, caplog):
        config = LanceDataConfig(global_batch_size=32, datasets={"val": {"tail": "uneven"}})
        datasets = {"train": read_lance(table), "val": read_lance(table)}
        config.check(datasets, ray.train.ScalingConfig(num_workers=2))
        for _ in range(2):
            config.configure(datasets, 2, None, None)
        assert [record.getMessage() for record in caplog.records] == [
            "dataset 'train': 273 rows, 8 steps of 32 in an epoch, 17 rows dropped at its end (tail='pad' or 'uneven' "
            "would not drop them)"
        ]


class TestModelParallelRanks:
    def test_ranks_of_one_group_get_equal_batches_and_the_groups_share_a_step(self, table):
        dataset = read_lance(table, shuffle=3, columns=["id"])
        config = {"global_batch_size": 32, "lanes": 2}
        batches = [ids(one.iter_batches()) for one in shards_of(dataset, 4, data_parallel=[0, 1, 0, 1], **config)]
        for one, other in [(0, 2), (1, 3)]:
            assert [batch.tolist() for batch in batches[one]] == [batch.tolist() for batch in batches[other]]
        check_same_batches({"plain": ShardExecutor(dataset, **config)(2), "groups": Run(batches[:2])})

    def test_a_state_is_continued_under_another_map(self, table):
        dataset = read_lance(table, shuffle=3, columns=["id"])
        config = {"global_batch_size": 32, "lanes": 2}
        legs = [({"data_parallel": 2}, 4, 3), ({"data_parallel": {0: 0, 1: 0}}, 2, 2), ({}, 2, None)]
        found, state = [], None
        for options, world_size, steps in legs:
            shards = shards_of(dataset, world_size, **config, **options)
            for one in shards:
                one.load_state_dict(state or one.state_dict())
            batches = [ids(itertools.islice(one.iter_batches(), steps)) for one in shards]
            state = shards[-1].state_dict()
            leaders = {one.schedule.rank: own for one, own in zip(shards, batches, strict=True)}
            found += global_batches(Run([leaders[rank] for rank in sorted(leaders)]))
        assert found == global_batches(ShardExecutor(dataset, **config)(1))


@pytest.fixture
def two_workers():
    return {"scaling_config": ray.train.ScalingConfig(num_workers=2)}


class TestTrainersAreRefusedOnTheDriver:
    """When they are built: what their workers would say would come late, and wrapped."""

    @pytest.mark.parametrize(
        ("make", "options", "message"),
        [
            (lambda uri: ray.data.range(10), {}, "dataset 'train' does not read a Lance table"),
            (lambda uri: read_lance(uri).union(read_lance(uri)), {}, "dataset 'train': Union changes"),
            (lambda uri: read_lance(uri).limit(5), {}, "changes which rows there are"),
            (lambda uri: read_lance([uri, uri]), {}, "dataset 'train': uri names 2 datasets"),
            (lambda uri: uri, {}, "dataset 'train' is .*table.lance', and must be a Ray dataset"),
            (read_lance, {"global_batch_size": 100_000}, "273 rows, and a step takes 100000"),
            (read_lance, {"global_batch_size": 33}, "33 rows does not divide by world_size=2"),
            (read_lance, {"lanes": 32, "global_batch_size": 48}, "lanes=32 does not divide global_batch_size=48"),
            (read_lance, {"global_batch_size": None}, "dataset 'train' has no batch size"),
            (read_lance, {"datasets": {"trian": {"tail": "uneven"}}}, r"options for \['trian'\].*are \['train'\]"),
            (read_lance, {"data_parallel": [0, 1, 1]}, "one entry for each of the 2 ranks"),
        ],
    )
    def test_what_workers_would_refuse(self, table, two_workers, make, options, message):
        with pytest.raises(InvalidArgumentError, match=message):
            TorchTrainer(
                print,
                datasets={"train": make(table)},
                dataset_config=LanceDataConfig(**{"global_batch_size": 16, **options}),
                **two_workers,
            )

    @pytest.mark.parametrize(
        ("scaling", "message"),
        [
            ({"num_workers": 4}, "of the cluster's 4 CPUs 4 go to ScalingConfig's workers"),
            ({"num_workers": (1, 3)}, "does not divide by world_size=3"),
            ({"num_workers": 0}, "num_workers=0.* would be ignored"),
        ],
    )
    @pytest.mark.fast_ways("_resources")
    def test_workers_that_cannot_read(self, table, scaling, message):
        with pytest.raises(InvalidArgumentError, match=message):
            TorchTrainer(
                print,
                datasets={"train": read_lance(table)},
                dataset_config=LanceDataConfig(global_batch_size=16),
                scaling_config=ray.train.ScalingConfig(**scaling),
            )

    def test_what_workers_would_take(self, table, two_workers):
        config = LanceDataConfig(global_batch_size=16, datasets={"val": {"tail": "uneven"}})
        datasets = {
            "train": read_lance(table),
            "val": lambda: read_lance(table),
            "few": read_lance(table, filter="id<0"),
        }
        trainer = TorchTrainer(print, datasets=datasets, dataset_config=config, **two_workers)
        assert trainer.data_config is config
        assert bool(config)


def train_and_log(config):
    context = ray.train.get_context()
    shard = ray.train.get_dataset_shard("train")
    seen = [batch["id"].tolist() for batch in shard.iter_torch_batches()]
    name = f"{context.get_world_size()}-{context.get_world_rank()}.json"
    val = ray.train.get_dataset_shard("val")
    evaluated = [i for batch in val.iter_torch_batches() for i in batch["id"].tolist()]
    Path(config["log"], name).write_text(json.dumps({"train": seen, "val": evaluated, "state": shard.state_dict()}))
    ray.train.report({"rows": len(evaluated)})


def test_a_trainer_with_two_workers(table, tmp_path):
    train = read_lance(table, shuffle=3, columns=["id", "vec"], override_num_blocks=8)
    config = LanceDataConfig(global_batch_size=32, datasets={"val": DatasetOptions(tail="uneven")})
    TorchTrainer(
        train_and_log,
        train_loop_config={"log": str(tmp_path)},
        datasets={"train": train, "val": read_lance(table)},
        dataset_config=config,
        scaling_config=ray.train.ScalingConfig(num_workers=2),
        run_config=ray.train.RunConfig(storage_path=str(tmp_path / "runs")),
    ).fit()
    logs = [json.loads((tmp_path / f"2-{rank}.json").read_text()) for rank in range(2)]
    run = Run([[np.array(batch) for batch in log["train"]] for log in logs])
    check_same_batches({"in process": ShardExecutor(train, global_batch_size=32)(2), "trainer": run})
    check_coverage([row for log in logs for row in log["val"]], [i for i in range(ROWS) if i % 11 != 4])
    assert logs[0]["state"] == logs[1]["state"]
