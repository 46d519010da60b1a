"""Executions begin with their share of the cluster, which Ray tells only a little later."""

from __future__ import annotations

import numpy as np
import pytest
import ray
from ray.data._internal.execution.execution_callback import ExecutionCallback

import ray_lance
from ray_lance.data.reservation import AwaitReservation, await_reservation
from tests.datasets import sample_table

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


def first_limit(dataset: ray.data.Dataset) -> float:
    dataset.context.custom_execution_callback_classes.append(Recorder)
    LIMITS.clear()
    dataset.materialize()
    return LIMITS[0]


def test_a_read_may_use_the_cluster_from_its_first_step(uri):
    assert first_limit(ray_lance.read_lance(uri)) > 0


def test_so_may_what_is_derived_from_it(uri):
    derived = ray_lance.read_lance(uri, shuffle=1).map_batches(lambda batch: {"n": np.asarray(batch["id"])})

    assert first_limit(derived) > 0


def test_the_callers_context_stays_as_it_was(uri, tmp_path):
    dataset = ray.data.from_arrow(sample_table(10))

    ray_lance.write_lance(dataset, str(tmp_path / "copy.lance"))

    assert AwaitReservation not in dataset.context.custom_execution_callback_classes
    assert AwaitReservation not in ray.data.DataContext.get_current().custom_execution_callback_classes


def test_waiting_twice_is_waiting_once(uri):
    dataset = await_reservation(ray_lance.read_lance(uri))

    assert dataset.context.custom_execution_callback_classes.count(AwaitReservation) == 1
