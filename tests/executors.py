"""Executors of an order, as tests.laws takes them."""

from __future__ import annotations

import itertools
import json
from typing import Any

from ray_lance.torch import LanceIterableDataset
from tests.laws import Executor, Run

__all__ = ["ranks"]


def ranks(table: Any, **options: Any) -> Executor:
    """The iterable dataset, in global batches of 400 rows of a table with a column ``id``."""

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
