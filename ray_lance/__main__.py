"""``python -m ray_lance``: see :mod:`ray_lance.cli`."""

from __future__ import annotations

import sys

from ray_lance.cli import main

if __name__ == "__main__":
    sys.exit(main())
