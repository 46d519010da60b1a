"""Upserts by key: new rows in; which existing rows they replace, and the version that does it, out.

The new rows are put into buckets by a hash of their key, so that rows with the same key are in one bucket. Each
bucket is compared with the key columns of the dataset, which are scanned once per bucket: a merge costs as many
scans of the key columns as it has buckets, and on the driver eight bytes for each row that is replaced (with
``delete_missing``, for each row of the dataset). New rows are written as fragments, the rows they replace are marked
as deleted, and one transaction makes both visible. Where the new rows have only a part of the columns, these columns of
the fragments with matched rows are written instead, and the rows stay where they are. Indexes stay valid. Rows keep
their stable row ids.

Rows that other writers append with the same keys during the merge are not compared, as in Lance's own merge; changes
to the rows that are replaced are conflicts.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

import lance
import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from lance.fragment import FragmentMetadata, RowIdSequence

from ray_lance.errors import InvalidArgumentError, RayLanceError, SchemaMismatchError
from ray_lance.masking import cause
from ray_lance.tensors.objects import to_frame, to_rows
from ray_lance.write.cleanup import remove_unreferred
from ray_lance.write.column_update import UpdatedColumns, check_updatable, updated_fields
from ray_lance.write.commit import Send
from ray_lance.write.field_ids import check_fields, check_ids, field_ids
from ray_lance.write.fragments import WrittenFile
from ray_lance.write.history import deletion_file_name
from ray_lance.write.job import WriteJob
from ray_lance.write.row_commit import Committed, commit
from ray_lance.write.schema import fit

__all__ = [
    "ADDRESSES",
    "BUCKET",
    "ROW_ID",
    "check_keys",
    "commit_merge",
    "for_columns",
    "match",
    "with_bucket",
    "with_row_ids",
]

logger = logging.getLogger(__name__)

Addresses = npt.NDArray[np.uint64]

# Columns that travel with the rows inside the job and are never written.
BUCKET = "__ray_lance_bucket"
ADDRESSES = "__ray_lance_addresses"
ROW_ID = "__ray_lance_row_id"

_SCAN_ROWS = 2**20


def check_keys(schema: pa.Schema, on: Sequence[str]) -> None:
    """Check that the columns ``on`` can be compared exactly.

    Raises:
        InvalidArgumentError: A column is of a type that has no exact equality, such as a float or a list.
    """
    for name in on:
        dtype = schema.field(name).type
        if pa.types.is_nested(dtype) or pa.types.is_floating(dtype) or isinstance(dtype, pa.BaseExtensionType):
            raise InvalidArgumentError(
                f"on: column {name!r} is {dtype}; keys must be integers, strings, bytes or times"
            )


def for_columns(job: WriteJob, names: Iterable[str]) -> WriteJob:
    """The job for new rows with the columns ``names``: it updates these alone where they are a part of the columns.

    Raises:
        InvalidArgumentError: A key column is missing, or columns of this dataset cannot be updated alone.
        SchemaMismatchError: The dataset lacks a column, there is none to update, or rows would be inserted without a
            value that they need.
    """
    names = list(names)
    _check_has_keys(job, names)
    schema = job.table.open().schema
    absent = [name for name in schema.names if name not in names]
    unknown = [name for name in names if name not in schema.names]
    if unknown:
        raise SchemaMismatchError(f"the new rows have columns {unknown}, and the dataset has {schema.names}: drop them")
    if not absent:
        return job
    if job.options.update:
        updated = tuple(name for name in schema.names if name in names and name not in job.options.on)
        if not updated:
            raise SchemaMismatchError(
                f"the new rows have the key columns {list(job.options.on)} only, and nothing to update existing rows "
                "with: give the columns to update, or update=False"
            )
        check_updatable(job)
        job = replace(job, updated=updated)
    needed = [name for name in absent if not schema.field(name).nullable]
    if job.inserts and needed:
        raise SchemaMismatchError(
            f"insert=True: the new rows have no columns {needed}, which hold no nulls in the dataset: give them, or "
            "insert=False"
        )
    return job


def with_bucket(table: pa.Table, job: WriteJob, buckets: int) -> pa.Table:
    """``table`` with a column :data:`BUCKET`, int32, that is equal for equal keys. Raises nothing about the rows.

    Rows that :func:`match` will refuse all go into bucket 0: errors of a Ray UDF reach the caller as they are from
    there only.
    """
    try:
        keys = _keys(table, job)
    except RayLanceError:
        bucket = np.zeros(table.num_rows, np.int32)
    else:
        hashes = pd.util.hash_pandas_object(to_frame(keys), index=False).to_numpy()
        bucket = (hashes % np.uint64(buckets)).astype(np.int32)
    return table.append_column(BUCKET, pa.array(bucket))


def match(table: pa.Table, job: WriteJob) -> pa.Table:
    """Compare one bucket with the dataset.

    Args:
        table: All the new rows of one bucket, with the column :data:`BUCKET`.
        job: The merge.

    Returns:
        The rows with two more columns: :data:`ADDRESSES` (list<uint64>, the addresses of the existing rows with the
        same key) and :data:`ROW_ID` (uint64, the row id of the first of them, null where there is none).

    Raises:
        InvalidArgumentError: A key occurs twice among the new rows, or is null.
        SchemaMismatchError: A key does not fit the dataset.
    """
    table = table.drop_columns([BUCKET])
    keys = _keys(table, job)
    index = _index(keys)
    if not index.is_unique:
        row = int(np.flatnonzero(index.duplicated())[0])
        key = to_rows(keys.slice(row, 1))[0]
        raise InvalidArgumentError(f"on={list(job.options.on)}: the new rows hold the key {key} more than once")
    with job.native_errors("comparing keys"):
        rows, addresses, row_ids = _find(index, job)
    order = np.argsort(rows, kind="stable")
    counts = np.bincount(rows, minlength=len(index))
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
    found = pa.ListArray.from_arrays(pa.array(offsets), pa.array(addresses[order]))
    first = row_ids[order][np.minimum(offsets[:-1], max(len(order) - 1, 0))] if len(order) else np.zeros(len(index))
    ids = pa.array(first.astype(np.uint64), mask=counts == 0)
    return table.append_column(ADDRESSES, found).append_column(ROW_ID, ids)


def with_row_ids(files: Sequence[WrittenFile], ids: Addresses) -> list[FragmentMetadata]:
    """The fragments of ``files``, whose first ``len(ids)`` rows in order replace rows with these stable row ids."""
    fragments = []
    start = 0
    for file in files:
        fragment = file.metadata()
        own = ids[start : start + file.rows]
        if len(own):
            fragment.row_id_meta = RowIdSequence([int(row_id) for row_id in own]).to_inline_metadata()
        fragments.append(fragment)
        start += file.rows
    return fragments


def commit_merge(
    job: WriteJob,
    new: Sequence[FragmentMetadata],
    matched: Addresses,
    send: Send,
    updates: Sequence[UpdatedColumns] = (),
) -> Committed:
    """Make the new rows and values visible and the rows that they replace invisible, in one version.

    Args:
        job: The merge.
        new: Fragments of the new rows.
        matched: Addresses of all the existing rows whose key is among the new rows.
        send: Makes the new version.
        updates: Files of updated columns, of a job that updates only a part of the columns.

    Raises:
        InvalidArgumentError: Two new rows replace the same row.
        CommitError: Nothing was committed.
    """
    if len(np.unique(matched)) != len(matched):
        raise InvalidArgumentError(f"on={list(job.options.on)}: the new rows hold a key more than once")
    updated = matched if job.options.update else matched[:0]
    missing = _missing(job, matched) if job.options.delete_missing else matched[:0]
    gone = np.concatenate([missing] if job.updated else [updated, missing])
    if not len(gone) and not new and not updates:
        return Committed(job.version_before or 0, 0, 0)
    deletion_files: list[str] = []
    check_fields(new, job.table.open().lance_schema)
    try:
        with job.native_errors("merging rows"):
            operation = _update(job, new, gone, updates, deletion_files)
        version = commit(job, operation, send)
    except BaseException:
        _discard(job, deletion_files)
        raise
    return Committed(version, len(updated), len(missing))


def _keys(table: pa.Table, job: WriteJob) -> pa.Table:
    on = list(job.options.on)
    _check_has_keys(job, table.column_names)
    schema = pa.schema([job.table.open().schema.field(name).with_nullable(True) for name in on])
    keys = fit(table.select(on), schema)
    for name in on:
        if keys[name].null_count:
            row = pc.index(pc.is_null(keys[name]), True).as_py()
            raise InvalidArgumentError(f"on: column {name!r} is null in row {row}; every row needs a key")
    return keys


def _check_has_keys(job: WriteJob, names: Sequence[str]) -> None:
    lacking = [name for name in job.options.on if name not in names]
    if lacking:
        raise InvalidArgumentError(f"on: the new rows have no column {lacking}, they have {list(names)}")


def _index(keys: pa.Table) -> pd.Index:
    frame = to_frame(keys)
    return pd.Index(frame.iloc[:, 0]) if frame.shape[1] == 1 else pd.MultiIndex.from_frame(frame)


def _find(index: pd.Index, job: WriteJob) -> tuple[npt.NDArray[np.intp], Addresses, Addresses]:
    """For each existing row whose key is in ``index``: position in ``index``, row address and row id."""
    rows, addresses, row_ids = [], [], []
    for batch in _scan(job):
        keys = pa.Table.from_batches([batch]).select(list(job.options.on))
        position = index.get_indexer(_index(keys))
        hits = position >= 0
        rows.append(position[hits])
        addresses.append(batch.column("_rowaddr").to_numpy()[hits])
        row_ids.append(batch.column("_rowid").to_numpy()[hits])
    empty = np.empty(0, np.uint64)
    return (
        np.concatenate([np.empty(0, np.intp), *rows]),
        np.concatenate([empty, *addresses]),
        np.concatenate([empty, *row_ids]),
    )


def _scan(job: WriteJob) -> Iterator[pa.RecordBatch]:
    on = list(job.options.on)
    scanner = job.table.open().scanner(columns=on, with_row_id=True, with_row_address=True, batch_size=_SCAN_ROWS)
    for batch in scanner.to_batches():
        # A null key equals no key, and would turn a column of integers into floats.
        yield batch.drop_null() if any(batch.column(name).null_count for name in on) else batch


def _missing(job: WriteJob, matched: Addresses) -> Addresses:
    """Addresses of the existing rows that are not among ``matched``."""
    with job.native_errors("looking for rows to delete"):
        live = job.table.open().scanner(columns=[], with_row_address=True).to_table()
    return np.setdiff1d(live.column("_rowaddr").to_numpy().astype(np.uint64), matched, assume_unique=True)


def _update(
    job: WriteJob,
    new: Sequence[FragmentMetadata],
    gone: Addresses,
    updates: Sequence[UpdatedColumns],
    deletion_files: list[str],
) -> lance.LanceOperation.Update:
    """The operation that adds ``new``, applies ``updates`` and removes the rows at ``gone``.

    Notes the deletion files that it writes.
    """
    dataset = job.table.open()
    with_deletions, without_rows = _delete(dataset, gone, deletion_files)
    if updates:
        changed = {fragment.id: fragment for fragment in with_deletions}
        for update in updates:
            check_ids(update.written.file["fields"], dataset.lance_schema)
            fragment = changed.get(update.fragment_id) or dataset.get_fragment(update.fragment_id).metadata
            changed[update.fragment_id] = update.applied(fragment)
        return lance.LanceOperation.Update(
            removed_fragment_ids=without_rows,
            updated_fragments=list(changed.values()),
            new_fragments=list(new),
            fields_modified=updated_fields(job),
            update_mode="rewrite_columns",
            updated_fragment_offsets={update.fragment_id: update.offsets for update in updates},
        )
    return lance.LanceOperation.Update(
        removed_fragment_ids=without_rows,
        updated_fragments=with_deletions,
        new_fragments=list(new),
        # Every value of a replaced row may be another one, so that no index covers the new fragments yet. Of
        # indexes on fields that are not listed here Lance assumes that they do.
        fields_for_preserving_frag_bitmap=field_ids(dataset.lance_schema, dataset.schema.names),
        update_mode="rewrite_rows",
    )


def _delete(
    dataset: lance.LanceDataset, addresses: Addresses, paths: list[str]
) -> tuple[list[FragmentMetadata], list[int]]:
    """Write deletion files for ``addresses``, noting each in ``paths``; changed fragments, ids of those left empty."""
    changed, emptied = [], []
    addresses = np.sort(addresses)
    for fragment_id in np.unique(addresses >> np.uint64(32)):
        offsets = addresses[addresses >> np.uint64(32) == fragment_id] & np.uint64(2**32 - 1)
        fragment = dataset.get_fragment(int(fragment_id)).delete_rows(offsets.tolist())
        if fragment is None:
            emptied.append(int(fragment_id))
            continue
        changed.append(fragment)
        paths.append(f"_deletions/{deletion_file_name(fragment)}")
    return changed, emptied


def _discard(job: WriteJob, deletion_files: Sequence[str]) -> None:
    """Remove deletion files that were not committed. Raises nothing."""
    try:
        remove_unreferred(job, deletion_files)
    except Exception as error:
        logger.warning("files of job %s at %s may be left behind: %s", job.job_id, job.shown_uri, cause(error))
