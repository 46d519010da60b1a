"""What differs from dataset to dataset in how the ranks share it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, get_args

from ray_lance.arguments import as_choice, as_integer
from ray_lance.errors import InvalidArgumentError
from ray_lance.order import Tail
from ray_lance.train.layout import ShardLayout

__all__ = ["DatasetOptions"]


@dataclass(frozen=True)
class DatasetOptions:
    """How one dataset is shared; None leaves it to the :class:`LanceDataConfig`.

    Attributes:
        global_batch_size: Rows of a step over all ranks, the same at every world size.
        batch_size: Rows of a step per rank, instead.
        lanes: Ranges of the order that each step takes rows from; see :class:`LanceDataConfig`.
        tail: ``"drop"``, ``"pad"`` or ``"uneven"``.
    """

    global_batch_size: int | None = None
    batch_size: int | None = None
    lanes: int | None = None
    tail: Tail | None = None

    def __post_init__(self) -> None:
        for name in ("global_batch_size", "batch_size", "lanes"):
            if (value := getattr(self, name)) is not None:
                object.__setattr__(self, name, as_integer(name, value, 1))
        if self.global_batch_size is not None and self.batch_size is not None:
            raise InvalidArgumentError(
                f"global_batch_size={self.global_batch_size} and batch_size={self.batch_size}: give one of them; the "
                "first is over all ranks, the second per rank"
            )
        if self.tail is not None:
            as_choice("tail", self.tail, get_args(Tail))
        if self.global_batch_size is not None and self.lanes is not None and self.global_batch_size % self.lanes:
            raise InvalidArgumentError(
                f"lanes={self.lanes} does not divide global_batch_size={self.global_batch_size}: each step takes the "
                "same number of rows from every lane"
            )

    @classmethod
    def of(cls, name: str, options: DatasetOptions | Mapping[str, Any]) -> DatasetOptions:
        """The options of one dataset, which may be given as a mapping.

        Args:
            name: Name of the dataset, for messages.
            options: Options, or a mapping of their names to their values.

        Raises:
            InvalidArgumentError: It is neither, or an option is unknown or breaks its rule.
        """
        if isinstance(options, DatasetOptions):
            return options
        known = [option.name for option in fields(cls)]
        if not isinstance(options, Mapping):
            raise InvalidArgumentError(f"datasets[{name!r}]={options!r} must be DatasetOptions, or a dict of {known}")
        for unknown in options.keys() - set(known):
            raise InvalidArgumentError(f"datasets[{name!r}] has an unknown option {unknown!r}: the options are {known}")
        try:
            return cls(**options)
        except InvalidArgumentError as error:
            raise InvalidArgumentError(f"datasets[{name!r}]: {error}") from None

    def over(self, default: DatasetOptions) -> DatasetOptions:
        """These options, with what is None taken from ``default``."""
        has_batch = self.global_batch_size is not None or self.batch_size is not None
        return DatasetOptions(
            global_batch_size=self.global_batch_size if has_batch else default.global_batch_size,
            batch_size=self.batch_size if has_batch else default.batch_size,
            lanes=default.lanes if self.lanes is None else self.lanes,
            tail=default.tail if self.tail is None else self.tail,
        )

    def layouts(self, name: str, world_size: int) -> list[ShardLayout]:
        """The layout of each rank.

        Args:
            name: Name of the dataset, for messages.
            world_size: Number of ranks.

        Raises:
            InvalidArgumentError: There is no batch size, or the ranks or lanes cannot share it.
        """
        if self.global_batch_size is None and self.batch_size is None:
            raise InvalidArgumentError(
                f"dataset {name!r} has no batch size: give LanceDataConfig(global_batch_size=...), which stays the "
                "same at every world size, or batch_size= per rank"
            )
        batch = self.global_batch_size or world_size * (self.batch_size or 0)
        for what, parts in (("world_size", world_size), ("lanes", self.lanes or world_size)):
            if batch % parts:
                lower = batch // parts * parts
                nearest = f"{lower} or {lower + parts}" if lower else f"{parts}"
                raise InvalidArgumentError(
                    f"dataset {name!r}: a global batch of {batch} rows does not divide by {what}={parts}: every rank "
                    f"and every lane has the same share of a step. Nearest global_batch_size: {nearest}"
                )
        return [ShardLayout(batch, world_size, rank, self.lanes, self.tail or "drop") for rank in range(world_size)]
