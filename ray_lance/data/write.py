"""Writes a Ray dataset: rows, a table and options in, one commit out; merges again after a conflict."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import lance
from ray.data import Dataset

from ray_lance.arguments import as_count
from ray_lance.data.append import append_in_groups
from ray_lance.data.cluster import check_resources
from ray_lance.data.datasink import LanceDatasink, refuse_job_checkpoints
from ray_lance.data.faults import own_error, said_once
from ray_lance.data.merge_sink import MergeSink, matched
from ray_lance.data.remote import checked
from ray_lance.errors import CommitError, DatasetExistsError, InvalidArgumentError
from ray_lance.progress import shown_progress
from ray_lance.ray_internals.executions import executed_promptly, silenced, watched_write
from ray_lance.table import TableRef
from ray_lance.write.commit import Send
from ray_lance.write.job import WriteJob, begin
from ray_lance.write.options import WriteOptions, WriteSummary
from ray_lance.write.row_commit import MergeConflictError

__all__ = ["run", "write"]

# How to make a Ray dataset of other things that hold rows, by the package and the name of their type.
_WAYS = {
    ("pandas", "DataFrame"): "ray.data.from_pandas(dataset)",
    ("polars", "DataFrame"): "ray.data.from_arrow(dataset.to_arrow())",
    ("polars", "LazyFrame"): "ray.data.from_arrow(dataset.collect().to_arrow())",
    ("pyarrow", "Table"): "ray.data.from_arrow(dataset)",
    ("pyarrow", "RecordBatch"): "ray.data.from_arrow(pyarrow.Table.from_batches([dataset]))",
    ("pyarrow", "RecordBatchReader"): "ray.data.from_arrow(dataset.read_all())",
    ("numpy", "ndarray"): "ray.data.from_numpy(dataset)",
    ("builtins", "list"): "ray.data.from_items(dataset)",
    ("builtins", "tuple"): "ray.data.from_items(list(dataset))",
    ("builtins", "dict"): "ray.data.from_arrow(pyarrow.table(dataset))",
    ("builtins", "str"): "ray.data.read_parquet(dataset), or ray_lance.read_lance(dataset)",
    ("datasets", "Dataset"): "ray.data.from_huggingface(dataset)",
    ("datasets", "IterableDataset"): "ray.data.from_huggingface(dataset)",
    ("torch", "Dataset"): "ray.data.from_torch(dataset)",
    ("lance", "LanceDataset"): "ray_lance.read_lance(dataset)",
    ("ray_lance", "Permutation"): "ray_lance.read_lance(dataset)",
    ("ray_lance", "TableRef"): "ray_lance.read_lance(dataset)",
    ("modin", "DataFrame"): "ray.data.from_modin(dataset)",
    ("dask", "DataFrame"): "ray.data.from_dask(dataset)",
    ("pyspark", "DataFrame"): "ray.data.from_spark(dataset)",
}
_ANY = "ray.data.from_items(rows), where rows is a list of dicts"


def write(
    rows: Any,
    table: TableRef,
    options: WriteOptions,
    *,
    ray_remote_args: Mapping[str, Any] | None = None,
    concurrency: int | None = None,
    send: Send = lance.LanceDataset.commit,
) -> WriteSummary:
    """Write a Ray dataset as a Lance dataset, in one atomic commit.

    Args:
        rows: The Ray dataset; anything else is refused.
        table: Where to write.
        options: What to do.
        ray_remote_args: Arguments of ``ray.remote`` for the write tasks.
        concurrency: Most write tasks to run at one time.
        send: Makes the new version; for tests of what happens when that fails.

    Returns:
        What was done.

    Raises:
        DatasetExistsError: ``mode="create"`` and a dataset exists, or appeared during the write.
        DatasetNotFoundError: ``mode="append"`` or ``"merge"`` and there is no dataset.
        InvalidArgumentError: ``rows`` is no Ray dataset, or an argument breaks its rule or contradicts the dataset.
        SchemaMismatchError: The rows do not fit the schema without loss.
        CommitError: Nothing was committed.
    """
    dataset = _as_dataset(rows)
    arguments = checked({"ray_remote_args": ray_remote_args}).get("ray_remote_args") or {}
    concurrency = None if concurrency is None else as_count("concurrency", concurrency)
    refuse_job_checkpoints(dataset.context, options.mode)
    check_resources(arguments)
    if options.mode == "merge":
        return _merge(dataset, table, options, send, arguments, concurrency)
    if options.commit_every is not None:
        return append_in_groups(dataset, table, options, send, arguments, concurrency)
    return run(dataset, LanceDatasink(table, options, send=send), arguments, concurrency)


def _merge(
    dataset: Dataset,
    table: TableRef,
    options: WriteOptions,
    send: Send,
    ray_remote_args: Mapping[str, Any],
    concurrency: int | None,
) -> WriteSummary:
    """Update and insert rows by key.

    After a conflict with another writer the rows are matched with the new version and written again, as often as
    ``options.retry`` allows.
    """
    # The user's own functions run here. Errors of what follows are this library's, and arrive as they are raised.
    dataset = Dataset.copy(dataset.materialize(), _deep_copy=True)
    dataset.context.raise_original_map_exception = True
    policy = replace(options.retry, should_retry=lambda error: isinstance(error, MergeConflictError))
    schema = dataset.schema()
    columns = None if schema is None else schema.names  # None where there are no rows
    attempt = 0
    while True:
        sink = MergeSink(table, options, columns, send=send)
        job = sink.start()
        try:
            return run(matched(dataset, job), sink, ray_remote_args, concurrency)
        except MergeConflictError as error:
            attempt += 1
            policy.pause(attempt, f"merge into {job.shown_uri}", error)


def run(
    ds: Dataset,
    sink: LanceDatasink,
    ray_remote_args: Mapping[str, Any] | None = None,
    concurrency: int | None = None,
) -> WriteSummary:
    """Run ``sink``, and clean up unless it succeeds, also after interrupts. See :func:`write`."""
    job = sink.start()
    if job.exists and job.options.mode == "ignore":
        return _nothing_done(job)
    try:
        _execute(ds, sink, dict(ray_remote_args or {}), concurrency)
    except Exception as error:
        sink.abort()
        cause = own_error(error)
        if isinstance(cause, DatasetExistsError) and job.options.mode == "ignore":
            return _nothing_done(begin(job.table.latest(), job.options))
        if cause is None:
            raise
        raise cause.with_traceback(None) from None
    except BaseException:
        sink.abort()
        raise
    if sink.summary is None:
        raise CommitError(f"uri={job.shown_uri!r}: Ray ended the write without completing it")
    return sink.summary


def _execute(ds: Dataset, sink: LanceDatasink, ray_remote_args: dict[str, Any], concurrency: int | None) -> None:
    # A copy, since the caller's Ray dataset keeps the context that it has.
    own = executed_promptly(Dataset.copy(ds, _deep_copy=True))
    with shown_progress("write_lance", bars=ds.context.enable_progress_bars) as progress:
        with said_once(), watched_write(silenced(own), progress):
            own.write_datasink(sink, ray_remote_args=ray_remote_args, concurrency=concurrency)
        if sink.summary is not None:
            progress.show(sink.summary.rows)


def _nothing_done(job: WriteJob) -> WriteSummary:
    version = job.version_before or 0
    return WriteSummary(job.shown_uri, version, version, rows=0, fragments=0, bytes=0, seconds=0.0)


def _as_dataset(rows: Any) -> Dataset:
    if isinstance(rows, Dataset):
        return rows
    shown = "None" if rows is None else type(rows).__name__
    raise InvalidArgumentError(f"dataset={shown} must be a ray.data.Dataset: write_lance({_way(rows)}, ...)")


def _way(rows: Any) -> str:
    for kind in type(rows).__mro__:
        if (way := _WAYS.get((kind.__module__.partition(".")[0], kind.__name__))) is not None:
            return way
    return _ANY
