"""What a Ray dataset reads, and the same transformations over another read.

Ray shows plans nowhere in its public interface. The public way is a lineage: what our own datasets note when their
methods are called (``data/dataset.py``).
"""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import ray
from ray.data import DataContext, Dataset

from ray_lance.ray_internals.lineage import BottomRead, lineage_of
from ray_lance.ray_internals.ways import fast_module

__all__ = ["bottom_read", "optimized_sources", "over", "read_cpus", "read_sources"]

_plans = fast_module("_plans", "plans of Ray datasets, with what Ray pushes down, in explain")

# Transformations that keep rows and their order; those of map_batches are counted, as its function may not.
_KEEPING_ROWS = (
    "add_column",
    "drop_columns",
    "map",
    "map_batches",
    "rename_columns",
    "select_columns",
    "with_column",
    "with_columns",
)


def read_sources(dataset: Dataset) -> list[Any]:
    """The datasources that ``dataset`` reads, before anything is pushed down."""
    return list(lineage_of(dataset).sources) if _plans is None else _plans.read_sources(dataset)


def optimized_sources(dataset: Dataset) -> list[Any]:
    """The datasources that are read when it is executed; by the public way, before anything is pushed down."""
    return read_sources(dataset) if _plans is None else _plans.optimized_sources(dataset)


def bottom_read(dataset: Dataset) -> BottomRead:
    """What ``dataset`` begins with, and what changes the rows after that."""
    if _plans is not None:
        return _plans.bottom_read(dataset)  # type: ignore[no-any-return]
    lineage = lineage_of(dataset)
    if not lineage.sources:
        return BottomRead(type(dataset).__name__, None)
    changing = [_as_operator(name) for name, _, _ in lineage.steps if name not in _KEEPING_ROWS]
    return BottomRead("Read", lineage.sources[0], next(iter(changing), None))


def read_cpus(dataset: Dataset) -> float:
    """CPUs that each task of the first read reserves."""
    if _plans is not None:
        return _plans.read_cpus(dataset)  # type: ignore[no-any-return]
    arguments = lineage_of(dataset).arguments
    cpus = {**dict(arguments.get("ray_remote_args") or {}), **arguments}.get("num_cpus")
    return 1.0 if cpus is None else float(cpus)


def over(dataset: Any, source: Any, kind: Any) -> Any:
    """The same transformations over another read, with a context of its own.

    Args:
        dataset: A dataset of class ``kind``.
        source: The datasource to read.
        kind: The class of the result, with the classmethod ``of``.
    """
    if _plans is not None:
        return _plans.over(dataset, source, kind)
    lineage = replace(lineage_of(dataset), steps=())
    own = kind.of(ray.data.read_datasource(source, **lineage.arguments), replace(lineage, sources=(source,)))
    for name, args, kwargs in lineage_of(dataset).steps:
        own = getattr(own, name)(*args, **kwargs)
    for each in fields(DataContext):
        setattr(own.context, each.name, getattr(dataset.context, each.name))
    own.set_name(dataset.name)
    return own


def _as_operator(method: str) -> str:
    """The name that Ray gives to what a method adds to a plan: ``RandomShuffle`` for ``random_shuffle``."""
    return "".join(word.capitalize() for word in method.split("_"))
