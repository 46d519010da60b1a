"""Whether this program can start processes that import it anew."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from ray_lance.errors import InvalidArgumentError

__all__ = ["check_main_module"]

# What a program may look at so as not to run as a whole where it is only imported.
_GUARDS = re.compile(r"__name__|parent_process|current_process")


def check_main_module(num_workers: int) -> None:
    """Refuse to start workers from a script that each of them would run again, to start workers from there.

    Python says it with a traceback of each worker and several of the loader.

    Args:
        num_workers: Number of workers, for the message.

    Raises:
        InvalidArgumentError: The script looks at nothing that tells whether it is the main program.
    """
    path = _imported_path()
    if path is None or not path.is_file():
        return
    text = path.read_text(errors="replace")
    if "\0" not in text and _GUARDS.search(text) is None:
        raise InvalidArgumentError(
            f"num_workers={num_workers}: each worker imports {path} anew, and would run all of it. Put what is to run "
            'only once under if __name__ == "__main__":'
        )


def _imported_path() -> Path | None:
    """The file that a spawned process imports as the main module; None where it imports none, as in notebooks."""
    main = sys.modules["__main__"]
    name = getattr(main.__spec__, "name", "")
    path = getattr(main, "__file__", None)
    return None if path is None or name == "__main__" or name.endswith(".__main__") else Path(path)
