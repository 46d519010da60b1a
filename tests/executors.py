"""Executors of an order, as tests.laws takes them."""

from __future__ import annotations

import itertools
import json
from typing import Any

from ray_lance.torch import LanceIterableDataset
from tests.laws import Executor, Run, check_refusal

__all__ = ["check_other_orders_refused", "ranks"]


def ranks(table: Any, **options: Any) -> Executor:
    """The iterable dataset, in global batches of 400 rows of a table with a column ``id``, all read from storage."""
    options = {"cache_bytes": 0, **options}

    def execute(world_size, cursor=None, steps=None):
        batches, states = [], []
        for rank in range(world_size):
            dataset = LanceIterableDataset(
                table, batch_size=400 // world_size, rank=rank, world_size=world_size, **options
            )
            if cursor is not None:
                dataset.load_state_dict(json.loads(json.dumps(cursor)))
            batches.append([batch["id"].numpy() for batch in itertools.islice(dataset, steps)])
            states.append(dataset.state_dict())
        return Run(batches, states[0])

    return execute


def check_other_orders_refused(table: Any) -> None:
    """Law 7 for the iterable dataset over a table of several versions: each difference alone is refused."""

    def dataset(**options: Any) -> LanceIterableDataset:
        own = {"batch_size": 10, "shuffle": 5, "lanes": 5, "rank": 0, "world_size": 1}
        return LanceIterableDataset(table, **{**own, **options})

    changes = {"seed": {"shuffle": 6}, "filter": {"filter": "id > 3"}, "version": {"version": 1}, "lanes": {"lanes": 2}}
    foreign = {name: dataset(**change).state_dict() for name, change in changes.items()}

    check_refusal(dataset().load_state_dict, foreign, dataset().state_dict())
