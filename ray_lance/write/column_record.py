"""Records computed columns in their dataset: how they are made, and which job may commit to them.

All state is in the dataset: the field metadata of each column holds a record, from which a later call resumes.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace

import pyarrow as pa

from ray_lance.errors import InvalidArgumentError, SchemaMismatchError
from ray_lance.paths import parse_path
from ray_lance.write.names import check_names
from ray_lance.write.schema import portable

__all__ = [
    "OF_FUNCTION",
    "PYTHON",
    "RECORD_KEY",
    "ColumnRecord",
    "Recipe",
    "check_columns",
    "column_fields",
    "record_of",
    "recorded_columns",
]

RECORD_KEY = "ray_lance.columns"

PYTHON = "Python"
"""The argument of a recipe that names the version of Python, if any of its digests is of bytecode."""

OF_FUNCTION = "fn's "
"""What the names of those arguments of a recipe begin with that describe the function itself."""


@dataclass(frozen=True)
class Recipe:
    """How the columns are made: a call resumes the work of another one that has an equal recipe.

    Attributes:
        input_columns: The columns that the values are computed from.
        where: Condition of the rows that get values; None for all.
        function: Name of the function or class.
        arguments: What the function is made of and what else it is given: names, and a digest of each value, since
            values may be secrets. Records of earlier releases hold what it is given only.
    """

    input_columns: tuple[str, ...]
    where: str | None
    function: str
    arguments: tuple[tuple[str, str], ...]

    def difference(self, other: Recipe) -> str:
        """The first part in which two recipes differ, as text; empty where they are equal."""
        for name in ("input_columns", "where", "function"):
            mine, theirs = getattr(self, name), getattr(other, name)
            if mine != theirs:
                return f"{name}={theirs!r} then, {name}={mine!r} now"
        changed = sorted({name for name, _ in set(self.arguments) ^ set(other.arguments)})
        if not changed:
            return ""
        mine, theirs = dict(self.arguments), dict(other.arguments)
        if _knows_function(mine) and not _knows_function(theirs):
            return (
                "by an earlier release of ray_lance, which kept the name of fn only: whether it is the same is unknown"
            )
        if PYTHON in mine and PYTHON in theirs and PYTHON in changed:
            return f"under {theirs[PYTHON]}, and this is {mine[PYTHON]}: nobody can tell if fn is the same"
        return f"with another value of {', '.join(changed)}"


@dataclass(frozen=True)
class ColumnRecord:
    """What the dataset keeps of a computation, in the field metadata of each of its columns.

    Attributes:
        columns: The columns that are computed together.
        recipe: How they are made.
        generation: What the names of all files of this computation begin with; 16 hexadecimal digits.
        owner: Id of the job that may commit, 16 hexadecimal digits; empty after a job that finished.
        unfinished: What the names of files begin with that unfinished earlier jobs may have left: generation and owner,
            also of computations that this one replaces.
        since: The version that the first of the unfinished jobs began with.
        replaces: Whether every fragment without a file of this generation is computed again. Otherwise only rows
            without a value are computed.
    """

    columns: tuple[str, ...]
    recipe: Recipe
    generation: str = field(default_factory=lambda: new_id())
    owner: str = ""
    unfinished: tuple[str, ...] = ()
    since: int = 0
    replaces: bool = False

    def claimed(self, version: int) -> ColumnRecord:
        """The record of a new job that resumes the computation at ``version``."""
        unfinished = self.all_unfinished()
        return replace(self, owner=new_id(), unfinished=unfinished, since=self.since if unfinished else version)

    @property
    def file_prefix(self) -> str:
        """What the names of all files of the job that owns the columns begin with."""
        return f"{self.generation}-{self.owner}"

    def all_unfinished(self) -> tuple[str, ...]:
        """``unfinished``, and the job that owns the columns if there is one."""
        return (*self.unfinished, self.file_prefix) if self.owner else self.unfinished

    def finished(self) -> ColumnRecord:
        """The record after the last fragment."""
        return replace(self, owner="", unfinished=(), since=0, replaces=False)

    def to_json(self) -> str:
        """The record as text."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> ColumnRecord:
        """The record of which ``text`` is the :meth:`to_json`."""
        values = json.loads(text)
        recipe = values["recipe"]
        recipe["input_columns"] = tuple(recipe["input_columns"])
        recipe["arguments"] = tuple((name, digest) for name, digest in recipe["arguments"])
        tuples = {name: tuple(values[name]) for name in ("columns", "unfinished")}
        return cls(**{**values, **tuples, "recipe": Recipe(**recipe)})


