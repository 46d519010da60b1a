"""Running a user's function over the rows of fragments: what is read, how batches are made, in tasks or actors."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import pyarrow as pa
import ray
from ray import cloudpickle
from ray.data import Dataset

from ray_lance.arguments import as_choice, as_concurrency, as_count
from ray_lance.backfill.computed_read import ComputingDatasource
from ray_lance.backfill.identity import parts_of
from ray_lance.backfill.udf import (
    BATCH_FORMATS,
    BatchCall,
    ClassOnBatches,
    call_on_batch,
    constructed,
    first_schema,
)
from ray_lance.backfill.window import Admission, Window
from ray_lance.data.cluster import cluster_cpus
from ray_lance.data.fragments import FragmentDatasource
from ray_lance.data.remote import actor_pool, checked, flat, for_read
from ray_lance.decode import Decode, ImageDecode
from ray_lance.errors import InvalidArgumentError, UnknownColumnError
from ray_lance.ray_internals.executions import (
    begun_as_admitted,
    executed_promptly,
    silenced,
    with_unshaped_blocks,
)
from ray_lance.scan.pushdown import build_scan, check_filter
from ray_lance.scan.reader import ReadPlan
from ray_lance.scan.scan import ROW_ADDRESS, Scan, has_column
from ray_lance.scan.size import row_bytes
from ray_lance.scan.tasks import FragmentRange
from ray_lance.table import TableRef
from ray_lance.write.column_plan import Pass, count_selected
from ray_lance.write.column_record import Recipe

__all__ = ["Compute", "count_rows"]

# Actors hand on what they have computed at the end of a task.
_MOST_BATCHES_PER_TASK = 64
_TASKS_PER_WORKER = 4
_READS_BESIDE_ACTORS = 2
_READ_ARGUMENTS = {"max_calls": 0}  # as many as there are, which is the default


@dataclass(frozen=True)
class Compute:
    """What is called on which columns, and on which resources.

    Attributes:
        function: A function, or a class that is constructed once per actor.
        input_columns: The columns it is given.
        batch_size: Rows per call.
        batch_format: What it is given: ``"numpy"``, ``"torch"``, ``"pandas"`` or ``"pyarrow"``.
        null_on_error: Whether rows on which it raises an error become null.
        arguments: Further positional arguments of each call.
        keywords: Further keyword arguments of each call.
        constructor_arguments: Positional arguments of the class.
        constructor_keywords: Keyword arguments of the class.
        concurrency: As ``map_batches`` takes it.
        ray_arguments: Arguments of ``ray.remote``, ``num_gpus`` and such; None values are left out.
        decode: What makes tensors of encoded input columns; see :data:`ray_lance.decode.Decode`.

    Raises:
        InvalidArgumentError: A value breaks its rule.
    """

    function: Callable[..., Any]
    input_columns: tuple[str, ...]
    batch_size: int = 1024
    batch_format: str = "numpy"
    null_on_error: bool = False
    arguments: Sequence[Any] = ()
    keywords: Mapping[str, Any] = field(default_factory=dict)
    constructor_arguments: Sequence[Any] = ()
    constructor_keywords: Mapping[str, Any] = field(default_factory=dict)
    concurrency: int | tuple[int, int] | None = None
    ray_arguments: Mapping[str, Any] = field(default_factory=dict)
    decode: Decode = None

    def __post_init__(self) -> None:
        if not callable(self.function):
            raise InvalidArgumentError(f"fn={self.function!r} must be a function or a callable class")
        object.__setattr__(self, "batch_size", as_count("batch_size", self.batch_size))
        object.__setattr__(self, "concurrency", as_concurrency(self.concurrency))
        as_choice("batch_format", self.batch_format, BATCH_FORMATS)
        object.__setattr__(self, "ray_arguments", flat(checked(self.ray_arguments, of_actors=self.is_class)))
        if not self.input_columns:
            raise InvalidArgumentError('input_columns=[] must name the columns that fn is given, such as ["text"]')
        if not self.is_class and (self.constructor_arguments or self.constructor_keywords):
            raise InvalidArgumentError(
                "fn_constructor_args and fn_constructor_kwargs are for callable classes, and fn is a function: "
                "pass fn_args or fn_kwargs"
            )
        self._check_picklable()

    @property
    def is_class(self) -> bool:
        """Whether the function is a class, which runs in actors."""
        return inspect.isclass(self.function)

    def made(self) -> Callable[..., Any]:
        """The function itself, or an instance of the class."""
        if not self.is_class:
            return self.function
        return constructed(self.function, self.constructor_arguments, self.constructor_keywords)  # type: ignore[no-any-return]

    def scan(self, table: TableRef, filter: str | None) -> Scan:
        """What is read of ``table``: the input columns, decoded, and the row address.

        Raises:
            UnknownColumnError: ``filter`` or ``decode`` names a column that does not exist or is not an input.
            InvalidArgumentError: Lance refuses the filter, or a column that is to be decoded holds no bytes.
        """
        scan = build_scan([table], list(self.input_columns), None, [ROW_ADDRESS], {})
        if filter is not None:
            check_filter(scan, filter, "where")
        return replace(scan, filter=filter).decoding(self.decode)

    def recipe(self, where: str | None, decoders: Mapping[str, ImageDecode] | None = None) -> Recipe:
        """What the dataset keeps of this computation, to tell it from others.

        Args:
            where: SQL condition of the rows that are computed.
            decoders: What makes tensors of the input columns.
        """
        function = self.function.func if isinstance(self.function, partial) else self.function
        name = getattr(function, "__qualname__", None) or type(function).__qualname__
        given: dict[str, Any] = {"fn_args": list(self.arguments)}
        given |= {f"fn_kwargs[{key!r}]": value for key, value in self.keywords.items()}
        given |= {"fn_constructor_args": list(self.constructor_arguments)}
        given |= {f"fn_constructor_kwargs[{key!r}]": value for key, value in self.constructor_keywords.items()}
        given |= {f"decode[{key!r}]": decoder for key, decoder in (decoders or {}).items()}
        return Recipe(self.input_columns, where, name, tuple(sorted(parts_of(self.function, given).items())))

    def check_against(self, schema: pa.Schema) -> None:
        """Check that the input columns exist.

        Raises:
            UnknownColumnError: One does not.
        """
        for name in self.input_columns:
            if not has_column(schema, name):
                raise UnknownColumnError("input_columns", name, schema.names)

    def first_schema(self, table: TableRef, where: str | None) -> pa.Schema:
        """The columns that the function makes of the first batch, in a task with the resources of the others."""
        task = ray.remote(_first_schema).options(**self.ray_arguments)
        schema: pa.Schema = ray.get(task.remote(table, where, self))
        return schema

    def dataset(
        self, table: TableRef, todo: Pass, schema: pa.Schema, *, exact: bool, window: Window | None = None
    ) -> Dataset:
        """A Ray dataset of the new columns of the rows of ``todo``, in scan order, with their row addresses.

        Args:
            table: The pinned dataset.
            todo: The rows.
            schema: The new columns.
            exact: Whether the function must return these very types.
            window: How far to be ahead of the commits; None for as far as there is memory.
        """
        scan = self.scan(table, todo.filter)
        call = replace(self._call(), schema=schema, exact=exact)
        source = self._datasource(scan, todo, window)
        whole_batches = window is None
        computed = self._in_actors(source, call, whole_batches) if self.is_class else self._in_tasks(source, call)
        # Only in order do counts of rows tell which rows a block holds.
        computed.context.execution_options.preserve_order = True
        computed.context.checkpoint_config = None  # the columns themselves tell what is done
        if window is not None:
            computed = begun_as_admitted(computed, Admission(window, todo, source.last_fragments()).admits)
        return silenced(executed_promptly(computed))

    def _in_actors(self, source: FragmentDatasource, call: BatchCall, whole_batches: bool) -> Dataset:
        """``whole_batches``: whether an actor may wait for the rows of another read, to make its batch full."""
        made_of = (self.function, call, self.batch_size, self.constructor_arguments, self.constructor_keywords)
        tasks = len(source.planned().tasks)
        rows = ray.data.read_datasource(source, override_num_blocks=1, **self._beside_actors(tasks))
        return rows.map_batches(
            ClassOnBatches,
            fn_constructor_args=made_of,
            batch_size=self.batch_size if whole_batches else None,
            batch_format="pyarrow",
            zero_copy_batch=True,
            compute=actor_pool(self.concurrency, max(1, tasks)),
            **self.ray_arguments,
        )

    def _beside_actors(self, tasks: int) -> dict[str, Any]:
        """How to read: where the actors take every CPU without reserving one, or the first read would wait for ever.

        With arguments that the actors do not have, or Ray would let them read themselves and keep them from computing.
        """
        each = self.ray_arguments.get("num_cpus")
        taken = self._workers() * (1.0 if each is None else float(each))
        if taken + 1 <= cluster_cpus():
            return _READ_ARGUMENTS
        return {**_READ_ARGUMENTS, "num_cpus": 0, "concurrency": max(1, min(tasks, _READS_BESIDE_ACTORS))}

    def _in_tasks(self, source: FragmentDatasource, call: BatchCall) -> Dataset:
        compute = partial(call_on_batch, function=self.function, call=call)
        computed = ray.data.read_datasource(
            ComputingDatasource(source, compute, self.batch_size),
            override_num_blocks=1,
            concurrency=min(self._workers(), max(1, len(source.planned().tasks))) if self.concurrency else None,
            **for_read(self.ray_arguments),
        )
        return with_unshaped_blocks(computed)  # the tasks size their blocks by time, too

    def _datasource(self, scan: Scan, todo: Pass, window: Window | None) -> FragmentDatasource:
        """Tasks sized by bytes, or smaller ones: a function may take long for the rows of few bytes.

        Small enough to keep all workers at work to the end, and to be done before much could be lost by a failure.
        """
        fragment_ids = [work.fragment_id for work in todo.fragments]
        batches = -(-sum(work.rows for work in todo.fragments) // self.batch_size)
        at_work = _TASKS_PER_WORKER * self._workers()
        windows = 1 if window is None else -(-len(fragment_ids) // window.size)
        least = max(min(batches, windows * at_work), -(-batches // _MOST_BATCHES_PER_TASK))
        planned = partial(
            FragmentDatasource,
            scan,
            fragment_ids=fragment_ids,
            fragments_per_task=None if window is None else window.part,
            batch_size=self.batch_size,
        )
        source = planned()
        if len(source.planned().tasks) >= least:
            return source
        return planned(num_tasks=least)

    def _workers(self) -> int:
        """Calls that may run at one time."""
        if isinstance(self.concurrency, int):
            return self.concurrency
        if self.concurrency is not None:
            return max(self.concurrency)
        return cluster_cpus()

    def _call(self) -> BatchCall:
        return BatchCall(
            self.batch_format, null_on_error=self.null_on_error, arguments=self.arguments, keywords=self.keywords
        )

    def _check_picklable(self) -> None:
        given = (self.arguments, self.keywords, self.constructor_arguments, self.constructor_keywords)
        for name, value in (("fn", self.function), ("arguments of fn", given)):
            try:
                cloudpickle.dumps(value)
            except Exception as error:
                raise InvalidArgumentError(
                    f"{name}: cannot be pickled and sent to the workers ({error}); open files, locks, connections and "
                    "models in the constructor of a callable class instead"
                ) from error


def count_rows(table: TableRef, todo: Pass) -> Pass:
    """``todo`` with the number of rows that pass its filter, without fragments of none; counted in tasks."""
    if todo.filter is None:
        return todo
    ids = [work.fragment_id for work in todo.fragments]
    parts = max(1, min(len(ids), 2 * cluster_cpus()))
    count = ray.remote(_count_rows)
    shared = ray.put(table)
    counts: dict[int, int] = {}
    for found in ray.get([count.remote(shared, ids[part::parts], todo.filter) for part in range(parts)]):
        counts.update(found)
    return todo.counted(counts)


def _count_rows(table: TableRef, fragment_ids: Sequence[int], filter: str) -> dict[int, int]:
    return count_selected(table.open(), fragment_ids, filter)


def _first_schema(table: TableRef, where: str | None, compute: Compute) -> pa.Schema:
    scan = compute.scan(table, where)
    plan = ReadPlan(scan, scan.schema(), row_bytes(scan))
    everything = FragmentRange(0, None, 0, table.open().count_rows())
    rows = pa.concat_tables(plan.read(everything, limit=compute.batch_size))
    return first_schema(rows, compute.made, compute._call())
