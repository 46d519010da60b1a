"""The README's first example in a notebook: what it shows, and what it prints beside that."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

nbclient = pytest.importorskip("nbclient")
nbformat = pytest.importorskip("nbformat")

README = Path(__file__).parents[2] / "README.md"
# Of this machine's settings of Ray, which are not the example's.
NOT_COUNTED = re.compile("authentication_token_setup|Using address local")


def lines_of(cell: nbformat.NotebookNode, stream: str) -> list[str]:
    text = "".join(output["text"] for output in cell.outputs if output.get("name") == stream)
    return [line for line in text.splitlines() if line.strip() and not NOT_COUNTED.search(line)]


@pytest.mark.slow
def test_the_first_example_is_quiet_and_ends_with_a_table(tmp_path, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "local")
    code = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)[0]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code)])

    nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()

    [cell] = notebook.cells
    assert lines_of(cell, "stdout")[0] == "10000 rows in version 1"
    assert any(line.startswith("because") for line in lines_of(cell, "stdout"))
    assert len(lines_of(cell, "stderr")) <= 15, lines_of(cell, "stderr")
    shown = cell.outputs[-1]["data"]["text/html"]
    assert "<p>5 of 10,000 rows</p><table>" in shown
    assert "<td>vec</td><td>float</td><td>(8,)</td>" in shown
