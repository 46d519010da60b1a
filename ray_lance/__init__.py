"""Ray Data connector for the Lance columnar format.

Names are imported when they are first used: ``ray_lance.order`` or ``ray_lance.torch`` alone start no Ray.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ray_lance.api import add_columns, explain, merge_columns_from, read_lance, write_lance
    from ray_lance.backfill.run import AddColumnsSummary
    from ray_lance.data.collate import TensorCollate
    from ray_lance.decode import ImageDecode
    from ray_lance.errors import (
        CommitError,
        CursorMismatchError,
        DatasetExistsError,
        DatasetNotFoundError,
        InvalidArgumentError,
        LancePanicError,
        RayLanceError,
        SchemaMismatchError,
        StorageError,
        TensorConversionError,
        UnknownColumnError,
    )
    from ray_lance.fields import blob, tensor
    from ray_lance.mixture import Mixture
    from ray_lance.permutation import Permutation
    from ray_lance.table import TableRef
    from ray_lance.write.options import WriteSummary

__version__ = "0.1.0"

__all__ = [
    "AddColumnsSummary",
    "CommitError",
    "CursorMismatchError",
    "DatasetExistsError",
    "DatasetNotFoundError",
    "ImageDecode",
    "InvalidArgumentError",
    "LancePanicError",
    "Mixture",
    "Permutation",
    "RayLanceError",
    "SchemaMismatchError",
    "StorageError",
    "TableRef",
    "TensorCollate",
    "TensorConversionError",
    "UnknownColumnError",
    "WriteSummary",
    "add_columns",
    "blob",
    "explain",
    "merge_columns_from",
    "read_lance",
    "tensor",
    "write_lance",
]

_HOMES = {
    "AddColumnsSummary": "ray_lance.backfill.run",
    "ImageDecode": "ray_lance.decode",
    "Mixture": "ray_lance.mixture",
    "Permutation": "ray_lance.permutation",
    "TableRef": "ray_lance.table",
    "TensorCollate": "ray_lance.data.collate",
    "WriteSummary": "ray_lance.write.options",
    "add_columns": "ray_lance.api",
    "blob": "ray_lance.fields",
    "explain": "ray_lance.api",
    "merge_columns_from": "ray_lance.api",
    "read_lance": "ray_lance.api",
    "tensor": "ray_lance.fields",
    "write_lance": "ray_lance.api",
}


# Of this package, imported when they are first used, and not by "import *".
_SUBPACKAGES = ("torch", "train")


def __getattr__(name: str) -> Any:
    if name in _SUBPACKAGES:
        return importlib.import_module(f"ray_lance.{name}")
    if name not in __all__:
        raise AttributeError(f"module 'ray_lance' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES.get(name, "ray_lance.errors")), name)


def __dir__() -> list[str]:
    return sorted((*__all__, *_SUBPACKAGES))
