"""Calls the user's function: a batch of rows with their addresses in, checked columns out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
from lance.blob import BlobType
from ray.data.block import BlockAccessor

from ray_lance.data.faults import faults_of_data
from ray_lance.errors import InvalidArgumentError, RayLanceError, SchemaMismatchError, TensorConversionError
from ray_lance.ray_internals.tasks import attempts_before
from ray_lance.scan.rebatch import rebatched
from ray_lance.scan.scan import ROW_ADDRESS
from ray_lance.tensors import from_tensors, storable, to_tensors
from ray_lance.tensors.categories import with_values
from ray_lance.tensors.from_pandas import from_pandas
from ray_lance.tensors.kinds import VARIABLE_SHAPE, extension_name
from ray_lance.tensors.objects import checked
from ray_lance.write.lance_types import lance_schema
from ray_lance.write.schema import fit, portable, refuse_null_types, with_fields

__all__ = [
    "BATCH_FORMATS",
    "FAILURE",
    "BatchCall",
    "ClassOnBatches",
    "call_on_batch",
    "constructed",
    "first_schema",
    "named",
]

FAILURE = "_ray_lance_failure"

# How often a function may end the process that it runs in.
_MOST_ATTEMPTS = 3

BATCH_FORMATS: Mapping[str, Callable[[pa.Table], Any]] = {
    "numpy": lambda table: BlockAccessor.for_block(with_values(checked(table))).to_batch_format("numpy"),
    "torch": to_tensors,
    "pandas": lambda table: BlockAccessor.for_block(checked(table)).to_pandas(),
    "pyarrow": checked,
}


@dataclass(frozen=True)
class BatchCall:
    """How a function is called, and what it must return.

    Attributes:
        batch_format: What it is given: one of :data:`BATCH_FORMATS`.
        schema: The columns it must return; None while that is not known.
        exact: Whether the types of the values must be those of ``schema``. Otherwise they are cast to them where
            nothing is lost.
        null_on_error: Whether the rows of a batch on which the function raises an error become null.
        arguments: Further positional arguments.
        keywords: Further keyword arguments.
    """

    batch_format: str = "numpy"
    schema: pa.Schema | None = None
    exact: bool = False
    null_on_error: bool = False
    arguments: Sequence[Any] = ()
    keywords: Mapping[str, Any] = field(default_factory=dict)


class ClassOnBatches:
    """A callable class, constructed once per actor, on batches of rows.

    Args:
        function: The class.
        call: How its instance is called.
        batch_size: Rows per call.
        arguments: Positional arguments of its constructor.
        keywords: Keyword arguments of its constructor.
    """

    def __init__(
        self,
        function: type,
        call: BatchCall,
        batch_size: int,
        arguments: Sequence[Any] = (),
        keywords: Mapping[str, Any] | None = None,
    ) -> None:
        self._construct = partial(constructed, function, arguments, keywords or {})
        self._function: Callable[..., Any] | None = None
        self._call = call
        self._batch_size = batch_size

    def __call__(self, rows: pa.Table) -> Iterator[pa.Table]:
        """As :func:`call_on_batch`, for one batch of ``rows`` after another.

        The first call constructs the class. A constructor that ends its process would be started again for ever, and
        Ray counts attempts of calls only.
        """
        for batch in rebatched([rows], self._batch_size):
            with faults_of_data():
                columns = self._computed(batch)
            yield columns

    def _computed(self, batch: pa.Table) -> pa.Table:
        _refuse_another_attempt(_place(batch))
        if self._function is None:
            self._function = self._construct()
        return call_on_batch(batch, self._function, self._call)


def constructed(function: Callable[..., Any], arguments: Sequence[Any], keywords: Mapping[str, Any]) -> Any:
    """An instance of a class.

    Raises:
        RayLanceError: Its constructor raised an error.
    """
    try:
        return function(*arguments, **keywords)
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        raise RayLanceError(f"the constructor of fn, {function.__qualname__}, failed: {_reason(error)}") from error


def call_on_batch(rows: pa.Table, function: Callable[..., Any], call: BatchCall) -> pa.Table:
    """The new columns of a batch.

    Args:
        rows: The input columns and ``_rowaddr``.
        function: Called with the input columns in the format asked for.
        call: How, and what must come back; its schema must be known.

    Returns:
        ``_rowaddr``, the columns of ``call.schema`` and why rows failed (null where they did not).

    Raises:
        RayLanceError: The function raised an error and ``null_on_error`` is False.
        SchemaMismatchError: It returned other columns, types or numbers of rows.
    """
    assert call.schema is not None
    call = replace(call, schema=portable(call.schema))  # it may have been sent here as extension types
    addresses = rows.column(ROW_ADDRESS)
    inputs = _inputs(rows, call)
    _refuse_another_attempt(_place(rows))
    try:
        result = function(inputs, *call.arguments, **call.keywords)
    except KeyboardInterrupt:  # by which Ray cancels tasks
        raise
    except BaseException as error:
        if not call.null_on_error:
            raise RayLanceError(f"fn failed on {_place(rows)}: {_reason(error)}") from error
        return _failed(rows, call.schema, _reason(error))
    columns = _checked(result, rows, call)
    return _outcome(addresses, columns, pa.nulls(len(rows), pa.string()))


def first_schema(rows: pa.Table, make: Callable[[], Callable[..., Any]], call: BatchCall) -> pa.Schema:
    """The columns that the function makes of a batch, for a call whose schema is not known.

    Args:
        rows: The input columns and ``_rowaddr``.
        make: Makes the function.
        call: How it is called.

    Raises:
        RayLanceError: The function raised an error.
        InvalidArgumentError: There are no rows to call it on.
        SchemaMismatchError: It returned something that cannot become columns.
    """
    if not len(rows):
        raise InvalidArgumentError(
            "schema=None: there is no row to call fn on, so the types of the new columns are unknown; give the schema"
        )
    _refuse_another_attempt(_place(rows))
    inputs = _inputs(rows, call)
    try:
        result = make()(inputs, *call.arguments, **call.keywords)
    except (KeyboardInterrupt, RayLanceError):
        raise
    except BaseException as error:
        raise RayLanceError(
            f"fn failed on {_place(rows)}, which was called to learn the types of the new columns (schema= "
            f"gives them): {_reason(error)}"
        ) from error
    schema = _checked(result, rows, call).schema
    refuse_null_types(schema)
    return schema


def _inputs(rows: pa.Table, call: BatchCall) -> Any:
    return BATCH_FORMATS[call.batch_format](rows.drop_columns([ROW_ADDRESS]))


def _checked(result: Any, rows: pa.Table, call: BatchCall) -> pa.Table:
    try:
        table = _as_table(result, call)
        if len(table) != len(rows):
            raise SchemaMismatchError(f"it returned {len(table)} rows for {len(rows)}")
        if call.schema is None:
            return table
        missing = [name for name in call.schema.names if name not in table.column_names]
        if missing:
            raise SchemaMismatchError(f"it did not return the columns {missing}, but {table.column_names}")
        if call.exact:
            _check_types(table.schema, call.schema)
        return fit(table, call.schema)
    except (SchemaMismatchError, TensorConversionError, InvalidArgumentError) as error:
        raise SchemaMismatchError(f"what fn returned for {_place(rows)} cannot be stored: {error}") from error


def _as_table(result: Any, call: BatchCall) -> pa.Table:
    if isinstance(result, pa.RecordBatch):
        result = pa.Table.from_batches([result])
    if isinstance(result, pa.Table):
        return storable(result)
    if isinstance(result, Mapping):
        return _from_mapping(result, None if call.exact else call.schema)
    if hasattr(result, "to_dict") and hasattr(result, "columns"):
        return storable(from_pandas(result, call.schema))
    raise SchemaMismatchError(
        f"it returned a {type(result).__name__}; it must return a dict of tensors, arrays or lists by column name, "
        "an Arrow table or a pandas DataFrame"
    )


def _from_mapping(columns: Mapping[str, Any], schema: pa.Schema | None) -> pa.Table:
    """As :func:`from_tensors`; bytes for columns of Lance's blob type stay bytes, which :func:`fit` makes blobs of."""
    if schema is None:
        return from_tensors(columns)
    stored = {
        field.name: from_tensors({field.name: columns[field.name]})
        for field in schema
        if isinstance(field.type, BlobType) and field.name in columns
    }
    hints = with_fields(schema, [table.schema.field(0) for table in stored.values()])
    return from_tensors({**columns, **{name: table.column(0) for name, table in stored.items()}}, hints)


