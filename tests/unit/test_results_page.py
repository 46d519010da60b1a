"""The figures that the README shows are those that the benchmarks measured."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_readme_and_the_results_page_show_what_was_measured():
    check = [sys.executable, str(ROOT / "benchmarks" / "page.py"), "--check"]

    run = subprocess.run(check, capture_output=True, text=True)

    assert run.returncode == 0, run.stdout + run.stderr


def test_a_figure_that_was_not_measured_is_out_of_date(tmp_path):
    copy = tmp_path / "benchmarks"
    copy.mkdir()
    (copy / "page.py").write_text((ROOT / "benchmarks" / "page.py").read_text())
    (tmp_path / "README.md").write_text((ROOT / "README.md").read_text())

    run = subprocess.run([sys.executable, str(copy / "page.py"), "--check"], capture_output=True, text=True)

    assert run.returncode == 1
    assert "README.md is out of date" in run.stdout
