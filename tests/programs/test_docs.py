"""Every Python snippet of the documentation runs: page by page, in order, in an empty folder and its own process."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import ray_lance
import ray_lance.torch
import ray_lance.train

DOCS = Path(__file__).parents[2] / "docs"
PAGES = sorted(page for page in DOCS.glob("*.md") if "```python" in page.read_text())
SLOW = {
    "README",
    "backfill",
    "failures",
    "frameworks",
    "guarantees",
    "training",
    "tuning",
}  # start clusters and trainers


def run_snippets(page: Path) -> None:
    snippets = re.findall(r"^```python\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)
    names: dict[str, object] = {"__name__": page.stem}
    for number, snippet in enumerate(snippets, start=1):
        exec(compile(snippet, f"{page.name}, snippet {number}", "exec"), names)


@pytest.mark.parametrize(
    "page", [pytest.param(page, marks=pytest.mark.slow if page.stem in SLOW else (), id=page.stem) for page in PAGES]
)
def test_the_snippets_of_a_page_run(page, tmp_path):
    done = subprocess.run(
        [sys.executable, __file__, page],
        cwd=tmp_path,
        env={**os.environ, "RAY_ADDRESS": "local"},  # never a cluster that happens to run on this machine
        capture_output=True,
        text=True,
        timeout=300,
    )

    assert done.returncode == 0, done.stdout + done.stderr


def test_there_are_pages():
    assert {DOCS / "migrating.md", DOCS / "backfill.md"} <= set(PAGES)


@pytest.mark.parametrize("package", [ray_lance, ray_lance.torch, ray_lance.train], ids=lambda package: package.__name__)
def test_every_public_name_is_in_the_reference(package):
    reference = (DOCS / "reference.md").read_text()

    assert [name for name in package.__all__ if not re.search(rf"\b{name}\b", reference)] == []


if __name__ == "__main__":
    run_snippets(Path(sys.argv[1]))
