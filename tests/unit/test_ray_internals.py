"""Private names of Ray stay in one folder, and each has a public way."""

from __future__ import annotations

import ast
import functools
import os
import subprocess
import sys
from pathlib import Path

import pytest
import ray.data

import ray_lance
from ray_lance.ray_internals import ways
from ray_lance.ray_internals.ways import MissingNameError, fast_module, needs

PACKAGE = Path(ray_lance.__file__).parent
SEAM = PACKAGE / "ray_internals"
TREES = {path: ast.parse(path.read_text()) for path in sorted(PACKAGE.rglob("*.py"))}
# Of other packages than Ray.
OTHERS = {
    *("_ds", "_take_rows", "_schema"),
    *("_getframe", "_new_shared", "_ragged_idx", "_replace"),
}


def private_imports(tree: ast.AST) -> set[str]:
    named = [
        f"{node.module}.{alias.name}" if isinstance(node, ast.ImportFrom) else alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
    ]
    return {name for name in named if name.startswith("ray.") and any(part.startswith("_") for part in name.split("."))}


@functools.cache
def own_names() -> set[str]:
    """Names with an underscore that this package defines."""
    names: set[str] = set()
    for tree in TREES.values():
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                names.add(node.name)
            elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                names.add(node.id)
            elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and is_self(node.value):
                names.add(node.attr)
    return names


def is_self(node: ast.AST) -> bool:
    return isinstance(node, ast.Name) and node.id in ("self", "cls")


@pytest.mark.parametrize("path", [path for path in TREES if SEAM not in path.parents], ids=lambda path: path.stem)
def test_no_module_outside_uses_a_private_name_of_ray(path):
    tree = TREES[path]
    used = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute) and node.attr.startswith("_")}
    foreign = {name for name in used - own_names() - OTHERS if not name.startswith("__")}

    assert private_imports(tree) == set()
    assert foreign == set()


def test_what_the_test_looks_for_is_found_in_the_folder():
    assert any(private_imports(tree) for path, tree in TREES.items() if SEAM in path.parents)


def test_a_missing_attribute_is_named():
    needs(ray.data.Dataset, "map_batches")
    with pytest.raises(MissingNameError, match="Dataset has no _no_such_name"):
        needs(ray.data.Dataset, "map_batches", "_no_such_name")


def test_a_way_that_cannot_be_imported_is_closed(monkeypatch):
    monkeypatch.delenv("RAY_LANCE_PLAIN_RAY", raising=False)
    monkeypatch.setattr(ways, "_ways", {})

    assert fast_module("_no_such_module", "nothing") is None
    (way,) = ways.probed_ways()
    assert str(way).startswith("nothing: off, No module named")


def test_all_are_open_here_and_closed_by_the_variable():
    code = (
        "import ray_lance.train\n"
        "from ray_lance.ray_internals.ways import probed_ways\n"
        "print([bool(way.closed) for way in probed_ways()])"
    )
    states = [
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "RAY_LANCE_PLAIN_RAY": value},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for value in ("0", "1")
    ]

    assert len(set(eval(states[0]))) == len(set(eval(states[1]))) == 1
    assert eval(states[0])[0] is False
    assert eval(states[1])[0] is True
