"""What users give as the rows to write: a Ray dataset, or an error that says how to make one."""

from __future__ import annotations

from typing import Any

from ray.data import Dataset

from ray_lance.errors import InvalidArgumentError

__all__ = ["as_dataset"]

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


def as_dataset(rows: Any) -> Dataset:
    """``rows``, which must be a Ray dataset.

    Raises:
        InvalidArgumentError: It is something else; the message says how to make a Ray dataset of it.
    """
    if isinstance(rows, Dataset):
        return rows
    shown = "None" if rows is None else type(rows).__name__
    raise InvalidArgumentError(f"dataset={shown} must be a ray.data.Dataset: write_lance({_way(rows)}, ...)")


def _way(rows: Any) -> str:
    for kind in type(rows).__mro__:
        if (way := _WAYS.get((kind.__module__.partition(".")[0], kind.__name__))) is not None:
            return way
    return _ANY
