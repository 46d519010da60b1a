"""New columns of a dataset that exists: what is to be computed, and what the dataset itself says of it.

All state lies in the dataset. A column's field metadata holds a record: how the column is made, its generation,
and which job may commit to it. The names of the files that jobs of one generation write begin with the generation,
so that the files of a fragment tell whether the fragment is done. That survives everything that others may do:
appended and rewritten fragments have other files, and then nulls tell which rows lack values.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace

import lance
import numpy as np
import pyarrow as pa
from lance.fragment import DataFile, FragmentMetadata

from ray_lance.errors import InvalidArgumentError, SchemaMismatchError
from ray_lance.write.job import WriteJob

__all__ = [
    "RECORD_KEY",
    "ColumnJob",
    "ColumnRecord",
    "FragmentWork",
    "Pass",
    "Plan",
    "Recipe",
    "check_columns",
    "column_fields",
    "count_selected",
    "plan",
    "record_of",
    "recorded_columns",
]

RECORD_KEY = "ray_lance.columns"
ROW_ADDRESS = "_rowaddr"


@dataclass(frozen=True)
class Recipe:
    """How the columns are made: two calls with equal recipes go on with each other's work.

    Attributes:
        input_columns: The columns that the values are computed from.
        where: Condition of the rows that get values; None for all.
        function: Name of the function or class.
        arguments: What else the function is given, as text.
    """

    input_columns: tuple[str, ...]
    where: str | None
    function: str
    arguments: str

    def difference(self, other: Recipe) -> str:
        """The first part in which two recipes differ, as text; empty where they are equal."""
        for name, mine in asdict(self).items():
            theirs = getattr(other, name)
            if mine != theirs:
                return f"{name}={theirs!r} then, {name}={mine!r} now"
        return ""


@dataclass(frozen=True)
class ColumnRecord:
    """What the dataset keeps of a computation, in the field metadata of each of its columns.

    Attributes:
        columns: The columns that are computed together.
        recipe: How they are made.
        generation: Begins the names of all files that belong to this computation; 16 hexadecimal digits.
        owner: Id of the job that may commit; empty when the last job came to its end. 16 hexadecimal digits.
        unfinished: Ids of earlier jobs that did not come to their end and may have left files.
        since: The version that the first of the unfinished jobs began with.
        replaces: Whether every fragment without a file of this generation is to be computed anew. Otherwise only
            rows without a value are.
    """

    columns: tuple[str, ...]
    recipe: Recipe
    generation: str = field(default_factory=lambda: new_id())
    owner: str = ""
    unfinished: tuple[str, ...] = ()
    since: int = 0
    replaces: bool = False

    def claimed(self, version: int) -> ColumnRecord:
        """The record of a new job that goes on with the computation at ``version``."""
        unfinished = (*self.unfinished, self.owner) if self.owner else self.unfinished
        return replace(self, owner=new_id(), unfinished=unfinished, since=self.since if unfinished else version)

    def finished(self) -> ColumnRecord:
        """The record after the last fragment."""
        return replace(self, owner="", unfinished=(), since=0, replaces=False)

    def to_json(self) -> str:
        """The record as text."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> ColumnRecord:
        """The record that :meth:`to_json` made ``text`` of."""
        values = json.loads(text)
        recipe = values["recipe"]
        recipe["input_columns"] = tuple(recipe["input_columns"])
        tuples = {name: tuple(values[name]) for name in ("columns", "unfinished")}
        return cls(**{**values, **tuples, "recipe": Recipe(**recipe)})


@dataclass(frozen=True)
class ColumnJob:
    """One call's work on the columns, as tasks on all machines see it.

    Attributes:
        target: The dataset, pinned to the version that the work was planned on.
        record: What the dataset keeps of it; its owner is this job.
        schema: The new columns.
    """

    target: WriteJob
    record: ColumnRecord
    schema: pa.Schema

    @property
    def file_prefix(self) -> str:
        """Begins the names of all files of this job."""
        return f"{self.record.generation}-{self.record.owner}"

    def field_ids(self) -> list[int]:
        """Ids of the columns' fields, children behind their parents."""
        return field_ids(self.target.table.open(), self.schema.names)


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
    """Fragments whose rows are read with the same filter.

    Attributes:
        filter: SQL condition of the rows to compute; None for all.
        fragments: The fragments, in scan order.
    """

    filter: str | None
    fragments: tuple[FragmentWork, ...]

    def counted(self, counts: Mapping[int, int]) -> Pass:
        """The same pass with the number of rows of each fragment that pass the filter; without those of none."""
        found = [replace(work, rows=counts.get(work.fragment_id, 0)) for work in self.fragments]
        return replace(self, fragments=tuple(work for work in found if work.rows))


@dataclass(frozen=True)
class Plan:
    """What is to be done.

    Attributes:
        passes: What to read and compute.
        done: Fragments that have their values already.
    """

    passes: tuple[Pass, ...]
    done: int


def new_id() -> str:
    """16 random hexadecimal digits."""
    return uuid.uuid4().hex[:16]


def record_of(schema: pa.Schema, column: str) -> ColumnRecord | None:
    """What the dataset keeps of the computation of ``column``; None for other columns."""
    if column not in schema.names:
        return None
    text = (schema.field(column).metadata or {}).get(RECORD_KEY.encode())
    return None if text is None else ColumnRecord.from_json(text.decode())


