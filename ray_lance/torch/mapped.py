"""The map-style dataset: a source and options in; rows by index out, a batch of them read in one take."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from torch.utils.data import Dataset

from ray_lance.arguments import as_integer
from ray_lance.decode import Decode
from ray_lance.errors import InvalidArgumentError
from ray_lance.formats import Format
from ray_lance.metrics import LoaderMetrics
from ray_lance.notebook import Facts
from ray_lance.order.rows import RowArray
from ray_lance.ordered import Ordered
from ray_lance.scan.pushdown import Columns
from ray_lance.tensors import Categories, CategoryOption, FillValue, Ragged
from ray_lance.torch.cache_budget import CacheBytes, cache_limit, check_cache_bytes
from ray_lance.torch.collation import Row, Rows
from ray_lance.torch.dataset_meter import DatasetMeter, PassMeter
from ray_lance.torch.range_cache import RangeCache
from ray_lance.torch.ranks import current_worker
from ray_lance.torch.row_reader import BatchOptions, MeteredRows, RowReader, open_source
from ray_lance.versions import Version

__all__ = ["LanceMapDataset"]


class LanceMapDataset(Facts, Dataset[Any]):
    """Rows of a Lance dataset by index, for a ``DataLoader`` with its own sampler.

    ``dataset[i]`` is one row, and a loader's batch is one sorted, batched take (``__getitems__``). Pickles as a recipe
    of less than 2 KB (row ids of a filter excepted); each process opens the dataset once, when it first reads.
    For training on data that is larger than memory, :class:`LanceIterableDataset` is faster: it reads neighbours
    together. Single rows are slow to read, so each process caches ranges of the table that it reads often, up to
    ``cache_bytes``; rows of a filter and of LanceDB's permutation tables are read each time.

    Args:
        source: Path or URI, :class:`~ray_lance.TableRef`, ``lance.LanceDataset`` or :class:`~ray_lance.Permutation`,
            whose positions are then the indices.
        columns: Names, or names mapped to SQL expressions; None for all columns.
        filter: SQL condition on the rows; for a permutation, give it there.
        transform: Called with each batch in its format; a single row is a batch of one.
        format: One of the nine of :func:`ray_lance.formats.convert`.
        decode: As for :class:`LanceIterableDataset`.
        fill: What replaces nulls in tensors: one value, or one by column.
        ragged: What ragged columns become: ``"nested"``, ``"pad"`` or ``"list"``.
        categories: What dictionary-encoded columns become: ``"values"``, or ``"codes"``, which are their places in
            :attr:`categories` and the same in every batch of this version; or lists of categories by column, in which
            the places are to be.
        version: Version number, tag, or tuple of a branch and a version number or None; for a permutation, give it
            there.
        storage_options: Options of the object store; for a permutation, give them there.
        cache_bytes: Bytes that the row caches of all datasets of a process may take together; 0 for none. ``"auto"`` is
            512 MiB, but at most a sixteenth of the machine's or the container's memory for all workers of a loader, on
            as many ranks as ``LOCAL_WORLD_SIZE`` says.

    Raises:
        InvalidArgumentError: An argument breaks a rule.
        UnknownColumnError: There is no such column.
        DatasetNotFoundError: There is no such dataset or version.

    Example:
        >>> dataset = LanceMapDataset("train.lance", columns=["image", "label"])  # doctest: +SKIP
        >>> loader = make_loader(dataset, batch_size=256, shuffle=True, num_workers=2)  # doctest: +SKIP
    """

    def __init__(
        self,
        source: Any,
        *,
        columns: Columns = None,
        filter: str | None = None,
        transform: Callable[[Any], Any] | None = None,
        format: Format = "torch",
        decode: Decode = "auto",
        fill: FillValue | Mapping[str, FillValue] | None = None,
        ragged: Ragged = "nested",
        categories: CategoryOption = "values",
        version: Version | None = None,
        storage_options: Mapping[str, str] | None = None,
        cache_bytes: CacheBytes = "auto",
    ) -> None:
        check_cache_bytes(cache_bytes)
        self._cache_bytes = cache_bytes
        options = BatchOptions(columns, format, decode, fill, ragged, transform, categories)
        self._reader = RowReader(open_source(source, filter, version, storage_options), options)
        self._meter = DatasetMeter()

    def _facts(self) -> dict[str, Any]:
        return self._reader.facts()

    @property
    def permutation(self) -> Ordered:
        """The order whose positions are the indices."""
        return self._reader.permutation

    @property
    def categories(self) -> Categories:
        """The categories of the dictionary-encoded columns, by column: those of the whole version, found once."""
        return self._reader.categories

    def __len__(self) -> int:
        return len(self.permutation)

    def __getitem__(self, index: int | slice) -> Any:
        """One row: for formats of columns a dict of the row's values, for frames a frame of one row.

        Args:
            index: Index of a row; or a slice, whose rows are read at once and returned as a sequence that also has all
                of them as ``batch``, in the dataset's format.

        Raises:
            IndexError: ``index`` is not in ``[-len, len)``.
            InvalidArgumentError: It is no integer.
        """
        if isinstance(index, slice):
            return self.__getitems__(range(*index.indices(len(self))))
        return self.__getitems__([as_integer("index", index)])[0]

    def __getitems__(self, indices: Sequence[int]) -> Sequence[Any]:
        """The rows at ``indices``, in that order, read in one take; negative and repeated indices are allowed.

        Raises:
            IndexError: An index is not in ``[-len, len)``.
            InvalidArgumentError: An index is no integer.
        """
        current_worker()  # raises in a forked one
        begin = time.perf_counter()
        rows = self.permutation.order.take(_as_integers(indices))
        batch = self._reader.finish(self._take(rows))
        self._takes.returned(len(rows), time.perf_counter() - begin)
        if isinstance(batch, list) and len(batch) == len(rows):  # formats of rows
            return batch
        is_matrix = self._reader.options.format == "torch_col"
        return Rows(batch, len(rows), _matrix_row if is_matrix else _row)

    def metrics(self) -> LoaderMetrics:
        """What this dataset has delivered since it was made: rows that are asked for at once are a batch.

        In a training process the workers of its loaders are counted too. ``seconds_waited`` is the time that reading
        and converting has taken in all of them. Nothing is read ahead here: loaders do that.
        """
        return self._meter.metrics()

    def _take(self, rows: RowArray) -> pa.Table:
        has_offsets = rows.dtype == np.int64 and len(rows)  # else row ids
        table, from_memory = self._cache.take(rows) if has_offsets else (self._storage.take(rows), 0)
        self._takes.read(len(rows), table.nbytes, from_memory)
        return table

    @property
    def _storage(self) -> MeteredRows:
        return self._reader.storage(self._takes.retried)

    @cached_property
    def _cache(self) -> RangeCache:
        # It holds no reference to this dataset, so that it is freed together with it.
        count, limit = self._reader.stored.count, cache_limit(self._cache_bytes)
        return RangeCache(self._storage.take, count, self._reader.row_bytes, limit)

    @cached_property
    def _takes(self) -> PassMeter:
        return self._meter.begin()

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name not in ("_cache", "_takes")}


def _as_integers(indices: Sequence[int]) -> npt.NDArray[np.int64]:
    numbers = np.asarray(indices)
    # numpy makes an integer of a bool among integers.
    has_bool = isinstance(indices, (list, tuple)) and any(isinstance(index, (bool, np.bool_)) for index in indices)
    if numbers.size and (numbers.dtype.kind not in "iu" or has_bool):
        raise InvalidArgumentError(
            f"indices are of type {numbers.dtype}, and must be integers: of a mask take mask.nonzero()"
        )
    return numbers.astype(np.int64, copy=False)


def _row(batch: Any, index: int) -> Any:
    """Row ``index`` of a batch: of each column, of each part of a tuple, of a frame."""
    if isinstance(batch, Mapping):
        return Row({name: _value(values, index) for name, values in batch.items()}, batch)
    if isinstance(batch, tuple):
        return tuple(_row(values, index) for values in batch)
    if isinstance(batch, pa.Table):
        return batch.slice(index, 1)
    if hasattr(batch, "iloc"):
        return batch.iloc[index : index + 1]
    return batch[index : index + 1] if hasattr(batch, "columns") else batch[index]


def _value(values: Any, index: int) -> Any:
    if getattr(values, "is_nested", False):  # torch 2.4 cannot index these
        offsets = values.offsets()
        return values.values()[offsets[index] : offsets[index + 1]]
    return values[index]


def _matrix_row(batch: Any, index: int) -> Any:
    return batch[:, index] if hasattr(batch, "ndim") and batch.ndim == 2 else _row(batch, index)
