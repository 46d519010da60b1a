"""Types that pyarrow itself does not pickle whole can be sent to other processes."""

from __future__ import annotations

import pickle
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pytest
from lance.arrow import BFloat16Type
from ray import cloudpickle

from ray_lance.tensors import from_tensors
from ray_lance.tensors.kinds import bfloat16_field
from ray_lance.write.schema import portable

RAGGED = {"x": [np.zeros((2, 3), np.float32), None, np.ones((1, 2), np.float32)]}


def as_lance_reads_it(table: pa.Table) -> pa.Schema:
    """The schema with pyarrow's type objects in place of names in the metadata."""
    schema = pa.ipc.read_schema(table.schema.serialize())
    assert type(schema.field("x").type) is pa.BaseExtensionType
    return schema


@pytest.mark.parametrize("pickler", [pickle, cloudpickle])
@pytest.mark.parametrize(
    "part", [lambda schema: schema, lambda schema: schema.field("x"), lambda schema: schema.field("x").type]
)
def test_tensors_of_varying_shape_come_back_as_they_were(pickler, part):
    schema = as_lance_reads_it(from_tensors(RAGGED))

    found = pickler.loads(pickler.dumps(part(schema)))

    assert found == part(schema)


def test_another_process_needs_nothing_imported_before():
    schema = as_lance_reads_it(from_tensors(RAGGED))
    code = "import pickle, sys; print(pickle.loads(sys.stdin.buffer.read()).field('x').type)"

    run = subprocess.run([sys.executable, "-c", code], input=pickle.dumps(schema), capture_output=True, check=True)

    assert run.stdout.decode().strip() == str(schema.field("x").type)


def test_types_with_a_class_are_pickled_as_before():
    dtype = pa.fixed_shape_tensor(pa.float32(), [2, 3], dim_names=["a", "b"])

    found = pickle.loads(pickle.dumps(dtype))

    assert (type(found), found) == (pa.FixedShapeTensorType, dtype)


HALVES = pa.list_(bfloat16_field("half").with_nullable(False), 2)


@pytest.mark.parametrize("pickler", [pickle, cloudpickle])
@pytest.mark.parametrize(
    "dtype",
    [HALVES, pa.list_(HALVES, 3), pa.list_(HALVES), pa.struct([("v", HALVES)]), pa.map_(pa.string(), HALVES)],
    ids=str,
)
def test_lists_of_fixed_size_keep_what_their_values_mean(pickler, dtype):
    schema = pa.schema([pa.field("x", dtype)])

    found = pa.schema([pa.field("x", pickler.loads(pickler.dumps(dtype)))])
    in_schema = pickler.loads(pickler.dumps(schema))

    # Where lance.arrow has been imported, the field comes back as its type.
    assert portable(found).equals(schema, check_metadata=True)
    assert portable(in_schema).equals(schema, check_metadata=True)


def test_schemas_are_serialized_equally_wherever_they_come_from():
    serialized = set()
    for registered in (False, True):
        if registered:
            pa.register_extension_type(BFloat16Type())
        schema = pa.schema([pa.field("x", pa.list_(BFloat16Type(), 2))])
        for _ in range(2):
            serialized.add(portable(schema).serialize().to_pybytes())
            schema = pa.ipc.read_schema(schema.serialize())
        if not registered:
            pa.unregister_extension_type("lance.bfloat16")
            serialized.add(portable(pa.ipc.read_schema(schema.serialize())).serialize().to_pybytes())

    assert len(serialized) == 1
