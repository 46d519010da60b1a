"""References to one version of one Lance dataset, and the only place that opens them."""

from __future__ import annotations

import hashlib
import json
import os
import re
import threading
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from typing import Any

import lance

from ray_lance.allocator import share_arenas
from ray_lance.errors import DatasetNotFoundError, InvalidArgumentError
from ray_lance.io_uring import is_available, most_files, uring_uri
from ray_lance.lazy import lance_namespace

__all__ = ["TableRef", "mask_uri"]

_MAX_HANDLES = 64
_OPTIONS_WITH_OWN_ARGUMENT = ("uri", "version", "storage_options", "namespace_client", "table_id")
_NOT_FOUND = re.compile(r"not found|does not exist|no such file|not a directory", re.IGNORECASE)
_NO_SUCH_SCHEME = re.compile(r"no object store provider found", re.IGNORECASE)


@dataclass(frozen=True)
class TableRef:
    """A picklable reference to a Lance dataset; once pinned, to one version of it.

    Holds no open handle. :meth:`open` opens lazily and keeps one handle per process and reference.

    Attributes:
        uri: Path or URI of the dataset. None when the namespace has yet to be asked.
        version: Version number or tag; None means the latest when it is pinned.
        storage_options: Object store options, with credentials. Masked in the repr.
        table_id: Table identifier inside the namespace.
        namespace_impl: Lance namespace implementation, such as ``"dir"`` or ``"rest"``.
        namespace_properties: Properties of the namespace connection. Masked in the repr.
        dataset_options: Further keyword arguments of ``lance.dataset``, such as ``block_size``; with ``asof`` and no
            version, the version that was the latest at that time.
        manifest: The serialized manifest of the pinned version: opening with it reads no listing.
    """

    uri: str | None
    version: int | str | None = None
    storage_options: Mapping[str, str] = field(default_factory=dict)
    table_id: tuple[str, ...] | None = None
    namespace_impl: str | None = None
    namespace_properties: Mapping[str, str] = field(default_factory=dict)
    dataset_options: Mapping[str, Any] = field(default_factory=dict)
    manifest: bytes | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        if (self.uri is None) == (self.namespace_impl is None) and not self._is_resolved_namespace():
            raise InvalidArgumentError(
                f"uri={self._shown_uri()!r}, namespace_impl={self.namespace_impl!r}: give either a uri, or "
                "namespace_impl with table_id"
            )
        if (self.namespace_impl is None) != (self.table_id is None):
            raise InvalidArgumentError(
                f"namespace_impl={self.namespace_impl!r}, table_id={self.table_id!r}: one needs the other"
            )
        _check_dataset_options(self.dataset_options, self.version)
        if isinstance(self.version, bool) or not isinstance(self.version, (int, str, type(None))):
            raise InvalidArgumentError(f"version={self.version!r} must be a version number, a tag name, or None")
        if isinstance(self.version, int) and self.version < 1:
            raise InvalidArgumentError(f"version={self.version} must be at least 1, the first version of a dataset")

    @classmethod
    def of(
        cls,
        source: str | os.PathLike[str] | lance.LanceDataset | TableRef,
        *,
        version: int | str | None = None,
        storage_options: Mapping[str, str] | None = None,
        dataset_options: Mapping[str, Any] | None = None,
    ) -> TableRef:
        """Make a reference from a path, a URI, an open ``lance.LanceDataset`` or another reference.

        Args:
            source: What to refer to. An open dataset stands for the version it has open.
            version: Version number or tag. Must not contradict a version that ``source`` already has.
            storage_options: Object store options; for references and open datasets they replace the source's.
            dataset_options: Further keyword arguments of ``lance.dataset``.

        Raises:
            InvalidArgumentError: ``source`` is of another type, or ``version`` contradicts it.
        """
        if isinstance(source, lance.LanceDataset):
            source = _ref_of_open_dataset(source)
        if isinstance(source, cls):
            return source._with(version, storage_options, dataset_options)
        if not isinstance(source, (str, os.PathLike)):
            raise InvalidArgumentError(
                f"source={type(source).__name__}: must be a uri, a path, a lance.LanceDataset or a TableRef"
            )
        uri = os.fspath(source)
        if not isinstance(uri, str) or not uri:
            raise InvalidArgumentError(f"uri={uri!r} must be a path or URI that is not empty")
        return cls(
            _absolute(uri),
            version,
            _as_dict("storage_options", storage_options),
            dataset_options=_as_dict("dataset_options", dataset_options),
        )

    def open(self) -> lance.LanceDataset:
        """The open dataset, from this process's cache where it has been opened before.

        Raises:
            DatasetNotFoundError: There is no such dataset, version or tag.
        """
        return _handles.get(self)

    def open_for_takes(self) -> lance.LanceDataset:
        """Like :meth:`open`, for reads of many small pieces: of local files through io_uring where that is allowed.

        Lance otherwise hands each piece to another thread, which takes as long as reading it. Reading everything in
        order is as fast either way.
        """
        return _handles.get(self, for_takes=is_available() and not self.is_remote)

    def pin(self) -> TableRef:
        """The same table with its version resolved to a number and its manifest and location attached."""
        if self.manifest is not None:
            return self
        dataset = _open(self)
        pinned = replace(
            self,
            uri=_absolute(dataset.uri),
            version=dataset.version,
            manifest=dataset._ds.serialized_manifest(),
            dataset_options={name: value for name, value in self.dataset_options.items() if name != "asof"},
        )
        _handles.put(pinned, dataset)
        return pinned

    def latest(self) -> TableRef:
        """The same table at whatever version is the latest when it is pinned or opened."""
        return replace(self.without_manifest(), version=None)

    def without_manifest(self) -> TableRef:
        """The same table and version with nothing attached that grows with the dataset; opening it lists versions."""
        # A namespace is asked anew where the table lies.
        return replace(self, uri=self.uri if self.namespace_impl is None else None, manifest=None)

    def namespace_arguments(self) -> dict[str, Any]:
        """Keyword arguments that let Lance refresh credentials through the namespace; empty without one."""
        if self.namespace_impl is None or self.table_id is None:
            return {}
        client = _namespace_client(os.getpid(), self.namespace_impl, _as_json(self.namespace_properties))
        return {"namespace_client": client, "table_id": list(self.table_id)}

    @property
    def is_remote(self) -> bool:
        """Whether the data is reached through an object store rather than the local file system."""
        return self.uri is not None and "://" in self.uri and not self.uri.startswith("file")

    @cached_property
    def cache_key(self) -> str:
        """Identifies everything that decides what :meth:`open` returns.

        The manifest takes part: where a dataset was removed and written anew, the same version number means other data.
        """
        manifest = None if self.manifest is None else hashlib.blake2b(self.manifest, digest_size=16).hexdigest()
        parts = (manifest, self.uri, self.version, _as_json(self.storage_options), self.table_id, self.namespace_impl)
        return repr((*parts, _as_json(self.namespace_properties), _as_json(self.dataset_options)))

    def __hash__(self) -> int:
        return hash(self.cache_key)

    def __repr__(self) -> str:
        shown = {"version": self.version, "table_id": self.table_id, "namespace_impl": self.namespace_impl}
        parts = [repr(self._shown_uri())] + [f"{name}={value!r}" for name, value in shown.items() if value is not None]
        for name in ("storage_options", "namespace_properties"):
            if options := getattr(self, name):
                parts.append(f"{name}={dict.fromkeys(sorted(options), '***')}")
        return f"TableRef({', '.join(parts)})"

    def _shown_uri(self) -> str | None:
        return None if self.uri is None else mask_uri(self.uri)

    def _is_resolved_namespace(self) -> bool:
        return self.uri is not None and self.namespace_impl is not None and self.manifest is not None

    def _with(
        self,
        version: int | str | None,
        storage_options: Mapping[str, str] | None,
        dataset_options: Mapping[str, Any] | None,
    ) -> TableRef:
        if version is not None and self.version is not None and version != self.version:
            raise InvalidArgumentError(
                f"version={version!r} contradicts the source, which stands at version {self.version!r}: "
                "pass the uri instead to choose another version"
            )
        changes: dict[str, Any] = {}
        if version is not None and self.version is None:
            changes["version"] = version
        if storage_options is not None:
            changes["storage_options"] = _as_dict("storage_options", storage_options)
        if dataset_options:
            changes["dataset_options"] = {**self.dataset_options, **_as_dict("dataset_options", dataset_options)}
        return replace(self, **changes) if changes else self


