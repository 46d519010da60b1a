"""Executions begin with their share of the cluster, and leave their processes to the next one."""

from __future__ import annotations

import os
import sys
import threading
import time

import numpy as np
import psutil
import pytest
import ray
from ray.data._internal.execution.execution_callback import ExecutionCallback

import ray_lance
from ray_lance.ray_internals._executions import PromptExecution
from ray_lance.ray_internals.executions import executed_promptly
from tests.datasets import sample_table

# Nothing of this is promised by the public way, which leaves executions to Ray.
pytestmark = pytest.mark.fast_ways("_executions")

LIMITS = []


class Recorder(ExecutionCallback):
    """Notes the CPUs that each step of an execution may use."""

    def on_execution_step(self, executor) -> None:
        LIMITS.append(executor._resource_manager.get_global_limits().cpu)


@pytest.fixture
def uri(tmp_path):
    path = str(tmp_path / "table.lance")
    ray_lance.write_lance(ray.data.from_arrow(sample_table(500)), path)
    return path


@pytest.fixture
def patient(monkeypatch):
    """On a busy machine Ray's coordinator may not have begun to answer after half a second."""
    monkeypatch.setattr(PromptExecution, "longest_wait_s", 60.0)


def first_limit(dataset: ray.data.Dataset) -> float:
    dataset.context.custom_execution_callback_classes.append(Recorder)
    LIMITS.clear()
    dataset.materialize()
    return LIMITS[0]


def test_a_read_may_use_the_cluster_from_its_first_step(uri, patient):
    assert first_limit(ray_lance.read_lance(uri)) > 0


def test_so_may_what_is_derived_from_it(uri, patient):
    derived = ray_lance.read_lance(uri, shuffle=1).map_batches(lambda batch: {"n": np.asarray(batch["id"])})

    assert first_limit(derived) > 0


def test_the_callers_context_stays_as_it_was(uri, tmp_path):
    dataset = ray.data.from_arrow(sample_table(10))

    ray_lance.write_lance(dataset, str(tmp_path / "copy.lance"))

    assert PromptExecution not in dataset.context.custom_execution_callback_classes
    assert PromptExecution not in ray.data.DataContext.get_current().custom_execution_callback_classes


def test_it_is_asked_for_once(uri):
    dataset = executed_promptly(ray_lance.read_lance(uri))

    assert dataset.context.custom_execution_callback_classes.count(PromptExecution) == 1


def slow(batch):
    time.sleep(0.2)
    return {"pid": np.full(len(batch["id"]), os.getpid())}


def test_leaving_an_iteration_kills_no_process(uri):
    dataset = ray_lance.read_lance(uri, override_num_blocks=20).map_batches(slow)
    first = {int(pid) for pid in next(iter(dataset.iter_batches(batch_size=5)))["pid"]}

    assert first <= {row["pid"] for row in dataset.take_all()}


def with_lock(batch):
    """As Python's logging takes its lock: an interrupt between the two lines leaves it taken."""
    lock = sys.__dict__.setdefault("ray_lance_test_lock", threading.Lock())
    is_free = lock.acquire(timeout=5)
    time.sleep(0.2)
    if is_free:
        lock.release()
    return {"is_free": np.full(len(batch["id"]), is_free)}


def test_leaving_an_iteration_leaves_no_lock_taken(uri):
    dataset = ray_lance.read_lance(uri, override_num_blocks=20).map_batches(with_lock)
    for _ in range(3):
        next(iter(dataset.iter_batches(batch_size=5)))

    assert all(row["is_free"] for row in dataset.take_all())


def test_a_function_that_takes_long_is_killed(uri, tmp_path):
    def slow_after_the_first(batch):
        if batch["id"][0] >= 100:
            (tmp_path / f"{os.getpid()}.pid").touch()
            time.sleep(60)
        return batch

    dataset = ray_lance.read_lance(uri, override_num_blocks=20).map_batches(slow_after_the_first)
    started = time.monotonic()
    next(iter(dataset.iter_batches(batch_size=5)))
    assert len(ray_lance.read_lance(uri, override_num_blocks=20).take_all()) == 500

    while any(psutil.pid_exists(int(path.stem)) for path in tmp_path.glob("*.pid")):
        assert time.monotonic() - started < 50, "the function runs to its end"
        time.sleep(0.1)


def test_functions_after_other_sources_are_left_to_ray(uri):
    dataset = executed_promptly(ray.data.range(200, override_num_blocks=20).map_batches(with_lock))
    for _ in range(2):
        next(iter(dataset.iter_batches(batch_size=5)))

    assert all(row["is_free"] for row in dataset.take_all())
