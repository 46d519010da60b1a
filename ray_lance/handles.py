"""Opens datasets: a ``TableRef`` in, an open dataset out, from this process's cache where it has been opened before."""

from __future__ import annotations

import os
import re
import threading
from collections import OrderedDict
from dataclasses import replace
from typing import TYPE_CHECKING, NoReturn

import lance

from ray_lance import fork_warning
from ray_lance.allocator import share_arenas
from ray_lance.errors import (
    DatasetNotFoundError,
    InvalidArgumentError,
    RayLanceError,
    StorageError,
    panics_as_errors,
)
from ray_lance.forks import use_lance
from ray_lance.io_uring import most_files, uring_uri
from ray_lance.lance_internals import count_fragments, manifest_of, storage_options_of
from ray_lance.masking import cause, mask_uri, remember, without_secrets
from ray_lance.uris import absolute, location_of, roots_above, says_not_found
from ray_lance.versions import is_fixed

if TYPE_CHECKING:
    from ray_lance.table import TableRef

__all__ = ["HandleCache", "handles", "missing_branch", "open_table"]

fork_warning.register()

_MAX_HANDLES = 64
_NO_SUCH_SCHEME = re.compile(r"no object store provider found", re.IGNORECASE)


class HandleCache:
    """Open datasets of this process, least recently used first. A forked child starts with none."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._pid = os.getpid()
        self._handles: OrderedDict[str, lance.LanceDataset] = OrderedDict()

    def __len__(self) -> int:
        return len(self._handles)

    def get(self, ref: TableRef, *, for_takes: bool = False) -> lance.LanceDataset:
        """The dataset that ``ref`` refers to; ``for_takes``: through io_uring if it has few files."""
        use_lance()
        if not is_fixed(ref.version):
            return open_table(ref)  # the latest version changes under a cache, and so do tags
        key = f"takes:{ref.cache_key}" if for_takes else ref.cache_key
        with self._lock:
            self._forget_parent()
            if (handle := self._handles.get(key)) is not None:
                self._handles.move_to_end(key)
                return handle
        handle = _open_for_takes(ref, self.get(ref)) if for_takes else open_table(ref)
        self._put(key, handle)
        return handle

    def put(self, ref: TableRef, handle: lance.LanceDataset) -> None:
        """Keep ``handle`` as what ``ref`` refers to."""
        self._put(ref.cache_key, handle)

    def _put(self, key: str, handle: lance.LanceDataset) -> None:
        with self._lock:
            self._forget_parent()
            self._handles[key] = handle
            while len(self._handles) > _MAX_HANDLES:
                self._handles.popitem(last=False)

    def after_fork(self) -> None:
        """Forget the handles of the parent, which are not safe here, and its lock, which it may have held."""
        self.__init__()  # type: ignore[misc]

    def _forget_parent(self) -> None:
        if self._pid != os.getpid():
            self._pid = os.getpid()
            self._handles = OrderedDict()


handles = HandleCache()
os.register_at_fork(after_in_child=handles.after_fork)


def open_table(ref: TableRef) -> lance.LanceDataset:
    """The dataset that ``ref`` refers to, newly opened.

    Raises:
        DatasetNotFoundError: There is no such dataset, branch, version or tag.
        InvalidArgumentError: Lance refuses the uri or an option.
    """
    use_lance()
    share_arenas()  # before Lance starts its threads
    try:
        with panics_as_errors(f"opening {ref.shown_place}"):
            dataset = _open_pinned(ref) if ref.manifest is not None else _open_named(ref)
    except (TypeError, OverflowError) as error:  # raised by Python for an argument of lance.dataset
        raise InvalidArgumentError(f"dataset_options, storage_options: {cause(error)}") from without_secrets(error)
    except Exception as error:
        if not _is_lances(error):
            raise
        _explain(ref, error)
    remember(None, storage_options_of(dataset))  # a namespace may have added credentials
    return dataset


def _is_lances(error: Exception) -> bool:
    """Whether Lance or a namespace raised it; the package of the latter is not imported, which would take long."""
    is_ours = isinstance(error, RayLanceError)
    return not is_ours and (
        isinstance(error, (ValueError, OSError, RuntimeError)) or type(error).__module__.startswith("lance_namespace")
    )


def _open_pinned(ref: TableRef) -> lance.LanceDataset:
    return lance.LanceDataset(
        ref.uri,
        ref.version,
        storage_options=dict(ref.storage_options) or None,
        serialized_manifest=ref.manifest,
        **ref.namespace_arguments(),
        **ref.dataset_options,
    )


def _open_named(ref: TableRef) -> lance.LanceDataset:
    location = ref.namespace_arguments() or {"uri": ref.uri}
    options = {**location, **ref.dataset_options, "storage_options": dict(ref.storage_options) or None}
    if isinstance(ref.version, tuple):
        dataset = lance.dataset(**options).checkout_version(ref.version)
    else:
        dataset = lance.dataset(version=ref.version, **options)
    # A branch or a tag may have led to another place than the handle's uri, which parts of Lance use.
    return _at_its_place(ref, dataset) if isinstance(ref.version, (tuple, str)) else dataset


def _at_its_place(ref: TableRef, dataset: lance.LanceDataset) -> lance.LanceDataset:
    place = location_of(dataset)
    if place == dataset.uri:
        return dataset
    manifest = manifest_of(dataset)
    storage_options = storage_options_of(dataset)
    return _open_pinned(
        replace(ref, uri=place, version=dataset.version, manifest=manifest, storage_options=storage_options)
    )


def _explain(ref: TableRef, error: Exception) -> NoReturn:
    """Raise the error of our own for ``error``, which opening ``ref`` raised."""
    source, text = without_secrets(error), cause(error)
    if _NO_SUCH_SCHEME.search(text):
        raise InvalidArgumentError(f"uri={ref.shown_place!r}: Lance knows no storage of this scheme") from source
    if "asof" in ref.dataset_options and "earlier than the first version" in text:
        raise DatasetNotFoundError(f"dataset_options['asof']: {text}") from source
    if "asof" in ref.dataset_options and "parse timestamp" in text:
        raise InvalidArgumentError(f"dataset_options['asof']: {text}") from source
    if "Ref is invalid" in text:
        raise InvalidArgumentError(f"version={ref.version!r}: {text}") from source
    if says_not_found(text):
        raise _not_found(ref) from source
    raise StorageError(f"uri={ref.shown_place!r}: {text}") from source


def _not_found(ref: TableRef) -> DatasetNotFoundError:
    if ref.version is None:
        return missing_branch(ref) or DatasetNotFoundError(f"uri: there is no Lance dataset at {ref.shown_place}")
    branch, number = ref.version if isinstance(ref.version, tuple) else (None, ref.version)
    whole = replace(ref.without_manifest(), version=None if branch is None or number is None else (branch, None))
    try:
        dataset = open_table(whole)
    except DatasetNotFoundError as error:
        return error
    if branch is not None and number is None:
        return _no_branch(branch, ref.shown_place, dataset)
    versions = [entry["version"] for entry in dataset.versions()]
    kept = f"{versions[0]} to {versions[-1]}" if versions else "none"
    return DatasetNotFoundError(
        f"version={ref.version!r}: the Lance dataset at {ref.shown_place} has no such version or tag (versions kept: "
        f"{kept})"
    )


def missing_branch(ref: TableRef) -> DatasetNotFoundError | None:
    """The error for a ``ref`` whose uri is among the branches of a dataset and is none of them; None for others."""
    for root, branch in roots_above(ref.uri or ""):
        try:
            dataset = open_table(replace(ref, uri=root, version=None, dataset_options={}))
        except (DatasetNotFoundError, StorageError):
            continue  # there is no dataset, or the user may not look there
        return _no_branch(branch, mask_uri(root), dataset)
    return None


def _no_branch(branch: str, place: str, dataset: lance.LanceDataset) -> DatasetNotFoundError:
    return DatasetNotFoundError(
        f"version={(branch, None)!r}: the Lance dataset at {place} has no such branch, it has "
        f"{sorted(dataset.branches.list())}; make it with lance.dataset(uri).create_branch({branch!r})"
    )


def _open_for_takes(ref: TableRef, dataset: lance.LanceDataset) -> lance.LanceDataset:
    """``dataset``, or the same version of it through io_uring."""
    uri = uring_uri(absolute(dataset.uri))
    if uri is None or not _has_few_files(dataset):
        return dataset
    # With the manifest: Lance keeps files open by path, even after another file has taken that path.
    return open_table(replace(ref, uri=uri, version=dataset.version, manifest=manifest_of(dataset)))


def _has_few_files(dataset: lance.LanceDataset) -> bool:
    """Whether all data files may be open at once. Each fragment has at least one, and their number is known at once."""
    most = most_files()
    if count_fragments(dataset) > most:
        return False
    return sum(len(fragment.metadata.files) for fragment in dataset.get_fragments()) <= most
