"""The examples run from start to end, each in a process of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

EXAMPLES = Path(__file__).parents[2] / "examples"


def run(example: str) -> str:
    done = subprocess.run([sys.executable, EXAMPLES / example], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_quickstart():
    output = run("quickstart.py")
    assert "wrote 1797 images" in output
    assert "wrote 1797 predictions" in output