def _absolute(uri: str) -> str:
    """A local path as an absolute one: workers have another working directory, and may have another home."""
    return uri if "://" in uri else os.path.abspath(os.path.expanduser(uri))  # noqa: PTH100, PTH111  Path resolves ".."


def _as_dict(name: str, value: Any) -> dict[str, Any]:
    if value is not None and not isinstance(value, Mapping):
        raise InvalidArgumentError(f"{name}={type(value).__name__} must be a mapping of names to values")
    return dict(value or {})


def _check_dataset_options(options: Mapping[str, Any], version: int | str | None) -> None:
    for name in _OPTIONS_WITH_OWN_ARGUMENT:
        if name in options:
            raise InvalidArgumentError(f"dataset_options: {name!r} is set by an argument of its own")
    if "default_scan_options" in options:
        raise InvalidArgumentError("dataset_options: give 'default_scan_options' as scanner_options of the read")
    if "session" in options:
        raise InvalidArgumentError("dataset_options: a 'session' belongs to one process and cannot travel to workers")
    if "asof" in options and version is not None:
        raise InvalidArgumentError(f"dataset_options: 'asof' contradicts version={version!r}: give one of them")


def mask_uri(uri: str) -> str:
    """``uri`` without the user information and the query, which may hold credentials."""
    masked = re.sub(r"://[^/@]*@", "://***@", uri)
    return re.sub(r"\?.*$", "?***", masked) if "://" in masked else masked