def recorded_columns(schema: pa.Schema, recipe: Recipe) -> pa.Schema | None:
    """The columns that an earlier call with the same recipe made; None where there was none."""
    for column in schema:
        record = record_of(schema, column.name)
        if record is not None and record.recipe == recipe and set(record.columns) <= set(schema.names):
            return column_fields(schema, record.columns)
    return None


def column_fields(schema: pa.Schema, names: Iterable[str]) -> pa.Schema:
    """The named fields of a dataset's schema, without the record."""
    fields = []
    for name in names:
        kept = {key: text for key, text in (schema.field(name).metadata or {}).items() if key != RECORD_KEY.encode()}
        fields.append(schema.field(name).with_metadata(kept or None))
    return pa.schema(fields)


def check_columns(schema: pa.Schema, columns: pa.Schema, recipe: Recipe, *, overwrite: bool) -> ColumnRecord:
    """The record to go on with: that of an interrupted or earlier call, or a new one.

    Args:
        schema: The dataset's schema.
        columns: The new columns.
        recipe: How they are made.
        overwrite: Whether columns that exist are computed anew.

    Raises:
        InvalidArgumentError: A column exists and is not the result of an earlier call with the same recipe, or it is
            computed from itself.
        SchemaMismatchError: A column exists with another type.
    """
    circular = [name for name in columns.names if name in {path.split(".")[0] for path in recipe.input_columns}]
    if circular:
        raise InvalidArgumentError(
            f"input_columns={list(recipe.input_columns)} holds the new column {circular[0]!r}: a column computed from "
            "itself could not be continued after a failure; give the new column another name"
        )
    existing = [name for name in columns.names if name in schema.names]
    if existing and not overwrite:
        record = _same_record(schema, columns, recipe)
    else:
        record = ColumnRecord(tuple(columns.names), recipe, replaces=bool(existing))
    for name in existing:
        if schema.field(name).type != columns.field(name).type:
            raise SchemaMismatchError(
                f"column {name!r} is {schema.field(name).type} in the dataset and {columns.field(name).type} now: "
                "drop it first (lance's drop_columns), or give the new column another name"
            )
    return record


def _same_record(schema: pa.Schema, columns: pa.Schema, recipe: Recipe) -> ColumnRecord:
    for name in columns.names:
        record = record_of(schema, name)
        if name in schema.names and record is None:
            raise InvalidArgumentError(
                f"the column {name!r} exists already: give the new column another name, or overwrite=True to replace "
                "its values"
            )
        if record is not None and (difference := recipe.difference(record.recipe)):
            raise InvalidArgumentError(
                f"the column {name!r} exists already and was computed differently ({difference}): give overwrite=True "
                "to compute it anew, or the new column another name"
            )
    first = record_of(schema, columns.names[0])
    if first is None or set(first.columns) != set(columns.names):
        raise InvalidArgumentError(
            f"columns {columns.names}: some of them exist already, computed together with others; give overwrite=True "
            "to compute all of them anew"
        )
    return first


def plan(dataset: lance.LanceDataset, record: ColumnRecord) -> Plan:
    """What is to be computed on ``dataset``. Rows are counted before any filter.

    A fragment whose columns lie in files of the record's generation is done. One with no such column is computed as a
    whole. One with files of another origin (rewritten by a compaction, say) is computed where values are missing, or
    as a whole when the record replaces.
    """
    names = [name for name in record.columns if name in dataset.schema.names]
    columns = field_ids(dataset, names)
    where = record.recipe.where
    blank: list[FragmentWork] = []
    partial: list[FragmentWork] = []
    done = 0
    for fragment in dataset.get_fragments():
        metadata = fragment.metadata
        state = _state(metadata, columns, record, len(names))
        keeps = state == "partial" and not (record.replaces and where is None)
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
    fragments = [dataset.get_fragment(fragment_id) for fragment_id in fragment_ids]
    scanner = dataset.scanner(columns=[], filter=filter, with_row_address=True, fragments=fragments)
    counts: dict[int, int] = {}
    for batch in scanner.to_batches():
        ids, rows = np.unique(batch[ROW_ADDRESS].to_numpy() >> np.uint64(32), return_counts=True)
        for fragment_id, count in zip(ids.tolist(), rows.tolist(), strict=True):
            counts[fragment_id] = counts.get(fragment_id, 0) + count
    return counts


def field_ids(dataset: lance.LanceDataset, names: Iterable[str]) -> list[int]:
    """Ids of the fields of columns and of all below them, parents first, columns in the order of ``names``."""
    fields = {each.name(): each for each in dataset.lance_schema.fields()}
    return [field_id for name in names for field_id in walk_ids([fields[name]])]


def walk_ids(fields: Iterable[lance.schema.LanceField]) -> Iterator[int]:
    """Ids of fields and of all below them, parents first."""
    for each in fields:
        yield each.id()
        yield from walk_ids(each.children())


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
    nulls = " OR ".join(f"`{name}` IS NULL" for name in names)
    if not nulls:
        return where
    return nulls if where is None else f"({where}) AND ({nulls})"