def new_id() -> str:
    """16 random hexadecimal digits."""
    return uuid.uuid4().hex[:16]


def record_of(schema: pa.Schema, column: str) -> ColumnRecord | None:
    """The record of the computation of ``column``; None for columns that were not computed."""
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
    """The named fields of a dataset's schema, without the record, in a form that can be pickled."""
    schema, fields = portable(schema), []
    for name in names:
        kept = {key: text for key, text in (schema.field(name).metadata or {}).items() if key != RECORD_KEY.encode()}
        fields.append(schema.field(name).with_metadata(kept or None))
    return pa.schema(fields)


def check_columns(schema: pa.Schema, columns: pa.Schema, recipe: Recipe, *, overwrite: bool) -> ColumnRecord:
    """The record to continue with: that of an interrupted or earlier call, or a new one.

    Args:
        schema: The dataset's schema.
        columns: The new columns.
        recipe: How they are made.
        overwrite: Whether columns that exist are computed again.

    Raises:
        InvalidArgumentError: A column exists and is not the result of an earlier call with the same recipe, or it is
            computed from itself, or has a name that it must not have.
        SchemaMismatchError: A column exists with another type.
    """
    circular = [name for name in columns.names if name in {_column_of(path) for path in recipe.input_columns}]
    if circular:
        raise InvalidArgumentError(
            f"input_columns={list(recipe.input_columns)} holds the new column {circular[0]!r}: a column computed from "
            "itself could not be resumed after a failure; give the new column another name"
        )
    existing = [name for name in columns.names if name in schema.names]
    check_names(pa.schema([column for column in columns if column.name not in existing]))
    if existing and not overwrite:
        record = _same_record(schema, columns, recipe)
    else:
        record = _new_record(schema, columns, recipe, existing)
    stored = column_fields(schema, existing)
    for name in existing:
        if stored.field(name).type != columns.field(name).type:
            raise SchemaMismatchError(
                f"column {name!r} is {stored.field(name).type} in the dataset and {columns.field(name).type} now: "
                "drop it first (lance's drop_columns), or give the new column another name"
            )
    return record


def _column_of(path: str) -> str:
    return (parse_path(path) or (path,))[0]


def _knows_function(arguments: Mapping[str, str]) -> bool:
    return any(name.startswith(OF_FUNCTION) for name in arguments)


def _new_record(schema: pa.Schema, columns: pa.Schema, recipe: Recipe, existing: list[str]) -> ColumnRecord:
    """The record of a computation that starts anew, and that cleans up after those that it replaces."""
    records = [record for name in existing if (record := record_of(schema, name)) is not None]
    unfinished = sorted({job for record in records for job in record.all_unfinished()})
    since = min((record.since for record in records if record.all_unfinished()), default=0)
    return ColumnRecord(
        tuple(columns.names), recipe, unfinished=tuple(unfinished), since=since, replaces=bool(existing)
    )


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
                f'to compute it again, with where="{name} IS NULL" to keep the values that are there, or give the new '
                "column another name"
            )
    first = record_of(schema, columns.names[0])
    if first is None or set(first.columns) != set(columns.names):
        raise InvalidArgumentError(
            f"columns {columns.names}: some of them exist already, computed together with others; give overwrite=True "
            "to compute all of them again"
        )
    return first
