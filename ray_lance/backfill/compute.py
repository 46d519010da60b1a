"""Checks what ``add_columns`` is given: a function and its arguments in, a validated ``Compute`` out."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import pyarrow as pa
from ray import cloudpickle

from ray_lance.arguments import as_choice, as_concurrency, as_count
from ray_lance.backfill.identity import parts_of
from ray_lance.backfill.udf import BATCH_FORMATS, BatchCall, constructed
from ray_lance.data.cluster import cluster_cpus
from ray_lance.data.remote import checked, flat
from ray_lance.decode import Decode, ImageDecode
from ray_lance.errors import InvalidArgumentError, UnknownColumnError
from ray_lance.scan.pushdown import build_scan, check_filter
from ray_lance.scan.scan import ROW_ADDRESS, Scan, has_column
from ray_lance.table import TableRef
from ray_lance.write.column_record import Recipe

__all__ = ["Compute"]


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
        """Make what is called: the function itself, or an instance of the class."""
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
        """What the dataset records of this computation, to recognise it.

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

    @property
    def workers(self) -> int:
        """Calls that may run at one time."""
        if isinstance(self.concurrency, int):
            return self.concurrency
        if self.concurrency is not None:
            return max(self.concurrency)
        return cluster_cpus()

    def call(self, schema: pa.Schema | None = None, *, exact: bool = False) -> BatchCall:
        """How the function is called on a batch; see :class:`BatchCall`."""
        return BatchCall(self.batch_format, schema, exact, self.null_on_error, self.arguments, self.keywords)

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
