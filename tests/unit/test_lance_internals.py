"""Private names of pylance stay in one module, and its public ways give the same."""

from __future__ import annotations

import ast
import dataclasses
from pathlib import Path

import lance
import pyarrow as pa
import pytest
from lance.fragment import DataFile, FragmentMetadata, LanceFragment

import ray_lance
from ray_lance.lance_internals import (
    count_fragments,
    dataset_options_of,
    manifest_of,
    pickled_state,
    scan_by_row_id,
    storage_options_of,
    take_by_row_id,
)
from tests.datasets import write_fragments

PACKAGE = Path(ray_lance.__file__).parent
OTHERS = sorted(path for path in PACKAGE.rglob("*.py") if path.name != "lance_internals.py")


@pytest.fixture
def dataset(uri):
    write_fragments(uri, [7, 7, 6])
    lance.dataset(uri).delete("id = 3")
    return lance.dataset(uri, storage_options={"timeout": "3s"})


def names_of_pylance(dataset: lance.LanceDataset) -> set[str]:
    """Private attributes of its datasets, fragments and descriptions of files."""
    fragment = dataset.get_fragments()[0]
    names = {*vars(dataset), *vars(fragment), *dir(lance.LanceDataset), *dir(LanceFragment)}
    names |= {field.name for kind in (DataFile, FragmentMetadata) for field in dataclasses.fields(kind)}
    return {name for name in names if name.startswith("_") and not name.startswith("__")}


def used_in(path: Path) -> set[str]:
    """Attributes of other objects than the module's own, and keys and modules of such names."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Attribute) and not (isinstance(node.value, ast.Name) and node.value.id in OWN):
            found.add(node.attr)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            found.add(node.value)
        elif isinstance(node, ast.ImportFrom):
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


OWN = ("self", "cls", "clone")


def test_no_other_module_uses_a_private_name_of_pylance(dataset):
    private = names_of_pylance(dataset)
    used = {path.relative_to(PACKAGE).as_posix(): used_in(path) for path in OTHERS}

    assert {name: found for name, names in used.items() if (found := names & private)} == {}
    imported = {each for names in used.values() for each in names if each.startswith("lance.")}
    assert not {each for each in imported if any(part.startswith("_") for part in each.split("."))}
    assert {"_ds", "_take_rows"} <= private


def test_what_a_dataset_tells_is_what_it_would_be_pickled_as(dataset):
    state = pickled_state(dataset)

    assert manifest_of(dataset) == state["manifest"]
    assert storage_options_of(dataset) == state["storage_options"] == {"timeout": "3s"}
    assert dataset_options_of(dataset) == {}
    assert count_fragments(dataset) == len(dataset.get_fragments()) == 3


@pytest.mark.parametrize("columns", [["id"], ["id", "_rowid", "_rowaddr"], {"double": "id * 2", "_rowid": "_rowid"}])
@pytest.mark.parametrize("offsets", [[], [4], [5, 0, 5, 18]])
def test_a_scan_by_row_id_gives_what_a_take_gives(dataset, columns, offsets):
    row_ids = dataset.to_table(columns=[], with_row_id=True)["_rowid"].take(pa.array(offsets, pa.int64())).to_pylist()

    assert scan_by_row_id(dataset, row_ids, columns).equals(take_by_row_id(dataset, row_ids, columns))
