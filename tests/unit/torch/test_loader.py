"""make_loader, and both datasets under the workers of a DataLoader."""

from __future__ import annotations

import itertools
import multiprocessing
import subprocess
import sys
from pathlib import Path

import lance
import pyarrow as pa
import pytest
import torch
from torch.utils.data import ConcatDataset, DataLoader
from torchdata.stateful_dataloader import StatefulDataLoader

import ray_lance
from ray_lance.torch import LanceIterableDataset, LanceMapDataset, make_loader
from ray_lance.torch.epochs import EpochCounter
from ray_lance.torch.ranks import Worker
from tests.datasets import write_fragments


@pytest.fixture(scope="module")
def table(tmp_path_factory) -> str:
    uri = str(tmp_path_factory.mktemp("data") / "table.lance")
    write_fragments(uri, [60, 40])
    return uri


@pytest.fixture
def dataset(table):
    return LanceIterableDataset(table, batch_size=6, shuffle=1, columns=["id"], tail="uneven")


@pytest.fixture(scope="module")
def workers() -> dict[str, object]:
    """Two worker processes that start fast: forked from a server that has torch loaded, and not Lance."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch", "pyarrow", "numpy"])
    return {"num_workers": 2, "multiprocessing_context": context}


def rows(batches) -> list[list[int]]:
    return [batch["id"].tolist() for batch in batches]


def of_many_kinds(batch: dict) -> dict:
    """Columns and other values of every kind that a transform may make of them."""
    ids = batch["id"]
    return {
        "text": batch["text"],
        "id": ids,
        "mask": ids % 3 == 0,
        "half": ids.to(torch.bfloat16),
        "transposed": torch.stack([ids, ids + 1]).T,
        "expanded": ids[:1].expand(len(ids)),
        "large": ids[:, None].repeat(1, 2000),
        "huge": ids[:, None].repeat(1, 4000),
        "none": torch.empty(0, 3),
        "scalar": torch.tensor(2.5),
        "nested": torch.nested.nested_tensor([ids[:2].float(), ids[:3].float()], layout=torch.jagged),
        "count": len(ids),
    }


@pytest.fixture(scope="module")
def epochs(table) -> list[list[list[int]]]:
    """The batches of four epochs, read in this process."""
    alone = LanceIterableDataset(table, batch_size=6, shuffle=1, columns=["id"], tail="uneven")
    return [rows(alone) for _ in range(4)]


class TestWithoutWorkers:
    def test_batches_pass_through_whole(self, dataset, epochs):
        loader = make_loader(dataset)
        assert [rows(loader) for _ in range(2)] == epochs[:2]
        assert len(loader) == 17

    def test_of_a_map_dataset(self, table):
        loader = make_loader(LanceMapDataset(table, columns=["id", "vec"]), batch_size=30, shuffle=True)
        batches = list(loader)
        assert [batch["vec"].shape for batch in batches] == [(30, 4), (30, 4), (30, 4), (10, 4)]
        assert sorted(torch.cat([batch["id"] for batch in batches]).tolist()) == list(range(100))

    def test_two_loaders_side_by_side_take_their_epochs_in_turn(self, dataset, epochs):
        first, second = make_loader(dataset), make_loader(dataset)
        for number in range(2):
            both = list(zip(first, second, strict=True))
            assert [rows(each) for each in zip(*both, strict=True)] == epochs[2 * number :][:2]

    @pytest.mark.parametrize("end", ["ended", "last batch"])
    def test_stateful_saved_at_the_end(self, dataset, table, epochs, end):
        loader = make_loader(dataset, stateful=True)
        for number, _ in enumerate(loader, 1):
            if number == len(loader) and end == "last batch":
                break
        fresh = LanceIterableDataset(table, batch_size=6, shuffle=1, columns=["id"], tail="uneven")
        resumed = make_loader(fresh, stateful=True)
        resumed.load_state_dict(loader.state_dict())
        assert [rows(resumed), rows(resumed)] == epochs[1:3]

    def test_stateful(self, dataset, table, epochs):
        loader = make_loader(dataset, stateful=True)
        assert isinstance(loader, StatefulDataLoader)
        head = rows(itertools.islice(loader, 5))
        state = loader.state_dict()
        fresh = LanceIterableDataset(table, batch_size=6, shuffle=1, columns=["id"], tail="uneven")
        resumed = make_loader(fresh, stateful=True)
        resumed.load_state_dict(state)
        assert head + rows(resumed) == epochs[0]
        assert rows(resumed) == epochs[1]


class TestWithWorkers:
    def test_the_order_is_that_of_one_process_in_every_epoch(self, dataset, epochs):
        # The one test with make_loader's own way to start workers.
        loader = make_loader(dataset, num_workers=2)
        assert [rows(loader) for _ in range(2)] == epochs[:2]
        dataset.set_epoch(0)
        assert rows(loader) == epochs[0]

    def test_epochs_move_on_in_workers_that_are_started_anew(self, dataset, epochs, workers):
        loader = make_loader(dataset, persistent_workers=False, **workers)
        assert [rows(loader) for _ in range(2)] == epochs[:2]
        metrics = dataset.metrics()  # of all workers
        assert (metrics.batches, metrics.rows, metrics.bytes) == (2 * 17, 2 * 100, 2 * 100 * 8)
        assert metrics.seconds_waited > 0

    def test_a_state_loaded_before_goes_on_once(self, dataset, epochs, workers):
        dataset.load_state_dict(dataset.state_after(4))
        loader = make_loader(dataset, persistent_workers=False, **workers)
        assert rows(loader) == epochs[0][4:]
        state = dataset.state_after(2)  # of the pass that has begun last, wherever it is read
        assert (state["epoch"], state["rows"]) == (0, 36)
        assert rows(loader) == epochs[1]
        state = dataset.state_after(2)
        assert (state["epoch"], state["rows"]) == (1, 12)
        assert dataset.state_after(17)["epoch"] == dataset.state_dict()["epoch"] == 2

    @pytest.mark.slow
    @pytest.mark.parametrize("persistent", [True, False])
    def test_two_loaders_side_by_side_take_their_epochs_in_turn(self, dataset, epochs, workers, persistent):
        options = {**workers, "persistent_workers": persistent}
        first, second = make_loader(dataset, **options), make_loader(dataset, **options)
        for number in range(2):
            both = list(zip(first, second, strict=True))
            assert [rows(each) for each in zip(*both, strict=True)] == epochs[2 * number :][:2]

    def test_stateful_saved_in_the_middle(self, dataset, table, epochs, workers):
        loader = make_loader(dataset, stateful=True, **workers)
        rows(loader)
        head = rows(itertools.islice(loader, 5))
        state = loader.state_dict()
        fresh = LanceIterableDataset(table, batch_size=6, shuffle=1, columns=["id"], tail="uneven")
        resumed = make_loader(fresh, stateful=True, **workers)
        resumed.load_state_dict(state)
        assert head + rows(resumed) == epochs[1]
        assert rows(resumed) == epochs[2]

    @pytest.mark.parametrize(
        ("end", "options"),
        [
            ("last batch", {"snapshot_every_n_steps": 3}),
            pytest.param("last batch", {}, marks=pytest.mark.slow),
            pytest.param("last batch", {"num_workers": 1}, marks=pytest.mark.slow),
            pytest.param("last batch", {"persistent_workers": False}, marks=pytest.mark.slow),
            pytest.param("ended", {}, marks=pytest.mark.slow),
            pytest.param("ended", {"persistent_workers": False}, marks=pytest.mark.slow),
        ],
    )
    def test_stateful_saved_at_the_end(self, dataset, table, epochs, workers, end, options):
        loader = make_loader(dataset, stateful=True, **{**workers, **options})
        for number, _ in enumerate(loader, 1):
            if number == 17 and end == "last batch":
                break
        fresh = LanceIterableDataset(table, batch_size=6, shuffle=1, columns=["id"], tail="uneven")
        resumed = make_loader(fresh, stateful=True, **{**workers, **options})
        resumed.load_state_dict(loader.state_dict())
        assert [rows(resumed), rows(resumed)] == epochs[1:3]

    def test_of_a_map_dataset(self, table, workers):
        loader = make_loader(LanceMapDataset(table, columns=["id", "vec"]), batch_size=30, shuffle=True, **workers)
        batches = list(loader)
        assert (loader.dataset.metrics().batches, loader.dataset.metrics().rows) == (4, 100)
        assert sorted(torch.cat([batch["id"] for batch in batches]).tolist()) == list(range(100))
        assert all(torch.equal(batch["vec"][:, 0], batch["id"].float()) for batch in batches)

    def test_tensors_travel_together_and_arrive_as_they_were(self, table, workers):
        dataset = LanceMapDataset(table, columns=["id", "text"], transform=of_many_kinds)

        here, sent = (list(make_loader(dataset, batch_size=50, **options)) for options in ({}, workers))

        assert len(here) == len(sent) == 2
        for left, right in zip(here, sent, strict=True):
            assert type(right) is dict
            assert list(left) == list(right)
            for name, value in left.items():
                if not isinstance(value, torch.Tensor):
                    assert value == right[name]
                elif not value.is_nested:
                    assert (value.dtype, value.shape) == (right[name].dtype, right[name].shape), name
                    assert value.stride() == right[name].stride(), name
                    assert torch.equal(value, right[name]), name
            assert [part.tolist() for part in left["nested"]] == [part.tolist() for part in right["nested"]]
            right["id"].add_(1)  # memory of its own, which may be written to
            assert torch.equal(right["id"], left["id"] + 1)
            assert torch.equal(right["large"], left["large"])
            for name in ("id", "large"):
                assert right[name].untyped_storage().nbytes() == right[name].nbytes, name

    def test_ranks_are_those_of_the_training_process(self, table, epochs, workers):
        dataset = LanceIterableDataset(
            table, batch_size=3, shuffle=1, columns=["id"], tail="uneven", rank=1, world_size=2, lanes=1
        )
        loader = make_loader(dataset, **workers)
        assert rows(loader) == [batch[3:] for batch in epochs[0] if batch[3:]]

    def test_a_state_of_one_worker_is_for_it_alone(self, dataset):
        state = {**dataset.state_dict(), "worker": {"number": 1, "size": 2, "steps": 3}}
        dataset.load_state_dict(state)
        with pytest.raises(ray_lance.CursorMismatchError, match=r"worker 1 of 2.*worker 0 of 1"):
            iter(dataset)


class TestFork:
    @pytest.mark.parametrize("context", ["fork", multiprocessing.get_context("fork")])
    def test_is_refused(self, dataset, context):
        with pytest.raises(ray_lance.InvalidArgumentError, match="do not survive a fork"):
            make_loader(dataset, num_workers=2, multiprocessing_context=context)

    @pytest.mark.parametrize("kind", [LanceIterableDataset, LanceMapDataset])
    def test_is_refused_in_a_worker_of_any_loader(self, table, kind):
        options = {"batch_size": 5} if kind is LanceIterableDataset else {}
        batch_size = None if options else 5
        loader = DataLoader(
            kind(table, **options), batch_size=batch_size, num_workers=1, multiprocessing_context="fork"
        )
        with pytest.raises(ray_lance.InvalidArgumentError, match="multiprocessing_context='fork'"):
            next(iter(loader))


class TestJoinedDatasets:
    """Wrappers of torch ask for rows one by one, which torch's collation then joins."""

    @pytest.fixture
    def uri(self, tmp_path) -> str:
        uri = str(tmp_path / "mixed.lance")
        columns = {
            "id": pa.array([0, 1, 2, 3]),
            "text": pa.array(["a", None, "c", None]),
            "tokens": pa.array([[1], [2, 3], [4], [5]]),
            "words": pa.array([["x"], [], ["y", "z"], ["w"]]),
            "vec": pa.array([[0.0, 1.0]] * 4, pa.list_(pa.float32(), 2)),
            "raw": pa.array([b"1", b"2", None, b"4"]),
        }
        lance.write_dataset(pa.table(columns), uri)
        return uri

    @pytest.mark.parametrize("kind", [make_loader, DataLoader])
    @pytest.mark.parametrize("ragged", ["nested", "list"])
    def test_make_the_batches_of_the_dataset_itself(self, uri, kind, ragged):
        dataset = LanceMapDataset(uri, ragged=ragged)
        joined = list(kind(ConcatDataset([dataset, dataset]), batch_size=2))

        assert len(joined) == 4
        for batch, whole in zip(joined, 2 * list(make_loader(dataset, batch_size=2)), strict=True):
            assert list(batch) == list(whole)
            assert batch["text"] == whole["text"]
            assert batch["words"] == whole["words"]
            assert batch["raw"] == whole["raw"]
            assert torch.equal(batch["id"], whole["id"])
            assert torch.equal(batch["vec"], whole["vec"])
            assert type(batch["tokens"]) is type(whole["tokens"])
            assert [row.tolist() for row in batch["tokens"]] == [row.tolist() for row in whole["tokens"]]

    def test_name_the_column_that_does_not_make_a_batch(self, uri):
        padded = LanceMapDataset(uri, ragged="pad", columns=["id", "tokens"])
        with pytest.raises(ray_lance.TensorConversionError, match=r"column 'tokens'.*\[1\].*\[2\].*ragged='list'"):
            list(make_loader(ConcatDataset([padded]), batch_size=4))
        python = LanceMapDataset(uri, format="python", columns=["id", "text"])
        with pytest.raises(ray_lance.TensorConversionError, match=r"column 'text'.*null"):
            list(make_loader(ConcatDataset([python]), batch_size=2, sampler=[1, 0]))
        other = LanceMapDataset(uri, columns=["text"])
        with pytest.raises(ray_lance.TensorConversionError, match=r"\['id', 'tokens'.*\] and \['text'\].*same columns"):
            list(make_loader(ConcatDataset([padded, other]), batch_size=8))


