"""The Lance reads in a Ray dataset's plan."""

from __future__ import annotations

from ray.data import Dataset

from ray_lance.data.datasource import LanceDatasource
from ray_lance.errors import InvalidArgumentError
from ray_lance.ray_internals.plans import optimized_sources, read_sources
from ray_lance.scan.dictionaries import categories_of
from ray_lance.tensors import Categories

__all__ = ["categories_read", "lance_reads", "optimized_lance_reads"]


def lance_reads(dataset: Dataset) -> list[LanceDatasource]:
    """What reads Lance in the plan of ``dataset``, before anything is pushed down."""
    return [source for source in read_sources(dataset) if isinstance(source, LanceDatasource)]


def optimized_lance_reads(dataset: Dataset) -> list[LanceDatasource]:
    """What reads Lance when ``dataset`` is executed, with what Ray pushes down to it."""
    return [source for source in optimized_sources(dataset) if isinstance(source, LanceDatasource)]


def categories_read(dataset: Dataset) -> Categories:
    """The categories of the columns that ``dataset`` reads.

    Raises:
        InvalidArgumentError: It reads nothing, because it was materialized, or several sources.
    """
    reads = lance_reads(dataset)
    if len(reads) != 1:
        raise InvalidArgumentError(
            f"categories: this Ray dataset reads {len(reads)} sources of Lance, and categories are known of one: give "
            "those of the dataset that read_lance returned, categories=ray_lance.read_lance(...).categories"
        )
    return categories_of(reads[0].scan)
