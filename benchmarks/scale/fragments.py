"""Plans and reads a dataset of many fragments: ``python fragments.py ORDER URI FOLDER STORE_MIB PASSES``.

Prints figures as JSON. The folder is not used.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import asdict

import paths
import ray
from watch import MIB, resident

from ray_lance import Permutation, read_lance  # by name: the package imports what it needs when it is asked for it
from ray_lance.data.datasource import LanceDatasource
from ray_lance.table import TableRef

ROUNDS = 5


def sequential(ref: TableRef) -> ray.data.Dataset:
    return read_lance(ref)


def shuffled(ref: TableRef) -> ray.data.Dataset:
    return read_lance(Permutation(ref).shuffle(paths.SEED))


ORDERS: dict[str, Callable[[TableRef], ray.data.Dataset]] = {"sequential": sequential, "shuffled": shuffled}


def planned(order: str, uri: str) -> tuple[ray.data.Dataset, dict]:
    """A Ray dataset with its read tasks made, and how long that took, once the manifest had been read."""
    begin = time.perf_counter()
    ref = TableRef.of(uri).pin()
    read = time.perf_counter()
    dataset = ORDERS[order](ref)
    source = dataset._logical_plan.dag.datasource
    assert isinstance(source, LanceDatasource)
    tasks = source.get_read_tasks(1)
    end = time.perf_counter()
    return dataset, {"manifest_s": read - begin, "planning_s": end - read, "tasks": len(tasks)}


def main(order: str, uri: str, _folder: str, store: str, passes: str) -> None:
    paths.start_ray(int(store) * MIB)
    ray.get(ray.put(0))
    before = resident(os.getpid()).total
    dataset, plan = planned(order, uri)
    plan["driver_growth_mib"] = (resident(os.getpid()).total - before) / MIB
    # The first plan of a process imports and starts what it needs; a version that is open is not opened again.
    again = [planned(order, uri)[1] for _ in range(ROUNDS)]
    plan["planning_again_s"] = statistics.median(each["planning_s"] for each in again)
    begin = time.monotonic()
    epochs = [paths.consumed(dataset.iter_torch_batches(batch_size=paths.BATCH)) for _ in range(int(passes))]
    plan["first_batch_s"] = epochs[0].begin - begin
    plan["epoch_s"] = statistics.median(
        end.end - start for start, end in zip([begin, *(each.end for each in epochs)], epochs, strict=False)
    )
    whole = {**asdict(epochs[-1]), "begin": epochs[0].begin}
    print(json.dumps({**whole, **plan, "spilled_objects": paths.spilled_objects()}))
    ray.shutdown()


if __name__ == "__main__":
    main(*sys.argv[1:])
