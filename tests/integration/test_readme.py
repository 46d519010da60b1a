"""Every Python snippet of the README runs, in order, as a reader would run them."""

from __future__ import annotations

import re
from pathlib import Path

README = Path(__file__).parents[2] / "README.md"


def test_the_snippets_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    snippets = re.findall(r"^```python\n(.*?)^```", README.read_text(), re.MULTILINE | re.DOTALL)
    assert len(snippets) >= 2
    names: dict = {}
    for snippet in snippets:
        exec(compile(snippet, str(README), "exec"), names)


def test_the_listing_names_what_there_is():
    package = README.parent / "ray_lance"
    for name in sorted(path.name for path in package.iterdir() if path.name not in ("__pycache__", "py.typed")):
        assert name.removesuffix(".py") in README.read_text() or name == "__init__.py", name
