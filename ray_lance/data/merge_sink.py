"""Upserts inside Ray Data: new rows in; rows matched by key, and one version that replaces and adds them, out."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from ray.data import Dataset

from ray_lance.data.arrow_blocks import RayRows
from ray_lance.data.datasink import LanceDatasink
from ray_lance.data.one_schema import TaskResult
from ray_lance.errors import SchemaMismatchError
from ray_lance.tensors.from_ray import storable
from ray_lance.tensors.kinds import extension_name, holds_blobs
from ray_lance.tensors.memory import storage
from ray_lance.write.fragments import TableRows, write_files
from ray_lance.write.job import WriteJob
from ray_lance.write.lance_types import without_categories
from ray_lance.write.merge import (
    ADDRESSES,
    BUCKET,
    ROW_ID,
    Addresses,
    check_keys,
    commit_merge,
    match,
    with_bucket,
    with_row_ids,
)
from ray_lance.write.row_commit import Committed
from ray_lance.write.schema import bare_type, fit, portable

__all__ = ["MergeSink", "matched"]

# One task holds a bucket in memory, and matches it.
_BUCKET_BYTES = 256 * 2**20
_STORED_AS = "__ray_lance_stored_as:"


def matched(dataset: Dataset, job: WriteJob) -> Dataset:
    """The rows of ``dataset`` with what :func:`ray_lance.write.merge.match` finds of each: a shuffle by key.

    Args:
        dataset: The new rows, materialized: its bytes and rows are counted.
        job: The merge.

    Raises:
        InvalidArgumentError: The key columns cannot be compared exactly.
    """
    check_keys(job.table.open().schema, job.options.on)
    if not dataset.count():
        return dataset  # Ray cannot group what has no columns
    buckets = max(1, -(-dataset.size_bytes() // _BUCKET_BYTES))
    prepare = partial(_prepare, job=job, buckets=buckets)
    prepared = dataset.map_batches(prepare, batch_format="pyarrow", batch_size=None, zero_copy_batch=True)
    return prepared.groupby(BUCKET, num_partitions=buckets).map_groups(partial(_match, job=job), batch_format="pyarrow")


def _prepare(batch: pa.Table, job: WriteJob, buckets: int) -> pa.Table:
    return _without_extension_types(with_bucket(_alike(storable(batch), job), job, buckets), job.options.on)


def _alike(table: pa.Table, job: WriteJob) -> pa.Table:
    """``table`` in the types of the dataset, so that Ray can put blocks together that differ in theirs.

    Categories become values on the way: the blocks have no common dictionary.
    """
    schema = portable(job.schema)
    fit(table.slice(0, 0), schema)  # raises for types that do not fit, and for columns that the dataset lacks
    fields = [field.with_type(without_categories(field.type)) for field in schema if not holds_blobs(field)]
    own = pa.schema([field for field in fields if field.name in table.column_names])
    fitted = fit(table.select(own.names), own)
    for index, name in enumerate(table.column_names):
        if name in own.names:
            table = table.set_column(index, own.field(name), fitted.column(name))
    return table


def _match(batch: pa.Table, job: WriteJob) -> pa.Table:
    return _without_extension_types(match(_with_extension_types(batch), job), job.options.on)


def _without_extension_types(table: pa.Table, keys: Sequence[str]) -> pa.Table:
    """``table`` with the storage of its extension types, in columns whose names hold the fields.

    Ray's shuffle fails on tensor types with a permutation and on nested extension types, and its output cannot be
    pickled where it has tensors of varying shape.
    """
    for index, column_field in enumerate(portable(table.schema)):
        stored = bare_type(column_field.type)
        is_named = extension_name(column_field) is not None or not stored.equals(column_field.type, check_metadata=True)
        if is_named and column_field.name not in keys:
            name = _STORED_AS + base64.b64encode(pa.schema([column_field]).serialize()).decode()
            chunks = [storage(chunk).cast(stored) for chunk in table.column(index).chunks]
            table = table.set_column(index, pa.field(name, stored), pa.chunked_array(chunks, stored))
    return table


def _with_extension_types(table: pa.Table) -> pa.Table:
    """The opposite of :func:`_without_extension_types`."""
    for index, name in enumerate(table.column_names):
        if name.startswith(_STORED_AS):
            (original,) = portable(pa.ipc.read_schema(pa.py_buffer(base64.b64decode(name.removeprefix(_STORED_AS)))))
            column = table.column(index)
            if isinstance(original.type, pa.BaseExtensionType):
                chunks = [original.type.wrap_array(chunk.cast(original.type.storage_type)) for chunk in column.chunks]
                column = pa.chunked_array(chunks, original.type)
            else:
                column = column.cast(original.type)
            table = table.set_column(index, original, column)
    twice = sorted({name for name in table.column_names if table.column_names.count(name) > 1})
    if twice:
        raise SchemaMismatchError(f"the blocks differ in the types of columns {twice}; give all of them one type")
    return storable(table)


@dataclass(frozen=True)
class _MergeResult(TaskResult):
    """What one write task of a merge hands to the driver.

    Attributes:
        matched: Addresses of the existing rows with a new row's key.
        row_ids: Row ids of the existing rows that the first rows of the files replace, in order.
    """

    matched: Addresses = field(default_factory=lambda: np.empty(0, np.uint64))
    row_ids: Addresses = field(default_factory=lambda: np.empty(0, np.uint64))


class MergeSink(LanceDatasink):
    """Writes matched rows, and replaces what they match."""

    modes: ClassVar[tuple[str, ...]] = ("merge",)

    def _write(self, blocks: Iterable[Any], raise_interrupt: Callable[[], None]) -> TaskResult:
        """Write the rows of one task: those that replace rows first, then those that are new."""
        job = self.start()
        job = job.with_schema(portable(job.schema))
        held = [rows for rows in map(RayRows, blocks) if rows.num_rows]
        tables = []
        for rows in held:
            raise_interrupt()
            tables.append(_with_extension_types(rows.table(0, rows.num_rows)))
        if not tables:
            return _MergeResult((), None)
        known, unknown = zip(*(_split(table) for table in tables), strict=True)
        matched = [table.column(ADDRESSES).combine_chunks().flatten().to_numpy() for table in known]
        replacing = known if job.options.update else ()
        row_ids = [table.column(ROW_ID).to_numpy() for table in replacing]
        parts = [*replacing, *(unknown if job.options.insert else ())]
        files = write_files([TableRows(table.drop_columns([ADDRESSES, ROW_ID])) for table in parts], job)
        ids = np.concatenate([np.empty(0, np.uint64), *row_ids])
        return _MergeResult(tuple(files), job.schema, np.concatenate(matched), ids)

    def _commit(self, job: WriteJob, results: Sequence[TaskResult]) -> Committed:
        merged = [result for result in results if isinstance(result, _MergeResult)]
        stable = job.table.open().has_stable_row_ids
        fragments = [
            fragment
            for result in merged
            for fragment in with_row_ids(result.files, result.row_ids if stable else result.row_ids[:0])
        ]
        matched = np.concatenate([np.empty(0, np.uint64), *(result.matched for result in merged)])
        return commit_merge(job, fragments, matched, self._send)


def _split(table: pa.Table) -> tuple[pa.Table, pa.Table]:
    known = pc.greater(pc.list_value_length(table.column(ADDRESSES)), 0)
    return table.filter(known), table.filter(pc.invert(known))
