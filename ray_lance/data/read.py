"""Reads: tables or a permutation, and options, in; a Ray dataset out."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import ray
from ray.data import Dataset

from ray_lance.arguments import as_count, as_flag, as_integer, as_mapping, as_names, either, shown
from ray_lance.changes import Changes, Since, changed_since
from ray_lance.data.cluster import check_resources
from ray_lance.data.dataset import ReadDataset
from ray_lance.data.datasource import LanceDatasource
from ray_lance.data.fragments import FragmentDatasource
from ray_lance.data.permuted import PermutationDatasource
from ray_lance.data.remote import checked, flat, for_read
from ray_lance.decode import Decode
from ray_lance.errors import InvalidArgumentError
from ray_lance.order import ExplicitRows, RowPermutation
from ray_lance.permutation import Permutation
from ray_lance.ray_internals.executions import executed_promptly
from ray_lance.ray_internals.lineage import Lineage
from ray_lance.row_choice import Absent
from ray_lance.scan.pushdown import Columns, Filter, build_scan
from ray_lance.scan.reader import Fill
from ray_lance.scan.reserved import readable_names
from ray_lance.scan.scan import FRAGMENT_ID, ROW_ADDRESS, ROW_ID, Scan
from ray_lance.table import TableRef, check_source
from ray_lance.table_arguments import TableArguments
from ray_lance.tensors import named_fill
from ray_lance.tensors.filling import check_values
from ray_lance.tensors.tensor_options import check_fill
from ray_lance.write.column_missing import missing_rows

__all__ = ["ReadOptions", "read"]


@dataclass(frozen=True)
class ReadOptions:
    """Which columns and rows to read, in which order and in how many tasks. See :func:`ray_lance.read_lance`."""

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
    since: Since | None = None
    changes: Changes = "all"
    shuffle: int | None = None
    without: Any = None
    on: tuple[str, ...] = ()
    missing: str | Sequence[str] | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "num_blocks", _count("override_num_blocks", self.num_blocks))
        object.__setattr__(self, "scanner_options", as_mapping("scanner_options", self.scanner_options))
        for name in ("with_row_id", "with_row_address", "with_metadata"):
            object.__setattr__(self, name, as_flag(name, getattr(self, name)))
        if self.shuffle is not None:
            object.__setattr__(self, "shuffle", as_integer("shuffle", self.shuffle))
        if self.since is None and self.changes != "all":
            raise InvalidArgumentError(
                f"changes={shown(self.changes)} needs since=: the version since which rows have changed"
            )
        self._check_without()
        if self.missing is not None:
            object.__setattr__(self, "missing", as_names("missing", self.missing))
            self._check_goes_with_missing()
        check_fill(self.fill)
        for name in ("batch_size", "batch_readahead", "fragment_readahead", "io_buffer_size", "batch_size_bytes"):
            _count(f"scanner_options[{name!r}]", self.scanner_options.get(name))

    def _check_without(self) -> None:
        object.__setattr__(self, "on", () if self.on is None else as_names("on", self.on))
        if self.without is None:
            if self.on:
                raise InvalidArgumentError(f"on={list(self.on)} needs without=: the table whose keys are left out")
            return
        check_source("without", self.without)
        if not self.on or len(set(self.on)) < len(self.on):
            raise InvalidArgumentError(f'on={list(self.on)}: without= needs key columns, each once, such as on="id"')

    def _check_goes_with_missing(self) -> None:
        """Refuse what chooses other rows than those without a value."""
        if not self.missing or not all(self.missing):
            raise InvalidArgumentError(f"missing={shown(self.missing)} must name at least one column")
        for name in ("since", "without", "shuffle", "fragment_ids"):
            if getattr(self, name) is not None:
                raise InvalidArgumentError(
                    f"missing={shown(self.missing)} and {name}= both choose rows: give one of them"
                )

    def resolved(self) -> ReadOptions:
        """The same options with those among ``scanner_options`` that have an argument of their own moved there."""
        rest = dict(self.scanner_options)
        fragments = rest.pop("fragments", None)
        fragment_ids = None if fragments is None else [fragment.fragment_id for fragment in fragments]
        return replace(
            self,
            columns=either("columns", self.columns, rest.pop("columns", None)),
            filter=either("filter", self.filter, rest.pop("filter", None)),
            fragment_ids=either("fragment_ids", self.fragment_ids, fragment_ids),
            with_row_id=bool(rest.pop("with_row_id", False)) or self.with_row_id,
            with_row_address=bool(rest.pop("with_row_address", False)) or self.with_row_address,
            scanner_options=rest,
        )

    @property
    def meta_columns(self) -> list[str]:
        """The meta columns to deliver after the others."""
        wanted = {
            ROW_ID: self.with_row_id,
            ROW_ADDRESS: self.with_row_address or self.with_metadata,
            FRAGMENT_ID: self.with_metadata,
        }
        return [name for name, is_wanted in wanted.items() if is_wanted]


def read(arguments: TableArguments, options: ReadOptions, ray_arguments: Mapping[str, Any]) -> Dataset:
    """The Ray dataset that :func:`ray_lance.read_lance` returns.

    Args:
        arguments: What to read: tables, or a permutation as the ``uri``.
        options: What to read of it, and in which order.
        ray_arguments: Arguments of :func:`ray.data.read_datasource`; None values are left out.
    """
    ray_arguments = flat(checked(ray_arguments))
    datasource = _datasource(arguments, options.resolved())
    # The datasource sizes its tasks itself. A larger number here would make Ray cut each task's output into as many
    # blocks as are missing, which costs more than the read and keeps Ray from fusing it with the next operator.
    read_arguments = {"override_num_blocks": 1, **for_read(ray_arguments)}
    dataset = ray.data.read_datasource(datasource, **read_arguments)
    check_resources(ray_arguments)
    return executed_promptly(ReadDataset.of(dataset, Lineage((datasource,), read_arguments)))


def _datasource(arguments: TableArguments, options: ReadOptions) -> LanceDatasource:
    if isinstance(arguments.uri, Permutation):
        _check_fits_permutation(arguments, options)
        seed, permutation = options.shuffle, arguments.uri
        return _in_permuted_order(permutation if seed is None else permutation.shuffle(seed), options)
    tables = arguments.to_read()
    if options.missing is not None:
        return _without_values(tables, options)
    if options.since is not None:
        options = _only_changed(tables, options, options.since)
    if options.without is not None:
        order = _absent_rows(tables, options, arguments)
        if order is not None:
            return _in_permuted_order(order, replace(options, filter=None, fragment_ids=None))
    if options.shuffle is None:
        return _in_scan_order(tables, options)
    permutation = _shuffled(tables, options, options.shuffle)
    return _in_permuted_order(permutation, replace(options, filter=None))


def _check_fits_permutation(arguments: TableArguments, options: ReadOptions) -> None:
    """Refuse what says which table or version is read: a permutation has one already."""
    shown_names = ("version", "since", "missing", "table_id", "namespace_impl")  # the others may hold credentials
    given = {each.name: getattr(arguments, each.name) for each in fields(arguments) if each.name != "uri"}
    chosen = {name: getattr(options, name) for name in ("since", "without", "missing")}
    for name, value in {**given, **chosen}.items():
        if value is not None:
            raise InvalidArgumentError(
                f"{name}={repr(value) if name in shown_names else '...'} does not apply to a permutation, which has "
                "its table already: pass it to Permutation(...) or to TableRef.of(...)"
            )


def _only_changed(tables: Sequence[TableRef], options: ReadOptions, since: Since) -> ReadOptions:
    """The same options, for the rows that were added or changed since an earlier version."""
    if len(tables) > 1:
        raise InvalidArgumentError(f"since={since!r}: one dataset has one history, and uri names {len(tables)}")
    if options.fragment_ids is not None:
        raise InvalidArgumentError(f"since={since!r} and fragment_ids= both choose fragments: give one of them")
    changed = changed_since(tables[0], since, options.changes)
    if options.shuffle is not None and changed.fragment_ids is not None:
        raise InvalidArgumentError(f"since={since!r}: with shuffle= the dataset must have stable row ids")
    return replace(options, filter=changed.and_filter(options.filter), fragment_ids=changed.fragment_ids)


def _absent_rows(tables: Sequence[TableRef], options: ReadOptions, arguments: TableArguments) -> Permutation | None:
    """The rows whose key is not in the other table, in the order to read them in; None where that leaves out none."""
    if len(tables) > 1:
        raise InvalidArgumentError(f"without=: rows of one dataset can be left out, and uri names {len(tables)}")
    if options.scanner_options:
        raise InvalidArgumentError(
            f"scanner_options={sorted(options.scanner_options)} do not apply with without=: its rows are read by number"
        )
    if options.filter is not None and not isinstance(options.filter, str):
        raise InvalidArgumentError(f"filter={options.filter}: with without= it must be SQL")
    if options.shuffle is not None and options.fragment_ids is not None:
        raise InvalidArgumentError(f"fragment_ids={list(options.fragment_ids)} does not apply with shuffle=")
    _in_scan_order(tables, options)  # checks the other options, whichever rows are left out
    is_place = isinstance(options.without, (str, os.PathLike))
    other = TableRef.of(options.without, storage_options=arguments.storage_options if is_place else None).pin()
    row_ids = Absent(tables[0], other, options.on).row_ids(options.filter, options.fragment_ids)
    if row_ids is None:
        return None
    permutation = Permutation._make(tables[0], RowPermutation(ExplicitRows(row_ids)), options.filter)
    return permutation if options.shuffle is None else permutation.shuffle(options.shuffle)


def _without_values(tables: Sequence[TableRef], options: ReadOptions) -> LanceDatasource:
    """Reads the rows whose fragments lack a column; without ``columns`` all the other columns of them."""
    names = options.missing or ()
    if len(tables) > 1:
        raise InvalidArgumentError(f"missing={shown(names)}: choose rows of one dataset; uri names {len(tables)}")
    rows = missing_rows(tables[0], list(names))
    columns = options.columns
    if columns is None:
        columns = [name for name in readable_names(tables[0].open().schema) if name not in rows.columns]
    filter = rows.condition if options.filter is None else options.filter
    if rows.condition is not None and options.filter is not None:
        if not isinstance(options.filter, str):
            raise InvalidArgumentError(f"filter={shown(options.filter)}: with missing= it must be SQL")
        filter = f"({options.filter}) AND ({rows.condition})"
    chosen = replace(options, columns=columns, filter=filter, fragment_ids=rows.fragment_ids, missing=None)
    source = _in_scan_order(tables, chosen)
    source.missing = rows.columns
    return source


def _shuffled(tables: Sequence[TableRef], options: ReadOptions, seed: int) -> Permutation:
    if len(tables) > 1:
        raise InvalidArgumentError(f"shuffle={seed!r}: one dataset can be shuffled, and uri names {len(tables)}")
    if options.filter is not None and not isinstance(options.filter, str):
        raise InvalidArgumentError(
            f"filter={options.filter}: with shuffle= it must be SQL, whose text identifies the order"
        )
    return Permutation(tables[0], options.filter).shuffle(seed)


def _in_scan_order(tables: Sequence[TableRef], options: ReadOptions) -> FragmentDatasource:
    scan = _scan(tables, options)
    return FragmentDatasource(scan, fragment_ids=options.fragment_ids, num_tasks=options.num_blocks, fill=options.fill)


def _in_permuted_order(permutation: Permutation, options: ReadOptions) -> PermutationDatasource:
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
    return PermutationDatasource(
        _scan([permutation.table], options),
        permutation.order,
        fixed_epoch=permutation.fixed_epoch,
        num_tasks=options.num_blocks,
        fill=options.fill,
        description=permutation.describe(),
    )


def _scan(tables: Sequence[TableRef], options: ReadOptions) -> Scan:
    scan = build_scan(tables, options.columns, options.filter, options.meta_columns, options.scanner_options)
    scan = scan.decoding(options.decode)
    if options.fill is not None:
        schema = scan.stored_schema()
        check_values(named_fill(options.fill, schema), schema)
    return scan


def _count(name: str, value: Any) -> int | None:
    return None if value is None else as_count(name, value)
