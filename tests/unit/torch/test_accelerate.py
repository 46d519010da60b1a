"""Loaders under HuggingFace Accelerate and Transformers: every row once, or an error that names a way that works."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import lance
import pyarrow as pa
import pytest
import torch
from torch.utils.data import DataLoader, IterableDataset

from ray_lance import InvalidArgumentError
from ray_lance.torch import LanceIterableDataset, LanceMapDataset, make_loader
from tests.ranks import run_ranks

ROWS, BATCH = 180, 10  # whole steps of one, two and three ranks


def of_found_ranks(uri: str) -> LanceIterableDataset:
    return LanceIterableDataset(uri, batch_size=BATCH, shuffle=7)


# What the user hands to accelerator.prepare.
PREPARED: dict[str, Callable[[str], Any]] = {
    "the dataset": of_found_ranks,
    "a loader": lambda uri: make_loader(of_found_ranks(uri)),
    "a loader with a worker": lambda uri: make_loader(of_found_ranks(uri), num_workers=1),
    "a loader of one rank": lambda uri: make_loader(
        LanceIterableDataset(uri, batch_size=BATCH, shuffle=7, rank=0, world_size=1)
    ),
    "a loader of rows by index": lambda uri: make_loader(LanceMapDataset(uri), batch_size=BATCH, shuffle=True),
}
MODES = list(itertools.product(PREPARED, (None, True, False), (False, True)))


def read_in_every_mode(uri: str) -> list[Any]:
    """Length and rows of two epochs on this rank, or the error, for each of MODES."""
    from accelerate import Accelerator, DataLoaderConfiguration

    rank, world_size = torch.distributed.get_rank(), torch.distributed.get_world_size()
    names = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE")  # by which Accelerate knows where it runs
    os.environ |= dict(zip(names, map(str, (rank, rank, world_size, world_size)), strict=True))
    found: list[Any] = []
    for what, dispatch, split in MODES:
        modes = DataLoaderConfiguration(dispatch_batches=dispatch, split_batches=split)
        try:
            loader = Accelerator(cpu=True, dataloader_config=modes).prepare(PREPARED[what](uri))
            found.append([len(loader), [[number for batch in loader for number in batch["id"].tolist()] for _ in "12"]])
        except (InvalidArgumentError, ValueError) as error:
            found.append(f"{type(error).__name__}: {error}")
    return found


class Found:
    """What the ranks found, by what is prepared and the mode."""

    def __init__(self, world_size: int, folder: Path) -> None:
        self.world_size = world_size
        uri = str(folder / "table.lance")
        lance.write_dataset(pa.table({"id": range(ROWS)}), uri)
        ranks = run_ranks(read_in_every_mode, world_size, uri, folder=folder)
        self.by_mode = dict(zip(MODES, map(list, zip(*ranks, strict=True)), strict=True))

    def gives_every_row_once(self, *mode: Any) -> bool:
        epochs = zip(*(epochs for _, epochs in self.by_mode[mode]), strict=True)
        return all(sorted(itertools.chain(*epoch)) == list(range(ROWS)) for epoch in epochs)

    def lengths(self, *mode: Any) -> set[int]:
        return {length for length, _ in self.by_mode[mode]}

    def errors(self, *mode: Any) -> list[str]:
        assert all(isinstance(each, str) for each in self.by_mode[mode]), self.by_mode[mode]
        return self.by_mode[mode]


@pytest.fixture(
    scope="module", params=[pytest.param(1, marks=pytest.mark.slow), 2, pytest.param(3, marks=pytest.mark.slow)]
)
def found(request, tmp_path_factory) -> Found:
    pytest.importorskip("accelerate")
    return Found(request.param, tmp_path_factory.mktemp("ranks"))


@pytest.mark.parametrize("mode", [mode for mode in MODES if mode[0] in ("the dataset", "a loader of rows by index")])
def test_in_every_mode_each_row_comes_once(found, mode):
    what, _, split = mode
    if what.endswith("by index") and split and BATCH % found.world_size:
        assert all("needs to be a round multiple" in error for error in found.errors(*mode))
    else:
        assert found.gives_every_row_once(*mode)


@pytest.mark.parametrize("dispatch", [None, True])
def test_process_0_may_read_for_all(found, dispatch):
    assert found.gives_every_row_once("a loader of one rank", dispatch, False)
    assert found.lengths("a loader of one rank", dispatch, False) == {ROWS // BATCH // found.world_size}


@pytest.mark.parametrize("what", ["a loader", "a loader with a worker"])
@pytest.mark.parametrize("dispatch", [None, True])
def test_handing_out_what_is_a_part_already_is_refused(found, what, dispatch):
    if found.world_size == 1:
        assert found.gives_every_row_once(what, dispatch, False)
        return
    for error in found.errors(what, dispatch, False):
        assert error.startswith("InvalidArgumentError: accelerator.prepare(loader) with dispatch_batches hands out")
        assert "Leave the loader out of accelerator.prepare" in error
        assert "rank=0 and world_size=1" in error


@pytest.mark.parametrize("what", [what for what in PREPARED if what.startswith("a loader") and "index" not in what])
def test_sharding_batches_once_more_is_refused(found, what):
    if found.world_size == 1:
        assert found.gives_every_row_once(what, False, False)
        return
    for error in found.errors(what, False, False):
        assert error.startswith("InvalidArgumentError: accelerator.prepare(loader) with dispatch_batches=False shards")


@pytest.mark.parametrize("dispatch", [None, True, False])
def test_accelerate_itself_splits_no_batches_of_a_loader_without_a_batch_size(found, dispatch):
    for error in found.errors("a loader", dispatch, True):
        assert error.startswith("ValueError: In order to use `split_batches==True` you must have a `batch_size`")


class Wrapper(IterableDataset):
    """A dataset of the user's, which Accelerate asks for a generator in place of the one within."""

    def __init__(self, inner: LanceIterableDataset) -> None:
        self.inner = inner

    def __iter__(self) -> Iterator[Any]:
        yield from self.inner


