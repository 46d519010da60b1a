from __future__ import annotations

import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa
import pytest
import torch
from ray.data.collate_fn import ArrowBatchCollateFn, is_tensor_batch_type

from ray_lance.data.collate import DefaultTensors, TensorCollate, as_dict
from ray_lance.errors import InvalidArgumentError, TensorConversionError, UnknownColumnError
from ray_lance.tensors import Categories

BATCH = pa.table({"i": [1, 2], "f": [0.5, None], "r": [[1.0], [2.0, 3.0]], "s": ["a", None]})


def test_it_is_a_collate_function_of_ray_that_travels_and_compares() -> None:
    collate = TensorCollate(ragged="list", fill={"i": 0}, dtypes={"f": torch.float16})
    assert isinstance(collate, ArrowBatchCollateFn)
    assert pickle.loads(pickle.dumps(collate)) == collate


def test_tensors_and_lists() -> None:
    result = TensorCollate()(BATCH)
    assert result["i"].tolist() == [1, 2]
    assert torch.isnan(result["f"][1])
    assert [row.tolist() for row in result["r"].unbind()] == [[1.0], [2.0, 3.0]]
    assert result["s"] == ["a", None]


def test_a_batch_of_tensors_is_one_that_ray_moves() -> None:
    assert is_tensor_batch_type(TensorCollate()(BATCH.drop_columns("s")))
    assert is_tensor_batch_type(TensorCollate(ragged="pad")(BATCH.drop_columns("s")))


def test_options_reach_the_conversion() -> None:
    padded = TensorCollate(ragged="pad", fill=9.0)(BATCH.drop_columns(["i", "s"]))
    assert padded["r"].tolist() == [[1.0, 9.0], [2.0, 3.0]]
    assert padded["f"].tolist() == [0.5, 9.0]
    with pytest.raises(TensorConversionError, match="'x'"):
        TensorCollate()(pa.table({"x": [1, None]}))


def test_one_dtype_is_for_floats_and_a_mapping_for_what_it_names() -> None:
    half = TensorCollate(ragged="list", dtypes=torch.float16)(BATCH)
    assert (half["i"].dtype, half["f"].dtype) == (torch.int64, torch.float16)
    assert {row.dtype for row in half["r"]} == {torch.float16}
    named = TensorCollate(ragged="list", dtypes={"i": torch.int32})(BATCH)
    assert (named["i"].dtype, named["f"].dtype) == (torch.int32, torch.float64)
    with pytest.raises(UnknownColumnError, match="dtypes: there is no column 'j'"):
        TensorCollate(dtypes={"j": torch.int32})(BATCH)


def test_device() -> None:
    moved = TensorCollate(ragged="list", device="meta")(BATCH)
    assert {moved["i"].device.type, moved["r"][0].device.type} == {"meta"}
    assert moved["s"] == ["a", None]


def test_bad_options_fail_before_the_first_batch() -> None:
    with pytest.raises(InvalidArgumentError, match="ragged='padded'"):
        TensorCollate(ragged="padded")
    if not torch.cuda.is_available():
        with pytest.raises(InvalidArgumentError, match="pin_memory=True"):
            TensorCollate(pin_memory=True)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_pinned_memory_and_the_gpu() -> None:
    pinned = TensorCollate(pin_memory=True)(BATCH)
    assert pinned["i"].is_pinned()
    assert pinned["r"].values().is_pinned()
    moved = TensorCollate(pin_memory=True, device="cuda")(BATCH)
    assert {moved["i"].device.type, moved["r"].device.type} == {"cuda"}
    assert moved["i"].tolist() == [1, 2]


def test_threads_may_share_it() -> None:
    collate = TensorCollate()
    batches = [pa.table({"x": np.full(100, i), "r": [[i]] * 100}) for i in range(40)]
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(collate, batches))
    assert [int(result["x"].sum()) for result in results] == [100 * i for i in range(40)]
    assert [int(result["r"].values().sum()) for result in results] == [100 * i for i in range(40)]


@pytest.mark.parametrize(
    ("dtypes", "expected"),
    [
        (None, {"i": torch.int64, "f": torch.float64}),
        (torch.float16, {"i": torch.float16, "f": torch.float16}),
        ({"i": torch.int32}, {"i": torch.int32, "f": torch.float64}),
    ],
)
def test_by_default_dtypes_mean_what_they_mean_to_ray(dtypes, expected) -> None:
    batch = DefaultTensors(dtypes=dtypes)(BATCH)
    assert {name: batch[name].dtype for name in expected} == expected
    assert batch["s"] == ["a", None]


def test_where_all_columns_are_lists_of_tensors_ray_sees_no_mapping() -> None:
    batch = TensorCollate(ragged="list")(BATCH.select(["r"]))
    assert not is_tensor_batch_type(batch)
    assert {**batch} == dict(batch.items()) == as_dict(batch)
    assert (list(batch), len(batch), "r" in batch, batch.get("x")) == (["r"], 1, True, None)
    assert repr(batch) == repr(as_dict(batch)) == repr(as_dict(pickle.loads(pickle.dumps(batch))))
    batch["n"] = 1
    del batch["r"]
    assert batch.pop("n") == 1
    assert isinstance(TensorCollate(ragged="list")(BATCH), dict)


def test_codes_need_to_be_told_the_categories() -> None:
    batch = pa.table({"c": pa.array(["b", "a"]).dictionary_encode()})
    with pytest.raises(InvalidArgumentError, match="categories='codes': a batch alone"):
        TensorCollate(categories="codes")(batch)
    with pytest.raises(InvalidArgumentError, match="categories='code' must be"):
        TensorCollate(categories="code")
    for known in ({"c": ["a", "b"]}, Categories({"c": ["a", "b"]}, is_complete=True)):
        collate = pickle.loads(pickle.dumps(TensorCollate(categories=known)))
        assert collate(batch)["c"].tolist() == [1, 0]
