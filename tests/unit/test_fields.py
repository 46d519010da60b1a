from __future__ import annotations

import pickle

import lance
import numpy as np
import pyarrow as pa
import pytest
import torch
from ray.data._internal.tensor_extensions.arrow import ArrowTensorArray

import ray_lance
from ray_lance.errors import InvalidArgumentError, SchemaMismatchError
from ray_lance.tensors import VariableShape, tensor_kind, to_tensors
from tests.sinks import one_task_each
from tests.unit.tensors.type_cases import plain


@pytest.mark.parametrize("value_type", [pa.uint8(), "uint8", np.uint8, np.dtype("uint8"), torch.uint8])
def test_a_field_of_tensors(value_type):
    field = ray_lance.tensor("image", value_type, 3, nullable=False)

    assert tensor_kind(field) == VariableShape(pa.field("item", pa.uint8()), 3)
    assert (field.name, field.nullable) == ("image", False)
    assert pickle.loads(pickle.dumps(field)).equals(field, check_metadata=True)


def test_with_one_dimension_it_is_a_list():
    assert ray_lance.tensor("ids", pa.int64(), 1) == pa.field("ids", pa.list_(pa.int64()))


@pytest.mark.parametrize(
    ("value_type", "ndim", "message"),
    [
        (pa.string(), 2, r"value_type=.* numbers or bool"),
        ("words", 2, "value_type='words'"),
        (torch.bfloat16, 2, r"value_type=torch\.bfloat16"),
        (None, 2, "value_type=None"),
        (pa.uint8(), 0, "ndim=0"),
        (pa.uint8(), True, "ndim=True"),
        (pa.uint8(), 2.0, r"ndim=2\.0"),
    ],
)
def test_what_is_no_tensor_is_refused(value_type, ndim, message):
    with pytest.raises(InvalidArgumentError, match=message):
        ray_lance.tensor("image", value_type, ndim)


def images(*shape: int, count: int = 2) -> pa.Table:
    return pa.table({"image": ArrowTensorArray.from_numpy(np.ones((count, *shape), np.uint8))})


@pytest.mark.parametrize("field", [ray_lance.tensor("image", "uint8", 3), ray_lance.tensor("image", "int32", 3)])
def test_rows_of_one_shape_become_rows_of_varying_shape(uri, field):
    """So that rows of other shapes can be added."""
    one_task_each(uri, images(2, 2, 3), schema=[field])
    one_task_each(uri, images(1, 4, 3), mode="append")

    stored = lance.dataset(uri)
    assert tensor_kind(stored.schema.field("image")) == tensor_kind(field)
    rows = to_tensors(stored.to_table(), ragged="list")["image"]
    assert plain(rows) == plain([torch.ones(2, 2, 3)] * 2 + [torch.ones(1, 4, 3)] * 2)


def test_nested_lists_become_tensors(uri):
    rows = pa.table({"image": [[[1, 2]], None, [[3], [4]]]})

    one_task_each(uri, rows, schema=[ray_lance.tensor("image", "float32", 2)])

    found = lance.dataset(uri).to_table()["image"].combine_chunks().storage.to_pylist()
    expected = [{"data": [1.0, 2.0], "shape": [1, 2]}, None, {"data": [3.0, 4.0], "shape": [2, 1]}]
    assert found == expected
    with pytest.raises(SchemaMismatchError, match="row 0 holds lists of different lengths"):
        one_task_each(uri, pa.table({"image": [[[1, 2], [3]]]}), mode="append")
