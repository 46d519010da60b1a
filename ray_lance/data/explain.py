"""Says what a read would do, without doing it."""

from __future__ import annotations

from dataclasses import dataclass

from ray.data import Dataset

from ray_lance.data.datasource import LanceDatasource, PlannedRead
from ray_lance.data.plan import optimized_lance_reads
from ray_lance.errors import InvalidArgumentError
from ray_lance.order import ShuffleQuality, measure_quality
from ray_lance.ray_internals.ways import probed_ways
from ray_lance.scan.reader import PermutationPlan, ReadPlan

__all__ = ["Explanation", "explain_dataset", "explain_datasource", "explain_planned"]


@dataclass(frozen=True)
class Explanation:
    """What a read of Lance tables would do. Its text form is meant to be printed.

    Attributes:
        tables: The tables with their pinned versions, credentials masked.
        columns: Delivered columns with their types.
        filter: The condition that Lance evaluates, or None.
        rows: Live rows to scan, before the filter.
        row_bytes: Mean bytes of a delivered row.
        tasks: Number of read tasks.
        largest_task_rows: Rows of the largest task.
        order: How the rows are ordered.
        sizing: Why there are that many tasks.
        quality: How well a shuffle mixes; None where there is none.
        clump: Neighbouring rows that a shuffle places together; None where there is none.
        window: Positions within which it mixes single rows.
    """

    tables: tuple[str, ...]
    columns: tuple[str, ...]
    filter: str | None
    rows: int
    row_bytes: float
    tasks: int
    largest_task_rows: int
    order: str
    sizing: str
    quality: ShuffleQuality | None = None
    clump: int | None = None
    window: int | None = None

    def __str__(self) -> str:
        scanned = "rows" if self.filter is None else "rows scanned"
        lines = [
            *(f"reads     {table}" for table in self.tables),
            f"columns   {', '.join(self.columns) or '(none: only rows are counted)'}",
            f"filter    {self.filter or '(none)'}" + (" (in Lance)" if self.filter else ""),
            f"{scanned:<9} {self.rows:,}",
            f"order     {self.order}",
            *self._mixing(),
            *(f"ray       {way}" for way in probed_ways() if way.closed),
            f"bytes     about {_in_units(self.rows * self.row_bytes)}, {_in_units(self.row_bytes)} a row",
            f"tasks     {self.tasks:,}, the largest of {self.largest_task_rows:,} rows"
            f" or {_in_units(self.largest_task_rows * self.row_bytes)}",
            f"because   {self.sizing}",
        ]
        return "\n".join(lines)

    def _mixing(self) -> list[str]:
        """What clump and window mean, and how well they mix."""
        if self.quality is None or self.clump is None or self.window is None:
            return []
        placed = "1 row: each is placed by itself" if self.clump == 1 else f"{self.clump:,} neighbouring rows, which"
        clump = placed if self.clump == 1 else f"{placed} are read, and placed, together"
        within = f"{self.window:,} positions, within which single rows are mixed once more"
        return [
            f"clump     {clump}",
            f"window    {within if self.window > 1 else '1 position: clumps of 1 row need no more mixing'}",
            f"mixing    labels of batches are {self.quality.sorted_label_ratio:.2f}x as uneven as a true shuffle's, if "
            f"rows lie sorted by label; neighbours come {self.quality.neighbour_distance_ratio:.2f}x as far apart",
        ]


def explain_dataset(dataset: Dataset) -> list[Explanation]:
    """What each Lance read in a Ray dataset's plan would do, once Ray has pushed down what it can.

    Raises:
        InvalidArgumentError: The plan reads nothing through ray_lance.
    """
    sources = optimized_lance_reads(dataset)
    if not sources:
        raise InvalidArgumentError("explain: this Ray dataset reads no Lance table through ray_lance.read_lance")
    return [explain_datasource(source) for source in sources]


def explain_datasource(datasource: LanceDatasource) -> Explanation:
    """What reading ``datasource`` would do."""
    return explain_planned(datasource.planned())


def explain_planned(planned: PlannedRead) -> Explanation:
    """What a planned read would do."""
    scan, sizing = planned.plan.scan, planned.sizing
    if scan.is_whole:
        why = f"one task for each table, because of {sorted(scan.options)}"
    elif sizing.num_tasks is not None:
        why = f"override_num_blocks={sizing.num_tasks}"
    else:
        why = f"tasks of about {_in_units(sizing.target_bytes)} of the columns that are read"
        if scan.filter is not None:
            why += ", whole fragments because of the filter"
    quality = _quality(planned.plan)
    return Explanation(
        tables=tuple(repr(table) for table in scan.tables),
        columns=tuple(f"{field.name}: {field.type}" for field in planned.plan.schema),
        filter=None if scan.filter is None else str(scan.filter),
        rows=sum(task.num_rows for task in planned.tasks),
        row_bytes=planned.plan.row_bytes,
        tasks=len(planned.tasks),
        largest_task_rows=max((task.num_rows for task in planned.tasks), default=0),
        order=_describe_order(planned.plan, quality),
        sizing=why,
        quality=quality,
        **_sizes(planned.plan),
    )


def _sizes(plan: ReadPlan | PermutationPlan) -> dict[str, int]:
    mixing = None if isinstance(plan, ReadPlan) else plan.order.mixing
    return {} if mixing is None else {"clump": mixing.clump, "window": mixing.window}


def _quality(plan: ReadPlan | PermutationPlan) -> ShuffleQuality | None:
    if isinstance(plan, ReadPlan) or plan.order.mixing is None or not len(plan.order):
        return None
    return measure_quality(plan.order)


def _describe_order(plan: ReadPlan | PermutationPlan, quality: ShuffleQuality | None) -> str:
    if isinstance(plan, ReadPlan):
        return "scan order"
    mixing = plan.order.mixing
    if mixing is None:
        return "permutation, not shuffled"
    if quality is None:
        return f"shuffled with seed {mixing.seed}: there are no rows"
    return f"shuffled with seed {mixing.seed}: clumps of {mixing.clump:,}, windows of {mixing.window:,}"


def _in_units(size: float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"
