"""The type table through a Lance dataset: what is written comes back as the same tensors."""

from __future__ import annotations

import lance
import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from lance.arrow import bfloat16_array
from ray.data._internal.tensor_extensions.arrow import ArrowTensorArray, ArrowVariableShapedTensorArray

from ray_lance.tensors import deliver, delivered_schema, from_tensors, storable, to_tensors
from tests.examples import examples
from tests.unit.tensors.type_cases import CASES, Case, plain, tables, without_null_lists


def through_lance(table: pa.Table, uri: str) -> pa.Table:
    return lance.write_dataset(table, uri, mode="overwrite").to_table()


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
@settings(max_examples=examples(4), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_every_type_with_nulls(case: Case, uri: str, data: st.DataObject) -> None:
    table, _ = data.draw(tables(case))
    fill = None if case.fill is None else {"x": case.fill}
    back = through_lance(table, uri)
    expected = to_tensors(table, ragged="list", fill=fill)["x"]
    assert plain(to_tensors(back, ragged="list", fill=fill)["x"]) == plain(expected)
    if case.name != "variable_shape_tensor" or not back["x"].null_count:
        block = deliver(back, delivered_schema(back.schema), fill=fill)
        found = to_tensors(block, ragged="list", fill=fill)["x"]
        assert plain(found) == without_null_lists(case, plain(expected))


def test_from_tensors_to_lance_to_tensors(uri: str) -> None:
    columns = {
        "scalar": torch.arange(3).to(torch.uint16),
        "half": torch.tensor([1.5, -2.0, 0.0], dtype=torch.bfloat16),
        "halves": torch.ones(3, 2, dtype=torch.bfloat16),
        "vector": torch.arange(6.0).view(3, 2),
        "image": torch.arange(36, dtype=torch.uint8).view(3, 2, 2, 3),
        "mask": torch.ones(3, 2, 2, dtype=torch.bool),
        "jagged": torch.nested.nested_tensor([torch.ones(n, 2) for n in (1, 0, 2)], layout=torch.jagged),
        "shapes": [torch.ones(1, 2), torch.zeros(0, 3), torch.ones(2, 2)],
        "text": ["a", None, "c"],
    }
    back = to_tensors(through_lance(from_tensors(columns), uri))
    jagged = back.pop("jagged")
    assert plain(list(jagged.unbind())) == plain(list(columns.pop("jagged").unbind()))
    assert {name: plain(value) for name, value in back.items()} == {n: plain(v) for n, v in columns.items()}
    assert [back[name].dtype for name in ("half", "halves", "image")] == [torch.bfloat16, torch.bfloat16, torch.uint8]


def test_lances_own_bfloat16(uri: str) -> None:
    values = bfloat16_array([1.5, None, 3.0])
    back = through_lance(pa.table({"x": values, "v": pa.FixedSizeListArray.from_arrays(values, 1)}), uri)
    result = to_tensors(back)
    assert plain(result["x"]) == [1.5, "NaN", 3.0]
    assert (plain(result["v"]), result["v"].dtype) == ([[1.5], ["NaN"], [3.0]], torch.bfloat16)


@pytest.mark.parametrize("version", ["2.1", "2.2"])
def test_blobs_are_bytes(version: str, uri: str) -> None:
    field = pa.field("x", pa.large_binary(), metadata={"lance-encoding:blob": "true"})
    if version == "2.2":
        array = lance.blob_array([b"a", None, b"bc"])
        field = pa.field("x", array.type)
    else:
        array = pa.array([b"a", None, b"bc"], pa.large_binary())
    table = pa.table([array], schema=pa.schema([field]))
    dataset = lance.write_dataset(table, uri, data_storage_version=version)
    assert to_tensors(dataset.scanner(blob_handling="all_binary").to_table())["x"] == [b"a", None, b"bc"]


def test_what_peers_wrote_with_rays_types(uri: str) -> None:
    images, ragged = np.arange(8.0).reshape(2, 2, 2), [np.ones((2, 3)), np.zeros((1, 2))]
    peer = {"x": ArrowTensorArray.from_numpy(images), "v": ArrowVariableShapedTensorArray.from_numpy(ragged)}
    back = through_lance(pa.table(peer), uri)
    block = deliver(back, delivered_schema(back.schema))
    for table in (back, block, storable(back), storable(block)):
        assert plain(to_tensors(table)["x"]) == images.tolist()
        assert plain(to_tensors(table)["v"]) == [row.tolist() for row in ragged]


def test_a_vector_index_can_be_built_on_what_is_stored(uri: str) -> None:
    block = pa.table({"v": ArrowTensorArray.from_numpy(np.random.default_rng(0).random((300, 8), "f4"))})
    dataset = lance.write_dataset(storable(block), uri)
    dataset.create_index("v", "IVF_FLAT", num_partitions=1)
    query = np.ones(8, "f4")
    assert len(dataset.to_table(nearest={"column": "v", "q": query, "k": 3})) == 3
