"""One Ray cluster for the whole session."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pyarrow as pa
import pytest
import ray
from lance.arrow import BFloat16Type
from ray.data import DataContext


@pytest.fixture(scope="session", autouse=True)
def ray_session():
    ray.init(
        address="local",  # never a cluster that happens to run on this machine
        num_cpus=4,
        include_dashboard=False,
        object_store_memory=400 * 2**20,
        logging_level="ERROR",
        log_to_driver=False,
        # Ray ends idle processes beyond num_cpus after a second, and a shuffle takes more: the next test would wait
        # for new ones, of two seconds of CPU each.
        _system_config={"num_workers_soft_limit": 12},
    )
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    yield
    ray.shutdown()


@pytest.fixture
def plain_bfloat16() -> Iterator[None]:
    """Arrow shows Lance's bfloat16 as the bytes that are stored, whether or not a process has registered the type."""
    pa.unregister_extension_type("lance.bfloat16")  # which the import of lance.arrow has registered
    yield
    pa.register_extension_type(BFloat16Type())
