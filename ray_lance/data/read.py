"""Builds Ray datasets from read arguments: checks them, pins the tables, hands the datasource to Ray."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import ray
from ray.data import Dataset

from ray_lance.arguments import as_count, as_flag, as_mapping, as_names, as_options, as_text, shown
from ray_lance.changes import Changes, Since, changed_since
from ray_lance.data.cluster import check_resources
from ray_lance.data.dataset import ReadDataset
from ray_lance.data.datasource import LanceDatasource
from ray_lance.data.execution import executed_promptly
from ray_lance.data.fragments import FragmentDatasource
from ray_lance.data.permuted import PermutationDatasource
from ray_lance.data.remote import checked, flat, for_read
from ray_lance.decode import Decode
from ray_lance.errors import InvalidArgumentError
from ray_lance.masking import mask_uri
from ray_lance.permutation import Permutation
from ray_lance.scan.pushdown import Columns, Filter, build_scan
from ray_lance.scan.reader import Fill
from ray_lance.scan.scan import FRAGMENT_ID, ROW_ADDRESS, ROW_ID
from ray_lance.table import TableRef, check_source
from ray_lance.tensors import named_fill
from ray_lance.tensors.filling import check_fill, check_values
from ray_lance.versions import Version

__all__ = ["Namespace", "ReadOptions", "only_changed", "read", "read_permutation", "table_refs", "write_target"]


@dataclass(frozen=True)
class Namespace:
    """Where a table is registered.

    Attributes:
        table_id: Table identifier as a list of strings.
        impl: Implementation, such as ``"dir"`` or ``"rest"``.
        properties: Properties of the connection.

    Raises:
        InvalidArgumentError: One of them breaks its rule.
    """

    table_id: Sequence[str] | None = None
    impl: str | None = None
    properties: Mapping[str, str] | None = None

    def __post_init__(self) -> None:
        if self.table_id is not None:
            object.__setattr__(self, "table_id", as_names("table_id", self.table_id))
        if self.impl is not None:
            as_text("namespace_impl", self.impl, "the implementation of a namespace, such as 'dir' or 'rest'")
        if self.properties is not None:
            object.__setattr__(self, "properties", as_options("namespace_properties", self.properties))

    @property
    def given(self) -> list[str]:
        """The arguments of it that were passed."""
        parts = {"table_id": self.table_id, "namespace_impl": self.impl, "namespace_properties": self.properties}
        return [name for name, value in parts.items() if value is not None]


@dataclass(frozen=True)
class ReadOptions:
    """Which columns and rows to read, and in how many tasks. See :func:`ray_lance.read_lance`."""

    columns: Columns = None
    filter: Filter | None = None
    fragment_ids: Sequence[int] | None = None
    with_row_id: bool = False
    with_row_address: bool = False
    with_metadata: bool = False
    num_blocks: int | None = None
    fill: Fill = None
    scanner_options: Mapping[str, Any] = field(default_factory=dict)
    decode: Decode = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "num_blocks", _count("override_num_blocks", self.num_blocks))
        object.__setattr__(self, "scanner_options", as_mapping("scanner_options", self.scanner_options))
        for name in ("with_row_id", "with_row_address", "with_metadata"):
            object.__setattr__(self, name, as_flag(name, getattr(self, name)))
        check_fill(self.fill)
        for name in ("batch_size", "batch_readahead", "fragment_readahead", "io_buffer_size", "batch_size_bytes"):
            _count(f"scanner_options[{name!r}]", self.scanner_options.get(name))

    def resolved(self) -> ReadOptions:
        """The same options with those among ``scanner_options`` that have an argument of their own moved there."""
        rest = dict(self.scanner_options)
        fragments = rest.pop("fragments", None)
        fragment_ids = None if fragments is None else [fragment.fragment_id for fragment in fragments]
        return replace(
            self,
            columns=_one_of("columns", self.columns, rest.pop("columns", None)),
            filter=_one_of("filter", self.filter, rest.pop("filter", None)),
            fragment_ids=_one_of("fragment_ids", self.fragment_ids, fragment_ids),
            with_row_id=bool(rest.pop("with_row_id", False)) or self.with_row_id,
            with_row_address=bool(rest.pop("with_row_address", False)) or self.with_row_address,
            scanner_options=rest,
        )

    @property
    def meta_columns(self) -> list[str]:
        """The meta columns to deliver behind the others."""
        wanted = {
            ROW_ID: self.with_row_id,
            ROW_ADDRESS: self.with_row_address or self.with_metadata,
            FRAGMENT_ID: self.with_metadata,
        }
        return [name for name, is_wanted in wanted.items() if is_wanted]


def table_refs(
    source: Any,
    namespace: Namespace,
    *,
    version: Version | None,
    storage_options: Mapping[str, str] | None,
    dataset_options: Mapping[str, Any] | None,
    base_store_params: Mapping[str, Mapping[str, Any]] | None = None,
) -> list[TableRef]:
    """Pinned references of everything that ``source`` or ``namespace`` names.

    Raises:
        InvalidArgumentError: Neither or both are given, the list of uris is empty, or versions contradict each other.
        DatasetNotFoundError: There is no such dataset, version or tag.
    """
    options = _without_conflicts(dataset_options, base_store_params)
    version = _one_of("version", version, options.pop("version", None))
    storage_options = _one_secret_of("storage_options", storage_options, options.pop("storage_options", None))
    sources = list(source) if isinstance(source, (list, tuple)) else [source]
    if not sources:
        raise InvalidArgumentError("uri=[] must name at least one dataset")
    if not namespace.given and source is not None:
        for one in sources:
            check_source("uri", one)
        return [
            TableRef.of(one, version=version, storage_options=storage_options, dataset_options=options).pin()
            for one in sources
        ]
    ref = write_target(source, namespace, storage_options)
    return [replace(ref, version=version, dataset_options=options).pin()]


def write_target(source: Any, namespace: Namespace, storage_options: Mapping[str, str] | None) -> TableRef:
    """The one table that ``source`` or ``namespace`` names, not pinned.

    Raises:
        InvalidArgumentError: Neither or both are given.
    """
    if not namespace.given:
        if source is None:
            raise InvalidArgumentError("uri=None: give a uri, or namespace_impl with table_id")
        check_source("uri", source)
        return TableRef.of(source, storage_options=storage_options)
    if source is not None:
        place = mask_uri(source) if isinstance(source, str) else source
        raise InvalidArgumentError(
            f"uri={shown(place)}, and {', '.join(namespace.given)} too: give either a uri or a namespace with table_id"
        )
    return TableRef(
        None,
        storage_options=as_options("storage_options", storage_options),
        table_id=None if namespace.table_id is None else tuple(namespace.table_id),
        namespace_impl=namespace.impl,
        namespace_properties=dict(namespace.properties or {}),
    )


def only_changed(tables: Sequence[TableRef], options: ReadOptions, since: Since, changes: Changes) -> ReadOptions:
    """The same options for the rows that were added or changed since an earlier version.

    Raises:
        InvalidArgumentError: There are several tables, or an argument contradicts another or breaks its rule.
    """
    if len(tables) > 1:
        raise InvalidArgumentError(f"since={since!r}: one dataset has one history, and uri names {len(tables)}")
    options = options.resolved()
    if options.fragment_ids is not None:
        raise InvalidArgumentError(f"since={since!r} and fragment_ids= both choose fragments: give one of them")
    changed = changed_since(tables[0], since, changes)
    return replace(options, filter=changed.and_filter(options.filter), fragment_ids=changed.fragment_ids)


def read(refs: Sequence[TableRef], options: ReadOptions, ray_arguments: Mapping[str, Any]) -> Dataset:
    """A Ray dataset over pinned tables.

    Args:
        refs: Pinned references.
        options: What to read of them.
        ray_arguments: Arguments of :func:`ray.data.read_datasource`; None values are left out.
    """
    ray_arguments = checked(ray_arguments)
    options = options.resolved()
    scan = build_scan(refs, options.columns, options.filter, options.meta_columns, options.scanner_options)
    scan = scan.decoding(options.decode)
    if options.fill is not None:
        schema = scan.stored_schema()
        check_values(named_fill(options.fill, schema), schema)
    datasource = FragmentDatasource(
        scan, fragment_ids=options.fragment_ids, num_tasks=options.num_blocks, fill=options.fill
    )
    return _read_datasource(datasource, ray_arguments)


def read_permutation(permutation: Permutation, options: ReadOptions, ray_arguments: Mapping[str, Any]) -> Dataset:
    """A Ray dataset in the order of a permutation.

    Args:
        permutation: The order.
        options: What to read; without a filter or fragments, which the permutation has decided.
        ray_arguments: Arguments of :func:`ray.data.read_datasource`; None values are left out.
    """
    ray_arguments = checked(ray_arguments)
    options = options.resolved()
    for name, value in (
        ("filter", options.filter),
        ("fragment_ids", options.fragment_ids),
        ("scanner_options", options.scanner_options or None),
    ):
        if value is not None:
            raise InvalidArgumentError(
                f"{name}={value!r} does not apply to a permutation, whose rows are read by number: choose the rows "
                "with Permutation(source, filter=...)"
            )
    scan = build_scan([permutation.table], options.columns, None, options.meta_columns, {}).decoding(options.decode)
    if options.fill is not None:
        schema = scan.stored_schema()
        check_values(named_fill(options.fill, schema), schema)
    datasource = PermutationDatasource(
        scan,
        permutation.order,
        fixed_epoch=permutation.fixed_epoch,
        num_tasks=options.num_blocks,
        fill=options.fill,
        description=permutation.describe(),
    )
    return _read_datasource(datasource, ray_arguments)


def _read_datasource(datasource: LanceDatasource, ray_arguments: Mapping[str, Any]) -> Dataset:
    arguments = flat(ray_arguments)
    # The datasource sizes its tasks itself. A larger number here would make Ray cut each task's output into as many
    # blocks as are missing, which costs more than the read and keeps Ray from fusing it with the next operator.
    dataset = ray.data.read_datasource(datasource, override_num_blocks=1, **for_read(arguments))
    check_resources(arguments)
    return executed_promptly(ReadDataset.of(dataset))


def _count(name: str, value: Any) -> int | None:
    return None if value is None else as_count(name, value)


def _without_conflicts(dataset_options: Any, base_store_params: Any) -> dict[str, Any]:
    options = as_mapping("dataset_options", dataset_options)
    for uri, params in as_mapping("base_store_params", base_store_params).items():
        as_mapping(f"base_store_params[{mask_uri(uri)!r}]", params)
    store_params = _one_secret_of("base_store_params", base_store_params, options.pop("base_store_params", None))
    return {**options, "base_store_params": store_params} if store_params else options


def _one_secret_of(name: str, argument: Any, option: Any) -> Any:
    """As :func:`_one_of`, for options that may hold credentials: the values are not shown."""
    if argument is not None and option is not None and argument != option:
        raise InvalidArgumentError(f"{name} conflicts with dataset_options[{name!r}]: give one of them")
    return option if argument is None else argument


def _one_of(name: str, argument: Any, option: Any) -> Any:
    if argument is not None and option is not None and argument != option:
        raise InvalidArgumentError(f"{name}={argument!r} conflicts with {option!r} among the options: give one of them")
    return option if argument is None else argument