class _HandleCache:
    """Open datasets of this process, least recently used first. A forked child starts with none."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._pid = os.getpid()
        self._handles: OrderedDict[str, lance.LanceDataset] = OrderedDict()

    def get(self, ref: TableRef, *, for_takes: bool = False) -> lance.LanceDataset:
        if ref.version is None:
            return _open(ref)  # the latest version changes under a cache
        key = f"takes:{ref.cache_key}" if for_takes else ref.cache_key
        with self._lock:
            self._forget_parent()
            if (handle := self._handles.get(key)) is not None:
                self._handles.move_to_end(key)
                return handle
        handle = _open_for_takes(ref, self.get(ref)) if for_takes else _open(ref)
        self._put(key, handle)
        return handle

    def put(self, ref: TableRef, handle: lance.LanceDataset) -> None:
        self._put(ref.cache_key, handle)

    def _put(self, key: str, handle: lance.LanceDataset) -> None:
        with self._lock:
            self._forget_parent()
            self._handles[key] = handle
            while len(self._handles) > _MAX_HANDLES:
                self._handles.popitem(last=False)

    def after_fork(self) -> None:
        # The parent may have held the lock at the moment of the fork, and its handles are not safe here.
        self.__init__()  # type: ignore[misc]

    def _forget_parent(self) -> None:
        if self._pid != os.getpid():
            self._pid = os.getpid()
            self._handles = OrderedDict()


_handles = _HandleCache()
os.register_at_fork(after_in_child=_handles.after_fork)


def _open(ref: TableRef) -> lance.LanceDataset:
    share_arenas()  # before Lance starts its threads
    storage_options = dict(ref.storage_options) or None
    try:
        if ref.manifest is not None:
            return lance.LanceDataset(
                ref.uri,
                ref.version,
                storage_options=storage_options,
                serialized_manifest=ref.manifest,
                **ref.namespace_arguments(),
                **ref.dataset_options,
            )
        location = ref.namespace_arguments() or {"uri": ref.uri}
        return lance.dataset(version=ref.version, storage_options=storage_options, **location, **ref.dataset_options)
    except (TypeError, OverflowError) as error:  # Python's own words about an argument of lance.dataset
        raise InvalidArgumentError(f"dataset_options, storage_options: {error}") from error
    except (ValueError, OSError, lance_namespace.errors.LanceNamespaceError) as error:
        if _NO_SUCH_SCHEME.search(str(error)):
            raise InvalidArgumentError(f"uri={ref._shown_uri()!r}: Lance knows no storage of this scheme") from error
        if "asof" in ref.dataset_options and "earlier than the first version" in str(error):
            raise DatasetNotFoundError(f"dataset_options['asof']: {error}") from error
        if "asof" in ref.dataset_options and "parse timestamp" in str(error):
            raise InvalidArgumentError(f"dataset_options['asof']: {error}") from error
        if _NOT_FOUND.search(str(error)) is None:
            raise
        raise _not_found(ref) from error


def _open_for_takes(ref: TableRef, dataset: lance.LanceDataset) -> lance.LanceDataset:
    """``dataset``, or the same version of it through io_uring."""
    uri = uring_uri(_absolute(dataset.uri))
    if uri is None or not _has_few_files(dataset):
        return dataset
    # With the manifest: Lance keeps files open by path, also where another one has come to that path.
    return _open(replace(ref, uri=uri, version=dataset.version, manifest=dataset._ds.serialized_manifest()))


def _has_few_files(dataset: lance.LanceDataset) -> bool:
    """Whether all data files may be open at once; fragments, whose number is known at once, have one at least."""
    most = most_files()
    if dataset._ds.count_fragments() > most:
        return False
    return sum(len(fragment.metadata.files) for fragment in dataset.get_fragments()) <= most


def _not_found(ref: TableRef) -> DatasetNotFoundError:
    place = ref._shown_uri() or f"table {list(ref.table_id or ())} of the {ref.namespace_impl!r} namespace"
    if ref.version is None:
        return DatasetNotFoundError(f"uri: there is no Lance dataset at {place}")
    try:
        versions = [entry["version"] for entry in _open(ref.latest()).versions()]
    except DatasetNotFoundError as error:
        return error
    kept = f"{versions[0]} to {versions[-1]}" if versions else "none"
    return DatasetNotFoundError(
        f"version={ref.version!r}: the Lance dataset at {place} has no such version or tag (versions kept: {kept})"
    )


def _ref_of_open_dataset(dataset: lance.LanceDataset) -> TableRef:
    return TableRef(
        uri=_absolute(dataset.uri),
        version=dataset.version,
        storage_options=dict(dataset._storage_options or {}),
        manifest=dataset._ds.serialized_manifest(),
    )


@lru_cache(maxsize=16)
def _namespace_client(pid: int, impl: str, properties: str) -> Any:  # noqa: ARG001  pid keeps clients out of children
    return lance_namespace.connect(impl, json.loads(properties))


def _as_json(options: Mapping[str, Any]) -> str:
    return json.dumps(dict(options), sort_keys=True, default=repr)
