"""Imports point one way: a fresh process shows what each module pulls in."""

from __future__ import annotations

import subprocess
import sys

import pytest

import ray_lance

FORBIDDEN = {
    "ray_lance.errors": ("ray", "lance", "torch", "pyarrow", "numpy"),
    "ray_lance.retry": ("ray", "lance", "torch", "pyarrow", "numpy"),
    "ray_lance.order": ("ray", "lance", "torch", "pyarrow"),
    "ray_lance.table": ("ray", "torch", "lance_namespace"),
    "ray_lance.tensors": ("ray", "lance", "torch"),
    "ray_lance.scan.reader": ("ray",),
    "ray_lance.scan.pushdown": ("ray",),
    "ray_lance.write.merge": ("ray",),
    "ray_lance.write.fragments": ("ray",),
    "ray_lance.decode": ("ray", "lance", "PIL", "torch"),
    # What Ray's workers import, which start in half the time without these.
    "ray_lance.data.permuted": ("torch", "lance_namespace"),
    "ray_lance.data.merge_sink": ("torch", "lance_namespace"),
    "ray_lance.backfill.writer": ("torch", "lance_namespace"),
    "ray_lance.torch": ("ray", "PIL"),
    "ray_lance.cli": ("ray", "lance", "torch", "pyarrow", "numpy"),
    "ray_lance.measure": ("ray",),
}


@pytest.mark.parametrize("module", FORBIDDEN)
def test_a_module_pulls_in_nothing_above_it(module):
    code = f"import sys, {module}; print(' '.join(sorted(sys.modules)))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(run.stdout.split())
    assert module in loaded
    assert loaded.isdisjoint(FORBIDDEN[module])


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
