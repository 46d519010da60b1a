"""The public functions on Ray datasets: their arguments and documentation. The work is done in data/ and backfill/."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import lance
import pyarrow as pa
from ray.data import Dataset, SaveMode

from ray_lance.arguments import as_choice, as_mapping, as_names, as_sequence
from ray_lance.backfill.compute import Compute
from ray_lance.backfill.merge import MergeColumnsOptions, merge_columns
from ray_lance.backfill.run import AddColumnsSummary, BackfillOptions, backfill
from ray_lance.changes import Changes, Since
from ray_lance.data.explain import explain_dataset
from ray_lance.data.read import ReadOptions, read
from ray_lance.data.write import write
from ray_lance.decode import Decode
from ray_lance.errors import InvalidArgumentError
from ray_lance.permutation import Permutation
from ray_lance.scan.pushdown import Columns, Filter
from ray_lance.scan.reader import Fill
from ray_lance.table import TableRef, check_source
from ray_lance.table_arguments import TableArguments
from ray_lance.versions import Version
from ray_lance.write.options import DEFAULT_TARGET_BYTES, WriteOptions, WriteSummary

__all__ = ["add_columns", "explain", "merge_columns_from", "read_lance", "write_lance"]

Source: TypeAlias = str | os.PathLike[str] | TableRef | lance.LanceDataset | Permutation


def add_columns(
    uri: str | os.PathLike[str] | TableRef | None = None,
    fn: Callable[..., Any] | None = None,
    *,
    input_columns: str | Sequence[str],
    schema: pa.Schema | None = None,
    where: str | None = None,
    batch_size: int = 1024,
    batch_format: str = "numpy",
    decode: Decode = None,
    overwrite: bool = False,
    on_error: str = "raise",
    fragments_per_commit: int | None = None,
    fn_args: Sequence[Any] = (),
    fn_kwargs: Mapping[str, Any] | None = None,
    fn_constructor_args: Sequence[Any] = (),
    fn_constructor_kwargs: Mapping[str, Any] | None = None,
    num_cpus: float | None = None,
    num_gpus: float | None = None,
    memory: float | None = None,
    concurrency: int | tuple[int, int] | None = None,
    ray_remote_args: Mapping[str, Any] | None = None,
    storage_options: Mapping[str, str] | None = None,
    table_id: Sequence[str] | None = None,
    namespace_impl: str | None = None,
    namespace_properties: Mapping[str, str] | None = None,
) -> AddColumnsSummary:
    """Compute new columns for every row and store them beside the data.

    Only ``input_columns`` are read and only the new columns are written, one file per fragment. Finished fragments are
    committed in groups: readers see them early, and calling again after a crash resumes with the others. Calling again
    later computes what is missing, such as rows that were appended since. Appends and deletions by other writers in the
    meantime do no harm; fragments that they rewrite in the meantime are computed again.

    A call resumes an earlier one that had the same input columns, ``where``, ``decode``, ``fn`` and arguments of
    ``fn``. What is compared is the code of ``fn``, what the code refers to, its state, and the values of arguments. A
    call that differs in one of them needs ``overwrite=True``; if that call is interrupted, the same call without
    ``overwrite`` resumes it. Rows that others update later keep the value computed before: compute them again with
    ``overwrite=True`` and a ``where`` that selects them.

    Args:
        uri: Path or URI of the Lance dataset, or a reference to it.
        fn: Function, or callable class that is constructed once per actor. Called with a dict of arrays by input
            column, of shape ``(rows, *shape)`` (see ``batch_format``); returns a dict of tensors, arrays or lists of
            as many rows by new column (or an Arrow table, or a pandas DataFrame). Without ``schema`` it is called once
            more at the start, on the first batch, to learn the types.
        input_columns: Columns that ``fn`` is given (``"a.b"`` for a struct's field).
        schema: The new columns; values are converted where nothing is lost. Default: the types of the first batch.
        where: SQL condition; rows for which it is not true are left out. They are null, or with ``overwrite`` keep
            the value they have.
        batch_size: Rows per call.
        batch_format: What ``fn`` is given: ``"numpy"`` arrays, ``"torch"`` tensors, a ``"pandas"`` DataFrame or a
            ``"pyarrow"`` table.
        decode: Input columns of encoded images that ``fn`` is given as tensors; as for :func:`read_lance`.
        overwrite: Compute existing columns again.
        on_error: When ``fn`` raises an error: ``"raise"`` stops (what is finished is committed); ``"null"`` leaves the
            rows of the batch null and reports them in the summary. They count as done; ``overwrite=True`` with
            ``where="column IS NULL"`` tries them again.
        fragments_per_commit: Most fragments that may be computed, wholly or in part, and not committed: what a crash
            can cost. They are committed a third at a time, so that the rest can be computed during commits; with 1 the
            computation waits for each commit. No batch holds rows of more than a third of them. Default: what is
            finished is committed every ten seconds, and the computation continues as long as there is memory.
        fn_args: Further positional arguments of each call.
        fn_kwargs: Further keyword arguments of each call.
        fn_constructor_args: Positional arguments of the class.
        fn_constructor_kwargs: Keyword arguments of the class.
        num_cpus: CPUs to reserve for each task or actor.
        num_gpus: GPUs to reserve for each task or actor.
        memory: Heap memory in bytes to reserve for each task or actor.
        concurrency: Most tasks at one time, or actors: a number, or the least and the most.
        ray_remote_args: Further arguments of ``ray.remote`` for the tasks or actors.
        storage_options: Options of the object store, such as credentials and endpoint.
        table_id: Identifier of the table in a namespace, instead of ``uri``.
        namespace_impl: Implementation of the namespace, such as ``"dir"`` or ``"rest"``.
        namespace_properties: Properties of the connection to the namespace.

    Returns:
        What was done. ``lance.dataset(uri, version=summary.version_before).restore()`` undoes it.

    Raises:
        DatasetNotFoundError: There is no such dataset.
        UnknownColumnError: ``input_columns`` or ``where`` names a column that does not exist.
        InvalidArgumentError: An argument breaks its rule, a column exists and ``overwrite`` is not given, or ``fn``
            cannot be pickled or compared with that of another run.
        SchemaMismatchError: ``fn`` returned the wrong number of rows, or types that differ from the first batch's or
            the schema's; the message names the batch's first row address.
        RayLanceError: ``fn`` raised an error; the message names the batch's first row address.
        CommitError: Nothing more could be committed.
    """
    if fn is None:
        raise InvalidArgumentError("fn=None must be a function or a callable class")
    compute = Compute(
        fn,
        as_names("input_columns", input_columns),
        batch_size=batch_size,
        batch_format=batch_format,
        null_on_error=as_choice("on_error", on_error, ("raise", "null")) == "null",
        arguments=as_sequence("fn_args", fn_args),
        keywords=as_mapping("fn_kwargs", fn_kwargs),
        constructor_arguments=as_sequence("fn_constructor_args", fn_constructor_args),
        constructor_keywords=as_mapping("fn_constructor_kwargs", fn_constructor_kwargs),
        concurrency=concurrency,
        ray_arguments={
            "num_cpus": num_cpus,
            "num_gpus": num_gpus,
            "memory": memory,
            "ray_remote_args": ray_remote_args,
        },
        decode=decode,
    )
    options = BackfillOptions(schema, where, overwrite, fragments_per_commit)
    table = TableArguments(uri, storage_options, table_id, namespace_impl, namespace_properties).to_write()
    return backfill(table, compute, options)


def merge_columns_from(
    uri: str | os.PathLike[str] | TableRef | None = None,
    dataset: Dataset | None = None,
    *,
    on: str = "_rowaddr",
    columns: str | Sequence[str] | None = None,
    schema: pa.Schema | None = None,
    read_version: int | None = None,
    require_full_coverage: bool = True,
    overwrite: bool = False,
    fragments_per_commit: int | None = None,
    storage_options: Mapping[str, str] | None = None,
    table_id: Sequence[str] | None = None,
    namespace_impl: str | None = None,
    namespace_properties: Mapping[str, str] | None = None,
) -> AddColumnsSummary:
    """Store columns that a Ray pipeline computed beside the rows they belong to.

    For what takes more than one function: several ``map_batches``, pools of actors, ``ray.data.llm``. The pipeline
    begins with ``read_lance(uri, with_row_address=True)`` and hands that column on. Rows are matched by it, in whatever
    order they come; one file is written for each fragment when its last row has come, and finished fragments are
    committed in groups, as by :func:`add_columns`. With ``read_lance(uri, missing="column", with_row_address=True)``
    the same program, run again after a crash or after an append, computes only what is not committed.

    What a pipeline computes cannot be compared with that of another run: after a change in it give ``overwrite=True``
    to compute all values again. Rows that others append or delete in the meantime do no harm.

    Args:
        uri: Path or URI of the Lance dataset, or a reference to it.
        dataset: The pipeline. It runs once.
        on: The column that identifies a row: ``"_rowaddr"``, or ``"_rowid"`` of ``read_lance(uri, with_row_id=True)``.
        columns: Columns of the pipeline to store. Default: those that the dataset does not have, and those that its
            read names in ``missing=``.
        schema: Their types; values are converted where nothing is lost. Default: those of the first block.
        read_version: Version whose rows went into the pipeline, where it does not show that, as after ``materialize``.
        require_full_coverage: Every row without a value must get one: rows that are missing are an error after the
            fragments of which all rows came are committed. Otherwise rows that a filter left out are null, or keep
            the value they have with ``overwrite``; fragments of which no row came are left as they are.
        overwrite: Replace the values of ``columns`` that exist.
        fragments_per_commit: Most fragments that may be written and not committed; a third of them is committed at a
            time. Default: what is finished is committed every ten seconds.
        storage_options: Options of the object store, such as credentials and endpoint.
        table_id: Identifier of the table in a namespace, instead of ``uri``.
        namespace_impl: Implementation of the namespace, such as ``"dir"`` or ``"rest"``.
        namespace_properties: Properties of the connection to the namespace.

    Returns:
        What was done. ``lance.dataset(uri, version=summary.version_before).restore()`` undoes it.

    Raises:
        DatasetNotFoundError: There is no such dataset.
        InvalidArgumentError: An argument breaks its rule, a column exists and ``overwrite`` is not given; or an address
            is null, comes twice, is no row of the version that was read, or did not come. No value of such a row's
            fragment is committed, unless all its rows had come and been committed before another one came.
        SchemaMismatchError: Values do not have the types of the first block, or cannot be stored.
        CommitError: Others rewrote fragments since they were read, or nothing more could be committed.
    """
    if dataset is None:
        raise InvalidArgumentError("dataset=None must be a ray.data.Dataset that read_lance(uri) began")
    options = MergeColumnsOptions(
        on=on,
        columns=None if columns is None else as_names("columns", columns),
        schema=schema,
        read_version=read_version,
        require_full_coverage=require_full_coverage,
        overwrite=overwrite,
        fragments_per_commit=fragments_per_commit,
    )
    table = TableArguments(uri, storage_options, table_id, namespace_impl, namespace_properties).to_write()
    return merge_columns(table, dataset, options)


def read_lance(
    uri: Source | Sequence[Source] | None = None,
    *,
    columns: Columns = None,
    filter: Filter | None = None,
    version: Version | None = None,
    since: Since | None = None,
    changes: Changes = "all",
    without: str | os.PathLike[str] | TableRef | lance.LanceDataset | None = None,
    on: str | Sequence[str] | None = None,
    missing: str | Sequence[str] | None = None,
    shuffle: int | None = None,
    storage_options: Mapping[str, str] | None = None,
    base_store_params: Mapping[str, Mapping[str, Any]] | None = None,
    scanner_options: Mapping[str, Any] | None = None,
    dataset_options: Mapping[str, Any] | None = None,
    fragment_ids: Sequence[int] | None = None,
    with_row_id: bool = False,
    with_row_address: bool = False,
    with_metadata: bool = False,
    decode: Decode = None,
    fill: Fill = None,
    table_id: Sequence[str] | None = None,
    namespace_impl: str | None = None,
    namespace_properties: Mapping[str, str] | None = None,
    num_cpus: float | None = None,
    num_gpus: float | None = None,
    memory: float | None = None,
    resources: Mapping[str, float] | None = None,
    label_selector: Mapping[str, str] | None = None,
    fallback_strategy: Sequence[Mapping[str, Any]] | None = None,
    max_calls: int | None = None,
    accelerator_type: str | None = None,
    runtime_env: Mapping[str, Any] | None = None,
    ray_remote_args: Mapping[str, Any] | None = None,
    concurrency: int | None = None,
    override_num_blocks: int | None = None,
) -> Dataset:
    """Read one version of one or more Lance datasets as a Ray dataset.

    The version is pinned here: what others append, delete or compact later changes nothing. Takes every argument of
    ``ray.data.read_lance`` and of ``lance_ray.read_lance`` with the same meaning. Vectors and tensors arrive as
    fixed-shape tensor columns, which ``iter_torch_batches`` turns into tensors of shape ``(batch, *shape)``.

    Args:
        uri: Path or URI, an open ``lance.LanceDataset``, a :class:`~ray_lance.TableRef`, or a list of these; or
            a :class:`~ray_lance.Permutation`, whose rows come in its order: each execution of the Ray dataset is the
            next epoch, unless ``Permutation.epoch`` has fixed one. Of several datasets the rows follow one another;
            a column that one of them lacks is null there.
        columns: Names of the columns to read (``"a.b"`` for a struct's field), or names mapped to SQL expressions.
            Default: all.
        filter: SQL condition, or pyarrow expression; only rows for which it is true are read.
            ``Dataset.filter(expr=...)`` is pushed down too.
        version: Version number, tag, or tuple of a branch and a version number or None, such as ``("dev", None)``.
            Default: the latest version.
        since: Read only rows that were added or changed since this version number, tag or time (``datetime``). Tables
            with stable row ids know this of each row. Of other tables only whole fragments are known to be new, and
            operations that move rows (updates, merges, compactions) are an error.
        changes: With ``since``: ``"inserted"`` rows, ``"updated"`` ones that were there before, or ``"all"`` of both.
        without: A table: rows whose key is in it are not read. Its version is pinned here too, and the rows are found
            here, from the key columns of both tables, which are streamed: memory holds 8 bytes for each row to read,
            and of the other table's keys up to 1 GiB at a time (16 bytes for an integer or a time; 40 and three times
            its size for another key). More keys take more passes over both tables. Keys are compared by value. A null
            in a key equals nothing, as in SQL: such rows are always read. A path or URI is opened with
            ``storage_options``; a :class:`~ray_lance.TableRef` has its own options, branch, version or namespace.
        on: With ``without``: the key column or columns, which both tables have.
        missing: Read only the rows of fragments that have no values yet of this column, or of one of these: what
            ``add_columns`` or :func:`merge_columns_from` has not committed. All rows of a table without such a column;
            where a compaction joined fragments with values and without, the rows that are null. Unless ``columns``
            names them, these columns are not read.
        shuffle: Seed of a shuffle: the same as reading ``Permutation(uri, filter).shuffle(shuffle)``.
        storage_options: Options of the object store, such as credentials and endpoint.
        base_store_params: Storage options by URI of the dataset's further base paths.
        scanner_options: Further arguments of ``lance.LanceDataset.scanner``. With one that applies to the dataset as a
            whole (``nearest``, ``full_text_query``, ``limit``, ``order_by`` ...) one task reads all of it.
        dataset_options: Further arguments of ``lance.dataset``.
        fragment_ids: Ids of the fragments to read. An empty list reads no rows.
        with_row_id: Add ``_rowid`` (uint64).
        with_row_address: Add ``_rowaddr`` (uint64; fragment id in the upper, offset in the lower 32 bits).
        with_metadata: Add ``_rowaddr`` and ``_fragid`` (uint64).
        decode: Columns of encoded images to read as uint8 tensors, such as ``{"image": ImageDecode(size=(224, 224))}``
            or ``{"image": "image"}``; ``"auto"`` takes those that HuggingFace ``datasets`` has marked. Default: none,
            images stay as they are stored. See :class:`~ray_lance.ImageDecode` for sizes and for damaged images.
        fill: What replaces nulls: one value, or one by column (``"a.b"`` for a struct's field). One value is for all
            numbers, times and booleans, also in vectors, tensors and lists; strings, bytes and categories of them are
            filled only where they are named. A null list becomes an empty one. ``filter`` sees what is stored, and
            ``Dataset.filter`` what is filled. Without it nulls stay nulls; in integer and boolean vectors and tensors,
            which cannot hold them, they are an error, and float vectors hold them as NaN.
        table_id: Identifier of the table in a namespace, instead of ``uri``.
        namespace_impl: Implementation of the namespace, such as ``"dir"`` or ``"rest"``.
        namespace_properties: Properties of the connection to the namespace.
        num_cpus: CPUs to reserve for each read task.
        num_gpus: GPUs to reserve for each read task.
        memory: Heap memory in bytes to reserve for each read task.
        resources: Custom resources to reserve for each read task.
        label_selector: Labels that a node must have to run read tasks.
        fallback_strategy: What to do where ``label_selector`` cannot be met.
        max_calls: Read tasks that a worker runs before it exits.
        accelerator_type: Accelerator that read tasks need.
        runtime_env: Runtime environment of the read tasks.
        ray_remote_args: Further arguments of ``ray.remote`` for the read tasks.
        concurrency: Most read tasks to run at one time.
        override_num_blocks: Number of read tasks. Default: sized by the bytes of the columns that are read.

    Returns:
        A Ray dataset. Without ``preserve_order`` in Ray's execution options blocks may arrive in any order.

    Raises:
        DatasetNotFoundError: There is no such dataset, version or tag.
        UnknownColumnError: ``columns`` or ``filter`` names a column that does not exist.
        InvalidArgumentError: An argument breaks its rule, or two contradict each other.
        SchemaMismatchError: Two of several datasets hold a column with different types.
    """
    tables = TableArguments(
        uri,
        storage_options,
        table_id,
        namespace_impl,
        namespace_properties,
        version=version,
        dataset_options=dataset_options,
        base_store_params=base_store_params,
    )
    options = ReadOptions(
        columns,
        filter,
        fragment_ids,
        with_row_id,
        with_row_address,
        with_metadata,
        num_blocks=override_num_blocks,
        fill=fill,
        scanner_options={} if scanner_options is None else scanner_options,
        decode=decode,
        since=since,
        changes=changes,
        shuffle=shuffle,
        without=without,
        on=() if on is None else as_names("on", on),
        missing=missing,
    )
    ray_arguments = {
        "num_cpus": num_cpus,
        "num_gpus": num_gpus,
        "memory": memory,
        "resources": resources,
        "label_selector": label_selector,
        "fallback_strategy": fallback_strategy,
        "max_calls": max_calls,
        "accelerator_type": accelerator_type,
        "runtime_env": runtime_env,
        "ray_remote_args": ray_remote_args,
        "concurrency": concurrency,
    }
    return read(tables, options, ray_arguments)


def write_lance(
    dataset: Dataset,
    uri: str | os.PathLike[str] | TableRef | None = None,
    *,
    mode: str | SaveMode = "create",
    on: str | Sequence[str] | None = None,
    update: bool = True,
    insert: bool | None = None,
    delete_missing: bool = False,
    schema: pa.Schema | Sequence[pa.Field] | None = None,
    target_bytes_per_file: int = DEFAULT_TARGET_BYTES,
    max_rows_per_file: int | None = None,
    data_storage_version: str | None = None,
    enable_stable_row_ids: bool = False,
    commit_every: int | None = None,
    id_column: str | None = None,
    storage_options: Mapping[str, str] | None = None,
    table_id: Sequence[str] | None = None,
    namespace_impl: str | None = None,
    namespace_properties: Mapping[str, str] | None = None,
    ray_remote_args: Mapping[str, Any] | None = None,
    concurrency: int | None = None,
) -> WriteSummary:
    """Write a Ray dataset as a Lance dataset, in one atomic commit.

    Numpy and torch tensors become standard Arrow types that every Lance reader understands: one dimension per row
    ``fixed_size_list``, more ``arrow.fixed_shape_tensor``; rows of different shapes ``list``, or
    ``arrow.variable_shape_tensor``. Where blocks differ in the type of a column, it gets the narrowest type that holds
    the values of all of them; files written before that was known are written again. On any failure the files that
    were written are removed.

    Args:
        dataset: The rows to write.
        uri: Path or URI of the Lance dataset, or a reference to it.
        mode: ``"create"`` refuses an existing dataset, also one that appears during the write; ``"append"`` adds rows;
            ``"overwrite"`` makes a new version of only these rows, and the old versions stay readable; ``"merge"``
            updates and inserts rows by the key columns ``on``; ``"ignore"`` does nothing where a dataset exists. Where
            the rows of a merge have only a part of the columns, it writes these alone, for the fragments with rows to
            update; every row whose key is there gets the values, and keeps its others, its place and its row id.
            Members of ``ray.data.SaveMode`` are accepted.
        on: Key columns of a merge.
        update: Merge: replace existing rows of the same key.
        insert: Merge: add rows whose key does not exist, with nulls where they have no column. Default: add them,
            unless the rows have only a part of the columns: then leave them out.
        delete_missing: Merge: delete existing rows whose key is not among the new ones.
        schema: Schema of a new dataset, or the fields that differ from what is inferred; :func:`ray_lance.blob` and
            :func:`ray_lance.tensor` make such fields. Default: inferred from all the blocks. A column in which there
            is no value needs it.
        target_bytes_per_file: Bytes of Arrow data per file.
        max_rows_per_file: Most rows per file.
        data_storage_version: Version of the Lance file format, such as ``"2.1"``.
        enable_stable_row_ids: Give a new dataset row ids that stay when rows move.
        commit_every: Append: commit finished files whenever they have so many rows, each time in one version, so that a
            program that is killed keeps them. Run again with ``read_lance(source, without=uri, on=id_column)`` as its
            source it computes and appends the other rows, and removes what was left. One such append at a time: another
            one that begins takes over, and the first stops with ``CommitError``. Each block is at least one file, or
            each ``max_rows_per_file`` rows of a task.
        id_column: With ``commit_every``: the column by which rows are known. It may hold no nulls.
        storage_options: Options of the object store, such as credentials and endpoint.
        table_id: Identifier of the table in a namespace, instead of ``uri``.
        namespace_impl: Implementation of the namespace, such as ``"dir"`` or ``"rest"``.
        namespace_properties: Properties of the connection to the namespace.
        ray_remote_args: Arguments of ``ray.remote`` for the write tasks.
        concurrency: Most write tasks to run at one time.

    Returns:
        What was done: versions before and after, rows, fragments, bytes and seconds.

    Raises:
        DatasetExistsError: ``mode="create"`` where a dataset exists or appeared during the write.
        DatasetNotFoundError: ``mode="append"`` or ``"merge"`` where there is none.
        SchemaMismatchError: The rows do not fit the dataset, or each other, without losing something; or there is no
            value from which to infer the type of a column.
        InvalidArgumentError: An argument breaks its rule, or two contradict each other; or a column has a name by which
            it could not be read.
        CommitError: Nothing was committed.
    """
    options = WriteOptions(
        mode=mode,
        on=() if on is None else as_names("on", on),
        update=update,
        insert=insert,
        delete_missing=delete_missing,
        schema=schema,
        target_bytes_per_file=target_bytes_per_file,
        max_rows_per_file=max_rows_per_file,
        data_storage_version=data_storage_version,
        enable_stable_row_ids=enable_stable_row_ids,
        commit_every=commit_every,
        id_column=id_column,
    )
    table = TableArguments(uri, storage_options, table_id, namespace_impl, namespace_properties).to_write()
    return write(dataset, table, options, ray_remote_args=ray_remote_args, concurrency=concurrency)


def explain(source: Dataset | Source) -> str:
    """Say what a read would do: tables and versions, columns, filter, rows, bytes, tasks, and why so many.

    Args:
        source: A Ray dataset that reads Lance tables, with everything that has been called on it; or a path, URI,
            ``lance.LanceDataset`` or :class:`~ray_lance.TableRef`, which is read as a whole.

    Returns:
        Text to print.
    """
    if not isinstance(source, (Dataset, Permutation)):
        for one in source or [()] if isinstance(source, (list, tuple)) else [source]:
            check_source("source", one)
    dataset = source if isinstance(source, Dataset) else read_lance(source)
    return "\n\n".join(str(explanation) for explanation in explain_dataset(dataset))
