"""Batches that are cut where they are used are those that Ray's threads would have made."""

from __future__ import annotations

import re
import threading

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import ray
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from ray.data import Dataset
from ray.data._internal.stats import DatasetStats
from ray.data.collate_fn import ArrowBatchCollateFn, DefaultCollateFn

import ray_lance
from ray_lance.data.collate import TensorCollate
from ray_lance.data.dataset import ReadDataset
from ray_lance.errors import TensorConversionError
from ray_lance.ray_internals.batches import over_batches
from ray_lance.tensors import to_tensors
from tests.datasets import write_fragments
from tests.examples import examples
from tests.ray_collation import rays_collation

SIZES = [5, 0, 1, 130, 3, 64, 64, 200, 2]


def block(rows: int, start: int) -> pa.Table:
    """Numbers, booleans and tensors: what Ray's own collation makes the same tensors of."""
    ids = np.arange(start, start + rows)
    columns = {
        "id": pa.array(ids),
        "even": pa.array(ids % 2 == 0),
        "gaps": pa.array([None if i % 50 == 7 else i for i in ids.tolist()], pa.float64()),
        "half": pa.array(ids.astype(np.float16)),
        "image": pa.ExtensionArray.from_storage(
            pa.fixed_shape_tensor(pa.float32(), (2, 3)),
            pa.FixedSizeListArray.from_arrays(pa.array(np.repeat(ids, 6).astype(np.float32)), 6),
        ),
    }
    return pa.table(columns)


def of_blocks(sizes: list[int], make=block) -> Dataset:
    starts = np.cumsum([0, *sizes])
    tables = [make(rows, int(start)) for rows, start in zip(sizes, starts, strict=False)]
    dataset = ray.data.from_arrow(tables)
    dataset.context.execution_options.preserve_order = True
    return dataset


def same(ours, theirs) -> bool:
    if isinstance(theirs, torch.Tensor):
        equal = torch.equal(torch.nan_to_num(ours), torch.nan_to_num(theirs))
        return ours.dtype == theirs.dtype and equal and torch.equal(ours.isnan(), theirs.isnan())
    if isinstance(theirs, dict):
        return list(ours) == list(theirs) and all(same(ours[name], theirs[name]) for name in theirs)
    if not isinstance(theirs, list):
        return ours == theirs
    return len(ours) == len(theirs) and all(same(*pair) for pair in zip(ours, theirs, strict=True))


def check_same(dataset: Dataset, **options) -> list:
    ours = list(ReadDataset.of(dataset).iter_torch_batches(**options))
    theirs = list(Dataset.copy(dataset, _as=Dataset).iter_torch_batches(**options))
    assert same(ours, theirs)
    return ours


class Ids(ArrowBatchCollateFn):
    def __call__(self, batch: pa.Table) -> list[int]:
        return batch["id"].to_pylist()


