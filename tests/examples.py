"""How many examples a property is tested with: few in make test, many in make test-all."""

from __future__ import annotations

import hypothesis

__all__ = ["FEW", "MANY", "examples"]

FEW, MANY = 15, 50


def examples(many: int) -> int:
    """The number for a property that takes more or less time than others: ``many``, or the like share of it.

    The first example that hypothesis makes is the simplest one, so that there are always two.
    """
    return max(2, round(many * hypothesis.settings.default.max_examples / MANY))