def _check_types(found: pa.Schema, expected: pa.Schema) -> None:
    found = portable(lance_schema(found))
    for column in expected:
        dtype = found.field(column.name).type
        if dtype != column.type and not pa.types.is_null(dtype):
            raise SchemaMismatchError(
                f"column {column.name!r} is {dtype}, and {column.type} in the first batch; return one type, or give "
                "the schema to convert to"
            )


def _failed(rows: pa.Table, schema: pa.Schema, reason: str) -> pa.Table:
    nulls = fit(pa.table({name: pa.nulls(len(rows)) for name in schema.names}), schema)
    failure = pa.repeat(pa.scalar(reason, pa.string()), len(rows))
    return _outcome(rows.column(ROW_ADDRESS), nulls, failure)


def _outcome(addresses: pa.ChunkedArray, columns: pa.Table, failure: pa.Array) -> pa.Table:
    """A block; tensors of varying shape without their name, of which pyarrow makes a type that cannot be pickled."""
    fields = [field.remove_metadata() if extension_name(field) == VARIABLE_SHAPE else field for field in columns.schema]
    plain = pa.Table.from_arrays(columns.columns, schema=pa.schema(fields))
    return plain.add_column(0, ROW_ADDRESS, addresses).append_column(FAILURE, failure)


def named(block: pa.Table, schema: pa.Schema) -> pa.Table:
    """``block`` with the extension names that :func:`call_on_batch` left out."""
    for column in portable(schema):
        if extension_name(column) == VARIABLE_SHAPE:
            block = block.set_column(block.column_names.index(column.name), column, block.column(column.name))
    return block


def _reason(error: BaseException) -> str:
    text = f"{type(error).__name__}: {error}"
    return text if isinstance(error, Exception) else f"{text} (fn must return, and not end its process)"


def _place(rows: pa.Table) -> str:
    address = int(np.asarray(rows.column(ROW_ADDRESS)[0].as_py(), np.uint64))
    return (
        f"the batch of {len(rows)} rows whose first row address is {address} "
        f"(fragment {address >> 32}, offset {address & 0xFFFFFFFF})"
    )


def _refuse_another_attempt(place: str) -> None:
    """Raise if the processes of all earlier attempts of this task ended: Ray would start new ones for ever."""
    before = attempts_before()
    if before >= _MOST_ATTEMPTS:
        raise RayLanceError(
            f"fn was given up after {before} attempts, of a task that begins with {place}: each ended its process. "
            "Either fn ends it (os._exit, a fault in native code), or it took more memory than there was and was "
            "killed; then a smaller batch_size, less concurrency or memory= (bytes to reserve) helps. Ray's log has "
            "the exit codes"
        )
