"""Upserts inside Ray Data: new rows in; rows matched by key, and one version that replaces and adds them, out."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar

import lance
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from ray.data import Dataset

from ray_lance.data.arrow_blocks import RayRows
from ray_lance.data.datasink import LanceDatasink
from ray_lance.data.one_schema import TaskResult
from ray_lance.errors import SchemaMismatchError
from ray_lance.scan.scan import ROW_ADDRESS
from ray_lance.table import TableRef
from ray_lance.tensors.from_ray import storable
from ray_lance.tensors.kinds import extension_name, holds_blobs
from ray_lance.tensors.memory import storage
from ray_lance.write.column_update import UpdatedColumns, update_columns
from ray_lance.write.commit import Send
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
    for_columns,
    match,
    with_bucket,
    with_row_ids,
)
from ray_lance.write.options import WriteOptions
from ray_lance.write.row_commit import Committed
from ray_lance.write.schema import bare_type, fit, portable

__all__ = ["MergeSink", "matched"]

# One task holds a bucket in memory, and matches it.
_BUCKET_BYTES = 256 * 2**20
_STORED_AS = "__ray_lance_stored_as:"
# Columns of rows that update a part of the columns: what has to come together, and all the rows of that in one value.
_PLACE = "__ray_lance_place"
_PACKED = "__ray_lance_packed"


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
    by_bucket = prepared.groupby(BUCKET, num_partitions=buckets)
    if not job.updated:
        return by_bucket.map_groups(partial(_match, job=job), batch_format="pyarrow")
    places = by_bucket.map_groups(partial(_match_part, job=job), batch_format="pyarrow")
    if buckets > 1:
        places = places.groupby(_PLACE, num_partitions=buckets)
        return places.map_groups(_packed, batch_format="pyarrow")
    return places.map_batches(_packed, batch_format="pyarrow", batch_size=None, zero_copy_batch=True)


def _prepare(batch: pa.Table, job: WriteJob, buckets: int) -> pa.Table:
    lacking = [name for name in job.updated if name not in batch.column_names]
    if lacking:
        raise SchemaMismatchError(
            f"a block of the new rows has no columns {lacking}, and others have: give all rows the same columns"
        )
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


def _match_part(batch: pa.Table, job: WriteJob) -> pa.Table:
    """Rows of a part of the columns, one for each existing row to update, with its address; others to insert.

    The rows of one fragment have one place, and so have the rows of this bucket that match nothing.
    """
    nowhere = -1 - batch.column(BUCKET)[0].as_py()
    found = _match(batch, job)
    addresses = found.column(ADDRESSES).combine_chunks()
    rows = found.drop_columns([ADDRESSES, ROW_ID])
    counts = pc.list_value_length(addresses).to_numpy()
    updating = _placed(rows.take(np.repeat(np.arange(len(counts)), counts)), addresses.flatten(), nowhere)
    if not job.inserts:
        return updating
    new = rows.filter(pa.array(counts == 0))
    return pa.concat_tables([updating, _placed(new, pa.nulls(len(new), pa.uint64()), nowhere)])


def _placed(rows: pa.Table, addresses: pa.Array, nowhere: int) -> pa.Table:
    fragments = pc.shift_right(addresses, pa.scalar(32, pa.uint64())).cast(pa.int64())
    return rows.append_column(ROW_ADDRESS, addresses).append_column(_PLACE, fragments.fill_null(nowhere))


def _packed(batch: pa.Table) -> pa.Table:
    """All the rows of each place as one value, which no block of Ray's divides."""
    places = batch.column(_PLACE)
    rows = batch.drop_columns([_PLACE])
    parts = [rows.filter(pc.equal(places, place)) for place in pc.unique(places)]
    return pa.table({_PACKED: pa.array(map(_as_bytes, parts), pa.large_binary())})


def _as_bytes(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue())


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
        updates: Files of updated columns.
    """

    matched: Addresses = field(default_factory=lambda: np.empty(0, np.uint64))
    row_ids: Addresses = field(default_factory=lambda: np.empty(0, np.uint64))
    updates: tuple[UpdatedColumns, ...] = ()

    @property
    def rows(self) -> int:
        """Rows written, and rows of which columns were."""
        return super().rows + sum(update.rows for update in self.updates)

    @property
    def file_names(self) -> list[str]:
        """Names of the data files."""
        return super().file_names + [update.written.file["path"] for update in self.updates]

    @property
    def sizes(self) -> list[int]:
        """Bytes of each data file, with the blob files that belong to it."""
        return super().sizes + [update.written.num_bytes for update in self.updates]


class MergeSink(LanceDatasink):
    """Writes matched rows, and replaces what they match.

    Args:
        table: Where to write.
        options: What to do.
        columns: Names of the columns of the new rows; None for all that the dataset has.
        send: Makes the new version; for tests of what happens when that fails.
    """

    modes: ClassVar[tuple[str, ...]] = ("merge",)

    def __init__(
        self,
        table: TableRef,
        options: WriteOptions,
        columns: Sequence[str] | None = None,
        *,
        send: Send = lance.LanceDataset.commit,
    ) -> None:
        super().__init__(table, options, send=send)
        self._columns = columns

    def start(self) -> WriteJob:
        """Open the table and check the options and the columns against it, once.

        Raises:
            RayLanceError: As :func:`ray_lance.write.job.begin` and :func:`ray_lance.write.merge.for_columns` say.
        """
        if self._job is None:
            job = super().start()
            self._job = job if self._columns is None else for_columns(job, self._columns)
        return self._job

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
        if job.updated:
            return _write_parts(job, [cell for table in tables for cell in table.column(_PACKED)], raise_interrupt)
        known, unknown = zip(*(_split(table) for table in tables), strict=True)
        matched = [table.column(ADDRESSES).combine_chunks().flatten().to_numpy() for table in known]
        replacing = known if job.options.update else ()
        row_ids = [table.column(ROW_ID).to_numpy() for table in replacing]
        parts = [*replacing, *(unknown if job.inserts else ())]
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
        updates = [update for result in merged for update in result.updates]
        return commit_merge(job, fragments, matched, self._send, updates)


def _write_parts(job: WriteJob, places: Sequence[pa.Scalar], raise_interrupt: Callable[[], None]) -> _MergeResult:
    """Write what :func:`_packed` made: columns of the fragments whose rows are updated, and rows to insert."""
    matched, updates, new = [np.empty(0, np.uint64)], [], []
    for place in places:
        raise_interrupt()
        rows = _with_extension_types(pa.ipc.open_stream(place.as_buffer()).read_all())
        if rows.column(ROW_ADDRESS).null_count:
            new.append(TableRows(rows.drop_columns([ROW_ADDRESS])))
            continue
        updates.append(update_columns(job, rows))
        matched.append(rows.column(ROW_ADDRESS).to_numpy())
    files = write_files(new, job)
    return _MergeResult(tuple(files), job.schema, np.concatenate(matched), updates=tuple(updates))


def _split(table: pa.Table) -> tuple[pa.Table, pa.Table]:
    known = pc.greater(pc.list_value_length(table.column(ADDRESSES)), 0)
    return table.filter(known), table.filter(pc.invert(known))
