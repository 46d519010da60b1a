"""Imports point one way: a fresh process shows what each module pulls in, and the code which module names which."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import ray_lance

PACKAGE = Path(ray_lance.__file__).parent

# In this order: one process imports them one after the other, those that may pull in least before the others.
FORBIDDEN = {
    "ray_lance.errors": ("ray", "lance", "torch", "pyarrow", "numpy"),
    "ray_lance.retry": ("ray", "lance", "torch", "pyarrow", "numpy"),
    "ray_lance.cli": ("ray", "lance", "torch", "pyarrow", "numpy"),
    "ray_lance.order": ("ray", "lance", "torch", "pyarrow"),
    "ray_lance.decode": ("ray", "lance", "PIL", "torch"),
    "ray_lance.tensors": ("ray", "lance", "torch"),
    "ray_lance.table": ("ray", "torch", "lance_namespace"),
    "ray_lance.torch": ("ray", "PIL"),
    "ray_lance.scan.reader": ("ray",),
    "ray_lance.scan.pushdown": ("ray",),
    "ray_lance.write.merge": ("ray",),
    "ray_lance.write.fragments": ("ray",),
    "ray_lance.measure": ("ray",),
}
# What Ray's workers import, which start in half the time without these. In a process of its own, for Ray is allowed.
FORBIDDEN_TO_WORKERS = {
    "ray_lance.data.permuted": ("torch", "lance_namespace"),
    "ray_lance.data.merge_sink": ("torch", "lance_namespace"),
    "ray_lance.backfill.writer": ("torch", "lance_namespace"),
}

# Which folders the modules of a folder may import from, besides their own and the top level.
MAY_IMPORT = {
    "order": set(),
    "tensors": set(),
    "scan": {"order", "tensors"},
    "write": {"scan", "tensors"},
    "torch": {"order", "scan", "tensors"},
    "ray_internals": {"data", "tensors"},
    "data": {"order", "ray_internals", "scan", "tensors", "write"},
    "backfill": {"data", "ray_internals", "scan", "tensors", "write"},
    "train": {"data", "order", "ray_internals", "scan", "tensors"},
}


def own_imports(path: Path, modules: dict[str, Path]) -> Iterator[str]:
    """The modules of this package that a module imports, also inside of functions; not those for types only."""
    tree = ast.parse(path.read_text())
    for_types = {
        id(node)
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and ast.unparse(block.test) == "TYPE_CHECKING"
        for node in ast.walk(block)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and id(node) not in for_types and node.module in modules:
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                yield name if name in modules else node.module


@pytest.fixture(scope="module")
def imports() -> dict[str, set[str]]:
    paths = {
        ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__"): path
        for path in PACKAGE.rglob("*.py")
    }
    return {name: {*own_imports(path, paths)} - {name, "ray_lance"} for name, path in paths.items()}


def folder_of(module: str) -> str:
    """The folder of a module; empty for those at the top level."""
    name = module.split(".")[1]
    return name if (PACKAGE / name).is_dir() else ""


def test_no_modules_import_each_other(imports):
    graph = {name: used for name, used in imports.items() if name != "ray_lance"}
    order = list(TopologicalSorter(graph).static_order())  # raises for a circle

    assert order.index("ray_lance.errors") < order.index("ray_lance.table") < order.index("ray_lance.api")


@pytest.mark.parametrize("folder", MAY_IMPORT)
def test_a_folder_imports_only_from_those_below_it(imports, folder):
    modules = [name for name in imports if name != "ray_lance" and folder_of(name) == folder]
    used = {folder_of(each) for name in modules for each in imports[name]}

    assert used - {"", folder} <= MAY_IMPORT[folder]


def test_every_folder_is_listed():
    folders = {path.name for path in PACKAGE.iterdir() if (path / "__init__.py").exists()}

    assert folders == set(MAY_IMPORT)


@pytest.fixture(scope="module")
def loaded() -> dict[str, set[str]]:
    """What a fresh process has loaded once it has imported a module, and those that are listed before it."""
    found = {}
    for modules in (FORBIDDEN, FORBIDDEN_TO_WORKERS):
        code = ["import sys", *(f"import {module}; print(' '.join(sys.modules))" for module in modules)]
        run = subprocess.run([sys.executable, "-c", "\n".join(code)], capture_output=True, text=True, check=True)
        found |= dict(zip(modules, map(set, map(str.split, run.stdout.splitlines())), strict=True))
    return found


@pytest.mark.parametrize(("module", "forbidden"), (FORBIDDEN | FORBIDDEN_TO_WORKERS).items())
def test_a_module_pulls_in_nothing_above_it(loaded, module, forbidden):
    assert module in loaded[module]
    assert loaded[module].isdisjoint(forbidden)


def test_the_public_names_are_these():
    assert ray_lance.__all__ == sorted(ray_lance.__all__)
    assert all(hasattr(ray_lance, name) for name in ray_lance.__all__)
    assert all(getattr(ray_lance, name).__doc__ for name in ray_lance.__all__)


def test_dir_shows_the_public_names_alone():
    assert dir(ray_lance) == sorted([*ray_lance.__all__, "torch", "train"])


def test_the_packages_for_training_need_no_import_of_their_own():
    code = (
        "import sys, ray_lance; assert not {'ray', 'torch'} & set(sys.modules)\n"
        "ray_lance.torch.LanceIterableDataset; assert 'ray' not in sys.modules\n"
        "ray_lance.train.LanceDataConfig\n"
        "try: ray_lance.tarin\n"
        "except AttributeError as error: print(error)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == "module 'ray_lance' has no attribute 'tarin'\n"


def test_no_module_takes_the_place_of_a_public_name():
    names = {name: getattr(ray_lance, name) for name in ray_lance.__all__}

    assert {name: getattr(ray_lance, name) for name in ray_lance.__all__} == names
