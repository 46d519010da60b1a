"""Datasets in training ranks: spawned with a process group, on a device mesh, forked."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import lance
import pyarrow as pa
import pytest
import torch
from torch.utils.data import DataLoader

import ray_lance
from ray_lance import Permutation
from ray_lance.torch import LanceIterableDataset, LanceMapDataset, make_loader
from ray_lance.torch.ranks import mesh_placement
from ray_lance.write.job import begin
from ray_lance.write.options import WriteOptions
from tests.ranks import run_ranks

ROWS = 200


@pytest.fixture(scope="module")
def table(tmp_path_factory) -> str:
    uri = str(tmp_path_factory.mktemp("data") / "table.lance")
    lance.write_dataset(pa.table({"id": range(ROWS)}), uri)
    return uri


def batches(loader) -> list[list[int]]:
    return [batch["id"].tolist() for batch in loader]


def three_ways(dataset: LanceIterableDataset) -> dict[str, Any]:
    """Passes of one rank: three of the dataset as it came, two by set_epoch, one that goes on in the middle."""
    found: dict[str, Any] = {"plain": [batches(dataset) for _ in range(3)], "set": []}
    for epoch in (1, 0):
        dataset.set_epoch(epoch)
        found["set"].append(batches(dataset))
    for _, _ in zip(range(2), dataset):  # noqa: B905
        pass
    found["state"] = dataset.state_dict()
    dataset.load_state_dict(found["state"])
    found["rest"] = batches(dataset)
    found["rows"] = dataset.metrics().rows
    return found


def passes_of_loaders(dataset: LanceIterableDataset) -> dict[str, Any]:
    """Passes of one rank through loaders of its own, with workers that stay and workers that do not, and without."""
    staying = make_loader(dataset, num_workers=2)
    passes = [batches(staying) for _ in range(2)]
    new = DataLoader(dataset, batch_size=None, num_workers=2, multiprocessing_context="forkserver")
    return {"passes": [*passes, batches(new), batches(new), batches(dataset)]}


def expected(table: str, epochs: int, world_size: int = 2) -> list[list[list[list[int]]]]:
    """The batches of each rank and epoch, read by datasets that are told which rank they are."""
    ranks = [
        LanceIterableDataset(table, batch_size=10, shuffle=7, rank=rank, world_size=world_size)
        for rank in range(world_size)
    ]
    return [[batches(rank) for _ in range(epochs)] for rank in ranks]


class TestSpawnedRanks:
    def test_read_each_row_once_in_every_epoch(self, table, tmp_path):
        dataset = LanceIterableDataset(table, batch_size=10, shuffle=7)

        found = run_ranks(three_ways, 2, dataset, folder=tmp_path)

        wanted = expected(table, 4)
        for rank in range(2):
            assert found[rank]["plain"] == wanted[rank][:3]
            assert found[rank]["set"] == [wanted[rank][1], wanted[rank][0]]
            assert found[rank]["rest"] == wanted[rank][1][2:]
            assert found[rank]["rows"] == 6 * 100, "each rank counts its own"
        assert found[0]["state"] == found[1]["state"]
        assert sorted(row for rank in wanted for batch in rank[0] for row in batch) == list(range(ROWS))
        assert dataset.state_dict()["epoch"] == 0, "what ranks do is not to be seen here"
        assert dataset.metrics().rows == 0

    @pytest.mark.slow
    def test_agree_with_their_own_workers(self, table, tmp_path):
        dataset = LanceIterableDataset(table, batch_size=10, shuffle=7)

        found = run_ranks(passes_of_loaders, 2, dataset, folder=tmp_path)

        assert [rank["passes"] for rank in found] == expected(table, 5)


class TestModelParallelRanks:
    def test_of_one_group_get_equal_batches(self, table):
        def rank_of(rank: int, data_parallel: Any = (0, 1, 0, 1), **options: Any) -> LanceIterableDataset:
            own = {"batch_size": 10, "shuffle": 7, "rank": rank, "world_size": 4, **options}
            return LanceIterableDataset(table, data_parallel=data_parallel, **own)

        ranks = [rank_of(rank) for rank in range(4)]
        wanted = [rank[0] for rank in expected(table, 1)]

        assert [batches(rank) for rank in ranks] == [wanted[0], wanted[1], wanted[0], wanted[1]]
        state = ranks[0].state_after(3)
        assert state == ranks[3].state_after(3)
        assert state["rows"] == 3 * 10 * 2  # of two data-parallel ranks
        for data_parallel in ([0, 0, 0, 0], {0: 0, 1: 0, 2: 0, 3: 0}, lambda rank, _: rank // 4):
            alone = rank_of(2, data_parallel, batch_size=20)
            alone.load_state_dict(state)
            assert batches(alone) == [first + second for first, second in zip(*wanted, strict=True)][3:]

    def test_are_found_on_a_device_mesh(self, table, one_rank):
        mesh = torch.distributed.init_device_mesh("cpu", (1, 1, 1), mesh_dim_names=("pp", "dp", "tp"))

        for dims in ("dp", ("pp", "dp"), 1):
            dataset = LanceIterableDataset(table, batch_size=10, shuffle=7, device_mesh=mesh, dp_dim=dims)
            assert len(dataset) == ROWS // 10
        assert len(LanceIterableDataset(table, batch_size=10, device_mesh=mesh["dp"])) == ROWS // 10

    @pytest.mark.parametrize(
        ("coordinate", "dims", "placement"),
        [
            ((1, 0, 1), "dp", (0, 2)),
            ((1, 1, 0), "dp", (1, 2)),
            ((1, 1, 2), ("pp", "dp"), (3, 4)),
            ((1, 0, 2), ("dp", "pp"), (1, 4)),
            ((0, 1, 2), 2, (2, 3)),
        ],
    )
    def test_are_counted_along_the_data_parallel_dimensions(self, coordinate, dims, placement):
        assert mesh_placement(Mesh((2, 2, 3), ("pp", "dp", "tp"), coordinate), dims) == placement

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"device_mesh": 3}, "device_mesh=3 must be a torch.distributed.DeviceMesh"),
            ({"dp_dim": "dp"}, "dp_dim='dp' names a dimension of device_mesh"),
            ({"mesh": (0, 0), "dp_dim": "data"}, r"dp_dim='data' must name .* it has \['dp', 'tp'\]"),
            ({"mesh": (0, 0)}, r"dp_dim=None must name .*'dp', 'tp'"),
            ({"mesh": (0, 0), "dp_dim": ("dp", "dp")}, "dp_dim="),
            ({"mesh": (0, 0), "dp_dim": 2}, "dp_dim=2"),
            ({"mesh": None, "dp_dim": "dp"}, "not a rank of the mesh"),
            ({"mesh": (0, 0), "dp_dim": "dp", "rank": 0, "world_size": 2}, "rank=0 contradicts device_mesh"),
            ({"mesh": (0, 0), "dp_dim": "dp", "data_parallel": [0]}, "contradicts device_mesh"),
            ({"data_parallel": [0, 0], "rank": 0, "world_size": 3}, "one entry for each of the 3 ranks"),
        ],
    )
    def test_that_do_not_say_what_they_are_are_refused(self, table, options, message):
        if "mesh" in options:
            options = {**options, "device_mesh": Mesh((2, 2), ("dp", "tp"), options["mesh"])}
            del options["mesh"]
        with pytest.raises(ray_lance.InvalidArgumentError, match=message):
            LanceIterableDataset(table, batch_size=10, **options)


class Mesh:
    """What is asked of a ``DeviceMesh``, at any coordinate: a real one takes a process for each of its ranks."""

    def __init__(self, shape: tuple[int, ...], names: tuple[str, ...], coordinate: tuple[int, ...] | None) -> None:
        self._shape, self.mesh_dim_names, self._coordinate = shape, names, coordinate
        self.ndim = len(shape)

    def get_coordinate(self) -> list[int] | None:
        return None if self._coordinate is None else list(self._coordinate)

    def size(self, dim: int) -> int:
        return self._shape[dim]


@pytest.fixture
def one_rank():
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


def in_forked_child(work: Callable[[], object]) -> str:
    """What a forked child says that does some work: its error, or what it returned. It is killed after a while."""
    receiving, sending = os.pipe()
    child = os.fork()
    if child == 0:
        signal.alarm(60)
        try:
            said = repr(work())
        except BaseException as error:
            said = f"{type(error).__name__}: {error}"
        os.write(sending, said.encode())
        os._exit(0)
    os.close(sending)
    with os.fdopen(receiving) as pipe:
        said = pipe.read()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    return said


class TestForkedRanks:
    def test_are_refused_whatever_they_read_with(self, table):
        iterable = LanceIterableDataset(table, batch_size=10, shuffle=7, prefetch=2)
        in_thread = LanceIterableDataset(table, batch_size=10, prefetch=0)
        running = [iter(dataset) for dataset in (iterable, in_thread)]
        running.append(Permutation(table).iter_batches(10, format="arrow"))
        assert all(len(next(each)["id"]) == 10 for each in running)
        rows, order = LanceMapDataset(table), Permutation(table).shuffle(1)
        assert rows[3]["id"] == 3
        ways = {
            "fetch": lambda: order.fetch([1, 2]),
            "open": lambda: order.table.open(),
            "iterate": lambda: next(iter(iterable)),
            "map": lambda: rows[3],
            "batch": lambda: rows.__getitems__([1, 2]),
            "new": lambda: LanceMapDataset(table),
            "append": lambda: begin(order.table, WriteOptions(mode="append")),
            "create": lambda: begin(ray_lance.TableRef.of(f"{table}-new"), WriteOptions(mode="create")),
            "handle": lambda: ray_lance.Permutation(lance.dataset(table)),
            **{f"running {number}": lambda each=each: next(each) for number, each in enumerate(running)},
        }
        for name, way in ways.items():
            said = in_forked_child(way)
            assert said.startswith("InvalidArgumentError"), (name, said)
            assert 'torch.multiprocessing.set_start_method("spawn")' in said, name
        assert in_forked_child(lambda: in_forked_child(ways["fetch"])).startswith("'InvalidArgumentError")
        assert [len(list(each)) for each in running] == [19, 19, 19], "the parent goes on"

    def test_may_do_everything_else(self, table):
        dataset = LanceIterableDataset(table, batch_size=10)
        assert in_forked_child(lambda: (len(dataset), dataset.state_dict()["epoch"])) == "(20, 0)"
        assert in_forked_child(lambda: subprocess.run([sys.executable, "-c", "0"]).returncode) == "0"

    def test_of_a_process_that_has_not_used_lance_may_read(self, table):
        code = f"""if True:
            import multiprocessing, warnings
            warnings.simplefilter("ignore")
            import lance, ray_lance

            def read(results):
                results.put(ray_lance.Permutation({table!r}).fetch([1, 2], format="python"))

            context = multiprocessing.get_context("fork")
            results = context.Queue()
            child = context.Process(target=read, args=(results,))
            child.start()
            print(results.get(timeout=60))
            child.join()
        """
        run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
        assert run.stdout == "[{'id': 1}, {'id': 2}]\n"
