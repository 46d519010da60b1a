"""Fixtures for every test."""

from __future__ import annotations

import importlib
import os

# Before anything imports ray: on a machine without GPUs Ray would otherwise change what accelerators look like.
os.environ["RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"] = "0"

from typing import Any

import hypothesis
import pytest

from ray_lance import masking
from tests.examples import FEW, MANY
from tests.older_releases import skip_on_older_releases

# make test-all runs every property once more, with --hypothesis-profile many.
hypothesis.settings.register_profile("few", deadline=None, max_examples=FEW)
hypothesis.settings.register_profile("many", deadline=None, max_examples=MANY)
hypothesis.settings.load_profile("few")


@pytest.hookimpl(optionalhook=True)  # of pytest-xdist
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """One process has the Ray cluster and what needs it; the other runs the rest."""
    from tests.schedule import OneCluster

    return OneCluster(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what holds only by the fast ways into Ray, or only on newer releases, where those are not there."""
    for item in items:
        marker = item.get_closest_marker("fast_ways")
        closed = marker and next(filter(None, map(_why_closed, marker.args)), "")
        if closed:
            item.add_marker(pytest.mark.skip(reason=f"not by the public way: {closed}"))
    skip_on_older_releases(items)


def _why_closed(way: str) -> str:
    if os.environ.get("RAY_LANCE_PLAIN_RAY") == "1":
        return "RAY_LANCE_PLAIN_RAY=1"
    try:
        importlib.import_module(f"ray_lance.ray_internals.{way}")
    except ImportError as error:
        return str(error)
    return ""


@pytest.fixture(autouse=True)
def no_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    """What one test gives as a secret, such as "option", is to be seen in the messages of the next."""
    monkeypatch.setattr(masking, "_secrets", {})


@pytest.fixture
def uri(tmp_path) -> str:
    """Where a test may write a dataset."""
    return str(tmp_path / "table.lance")