STARTS = ["spawn", "forkserver"]


class TestArguments:
    @pytest.mark.parametrize("dataset", ["data.lance", Path("data.lance"), b"data", None, 3, pa.table({"id": [1]})])
    def test_that_are_no_dataset(self, dataset):
        with pytest.raises(ray_lance.InvalidArgumentError, match=r"dataset=.*LanceMapDataset\(source\)"):
            make_loader(dataset)

    @pytest.mark.parametrize("kind", [ray_lance.TableRef.of, ray_lance.Permutation, lance.dataset])
    def test_that_are_a_source_rather_than_a_dataset(self, table, kind):
        with pytest.raises(ray_lance.InvalidArgumentError, match="must be a dataset"):
            make_loader(kind(table))

    @pytest.mark.parametrize("context", [None, *(pytest.param(each, marks=pytest.mark.slow) for each in STARTS)])
    def test_of_a_script_that_its_workers_would_run_again(self, table, tmp_path, context):
        script = tmp_path / "script.py"
        script.write_text(
            "import sys, torch.multiprocessing\n"
            "from ray_lance.torch import LanceMapDataset, make_loader\n"
            "torch.multiprocessing.set_start_method('spawn')\n"
            f"loader = make_loader(LanceMapDataset({table!r}), num_workers=2, multiprocessing_context={context!r})\n"
            "next(iter(loader))\n"
        )
        run = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=120)
        assert run.returncode == 1
        assert len(run.stderr.splitlines()) <= 12
        assert f"num_workers=2: each worker imports {script}, and would run all of it again" in run.stderr
        assert 'if __name__ == "__main__":' in run.stderr

    @pytest.mark.parametrize("context", ["fork", None])
    def test_of_workers_matter_only_where_there_are_some(self, dataset, context):
        if context is None:
            assert make_loader(dataset, multiprocessing_context=None).num_workers == 0
        with pytest.raises(ray_lance.InvalidArgumentError, match="do not survive a fork"):
            make_loader(dataset, num_workers=1, multiprocessing_context=context)

    @pytest.mark.parametrize("options", [{"batch_size": 5}, {"shuffle": True}])
    def test_that_the_iterable_dataset_has_decided(self, dataset, options):
        with pytest.raises(ray_lance.InvalidArgumentError, match=r"pass .* to LanceIterableDataset"):
            make_loader(dataset, **options)

    def test_of_the_loader_go_through(self, table):
        sampler = torch.utils.data.BatchSampler(range(10), 4, drop_last=False)
        loader = make_loader(LanceMapDataset(table, columns=["id"]), batch_sampler=sampler)
        assert rows(loader) == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]


class TestEpochCounter:
    def test_refuses_a_state_that_workers_cannot_have(self):
        counter = EpochCounter(0)
        counter.set_next(3, is_loaded=True)
        with pytest.raises(ray_lance.InvalidArgumentError, match="load the state first"):
            counter.claim(Worker(0, 2), has_state=False)

    def test_tells_the_loaders_apart_that_announce_their_passes(self):
        counter = EpochCounter(0)
        groups = [counter.new_group() for _ in range(20)]
        for number in (1, 2):
            for group in groups:
                with counter.announced(group, number):
                    pass
        workers = [EpochCounter(0) for _ in groups]
        claims = []
        for worker, group in zip(workers, groups, strict=True):
            worker._shared, worker._announced_group = counter._shared, group
            claims.append([worker.claim(Worker(1, 2, of_loader=True), has_state=False).epoch for _ in (1, 2)])
        assert claims == [[number, 20 + number] for number in range(20)]

    def test_a_loaded_state_is_used_once(self):
        counter = EpochCounter(0)
        counter.set_next(3, is_loaded=True)
        assert counter.claim(Worker(), has_state=True) == (3, True)
        assert counter.claim(Worker(), has_state=True) == (4, False)