@pytest.fixture(params=["accelerate.data_loader", "transformers.trainer_pt_utils"])
def shard(request) -> Callable[..., Any]:
    return pytest.importorskip(request.param).IterableDatasetShard


WRAPPERS = pytest.mark.parametrize("wrap", [Wrapper, lambda dataset: dataset + dataset], ids=["wrapper", "chain"])


@WRAPPERS
def test_a_wrapped_dataset_that_reads_a_part_is_not_sharded_once_more(tmp_path, shard, wrap):
    lance.write_dataset(pa.table({"id": range(ROWS)}), tmp_path / "table.lance")
    part = LanceIterableDataset(tmp_path / "table.lance", batch_size=BATCH, rank=1, world_size=3)

    with pytest.raises(InvalidArgumentError, match=r"one of 2 shares of what is one of 3 parts.*Leave the loader out"):
        next(iter(shard(wrap(part), batch_size=1, num_processes=2, process_index=0)))


@WRAPPERS
@pytest.mark.parametrize(("parts", "shares"), [(1, 2), (2, 1)])
def test_a_wrapped_dataset_is_sharded_by_one_of_both(tmp_path, shard, wrap, parts, shares):
    lance.write_dataset(pa.table({"id": range(ROWS)}), tmp_path / "table.lance")

    found = [
        number
        for rank, share in itertools.product(range(parts), range(shares))
        for batch in shard(
            wrap(LanceIterableDataset(tmp_path / "table.lance", batch_size=BATCH, rank=rank, world_size=parts)),
            batch_size=1,
            num_processes=shares,
            process_index=share,
        )
        for number in batch["id"].tolist()
    ]

    assert sorted(set(found)) == list(range(ROWS))
    assert len(found) == (ROWS if wrap is Wrapper else 2 * ROWS)


def test_nothing_else_learns_of_a_generator(tmp_path):
    lance.write_dataset(pa.table({"id": range(ROWS)}), tmp_path / "table.lance")

    assert not hasattr(of_found_ranks(str(tmp_path / "table.lance")), "generator")


def test_collation_of_transformers_would_stack_batches_and_is_refused(tmp_path):
    collate_fn = pytest.importorskip("transformers").default_data_collator
    lance.write_dataset(pa.table({"id": range(ROWS)}), tmp_path / "table.lance")
    loader = DataLoader(of_found_ranks(str(tmp_path / "table.lance")), batch_size=2, collate_fn=collate_fn)

    with pytest.raises(InvalidArgumentError, match="Give it a LanceMapDataset, or override its get_train_dataloader"):
        next(iter(loader))
