"""Orders over the rows of one Lance table: a source in, a permutation out, to be shuffled, split, sharded and read."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import lance

from ray_lance import stored
from ray_lance.arguments import as_integer, as_names
from ray_lance.errors import InvalidArgumentError, UnknownColumnError
from ray_lance.head import Head
from ray_lance.notebook import Count
from ray_lance.order import DenseRows, ExplicitRows, RowPermutation, ShuffleQuality, hash_split, measure_quality
from ray_lance.order.shuffle import Auto, choose_shuffle
from ray_lance.order.split import Fractions
from ray_lance.ordered import Ordered
from ray_lance.row_choice import filtered_row_ids, hashed_row_ids
from ray_lance.scan.dictionaries import categories_of
from ray_lance.scan.pushdown import Columns, build_scan
from ray_lance.scan.reserved import readable_names
from ray_lance.scan.scan import ROW_ADDRESS, has_column
from ray_lance.scan.size import row_bytes
from ray_lance.scan.stored_rows import TableRows
from ray_lance.scan.take import take_rows
from ray_lance.table import TableRef, check_source
from ray_lance.tensors import Categories
from ray_lance.versions import Version

__all__ = ["Permutation"]


class Permutation(Ordered):
    """An order over the rows of one version of a Lance dataset: position -> row.

    Frozen: every method returns a new one. Nothing is materialised, except that a filter, a hash split or a
    permutation table of LanceDB needs one 8-byte row id per row. Pickles as a recipe.

    Args:
        source: Path or URI, an open ``lance.LanceDataset``, or a :class:`~ray_lance.TableRef`. The version is pinned
            here, so that two processes that unpickle the permutation read the same rows.
        filter: SQL condition. Its rows are found here, once.
        version: Version number, tag, or tuple of a branch and a version number or None, such as ``("dev", None)``.
            Default: the latest version.
        storage_options: Options of the object store.

    Raises:
        DatasetNotFoundError: There is no such dataset, version or tag.
        InvalidArgumentError: Lance refuses the filter.

    Example:
        >>> train = Permutation("s3://bucket/images.lance").split({"train": 0.9, "val": 0.1})["train"]  # doctest: +SKIP
        >>> ray_lance.read_lance(train.shuffle(seed=7)).iter_torch_batches(batch_size=1024)  # doctest: +SKIP
    """

    _first_fact = "table"

    def __init__(
        self,
        source: str | os.PathLike[str] | lance.LanceDataset | TableRef,
        filter: str | None = None,
        *,
        version: Version | None = None,
        storage_options: Mapping[str, str] | None = None,
    ) -> None:
        table = TableRef.of(source, version=version, storage_options=storage_options).pin()
        self._table, self._identity = table, ""
        self._filter = filter
        self._fixed_epoch = False
        rows = DenseRows(table.open().count_rows()) if filter is None else ExplicitRows(filtered_row_ids(table, filter))
        self._order = RowPermutation(rows)

    @classmethod
    def _make(
        cls, table: TableRef, order: RowPermutation, filter: str | None = None, fixed_epoch: bool = False
    ) -> Permutation:
        made = cls.__new__(cls)
        made._table, made._identity = table, ""
        made._order, made._filter, made._fixed_epoch = order, filter, fixed_epoch
        return made

    @classmethod
    def from_lancedb(cls, table: Any, permutation_table: Any, split: str | int | None = None) -> Permutation:
        """The order that a permutation table of LanceDB describes.

        Args:
            table: The ``lancedb.Table`` that the permutation is of.
            permutation_table: What ``lancedb.permutation.permutation_builder(table)...execute()`` gave.
            split: Name or number of a split; None is the first.

        Raises:
            InvalidArgumentError: ``permutation_table`` is something else, or has no such split.
            DatasetNotFoundError: The version of ``table`` that the permutation was made from is gone.
        """
        return cls._make(*stored.lancedb_order(table, permutation_table, split))

    @classmethod
    def load(cls, uri: str | os.PathLike[str], *, storage_options: Mapping[str, str] | None = None) -> Permutation:
        """The permutation that :meth:`save` wrote.

        Args:
            uri: Where it was saved.
            storage_options: Options of the object store, for the permutation and for its table: none are saved.

        Raises:
            DatasetNotFoundError: There is no permutation there, or its table's version is gone.
            InvalidArgumentError: It is no permutation, it is damaged, or its table has been replaced.
        """
        check_source("uri", uri)
        order, details = stored.read_saved(TableRef.of(uri, storage_options=storage_options))
        table = TableRef.of(details.table, version=details.version, storage_options=storage_options).pin()
        stored.check_identity(table, details.identity)
        stored.check_count(table, order)
        return cls._make(table, order, details.filter, details.fixed_epoch)

    def save(self, uri: str | os.PathLike[str], *, storage_options: Mapping[str, str] | None = None) -> None:
        """Save the permutation as a small Lance dataset, without storage options.

        Args:
            uri: Where to save it, for instance beside the dataset.
            storage_options: Options of the object store. Default: those of the permutation's table.

        Raises:
            DatasetExistsError: There is a dataset at ``uri``.
        """
        check_source("uri", uri)
        options = self.table.storage_options if storage_options is None else storage_options
        details = stored.Details(
            str(self.table.uri),
            self.table.version or 0,
            stored.table_identity(self.table),
            self._filter,
            self._fixed_epoch,
        )
        stored.write_saved(TableRef.of(uri, storage_options=options), self._order, details)

    @property
    def table(self) -> TableRef:
        """The pinned table."""
        if self._table.manifest is None:  # unpickled
            self._table = self._table.pin()
            stored.check_identity(self._table, self._identity)
        return self._table

    @property
    def categories(self) -> Categories:
        """The categories of the table's dictionary-encoded columns, by column (``"a.b"`` for a struct's field).

        They are those of the whole version, whichever rows the order holds, in scan order. They are found when first
        asked for, by a scan of these columns.
        """
        return categories_of(build_scan([self.table], None, None, [], {}))

    @property
    def order(self) -> RowPermutation:
        """The order itself, as arithmetic."""
        return self._order

    @property
    def fixed_epoch(self) -> bool:
        """Whether :meth:`epoch` has fixed the epoch; otherwise each execution of a Ray dataset is the next one."""
        return self._fixed_epoch

    def stored(self, columns: Columns = None, *, with_row_address: bool = False) -> TableRows:
        """What reads the rows, for those who know their numbers.

        Args:
            columns: As for :func:`ray_lance.read_lance`.
            with_row_address: Whether to add the column ``_rowaddr``.
        """
        scan = build_scan([self.table], columns, None, [ROW_ADDRESS] if with_row_address else [], {})
        base = self._order.base
        return TableRows(scan, len(base), has_offsets=not isinstance(base, ExplicitRows))

    def shuffle(self, seed: int, clump: int | Auto = "auto", window: int | Auto = "auto") -> Permutation:
        """Shuffle the rows: clumps of neighbours are placed at random, then rows are mixed within windows.

        Args:
            seed: Any integer.
            clump: Neighbouring rows that are read together. ``"auto"`` is about 64 KiB of all columns, whichever are
                read later, so that the order does not depend on that. 1 is a row-exact shuffle.
            window: Positions within which rows are mixed; a multiple of ``clump``. ``"auto"`` is 1024 clumps.

        Raises:
            InvalidArgumentError: ``clump`` or ``window`` is not positive, or the window is no multiple of the clump.
        """

        def mean_row_bytes() -> float:
            readable = readable_names(self.table.open().schema)
            return row_bytes(build_scan([self.table], readable, None, [], {}))

        chosen = choose_shuffle(seed, clump, window, len(self), mean_row_bytes)
        return self._over(self._order.shuffle(chosen.seed, chosen.clump, chosen.window))

    def split(
        self, fractions: Fractions, seed: int | None = 0, by: str | Sequence[str] | None = None
    ) -> dict[str, Permutation]:
        """Disjoint named parts, the same in every epoch.

        Args:
            fractions: Name -> share, positive, at most 1 together. Of a list of up to three shares the names are
                ``"train"``, ``"val"`` and ``"test"``, of more ``"0"``, ``"1"`` and so on.
            seed: Any integer; None cuts the rows in their own order. With ``by`` another seed is another split.
            by: Columns whose equal values stay together. A row's part then depends only on its values, so it stays
                when rows are appended; sizes are as the hashes fall.

        Raises:
            InvalidArgumentError: The fractions break a rule, or this is a slice of a shuffled order.
            UnknownColumnError: There is no column ``by``.
        """
        if by is None:
            return {name: self._over(part) for name, part in self._order.split(fractions, seed).items()}
        if seed is None:
            raise InvalidArgumentError("seed=None: a split by columns needs a seed, any integer")
        seed = as_integer("seed", seed)
        # A split into one part checks that the rows are the same in every epoch.
        whole, mixing = self._order.split({"all": 1.0}, None)["all"], self._order.mixing
        whole = replace(whole, mixing=None)  # in the rows' own order, so that a shuffle's clumps are neighbours
        ids, hashes = hashed_row_ids(self.table, whole, self._split_columns(by))
        return {
            name: self._over(replace(whole, row_set=ExplicitRows(ids[members]), mixing=mixing, start=0, stop=None))
            for name, members in hash_split(hashes, fractions, seed).items()
        }

    def _split_columns(self, by: str | Sequence[str]) -> list[str]:
        columns, schema = as_names("by", by), self.table.open().schema
        if not columns:
            raise InvalidArgumentError("by=() must name a column: leave it out to split rows one by one")
        for column in columns:
            if not has_column(schema, column):
                raise UnknownColumnError("by", column, schema.names)
        return list(columns)

    def head(self, rows: int = 5, columns: Columns = None) -> Head:
        """Show the first rows: their types, shapes and the beginnings of their values.

        Args:
            rows: How many.
            columns: As for :meth:`fetch`. The contents of blobs are not read.

        Returns:
            An object that prints as a table, also in notebooks.
        """
        wanted = readable_names(self.table.open().schema) if columns is None else columns
        scan = build_scan([self.table], wanted, None, [], {})
        blobs = tuple(scan.blob_columns())
        scan = scan.select([name for name in scan.names if name not in blobs])
        found = take_rows(scan, self._order.rows(0, min(as_integer("rows", rows, 0), len(self))))
        return Head(found, blobs, len(self))

    def quality(self, batch_size: int = 1024, labels: int = 10) -> ShuffleQuality:
        """Measure the quality of the shuffle on a sample of its batches, without reading data."""
        return measure_quality(self._order, batch_size, labels)

    def describe(self) -> dict[str, Any]:
        """What makes the order what it is, except the epoch, in plain JSON types."""
        dataset = {"identity": stored.table_identity(self.table), "version": self.table.version, "filter": self._filter}
        return {"dataset": dataset, **self._order.describe()}

    def _facts(self) -> dict[str, Any]:
        """Facts to show; None for what does not apply."""
        order, mixing = self._order, self._order.mixing
        return {
            "table": self._table,
            "rows": Count(len(self)),
            "filter": self._filter,
            "seed": mixing and mixing.seed,
            "clump": mixing and mixing.clump,
            "window": mixing and mixing.window,
            "epoch": order.epoch_number if self._fixed_epoch else None,
        }

    def __getstate__(self) -> dict[str, Any]:
        # The manifest grows with the number of fragments; the version is enough to find it again.
        return {
            "_table": self._table.without_manifest(),
            "_identity": stored.table_identity(self.table),
            "_order": self._order,
            "_filter": self._filter,
            "_fixed_epoch": self._fixed_epoch,
        }

    def _over(self, order: RowPermutation, *, fixed_epoch: bool | None = None) -> Permutation:
        fixed = self._fixed_epoch if fixed_epoch is None else fixed_epoch
        return self._make(self.table, order, self._filter, fixed)
