"""Every Python snippet of the README runs, in order, as a reader would run them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

README = Path(__file__).parents[2] / "README.md"
ARCHITECTURE = README.parent / "docs" / "architecture.md"


@pytest.mark.slow
def test_the_snippets_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    snippets = re.findall(r"^```python\n(.*?)^```", README.read_text(), re.MULTILINE | re.DOTALL)
    assert len(snippets) >= 2
    names: dict = {}
    for snippet in snippets:
        exec(compile(snippet, str(README), "exec"), names)


def test_it_is_short():
    prose = re.sub(r"^```.*?^```", "", README.read_text(), flags=re.MULTILINE | re.DOTALL)

    assert len(prose.split()) <= 700


def test_the_architecture_page_lists_exactly_what_there_is():
    [listing] = re.findall(r"^ray_lance/\n(.*?)^```", ARCHITECTURE.read_text(), re.MULTILINE | re.DOTALL)
    listed = re.findall(r"(?:^|(?<=\s))(\w+\.py|\w+/)(?=\s)", listing)

    there = {path.name + "/" * path.is_dir() for path in (README.parent / "ray_lance").iterdir()}
    assert sorted(listed) == sorted(there - {"__pycache__/", "py.typed", "__init__.py"})
