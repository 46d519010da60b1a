"""Ranks that share a replica of the model are one rank to the data."""

from __future__ import annotations

import numpy as np
import pytest

from ray_lance.errors import InvalidArgumentError
from ray_lance.parallel import data_parallel_ranks


@pytest.mark.parametrize(
    ("data_parallel", "ranks"),
    [
        ([0, 0, 1, 1], (0, 0, 1, 1)),
        ((0, 1, 0, 1), (0, 1, 0, 1)),
        (np.arange(8).reshape(2, 2, 2).swapaxes(0, 1).ravel() // 4, (0, 0, 1, 1, 0, 0, 1, 1)),
        ({3: 0, 1: 0, 0: 1, 2: 1}, (1, 0, 1, 0)),
        (lambda rank, world_size: rank // (world_size // 2), (0, 0, 0, 1, 1, 1)),
        (range(3), (0, 1, 2)),
        (2, (0, 0, 1, 1)),
        (np.int64(1), (0, 0, 0)),
        (4, (0, 1, 2, 3)),
    ],
)
def test_each_rank_has_its_group(data_parallel, ranks):
    assert data_parallel_ranks(data_parallel, len(ranks)) == ranks


@pytest.mark.parametrize(
    ("data_parallel", "message"),
    [
        ([0, 1], "one entry for each of the 4 ranks"),
        ({0: 0, 1: 0, 2: 1, 4: 1}, "one entry for each of the 4 ranks"),
        ([0, 0, 2, 2], r"\[0, 0, 2, 2\].*none left out"),
        ([1, 1, 2, 2], "none left out"),
        ([0, 0, -1, 1], "none left out"),
        ([0, 0, 0.5, 1], "data_parallel of rank 2=0.5"),
        ([0, 0, True, 1], "data_parallel of rank 2=True"),
        (lambda *_: None, "data_parallel of rank 0=None"),
        (3, "data_parallel=3 must divide world_size=4"),
        (0, "data_parallel=0 must divide world_size=4"),
        (True, "data_parallel=True must be the number of data-parallel ranks"),
        (2.0, "data_parallel=2.0 must be the number of data-parallel ranks"),
        ("0011", "or the data-parallel rank of each rank"),
    ],
)
def test_what_is_no_grouping_is_refused(data_parallel, message):
    with pytest.raises(InvalidArgumentError, match=message):
        data_parallel_ranks(data_parallel, 4)
