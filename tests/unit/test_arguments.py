"""Integers of every public call: those of numpy are taken as Python's are, and nothing else is."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from ray_lance import ImageDecode, Permutation, RayLanceError, TableRef
from ray_lance.arguments import as_concurrency, as_count, as_integer
from ray_lance.backfill.compute import Compute
from ray_lance.backfill.run import BackfillOptions
from ray_lance.data.read import ReadOptions
from ray_lance.retry import RetryPolicy
from ray_lance.torch import LanceIterableDataset, LanceMapDataset
from ray_lance.train import DatasetOptions
from ray_lance.write.options import WriteOptions
from tests.datasets import write_fragments

# One integer argument each; the value 2 is right for all of them.
TAKES_AN_INTEGER: dict[str, Callable[[str, Any], object]] = {
    "version": lambda uri, two: TableRef.of(uri, version=two).pin().version,
    "version of a branch": lambda uri, two: TableRef.of(uri, version=("main", two)).pin().version,
    "shuffle(seed)": lambda uri, two: Permutation(uri).shuffle(two).describe(),
    "shuffle(clump)": lambda uri, two: Permutation(uri).shuffle(1, clump=two).describe(),
    "shuffle(window)": lambda uri, two: Permutation(uri).shuffle(1, window=two).describe(),
    "epoch": lambda uri, two: Permutation(uri).shuffle(1).epoch(two).rows().tolist(),
    "shard(rank)": lambda uri, two: Permutation(uri).shard(two, 3).describe(),
    "shard(world_size)": lambda uri, two: Permutation(uri).shard(0, two).describe(),
    "split(seed)": lambda uri, two: Permutation(uri).split({"a": 0.5}, seed=two)["a"].describe(),
    "split(seed, by)": lambda uri, two: Permutation(uri).split({"a": 0.5}, seed=two, by="id")["a"].rows().tolist(),
    "iter_batches": lambda uri, two: len(list(Permutation(uri).iter_batches(two, threads=two))),
    "iterable": lambda uri, two: [
        batch["id"].tolist() for batch in LanceIterableDataset(uri, batch_size=two, shuffle=two, prefetch=two)
    ],
    "iterable(rank)": lambda uri, two: [
        batch["id"].tolist() for batch in LanceIterableDataset(uri, batch_size=1, rank=two, world_size=3)
    ],
    "iterable(world_size)": lambda uri, two: json.dumps(
        LanceIterableDataset(uri, batch_size=1, rank=0, world_size=two, lanes=two).state_dict()
    ),
    "iterable(cache_bytes)": lambda uri, two: len(list(LanceIterableDataset(uri, batch_size=5, cache_bytes=two))),
    "map(cache_bytes)": lambda uri, two: LanceMapDataset(uri, cache_bytes=two)[0]["id"],
    "size": lambda _, two: repr(ImageDecode(size=(two, two))),
    "fill": lambda _, two: repr(ImageDecode(fill=two)),
    "override_num_blocks": lambda _, two: repr(ReadOptions(num_blocks=two)),
    "target_bytes_per_file": lambda _, two: repr(WriteOptions(target_bytes_per_file=two)),
    "max_rows_per_file": lambda _, two: repr(WriteOptions(max_rows_per_file=two)),
    "batch_size": lambda _, two: Compute(len, ("id",), batch_size=two).batch_size,
    "concurrency": lambda _, two: Compute(len, ("id",), concurrency=two).concurrency,
    "concurrency bounds": lambda _, two: Compute(len, ("id",), concurrency=(1, two)).concurrency,
    "fragments_per_commit": lambda _, two: BackfillOptions(fragments_per_commit=two).fragments_per_commit,
    "global_batch_size": lambda _, two: repr(DatasetOptions(global_batch_size=two, lanes=two)),
    "max_attempts": lambda _, two: RetryPolicy(max_attempts=two).max_attempts,
}


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    uri = str(tmp_path_factory.mktemp("integers") / "table.lance")
    write_fragments(uri, [10])
    return uri


@pytest.mark.parametrize("name", TAKES_AN_INTEGER)
@pytest.mark.parametrize("integer", [np.int64, np.uint8], ids=lambda kind: kind.__name__)
def test_an_integer_of_numpy_means_what_pythons_means(table, name, integer):
    call = TAKES_AN_INTEGER[name]

    assert call(table, integer(2)) == call(table, 2)


@pytest.mark.parametrize("name", TAKES_AN_INTEGER)
@pytest.mark.parametrize("value", [True, np.True_, 2.0, np.float64(2), "2.0"], ids=repr)
def test_what_is_no_integer_is_refused(table, name, value):
    with pytest.raises(RayLanceError):
        TAKES_AN_INTEGER[name](table, value)


@pytest.mark.parametrize("value", [3, np.int8(3), np.array(3), torch.tensor(3)])
def test_an_integer_becomes_a_plain_one(value):
    assert [type(as_integer("n", value)), type(as_count("n", value)), type(as_concurrency(value))] == [int] * 3


@pytest.mark.parametrize(
    "value", [None, True, np.True_, torch.tensor(True), 3.0, torch.tensor(3.0), np.array([3, 4]), "3", [3]]
)
def test_nothing_else_becomes_one(value):
    with pytest.raises(RayLanceError, match=r"n=.* must be an integer"):
        as_integer("n", value)
    with pytest.raises(RayLanceError, match=r"n=.* must be a whole number of at least 1"):
        as_count("n", value)


@pytest.mark.parametrize("value", [0, (2, 1), (1, 2, 3), (0, 1), "2", {}])
def test_concurrency_is_a_number_or_two(value):
    with pytest.raises(RayLanceError, match="concurrency="):
        as_concurrency(value)