@pytest.mark.parametrize("drop_last", [False, True])
@pytest.mark.parametrize("batch_size", [7, 64, 469, 1000])
def test_batches_are_rays(batch_size, drop_last):
    batches = check_same(of_blocks(SIZES), batch_size=batch_size, drop_last=drop_last)

    rows = sum(SIZES)
    assert len(batches) == (rows // batch_size if drop_last else -(-rows // batch_size))


@settings(max_examples=examples(8))
@given(st.lists(st.integers(0, 40), min_size=1, max_size=6), st.integers(1, 50))
def test_whatever_the_sizes(sizes, batch_size):
    check_same(of_blocks(sizes), batch_size=batch_size)


@pytest.mark.parametrize(
    "options",
    [
        {"dtypes": torch.float64},
        {"dtypes": {"id": torch.int32, "image": torch.float16}},
        {"prefetch_batches": 0},
        {"prefetch_batches": 5},
        {"batch_size": None},
        {"local_shuffle_buffer_size": 200, "local_shuffle_seed": 3},
        {"collate_fn": Ids()},
        {"collate_fn": rays_collation()},
        {"collate_fn": DefaultCollateFn()},
        {"collate_fn": TensorCollate(ragged="list")},
        {"collate_fn": TensorCollate(dtypes=torch.float16)},
        {"device": "meta"},
    ],
    ids=lambda options: re.sub(" at 0x[0-9a-f]+", "", str(options)),  # equal in every process that collects them
)
def test_with_rays_options(options):
    numbers = of_blocks(SIZES, lambda rows, start: block(rows, start).select(["id", "image"]))
    if options.get("device") == "meta":  # tensors without values: only that they are there can be compared
        batches = ReadDataset.of(numbers).iter_torch_batches(batch_size=64, **options)
        assert {tensor.device.type for batch in batches for tensor in batch.values()} == {"meta"}
    else:
        check_same(numbers, **{"batch_size": 64, **options})


def test_blocks_whose_types_differ_are_joined_as_ray_joins_them():
    def growing(rows: int, start: int) -> pa.Table:
        return pa.table({"n": pa.array(np.arange(start, start + rows), pa.float64() if start > 100 else pa.int64())})

    batches = check_same(of_blocks(SIZES, growing), batch_size=50)

    assert {batch["n"].dtype for batch in batches} == {torch.int64, torch.float64}


def test_pandas_blocks_and_tables_of_many_chunks():
    pandas = ray.data.from_pandas([pd.DataFrame({"id": np.arange(rows)}) for rows in SIZES])
    pandas.context.execution_options.preserve_order = True
    chunks = of_blocks([40] * 9, lambda rows, start: pa.concat_tables(block(8, start + i) for i in range(0, rows, 8)))

    check_same(pandas, batch_size=64)
    check_same(chunks, batch_size=24)


@pytest.mark.parametrize("inference", [False, True])
def test_tensors_are_of_no_mode_that_the_caller_has_set(inference):
    with torch.inference_mode(inference):
        batch, *_ = ReadDataset.of(of_blocks([100])).iter_torch_batches(batch_size=64)

    assert not batch["image"].is_inference()


def test_leaving_an_iteration_or_failing_in_it_ends_the_execution():
    def numbers(rows: int, start: int) -> pa.Table:
        return pa.table({"gaps": [None if i == 107 else i for i in range(start, start + rows)]})

    dataset = ReadDataset.of(of_blocks([64] * 50, numbers)).map_batches(lambda batch: batch, batch_format="pyarrow")
    for _ in dataset.iter_torch_batches(batch_size=32, collate_fn=TensorCollate(fill=0)):
        assert not ended(dataset)
        break
    assert ended(dataset)

    with pytest.raises(TensorConversionError, match="gaps"):
        list(dataset.iter_torch_batches(batch_size=32))
    assert ended(dataset)


def ended(dataset: Dataset) -> bool:
    executor = dataset._current_executor
    return executor is None or executor._shutdown


@pytest.mark.fast_ways("_batches")
def test_transformations_keep_the_iterator(uri):
    write_fragments(uri, [300])
    read = ray_lance.read_lance(uri)
    derived = [
        read,
        read.map(lambda row: row),
        read.map_batches(lambda batch: batch),
        read.flat_map(lambda row: [row]),
        read.filter(expr="id > 3"),
        read.limit(10),
        read.select_columns(["id"]),
        read.drop_columns(["text"]),
        read.rename_columns({"id": "number"}),
        read.add_column("two", lambda table: pa.array([2] * len(table)), batch_format="pyarrow"),
        read.with_column("next", ray.data.expressions.col("id") + 1),
        read.with_columns({"next": ray.data.expressions.col("id") + 1}),
        read.repartition(2),
        read.random_shuffle(seed=1),
        read.sort("id", descending=True),
        read.union(read),
        read.materialize(),
        read.materialize().limit(20),
    ]

    assert {type(dataset.iterator()).__name__ for dataset in derived} == {"BlockwiseIterator"}
    for dataset in derived[:12]:  # the others come in any order
        check_same(dataset.drop_columns(["text"]) if "text" in dataset.columns() else dataset, batch_size=100)


@pytest.mark.parametrize(
    ("collate", "here"),
    [
        (TensorCollate(fill=0), True),
        (TensorCollate(fill=0, device="cpu"), False),
        (TensorCollate(fill=0, ragged="pad"), False),
        (TensorCollate(fill=0, dtypes=torch.float32), False),
    ],
    ids=str,
)
@pytest.mark.fast_ways("_batches")
def test_batches_are_made_where_they_are_used_unless_that_is_work(monkeypatch, collate, here):
    threads = set()

    def noting(*args, **kwargs):
        threads.add(threading.get_ident())
        return to_tensors(*args, **kwargs)

    monkeypatch.setattr("ray_lance.data.collate.to_tensors", noting)
    batches = list(ReadDataset.of(of_blocks([500])).iter_torch_batches(batch_size=100, collate_fn=collate))

    assert len(batches) == 5
    assert (threads == {threading.get_ident()}) == here


@pytest.mark.fast_ways("_batches")
def test_ray_counts_batches_not_blocks():
    iterator = over_batches(of_blocks(SIZES))
    bundles, _, _ = iterator._to_ref_bundle_iterator()
    stats = DatasetStats(metadata={}, parent=None)
    made = iterator._create_batch_iterator(
        bundles,
        stats=stats,
        batch_size=64,
        batch_format="pyarrow",
        drop_last=False,
        shuffle_buffer_min_size=None,
        collate_fn=TensorCollate(ragged="list", fill=0),
        finalize_fn=iterator._get_finalize_fn(device=torch.device("cpu")),
    )

    batches = len(list(made))

    assert (stats.iter_batches_total, stats.iter_rows_total) == (batches, sum(SIZES))
