"""What a Ray dataset was made of: noted by our own datasets when their methods are called (``data/dataset.py``)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ray_lance.errors import InvalidArgumentError

__all__ = ["BottomRead", "Lineage", "check_rows", "lineage_of"]


@dataclass(frozen=True)
class BottomRead:
    """What a plan begins with.

    Attributes:
        name: Name of the first operator.
        source: Its datasource; None where it is no read.
        changed_by: The first transformation that changes which rows there are or their order.
    """

    name: str
    source: Any
    changed_by: str | None = None


@dataclass(frozen=True)
class Lineage:
    """How a Ray dataset was made by public methods.

    Attributes:
        sources: The datasources that it reads; the first is that of the dataset whose methods were called.
        arguments: What ``ray.data.read_datasource`` was given beside it.
        steps: Name, positional arguments and keywords of each method that was called, one after the other.
    """

    sources: tuple[Any, ...] = ()
    arguments: Mapping[str, Any] = field(default_factory=dict)
    steps: tuple[tuple[str, tuple[Any, ...], Mapping[str, Any]], ...] = ()

    def then(self, name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Lineage:
        """What another method makes of it."""
        joined = [each for arg in (*args, *kwargs.values()) for each in lineage_of(arg).sources]
        return replace(self, sources=(*self.sources, *joined), steps=(*self.steps, (name, tuple(args), dict(kwargs))))


def lineage_of(dataset: Any) -> Lineage:
    """What was noted of ``dataset``; nothing for datasets of Ray's own class, and for other values."""
    lineage = getattr(dataset, "lineage", None)
    return lineage if isinstance(lineage, Lineage) else Lineage()


def check_rows(delivered: int, read: int) -> None:
    """Refuse an execution that has delivered more or fewer rows than were read.

    Raises:
        InvalidArgumentError: It has.
    """
    if delivered != read:
        raise InvalidArgumentError(
            f"the transformations after the read made {'more than ' if delivered > read else ''}"
            f"{min(delivered, read)} rows of {read}: batches can only be counted where they keep the number of "
            "rows. Choose rows with Permutation(source, filter=...) and let map_batches return as many as it gets"
        )
