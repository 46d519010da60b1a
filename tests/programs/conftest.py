"""Tests of programs: each runs processes of its own, clusters among them, and needs no cluster in this one."""

from __future__ import annotations

from pathlib import Path

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """They take long: they run before the others, so that short ones fill the time until every process has ended."""
    here = Path(__file__).parent
    items.sort(key=lambda item: not item.path.is_relative_to(here))
