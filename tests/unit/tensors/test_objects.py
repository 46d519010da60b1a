"""Pickles in storage are never run: a payload that makes a file shows whether one was."""

from __future__ import annotations

import ast
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lance
import pyarrow as pa
import pytest
from ray.data._internal.object_extensions.arrow import ArrowPythonObjectType

import ray_lance
from ray_lance import Permutation, TensorCollate, TensorConversionError
from ray_lance.backfill.udf import BATCH_FORMATS
from ray_lance.formats import FORMATS, convert
from ray_lance.tensors import deliver, delivered_schema, storable, to_tensors
from ray_lance.torch import LanceIterableDataset, LanceMapDataset

ROWS = 4
OFFSETS = pa.array(range(ROWS + 1), pa.int32())


class Payload:
    """Unpickling it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (str(self.path), "w")


def plain(objects: pa.Array) -> pa.Array:
    return objects


def in_a_struct(objects: pa.Array) -> pa.Array:
    return pa.StructArray.from_arrays([objects, pa.array(range(ROWS))], names=["o", "i"])


def in_a_list(objects: pa.Array) -> pa.Array:
    return pa.ListArray.from_arrays(OFFSETS, objects)


def in_a_list_of_structs(objects: pa.Array) -> pa.Array:
    return pa.ListArray.from_arrays(OFFSETS, in_a_struct(objects))


def in_a_map(objects: pa.Array) -> pa.Array:
    return pa.MapArray.from_arrays(OFFSETS, pa.array(list("abcd")), objects)


def in_a_dictionary(objects: pa.Array) -> pa.Array:
    return pa.DictionaryArray.from_arrays(pa.array(range(ROWS), pa.int32()), objects)


STORED = [plain, in_a_struct, in_a_list, in_a_list_of_structs, in_a_map]


@pytest.fixture
def made(tmp_path: Path) -> Path:
    return tmp_path / "made"


@pytest.fixture
def payload(made: Path) -> pa.Array:
    """A column of pickles, in the type that pyarrow unpickles once Ray Data has been imported."""
    pickles = pa.array([pickle.dumps(Payload(made))] * ROWS, pa.large_binary())
    return ArrowPythonObjectType().wrap_array(pickles)


def test_the_payload_works(payload: pa.Array, made: Path) -> None:
    payload[0].as_py().close()
    assert made.exists()


@pytest.mark.parametrize("place", [*STORED, in_a_dictionary])
def test_no_conversion_of_a_table_runs_a_pickle(
    payload: pa.Array, made: Path, place: Callable[[pa.Array], pa.Array]
) -> None:
    table = pa.table({"x": place(payload), "n": range(ROWS)})
    conversions = [lambda format=format: convert(table, format) for format in FORMATS]
    conversions += [lambda make=make: make(table) for make in BATCH_FORMATS.values()]
    conversions += [lambda: to_tensors(table), lambda: TensorCollate(ragged="list")(table)]
    conversions += [lambda: deliver(table, delivered_schema(table.schema)), lambda: storable(table)]

    for conversion in conversions:
        with pytest.raises(ray_lance.RayLanceError, match=r"column 'x(\.o)?' holds pickled Python objects"):
            conversion()
    assert not made.exists()


@pytest.mark.parametrize("place", STORED)
def test_no_way_from_storage_runs_a_pickle(
    uri: str, payload: pa.Array, made: Path, place: Callable[[pa.Array], pa.Array]
) -> None:
    lance.write_dataset(pa.table({"n": range(ROWS), "x": place(payload)}), uri)
    permutation = Permutation(uri)
    ways = [lambda format=format: permutation.fetch([0, 2], format=format) for format in FORMATS]
    ways += [lambda format=format: list(permutation.iter_batches(2, format=format)) for format in FORMATS]
    ways += [lambda format=format: LanceMapDataset(uri, format=format)[0] for format in FORMATS]
    ways += [lambda format=format: list(LanceIterableDataset(uri, batch_size=2, format=format)) for format in FORMATS]
    ways.append(lambda: permutation.split({"a": 0.5}, by="x"))
    if place is in_a_struct:
        ways.append(lambda: permutation.split({"a": 0.5}, by="x.o"))
        ways.append(lambda: permutation.fetch([0], columns=["x.o"], format="python"))

    for way in ways:
        with pytest.raises(TensorConversionError, match=r"column 'x(\.o)?' holds pickled Python objects"):
            way()
    assert not made.exists()


def test_columns_beside_pickles_can_be_read(uri: str, payload: pa.Array) -> None:
    lance.write_dataset(pa.table({"n": range(ROWS), "x": payload}), uri)

    assert Permutation(uri).shuffle(1).fetch([0, 1], columns=["n"], format="python_col").keys() == {"n"}
    assert len(list(LanceIterableDataset(uri, batch_size=2, columns=["n"]))) == 2


def test_python_objects_are_made_in_one_place() -> None:
    package = Path(ray_lance.__file__).parent
    calls = {"to_pylist", "to_pydict", "to_pandas", "loads"}
    found = {
        (path.relative_to(package).as_posix(), node.attr)
        for path in package.rglob("*.py")
        # There they are made of what Lance tells of its files, and of row ids and the bytes of blobs.
        if path.parent.name != "write" and path.name != "blob_contents.py"
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute) and node.attr in calls and ast.unparse(node.value) != "json"
    }
    expected = {("tensors/objects.py", name) for name in ("to_pylist", "to_pydict", "to_pandas")}
    assert found == expected | {("backfill/udf.py", "to_pandas")}  # of a block that was checked
