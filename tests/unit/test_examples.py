"""The example that needs no Ray runs from start to end, in a process of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

EXAMPLES = Path(__file__).parents[2] / "examples"


def test_torch_loader():
    run = subprocess.run([sys.executable, EXAMPLES / "torch_loader.py"], capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stdout + run.stderr
    assert "continued on 4: the same 44 global batches" in run.stdout
    assert "held-out images are classified right" in run.stdout
