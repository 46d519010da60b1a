"""What a task needs, and whether a cluster has it."""

from __future__ import annotations

import inspect

import pytest
import ray.data

from ray_lance.data import cluster
from ray_lance.data.cluster import check_resources, unmet
from ray_lance.data.remote import actor_pool, flat, for_read
from ray_lance.errors import InvalidArgumentError

NODES = [{"CPU": 4.0, "memory": 1000.0}, {"CPU": 2.0, "GPU": 1.0, "memory": 500.0, "disk": 2.0}]


@pytest.mark.parametrize(
    ("needs", "missing"),
    [
        ({}, {}),
        ({"CPU": 4}, {}),
        ({"CPU": 5}, {"CPU": 5}),
        ({"GPU": 0.5, "CPU": 2}, {}),
        ({"GPU": 1, "CPU": 3}, {"GPU": 1}),
        ({"GPU": 2}, {"GPU": 2}),
        ({"disk": 1}, {}),
        ({"tape": 1}, {"tape": 1}),
        ({"memory": 2000}, {"memory": 2000}),
    ],
    ids=str,
)
def test_one_node_must_have_all_of_it(needs, missing):
    assert unmet(needs, NODES) == missing


@pytest.fixture
def two_nodes(monkeypatch):
    """A cluster that cannot grow."""
    monkeypatch.setattr(cluster, "ensure_started", lambda: None)
    monkeypatch.setattr(cluster, "may_grow", lambda: False)
    monkeypatch.setattr(cluster.ray, "nodes", lambda: [{"Alive": True, "Resources": node} for node in NODES])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_gpus": 2}, r"num_gpus=2: a task needs GPU=2 on one node.* 2 nodes have at most GPU=1"),
        ({"num_cpus": 64}, r"num_cpus=64: .*CPU=64.* at most CPU=4"),
        ({"num_cpus": 3, "num_gpus": 1}, r"num_gpus=1: a task needs GPU=1|num_cpus=3"),
        ({"resources": {"tape": 1}}, r"resources=\{'tape': 1\}: .*tape=1.* at most tape=0"),
        ({"accelerator_type": "H100"}, r"accelerator_type='H100'"),
        ({"memory": 5000}, r"memory=5000"),
    ],
    ids=str,
)
def test_what_no_node_has_is_refused_by_its_argument(two_nodes, arguments, message):
    with pytest.raises(InvalidArgumentError, match=message):
        check_resources(arguments)


def test_what_a_node_has_is_not_refused(two_nodes):
    check_resources({"num_cpus": 2, "num_gpus": 1, "memory": None, "resources": {"disk": 2}, "max_retries": 3})


def test_a_cluster_that_can_grow_is_not_refused(two_nodes, monkeypatch):
    monkeypatch.setattr(cluster, "may_grow", lambda: True)

    check_resources({"num_gpus": 8})


def test_arguments_of_ray_remote_go_by_their_own_names():
    arguments = flat({"num_cpus": 2, "num_gpus": None, "ray_remote_args": {"num_cpus": 1, "resources": {"a": 1}}})

    assert arguments == {"num_cpus": 2, "resources": {"a": 1}}
    assert for_read(arguments) == arguments
    assert for_read({**arguments, "max_retries": 2}) == {**arguments, "ray_remote_args": {"max_retries": 2}}


@pytest.mark.parametrize(
    ("concurrency", "most", "sizes"), [(4, 10, (4, 4)), (4, 2, (2, 2)), ((1, 4), 3, (1, 3)), ((3, 4), 2, (2, 2))]
)
def test_no_more_actors_are_started_than_find_work(concurrency, most, sizes):
    pool = actor_pool(concurrency, most)

    assert (pool.min_size, pool.max_size) == sizes


def test_reads_name_only_what_the_installed_ray_takes_by_name():
    given = {"num_cpus": 1, "resources": {"disk": 1}, "runtime_env": {}, "max_retries": 2}
    named = for_read(given)
    rest = named.pop("ray_remote_args")

    assert named.keys() <= inspect.signature(ray.data.read_datasource).parameters.keys()
    assert {**named, **rest} == given
