"""Plans what to compute: a dataset and a record in, the fragments and rows that lack values out.

The names of files begin with the generation of the computation that wrote them, so that the files of a fragment show
whether the fragment is done. Nothing that others do can break that: fragments that they append or rewrite have other
files, and there nulls show which rows lack values.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import lance
import numpy as np
from lance.fragment import DataFile, FragmentMetadata

from ray_lance.errors import CommitError
from ray_lance.masking import mask_uri
from ray_lance.native_errors import native_errors
from ray_lance.paths import sql_path
from ray_lance.scan.scan import ROW_ADDRESS
from ray_lance.write.column_record import ColumnRecord
from ray_lance.write.field_ids import field_ids

__all__ = [
    "FragmentWork",
    "Matching",
    "Pass",
    "Plan",
    "count_selected",
    "fragments_without",
    "matching",
    "null_condition",
    "plan",
    "refused_rewritten",
]


@dataclass(frozen=True)
class FragmentWork:
    """A fragment that lacks values.

    Attributes:
        fragment_id: The fragment.
        physical_rows: Its rows, deleted ones included.
        rows: Rows to compute.
        keeps: Whether rows that are not computed keep the values they have; otherwise they are null.
        sources: Names and fields of the data files that the values are computed from, and of those that hold kept
            values. The computed values fit as long as the fragment has these files.
    """

    fragment_id: int
    physical_rows: int
    rows: int
    keeps: bool
    sources: tuple[tuple[str, tuple[int, ...]], ...]

    def fits(self, fragment: FragmentMetadata, columns: Sequence[int]) -> bool:
        """Whether values computed for this work belong to ``fragment`` as it is now; ``columns``: their field ids."""
        current = dict(_sources(fragment, () if self.keeps else columns))
        same_rows = fragment.physical_rows == self.physical_rows and not fragment.overlays
        return same_rows and all(current.get(path) == fields for path, fields in self.sources)


@dataclass(frozen=True)
class Pass:
    """Fragments whose rows are read with one filter.

    Attributes:
        filter: SQL condition of the rows to compute; None for all.
        fragments: The fragments, in scan order.
    """

    filter: str | None
    fragments: tuple[FragmentWork, ...]

    def counted(self, counts: Mapping[int, int]) -> Pass:
        """The same pass with the rows of each fragment that pass the filter, without fragments that have none."""
        found = [replace(work, rows=counts.get(work.fragment_id, 0)) for work in self.fragments]
        return replace(self, fragments=tuple(work for work in found if work.rows))


@dataclass(frozen=True)
class Plan:
    """Fragments left to compute.

    Attributes:
        passes: What to read and compute.
        done: Number of fragments that have their values already.
    """

    passes: tuple[Pass, ...]
    done: int

    @property
    def rows(self) -> int:
        """Rows to compute."""
        return sum(work.rows for each in self.passes for work in each.fragments)


@dataclass(frozen=True)
class Matching:
    """The fragments of an earlier version as they are now.

    Attributes:
        works: Those that lack values, by id. Their rows are the live ones of the earlier version.
        done: Ids of those that have values.
    """

    works: Mapping[int, FragmentWork]
    done: frozenset[int]


def matching(
    read: lance.LanceDataset, current: lance.LanceDataset, record: ColumnRecord, *, keeps_others: bool = False
) -> Matching:
    """Find the fragments of ``read`` to which values belong that were computed from its rows.

    Rows that were appended or deleted since do no harm.

    Args:
        read: The version that was read.
        current: The version to write to.
        record: The computation.
        keeps_others: As of :func:`plan`.

    Raises:
        CommitError: Fragments were rewritten since.
    """
    columns = field_ids(current.lance_schema, [name for name in record.columns if name in current.schema.names])
    found = plan(current, record, keeps_others=keeps_others)
    left = {work.fragment_id: work for each in found.passes for work in each.fragments}
    now = {fragment.fragment_id: fragment.metadata for fragment in current.get_fragments()}
    works: dict[int, FragmentWork] = {}
    done, rewritten = set(), []
    for metadata in (fragment.metadata for fragment in read.get_fragments()):
        rows = metadata.num_rows
        before = FragmentWork(metadata.id, metadata.physical_rows, rows, False, _sources(metadata, columns))
        if metadata.id not in now or not before.fits(now[metadata.id], columns):
            rewritten.append(metadata.id)
        elif metadata.id in left and rows:
            works[metadata.id] = replace(left[metadata.id], rows=rows)
        else:
            done.add(metadata.id)
    if rewritten:
        raise CommitError(refused_rewritten(read.version, rewritten))
    return Matching(works, frozenset(done))


def refused_rewritten(version: int, fragment_ids: Sequence[int]) -> str:
    """The message of an error: values of fragments that are not there any more."""
    shown = f"{list(fragment_ids[:5])}{' ...' if len(fragment_ids) > 5 else ''}"
    return (
        f"{len(fragment_ids)} fragments of version {version}, which was read, were rewritten or removed since, by a "
        f"compaction for instance: {shown}. Row addresses of that version are not those of the rows any more: run the "
        "program again from read_lance on, with missing= to compute only what has no value yet"
    )


def fragments_without(dataset: lance.LanceDataset, names: Sequence[str]) -> set[int]:
    """Ids of the fragments that hold no values at all of one of the columns."""
    fields = [set(field_ids(dataset.lance_schema, [name])) for name in names]
    return {
        fragment.fragment_id
        for fragment in dataset.get_fragments()
        if any(each.isdisjoint(_fields_held(fragment.metadata)) for each in fields)
    }


def _fields_held(fragment: FragmentMetadata) -> set[int]:
    return {field for file in fragment.files for field in file.fields}


def plan(dataset: lance.LanceDataset, record: ColumnRecord, *, keeps_others: bool = False) -> Plan:
    """Find what is left to compute on ``dataset``. Rows are counted before any filter.

    A fragment is done if files of the record's generation hold all of its columns. One without any of the columns is
    computed as a whole. One with columns of other files (after a compaction, for instance) is computed where values are
    missing, or as a whole if the record replaces.

    Args:
        dataset: The dataset.
        record: The computation.
        keeps_others: Whether rows that get no value keep the one they have where every row is to get one.
    """
    names = [name for name in record.columns if name in dataset.schema.names]
    columns = field_ids(dataset.lance_schema, names)
    where = record.recipe.where
    blank: list[FragmentWork] = []
    partial: list[FragmentWork] = []
    done = 0
    for fragment in dataset.get_fragments():
        metadata = fragment.metadata
        state = _state(metadata, columns, record, len(names))
        keeps = state == "partial" and not (record.replaces and where is None and not keeps_others)
        sources = _sources(metadata, () if keeps else columns)
        work = FragmentWork(metadata.id, metadata.physical_rows, metadata.num_rows, keeps, sources)
        if state == "done" or metadata.num_rows == 0:
            done += 1
        else:
            (partial if state == "partial" else blank).append(work)
    missing = where if record.replaces else _with_nulls(where, names)
    passes = [Pass(where, tuple(blank)), Pass(missing, tuple(partial))]
    if where == missing:
        passes = [Pass(where, tuple(sorted((*blank, *partial), key=lambda work: work.fragment_id)))]
    return Plan(tuple(each for each in passes if each.fragments), done)


def count_selected(dataset: lance.LanceDataset, fragment_ids: Sequence[int], filter: str) -> dict[int, int]:
    """Live rows for which ``filter`` holds, by fragment."""
    counts: dict[int, int] = {}
    with native_errors(f"counting rows (uri={mask_uri(dataset.uri)!r})"):
        fragments = [dataset.get_fragment(fragment_id) for fragment_id in fragment_ids]
        scanner = dataset.scanner(columns=[], filter=filter, with_row_address=True, fragments=fragments)
        for batch in scanner.to_batches():
            ids, rows = np.unique(batch[ROW_ADDRESS].to_numpy() >> np.uint64(32), return_counts=True)
            for fragment_id, count in zip(ids.tolist(), rows.tolist(), strict=True):
                counts[fragment_id] = counts.get(fragment_id, 0) + count
    return counts


def _state(fragment: FragmentMetadata, columns: Sequence[int], record: ColumnRecord, known: int) -> str:
    """``"done"``, ``"blank"`` (no values at all) or ``"partial"`` (values of another origin)."""
    files = [file for file in fragment.files if not set(file.fields).isdisjoint(columns)]
    if not files:
        return "blank"
    mine = all(file.path.startswith(record.generation) for file in files)
    return "done" if mine and known == len(record.columns) and not fragment.overlays else "partial"


def _sources(fragment: FragmentMetadata, without: Sequence[int]) -> tuple[tuple[str, tuple[int, ...]], ...]:
    files: Iterable[DataFile] = fragment.files
    left_out = set(without)
    kept = [(file.path, tuple(sorted(set(file.fields) - left_out - {-2}))) for file in files]
    return tuple((path, fields) for path, fields in kept if fields)


def _with_nulls(where: str | None, names: Sequence[str]) -> str | None:
    if not names:
        return where
    nulls = null_condition(names)
    return nulls if where is None else f"({where}) AND ({nulls})"


def null_condition(names: Sequence[str]) -> str:
    """SQL condition of the rows that have no value of one of the columns."""
    return " OR ".join(f"{sql_path((name,))} IS NULL" for name in names)
