from __future__ import annotations

import subprocess
import sys

# What Ray does when it starts: preexec_fn= makes subprocess fork.
STARTS_A_PROGRAM = (
    "import subprocess, sys; subprocess.run([sys.executable, '-c', ''], preexec_fn=lambda: None, check=True)"
)
FORKS = "import os; os.fork() or os._exit(0); os.wait()"


def stderr_of(*code: str) -> str:
    run = subprocess.run([sys.executable, "-c", "\n".join(code)], capture_output=True, text=True, check=True)
    return run.stderr


def test_a_fork_is_warned_of_only_where_the_child_goes_on_with_the_program():
    use = "import warnings; from ray_lance import write_lance"
    filters = "before = list(warnings.filters)"
    unchanged = "assert warnings.filters == before"

    assert stderr_of(use, filters, STARTS_A_PROGRAM, STARTS_A_PROGRAM, unchanged) == ""
    assert stderr_of(use, STARTS_A_PROGRAM, FORKS).count("lance is not fork-safe") == 1
