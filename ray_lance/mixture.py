"""Mixtures: several permutations and their proportions in, one order over the rows of all of them out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any, TypeAlias, get_args

from ray_lance.arguments import as_choice, as_count, as_flag, as_integer, as_names, as_text, shown
from ray_lance.errors import InvalidArgumentError, UnknownColumnError
from ray_lance.notebook import Count
from ray_lance.order import MixedPermutation, MixedSource, Shares, Stage
from ray_lance.order.mixture import Stopping, check_stages, epoch_rows
from ray_lance.order.shares import MAX_POSITION, whole_numbers
from ray_lance.order.shuffle import Auto
from ray_lance.order.split import Fractions
from ray_lance.ordered import Ordered
from ray_lance.permutation import Permutation
from ray_lance.scan.pushdown import Columns
from ray_lance.scan.scan import META_COLUMNS, ROW_ADDRESS, has_column
from ray_lance.scan.stored_rows import MixedPart, MixedStoredRows
from ray_lance.tensors import Categories

__all__ = ["Mixture"]

Weight: TypeAlias = int | float | Fraction
Weights: TypeAlias = Mapping[str, Weight] | Sequence[Weight]
Schedule: TypeAlias = Sequence[tuple[int, Weights]]


class Mixture(Ordered):
    """An order over the rows of several permutations, mixed in exact proportions.

    After any number n of rows, each source has given ``n * weight`` of them, plus or minus :attr:`bound`: less than two
    rows, whatever n is. Each source is read in its own order and runs through its own epochs, reshuffled each time if
    it is shuffled. Nothing is materialised: which row of which source stands at a position is arithmetic. Frozen: every
    method returns a new one. Pickles as a recipe.

    Args:
        sources: What is mixed, by name: permutations, or whatever :class:`~ray_lance.Permutation` takes. They may
            differ in table, version, filter, columns and shuffle.
        weights: Proportions of any sum, by name or in the order of ``sources``; floats count as the decimals that they
            are written as. A list of ``(from_row, weights)`` changes them at these rows, counted from the first row of
            the first epoch on; the rows before stay as they were. Default: the numbers of rows.
        repeat: Passes over each source in an epoch, instead of weights: ``{"math": 2.5}``; 1 where a source is not
            named.
        epoch_size: Rows of an epoch.
        stopping: Where an epoch ends. ``"first_exhausted"``: before a row would come twice in it. ``"all_exhausted"``:
            when every row has come. Both begin every epoch with a new pass over each source. ``"repeat"``: after
            ``epoch_size`` rows (by default as many as the sources have), and the next epoch goes on where the sources
            are. Default: ``"repeat"`` with ``epoch_size``, ``repeat`` or a schedule, else ``"first_exhausted"``.
        stratified: Whether each global batch is a run of the order, so that the proportions hold after each of them,
            at any world size. It is then read in one lane. Otherwise they hold in each lane.
        source_column: Name of a column to add, which holds the name of each row's source.

    Raises:
        InvalidArgumentError: There is no source, or an empty one; weights do not fit; arguments contradict each other.
        DatasetNotFoundError: There is no such dataset or version.

    Example:
        >>> mixture = Mixture({"web": web.shuffle(1), "math": math.shuffle(2)}, weights=[0.9, 0.1])  # doctest: +SKIP
        >>> LanceIterableDataset(mixture, batch_size=256)  # doctest: +SKIP
    """

    def __init__(
        self,
        sources: Mapping[str, Any],
        *,
        weights: Weights | Schedule | None = None,
        repeat: Mapping[str, Weight] | None = None,
        epoch_size: int | None = None,
        stopping: Stopping | None = None,
        stratified: bool = False,
        source_column: str | None = None,
    ) -> None:
        self._settings = _Settings(weights, repeat, epoch_size, stopping)
        self._stratified = as_flag("stratified", stratified)
        self._sources = _opened(sources)
        self._source_column = _source_column(source_column, self._sources)
        self._order = self._settings.order(self._sources)
        self._fixed_epoch = False

    @property
    def sources(self) -> dict[str, Permutation]:
        """What is mixed, by name."""
        return dict(self._sources)

    @property
    def order(self) -> MixedPermutation:
        """The order itself, as arithmetic."""
        return self._order

    @property
    def fixed_epoch(self) -> bool:
        """Whether :meth:`epoch` has fixed the epoch; otherwise each pass is the next one."""
        return self._fixed_epoch

    @property
    def lanes(self) -> int | None:
        """1 where the mixture is stratified, else None: any number."""
        return 1 if self._stratified else None

    @property
    def bound(self) -> float:
        """How many rows a source may be off its share after any number of rows: at most 1.68, 0.5 for two sources.

        Where the weights change, the rows since the change are meant.
        """
        return self._order.bound

    @property
    def categories(self) -> Categories:
        """The categories of the dictionary-encoded columns of all sources, by column."""
        return self.stored().categories

    def counts(self, rows: int | None = None) -> dict[str, int]:
        """How many rows of each source are among the first ``rows``, by default among all of an epoch."""
        stop = len(self) if rows is None else min(as_integer("rows", rows, 0), len(self))
        return dict(zip(self._sources, self._order.counts(stop), strict=True))

    def shuffle(self, seed: int, clump: int | Auto = "auto", window: int | Auto = "auto") -> Mixture:
        """Shuffle each of the sources, as :meth:`ray_lance.Permutation.shuffle` does; proportions stay as they are."""
        return self._of({name: source.shuffle(seed, clump, window) for name, source in self._sources.items()})

    def split(
        self, fractions: Fractions, seed: int | None = 0, by: str | Sequence[str] | None = None
    ) -> dict[str, Mixture]:
        """Mixtures of disjoint parts of each source; see :meth:`ray_lance.Permutation.split`.

        Raises:
            InvalidArgumentError: This is a slice, or has an ``epoch_size``, which would not fit its parts.
        """
        if self._settings.epoch_size is not None or len(self) != self._order.count:
            raise InvalidArgumentError(
                "split: this mixture is a slice, or has an epoch_size, which would not fit its parts. Split the "
                "sources and mix their parts"
            )
        parts = {name: source.split(fractions, seed, by) for name, source in self._sources.items()}
        names = next(iter(parts.values()))
        return {part: self._remixed({name: found[part] for name, found in parts.items()}) for part in names}

    def stored(self, columns: Columns = None, *, with_row_address: bool = False) -> MixedStoredRows:
        """What reads the rows, for those who know their numbers.

        Args:
            columns: As for :func:`ray_lance.read_lance`. A column that only some of the sources have is null in the
                rows of the others.
            with_row_address: Whether to add the column ``_rowaddr``.

        Raises:
            UnknownColumnError: No source has one of the columns.
        """
        total = max(1, self._order.count)
        counts = replace(self._order, start=0, stop=None).counts()
        parts = [
            MixedPart(
                name,
                count / total,
                source.stored(self._columns_of(source, columns), with_row_address=with_row_address),
                source.order.row_set,
            )
            for (name, source), count in zip(self._sources.items(), counts, strict=True)
        ]
        if columns is None:
            return MixedStoredRows(tuple(parts), None, self._source_column)
        names = tuple(columns)
        self._check_columns(names, parts)
        added = (ROW_ADDRESS,) if with_row_address and ROW_ADDRESS not in names else ()
        return MixedStoredRows(tuple(parts), names + added, self._source_column)

    def describe(self) -> dict[str, Any]:
        """What makes the order what it is, except the epoch, in plain JSON types."""
        described = {
            name: {
                **source.describe(),
                "first_epoch": source.order.epoch_number,
                "fixed_epoch": source.fixed_epoch,
            }
            for name, source in self._sources.items()
        }
        return {**self._order.describe(), "names": list(self._sources), "sources": described}

    def _columns_of(self, source: Permutation, columns: Columns) -> Columns:
        if columns is None or isinstance(columns, (str, Mapping)):
            return columns  # of a string the scan says what is wrong
        schema = source.table.open().schema
        return [name for name in as_names("columns", columns) if name in META_COLUMNS or has_column(schema, name)]

    def _check_columns(self, names: Sequence[str], parts: Sequence[MixedPart]) -> None:
        known = {self._source_column, *(name for part in parts for name in part.rows.names)}
        for name in names:
            if name not in known:
                every = [source.table.open().schema.names for source in self._sources.values()]
                available = dict.fromkeys(column for schema in every for column in schema)
                raise UnknownColumnError("columns", name, available)

    def _facts(self) -> dict[str, Any]:
        """Facts to show; None for what does not apply."""
        first = self._order.stages[0].shares.weights
        shares = {name: round(weight / sum(first), 6) for name, weight in zip(self._sources, first, strict=True)}
        changes = [Count(stage.from_row) for stage in self._order.stages[1:]]
        return {
            "sources": shares,
            "rows": Count(len(self)),
            "changes_at": changes or None,
            "stratified": self._stratified or None,
            "source_column": self._source_column,
            "epoch": self._order.epoch_number if self._fixed_epoch else None,
        }

    def _over(self, order: MixedPermutation, *, fixed_epoch: bool | None = None) -> Mixture:
        made = self.__class__.__new__(self.__class__)
        made.__dict__.update(self.__dict__)
        made._order = order
        made._fixed_epoch = self._fixed_epoch if fixed_epoch is None else fixed_epoch
        return made

    def _of(self, sources: dict[str, Permutation]) -> Mixture:
        """The same order over other orders of the same rows."""
        made = self._over(replace(self._order, sources=_mixed(sources)))
        made._sources = sources
        return made

    def _remixed(self, sources: dict[str, Permutation]) -> Mixture:
        """The same settings for other sources."""
        made = self._over(self._settings.order(_opened(sources)))
        made._sources = sources
        return made


@dataclass(frozen=True)
class _Settings:
    """How sources are mixed; see :class:`Mixture`."""

    weights: Any
    repeat: Mapping[str, Weight] | None
    epoch_size: int | None
    stopping: Stopping | None

    def __post_init__(self) -> None:
        if self.stopping is not None:
            as_choice("stopping", self.stopping, get_args(Stopping))
        if self.epoch_size is not None:
            object.__setattr__(self, "epoch_size", as_count("epoch_size", self.epoch_size))
        if self.repeat is not None and self.weights is not None:
            raise InvalidArgumentError("repeat= and weights= both say how much of a source is read: give one of them")
        if self._goes_on and self.stopping not in (None, "repeat"):
            what = "weights that change" if self.repeat is None else "repeat="
            raise InvalidArgumentError(
                f"stopping={self.stopping!r} does not go with {what}, which may exhaust a source anywhere: leave it "
                "out, or give stopping='repeat'"
            )
        if self.stopping == "all_exhausted" and self.epoch_size is not None:
            raise InvalidArgumentError(
                f"epoch_size={self.epoch_size} does not go with stopping='all_exhausted', which says itself where an "
                "epoch ends: leave one of them out"
            )

    @property
    def _goes_on(self) -> bool:
        """Whether a source may end before an epoch does."""
        return self.repeat is not None or _is_schedule(self.weights)

    @property
    def rule(self) -> Stopping:
        """Where an epoch ends."""
        return self.stopping or ("repeat" if self._goes_on or self.epoch_size is not None else "first_exhausted")

    def order(self, sources: Mapping[str, Permutation]) -> MixedPermutation:
        """The sources, mixed."""
        lengths = [len(source) for source in sources.values()]
        stages = self._stages(list(sources), lengths)
        count = self._count(stages[0].shares, lengths, list(sources))
        if count >= MAX_POSITION:
            raise InvalidArgumentError(f"an epoch has {count} rows, and must have less than 2**62: give epoch_size")
        return MixedPermutation(_mixed(sources), stages, count, restarts=self.rule != "repeat")

    def _stages(self, names: Sequence[str], lengths: Sequence[int]) -> tuple[Stage, ...]:
        if _is_schedule(self.weights):
            given = [
                (as_integer("from_row", row, 0), _weights(f"weights from row {row}", found, names, may_be_zero=True))
                for row, found in self.weights
            ]
            stages = tuple(Stage(row, Shares(whole_numbers(found))) for row, found in given)
            check_stages(stages)
            return stages
        if self.weights is not None:
            found = _weights("weights", self.weights, names)
        else:
            passes = _passes(self.repeat or {}, names)
            found = [count * length for count, length in zip(passes, lengths, strict=True)]
        return (Stage(0, Shares(whole_numbers(found))),)

    def _count(self, shares: Shares, lengths: Sequence[int], names: Sequence[str]) -> int:
        if self.rule == "repeat":
            if self.epoch_size is not None:
                return self.epoch_size
            passes = _passes(self.repeat or {}, names)
            return max(1, round(sum(count * length for count, length in zip(passes, lengths, strict=True))))
        count = epoch_rows(shares, lengths, self.rule)
        if self.epoch_size is not None and self.epoch_size > count:
            raise InvalidArgumentError(
                f"epoch_size={self.epoch_size}: with stopping='first_exhausted' a source is exhausted after {count} "
                "rows. Take at most that, or stopping='repeat'"
            )
        return self.epoch_size or count


def _mixed(sources: Mapping[str, Permutation]) -> tuple[MixedSource, ...]:
    return tuple(MixedSource(source.order, source.fixed_epoch) for source in sources.values())


def _opened(sources: Any) -> dict[str, Permutation]:
    """The sources as permutations, none of them empty."""
    if not isinstance(sources, Mapping) or not sources:
        raise InvalidArgumentError(f"sources={shown(sources)} must be a dict of one permutation by name at least")
    found: dict[str, Permutation] = {}
    for name, source in sources.items():
        as_text("sources", name, "a name for each source, such as 'web'")
        if isinstance(source, Mixture):
            raise InvalidArgumentError(
                f"sources[{name!r}] is a mixture: mix its sources here, with their weights multiplied"
            )
        try:
            found[name] = source if isinstance(source, Permutation) else Permutation(source)
        except InvalidArgumentError as error:
            raise InvalidArgumentError(f"sources[{name!r}]: {error}") from None
        if not len(found[name]):
            raise InvalidArgumentError(f"sources[{name!r}] has no rows: leave it out")
    return found


def _source_column(name: str | None, sources: Mapping[str, Permutation]) -> str | None:
    if name is None:
        return None
    as_text("source_column", name, "the name of a column, such as 'source'")
    for source, permutation in sources.items():
        if name in permutation.table.open().schema.names or name in META_COLUMNS:
            raise InvalidArgumentError(f"source_column={name!r} is a column of source {source!r}: take another name")
    return name


def _is_schedule(weights: Any) -> bool:
    """Whether these are pairs of a row and weights."""
    if isinstance(weights, (str, Mapping)) or not isinstance(weights, Sequence) or not weights:
        return False
    return all(isinstance(stage, (tuple, list)) and len(stage) == 2 for stage in weights)


def _weights(argument: str, given: Any, names: Sequence[str], *, may_be_zero: bool = False) -> list[Fraction]:
    """One weight for each source, in their order."""
    if isinstance(given, Mapping):
        if set(given) != set(names):
            raise InvalidArgumentError(
                f"{argument}: they are of {sorted(map(str, given))}, and the sources are {list(names)}"
            )
        values = [given[name] for name in names]
    elif isinstance(given, str) or not hasattr(given, "__len__") or len(given) != len(names):
        raise InvalidArgumentError(
            f"{argument}={shown(given)} must be one number for each of the {len(names)} sources {list(names)}"
        )
    else:
        values = list(given)
    found = [_number(f"{argument}: of {name!r}", value, may_be_zero) for name, value in zip(names, values, strict=True)]
    if not any(found):
        raise InvalidArgumentError(f"{argument}={shown(given)}: one of them must be larger than 0")
    return found


def _passes(given: Any, names: Sequence[str]) -> list[Fraction]:
    """How often each source is read in an epoch."""
    if not isinstance(given, Mapping):
        raise InvalidArgumentError(f"repeat={shown(given)} must be a dict of numbers by name, such as {{'math': 2.5}}")
    if unknown := [name for name in given if name not in names]:
        raise InvalidArgumentError(f"repeat: there are no sources {unknown}, only {list(names)}")
    return [_number(f"repeat: of {name!r}", given.get(name, 1), may_be_zero=False) for name in names]


def _number(argument: str, value: Any, may_be_zero: bool) -> Fraction:
    """A number, exactly; a float as the decimal that it is written as."""
    try:
        if isinstance(value, (bool, str)):
            raise TypeError
        plain = value.item() if hasattr(value, "item") else value
        found = plain if isinstance(plain, Fraction) else Fraction(repr(plain))
    except (TypeError, ValueError, AttributeError):
        raise InvalidArgumentError(f"{argument}: {shown(value)} must be a finite number") from None
    if found < 0 or (found == 0 and not may_be_zero):
        rule = "at least 0" if may_be_zero else "larger than 0: leave a source out that is not to be read"
        raise InvalidArgumentError(f"{argument}: {shown(value)} must be {rule}")
    return found
