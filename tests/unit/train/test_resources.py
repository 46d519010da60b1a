from __future__ import annotations

import pytest

from ray_lance.train.resources import reserved_cpus


def group(state, *cpus):
    return {"state": state, "bundles": {i: {"CPU": cpu, "GPU": 1} for i, cpu in enumerate(cpus)}}


@pytest.mark.parametrize(
    ("groups", "cpus"),
    [
        ([], 0),
        ([group("CREATED", 1, 2), group("CREATED", 0.5)], 3.5),
        ([group("REMOVED", 4), group("PENDING", 4), group("CREATED", 1)], 1),
        ([{"state": "CREATED", "bundles": {0: {"GPU": 1}}}], 0),
    ],
)
def test_placement_groups_that_exist_reserve_their_bundles(groups, cpus):
    assert reserved_cpus({str(i): one for i, one in enumerate(groups)}) == cpus
