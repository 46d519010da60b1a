"""Holds options and summaries of writes: what a write is asked to do, validated, and what it did."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum

import pyarrow as pa

from ray_lance.arguments import as_choice, as_count, as_flag, as_names, as_text, shown
from ray_lance.errors import InvalidArgumentError
from ray_lance.notebook import FieldFacts
from ray_lance.paths import parse_path
from ray_lance.retry import RetryPolicy

__all__ = ["DEFAULT_TARGET_BYTES", "WriteOptions", "WriteSummary"]

DEFAULT_TARGET_BYTES = 256 * 2**20

_MODES = ("create", "append", "overwrite", "merge", "ignore")
# Values of Ray's SaveMode that mean one of ours.
_SYNONYMS = {"error": "create", "upsert": "merge"}
_STORAGE_VERSIONS = ("2.0", "2.1", "2.2", "2.3", "stable", "next")


@dataclass(frozen=True)
class WriteOptions:
    """How to write a dataset.

    Attributes:
        mode: ``"create"`` fails where a dataset exists, ``"append"`` adds rows, ``"overwrite"`` makes a new
            version with only these rows, ``"merge"`` updates and inserts rows by key, ``"ignore"`` does nothing
            where a dataset exists. Ray's ``SaveMode`` members are taken too (``ERROR`` as create, ``UPSERT`` as merge).
        on: Key columns, for ``mode="merge"`` only. A single name may be given as a string.
        update: Merge: rows whose key exists replace the existing row; if False the existing row stays.
        insert: Merge: rows whose key does not exist are added; if False they are dropped. None adds them, unless the
            rows update only a part of the columns.
        delete_missing: Merge: existing rows whose key is not among the new rows are deleted.
        schema: Schema of a new dataset, or fields that replace the inferred fields of the same name.
            None infers it from the first rows.
        target_bytes_per_file: Bytes of Arrow data per file; files come within a factor of two of it.
        max_rows_per_file: Upper bound of rows per file; None for no bound.
        data_storage_version: Lance file format version such as ``"2.1"``; None for Lance's default, or that of
            the dataset written to.
        enable_stable_row_ids: Row ids that stay when rows move. A property of the dataset from its creation on.
        commit_every: Append: commit finished files whenever they have so many rows; None for one commit at the end.
        id_column: Append: the column by which rows are known; needed with ``commit_every``.
        retry: How often to try again after storage faults and commit conflicts.

    Raises:
        InvalidArgumentError: A value breaks its rule, or two contradict each other.
    """

    mode: str = "create"
    on: tuple[str, ...] = ()
    update: bool = True
    insert: bool | None = None
    delete_missing: bool = False
    schema: pa.Schema | tuple[pa.Field, ...] | None = None
    target_bytes_per_file: int = DEFAULT_TARGET_BYTES
    max_rows_per_file: int | None = None
    data_storage_version: str | None = None
    enable_stable_row_ids: bool = False
    commit_every: int | None = None
    id_column: str | None = None
    retry: RetryPolicy = field(default_factory=RetryPolicy)

    def __post_init__(self) -> None:
        object.__setattr__(self, "mode", _mode(self.mode))
        object.__setattr__(self, "on", _names(self.on))
        object.__setattr__(self, "schema", _schema(self.schema))
        for name in ("update", "delete_missing", "enable_stable_row_ids"):
            object.__setattr__(self, name, as_flag(name, getattr(self, name)))
        if self.insert is not None:
            object.__setattr__(self, "insert", as_flag("insert", self.insert))
        self._check_merge()
        self._check_groups()
        for name in ("target_bytes_per_file", "max_rows_per_file"):
            if (value := getattr(self, name)) is not None or name == "target_bytes_per_file":
                object.__setattr__(self, name, as_count(name, value))
        if self.data_storage_version is not None:
            as_choice("data_storage_version", self.data_storage_version, _STORAGE_VERSIONS)

    def _check_merge(self) -> None:
        if self.mode == "merge":
            if not self.on:
                raise InvalidArgumentError('on=(): mode="merge" needs the key columns, such as on=["id"]')
            if not (self.update or self.insert is not False or self.delete_missing):
                raise InvalidArgumentError(
                    "update=False, insert=False, delete_missing=False: the merge would do nothing; turn one on"
                )
            return
        for name, value, default in (
            ("on", self.on, ()),
            ("update", self.update, True),
            ("insert", self.insert is not False, True),
            ("delete_missing", self.delete_missing, False),
        ):
            if value != default:
                raise InvalidArgumentError(f'{name}={value!r} applies to mode="merge" only, not to mode={self.mode!r}')

    def _check_groups(self) -> None:
        if self.commit_every is not None:
            object.__setattr__(self, "commit_every", as_count("commit_every", self.commit_every))
        if self.id_column is not None:
            as_text("id_column", self.id_column, "the column by which rows are known, such as 'id'")
        if (self.commit_every is None) != (self.id_column is None):
            raise InvalidArgumentError(
                f"commit_every={self.commit_every!r}, id_column={self.id_column!r}: one needs the other, so that a "
                "write that was killed can be finished: read_lance(source, without=target, on=id_column)"
            )
        if self.commit_every is not None and self.mode != "append":
            raise InvalidArgumentError(
                f'commit_every={self.commit_every!r} applies to mode="append" only, not to mode={self.mode!r}'
            )


@dataclass(frozen=True)
class WriteSummary(FieldFacts):
    """What a write did.

    Attributes:
        uri: Location of the dataset, without credentials.
        version_before: Version that was written to; None where the dataset was created.
        version: Version that holds the result; equal to ``version_before`` where nothing was to be done.
        rows: Rows written.
        fragments: Fragments written.
        bytes: Bytes of the files written.
        seconds: Wall-clock time in seconds.
        rows_updated: Merge: existing rows that were replaced.
        rows_deleted: Merge: existing rows that were deleted because their key was missing.
    """

    uri: str
    version_before: int | None
    version: int
    rows: int
    fragments: int
    bytes: int
    seconds: float
    rows_updated: int = 0
    rows_deleted: int = 0


def _mode(mode: object) -> str:
    value = mode.value if isinstance(mode, Enum) else mode
    if isinstance(value, str):
        value = _SYNONYMS.get(value, value)
    if not isinstance(value, str) or value not in _MODES:
        raise InvalidArgumentError(f"mode={shown(mode)} must be one of {list(_MODES)}, or a ray.data.SaveMode")
    return value


def _names(on: object) -> tuple[str, ...]:
    names = () if on is None else as_names("on", on)
    columns = tuple(map(_column, names))
    if len(set(columns)) != len(columns):
        raise InvalidArgumentError(f"on={list(names)} names a column twice")
    return columns


def _column(name: str) -> str:
    """The column that a path names; a path into a struct as it is, since there is no column of such a name."""
    path = parse_path(name)
    return path[0] if path is not None and len(path) == 1 else name


def _schema(schema: object) -> pa.Schema | tuple[pa.Field, ...] | None:
    if schema is None or isinstance(schema, pa.Schema):
        return schema
    fields = tuple(schema) if isinstance(schema, Iterable) else ()
    if fields and all(isinstance(field, pa.Field) for field in fields):
        return fields
    raise InvalidArgumentError(
        f"schema={type(schema).__name__} must be a pyarrow.Schema or a sequence of pyarrow.Field"
    )
