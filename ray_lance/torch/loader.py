"""Makes DataLoaders: a dataset in, a loader out whose workers are spawned and stay, and that passes batches whole."""

from __future__ import annotations

import multiprocessing
import os
import re
import sys
from pathlib import Path
from typing import Any

import lance
import pyarrow as pa
from torch.utils.data import DataLoader, Dataset, IterableDataset

from ray_lance.arguments import as_count, as_flag, as_integer, shown
from ray_lance.errors import InvalidArgumentError
from ray_lance.masking import mask_uri
from ray_lance.permutation import Permutation
from ray_lance.table import TableRef
from ray_lance.torch.collation import Rows, collate
from ray_lance.torch.iterable import LanceIterableDataset
from ray_lance.torch.transport import packed

__all__ = ["make_loader"]

# Names by which a program can tell that it is only imported.
_GUARDS = re.compile(r"__name__|parent_process|current_process")


def make_loader(
    dataset: Dataset[Any],
    *,
    batch_size: int | None = None,
    shuffle: bool = False,
    num_workers: int = 0,
    multiprocessing_context: Any = "spawn",
    stateful: bool = False,
    **options: Any,
) -> DataLoader[Any]:
    """A ``DataLoader`` over a dataset of this module, or over one that wraps it (``Subset``, ``ConcatDataset``).

    Args:
        dataset: A :class:`LanceMapDataset`, or a :class:`LanceIterableDataset`, which makes its own batches, order
            and reads ahead: ``num_workers=0`` is enough for it, and keeps its state elastic.
        batch_size: Rows of a batch, 32 if not given; for an iterable dataset, give it there.
        shuffle: Whether torch draws a new order for each epoch; for an iterable dataset, give it there.
        num_workers: Worker processes. They are spawned and stay from epoch to epoch (``persistent_workers``).
        multiprocessing_context: How workers start, a name or a context: anything but ``"fork"``.
        stateful: Make a ``torchdata.stateful_dataloader.StatefulDataLoader``.
        **options: Further arguments of the loader, such as ``sampler`` or ``pin_memory``.

    Raises:
        InvalidArgumentError: ``dataset`` is no dataset, workers would be forked or could not start, or the dataset has
            decided an argument already.
    """
    _check_dataset(dataset)
    shuffle, stateful = as_flag("shuffle", shuffle), as_flag("stateful", stateful)
    num_workers = as_integer("num_workers", num_workers, 0)
    batch_size = None if batch_size is None else as_count("batch_size", batch_size)
    if (num_workers or multiprocessing_context) and _start_method(multiprocessing_context) == "fork":
        raise InvalidArgumentError(
            f"multiprocessing_context={multiprocessing_context!r}: Lance's threads do not survive a fork, and workers "
            "would hang; use 'spawn' or 'forkserver'"
        )
    if num_workers:
        _check_main_module(num_workers)
    if isinstance(dataset, IterableDataset):
        for name, value in (("batch_size", batch_size), ("shuffle", shuffle or None)):
            if value is not None:
                raise InvalidArgumentError(
                    f"{name}={value!r}: an iterable dataset makes its own batches and order; pass {name} to "
                    "LanceIterableDataset"
                )
        arguments: dict[str, Any] = {"batch_size": None}
    else:
        arguments = {"batch_size": 32 if batch_size is None else batch_size, "shuffle": shuffle}
        if "batch_sampler" in options:
            arguments = {}
    if num_workers:
        arguments |= {"multiprocessing_context": multiprocessing_context, "persistent_workers": True}
    arguments |= {"num_workers": num_workers, "collate_fn": _whole_batch, **options}
    has_epochs = num_workers > 0 and isinstance(dataset, LanceIterableDataset)
    loader: DataLoader[Any] = _loader_class(stateful, has_epochs=has_epochs)(dataset, **arguments)
    return loader


class _AnnouncingLoader(DataLoader[Any]):
    """Has the dataset take the epoch of each pass when the loader is iterated, before its workers do."""

    _group: int | None = None
    _passes = 0

    def __iter__(self) -> Any:
        epochs = self.dataset.epochs  # type: ignore[attr-defined]
        if self._group is None or not self.persistent_workers:
            self._group, self._passes = epochs.new_group(), 0
        self._passes += 1
        with epochs.announced(self._group, self._passes):
            return super().__iter__()


def _check_dataset(dataset: Any) -> None:
    is_other = isinstance(dataset, (str, bytes, os.PathLike, TableRef, Permutation, lance.LanceDataset, pa.Table))
    if isinstance(dataset, Dataset) or (hasattr(dataset, "__getitem__") and not is_other):
        return
    shown = repr(mask_uri(dataset)) if isinstance(dataset, str) else type(dataset).__name__
    raise InvalidArgumentError(
        f"dataset={shown} must be a dataset: make_loader(LanceMapDataset(source), batch_size=...), or "
        "make_loader(LanceIterableDataset(source, batch_size=...))"
    )


def _check_main_module(num_workers: int) -> None:
    """Refuse to start workers from a script that each worker would run again, and start workers in turn.

    Python itself reports that with a traceback of each worker and several of the loader.

    Args:
        num_workers: Number of workers, for the message.

    Raises:
        InvalidArgumentError: The script does not check whether it is the main program.
    """
    path = _imported_path()
    if path is None or not path.is_file():
        return
    text = path.read_text(errors="replace")
    if "\0" not in text and _GUARDS.search(text) is None:
        raise InvalidArgumentError(
            f"num_workers={num_workers}: each worker imports {path}, and would run all of it again. Put what must "
            'run only once under if __name__ == "__main__":'
        )


def _imported_path() -> Path | None:
    """The file that a spawned process imports as the main module; None where it imports none, as in notebooks."""
    main = sys.modules["__main__"]
    name = getattr(main.__spec__, "name", "")
    path = getattr(main, "__file__", None)
    return None if path is None or name == "__main__" or name.endswith(".__main__") else Path(path)


def _whole_batch(data: Any) -> Any:
    if isinstance(data, Rows):
        return packed(data.batch)
    return collate(data) if isinstance(data, list) else packed(data)


def _start_method(context: Any) -> str | None:
    if context is None:
        return multiprocessing.get_start_method(allow_none=True) or multiprocessing.get_all_start_methods()[0]
    methods = multiprocessing.get_all_start_methods()
    if isinstance(context, multiprocessing.context.BaseContext):
        return context.get_start_method(allow_none=True)
    if not isinstance(context, str) or context not in methods:
        raise InvalidArgumentError(
            f"multiprocessing_context={shown(context)} must be one of {methods}, or a context of multiprocessing"
        )
    return context


def _loader_class(stateful: bool, *, has_epochs: bool) -> Any:
    if not stateful:
        return _AnnouncingLoader if has_epochs else DataLoader
    try:
        from torchdata.stateful_dataloader import StatefulDataLoader

        from ray_lance.torch.stateful import EpochwiseLoader
    except ImportError as error:
        raise InvalidArgumentError("stateful=True needs torchdata: pip install torchdata") from error
    return EpochwiseLoader if has_epochs else StatefulDataLoader
