"""Refers to one version of one Lance dataset: a path, a uri or an open dataset in, a picklable ``TableRef`` out."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from typing import Any

import lance

from ray_lance.arguments import as_mapping, as_names, as_options, as_text, shown
from ray_lance.errors import InvalidArgumentError
from ray_lance.forks import use_lance
from ray_lance.handles import handles, open_table
from ray_lance.io_uring import is_available
from ray_lance.lance_internals import dataset_options_of, manifest_of, storage_options_of
from ray_lance.lazy import lance_namespace
from ray_lance.masking import mask_uri, remember
from ray_lance.notebook import Facts
from ray_lance.uris import absolute, check_uri, location_of
from ray_lance.versions import MAIN, Version, as_version, branch_of

__all__ = ["TableRef", "check_source"]

_OPTIONS_WITH_OWN_ARGUMENT = ("uri", "version", "storage_options", "namespace_client", "table_id")


@dataclass(frozen=True, repr=False)
class TableRef(Facts):
    """A picklable reference to a Lance dataset; once pinned, to one version of it.

    Holds no open handle. :meth:`open` opens lazily and keeps one handle per process and reference.

    Attributes:
        uri: Path or URI of the dataset, or of one of its branches (``dataset/tree/branch``), which is what it is once
            a version of a branch is pinned. None when the namespace has yet to be asked.
        version: Version number of the branch that the uri names, tag, or tuple of a branch and a version number or
            None; None means the latest when it is pinned.
        storage_options: Object store options, with credentials. Masked in the repr.
        table_id: Table identifier inside the namespace.
        namespace_impl: Lance namespace implementation, such as ``"dir"`` or ``"rest"``.
        namespace_properties: Properties of the namespace connection. Masked in the repr.
        dataset_options: Further keyword arguments of ``lance.dataset``, such as ``block_size``; with ``asof`` and no
            version, the version that was the latest at that time.
        manifest: The serialized manifest of the pinned version: opening with it reads no listing.
    """

    uri: str | None
    version: Version | None = None
    storage_options: Mapping[str, str] = field(default_factory=dict)
    table_id: tuple[str, ...] | None = None
    namespace_impl: str | None = None
    namespace_properties: Mapping[str, str] = field(default_factory=dict)
    dataset_options: Mapping[str, Any] = field(default_factory=dict)
    manifest: bytes | None = field(default=None, compare=False)

    _first_fact = "uri"

    def __post_init__(self) -> None:
        self._check_types()
        if (self.uri is None) == (self.namespace_impl is None) and not self._is_resolved_namespace():
            raise InvalidArgumentError(
                f"uri={self._shown_uri()!r}, namespace_impl={self.namespace_impl!r}: give either a uri, or "
                "namespace_impl with table_id"
            )
        if (self.namespace_impl is None) != (self.table_id is None):
            raise InvalidArgumentError(
                f"namespace_impl={self.namespace_impl!r}, table_id={self.table_id!r}: one needs the other"
            )
        if self.uri is not None:
            check_uri(self.uri)
        object.__setattr__(self, "version", as_version(self.version))
        _check_dataset_options(self.dataset_options, self.version)
        self._remember_secrets()

    def _check_types(self) -> None:
        if self.uri is not None:
            as_text("uri", self.uri, "a path or URI, or None for a table of a namespace")
        if self.table_id is not None:
            object.__setattr__(self, "table_id", as_names("table_id", self.table_id))
        if self.namespace_impl is not None:
            as_text("namespace_impl", self.namespace_impl, "the implementation of a namespace, such as 'dir'")
        for name in ("storage_options", "namespace_properties"):
            object.__setattr__(self, name, as_options(name, getattr(self, name)))
        object.__setattr__(self, "dataset_options", as_mapping("dataset_options", self.dataset_options))
        if not isinstance(self.manifest, bytes | None):
            raise InvalidArgumentError(f"manifest={shown(self.manifest)} must be bytes: it comes from pin()")

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._remember_secrets()  # another process than the one that was given them

    @classmethod
    def of(
        cls,
        source: str | os.PathLike[str] | lance.LanceDataset | TableRef,
        *,
        version: Version | None = None,
        storage_options: Mapping[str, str] | None = None,
        dataset_options: Mapping[str, Any] | None = None,
    ) -> TableRef:
        """Make a reference from a path, a URI, an open ``lance.LanceDataset`` or another reference.

        Args:
            source: What to refer to. An open dataset means the version and the branch that it has open.
            version: Version number, tag, or tuple of a branch and a version number or None. Must not contradict a
                version that ``source`` already has.
            storage_options: Object store options; for references and open datasets they replace the source's.
            dataset_options: Further keyword arguments of ``lance.dataset``.

        Raises:
            InvalidArgumentError: ``source`` is of another type, or ``version`` contradicts it.
        """
        if isinstance(source, lance.LanceDataset):
            use_lance()  # they have, before us
            source = _ref_of_open_dataset(source)
        if isinstance(source, cls):
            return source._with(version, storage_options, dataset_options)
        check_source("source", source)
        return cls(
            absolute(os.fspath(source)),  # type: ignore[arg-type]
            version,
            as_options("storage_options", storage_options),
            dataset_options=as_mapping("dataset_options", dataset_options),
        )

    def open(self) -> lance.LanceDataset:
        """The open dataset, from this process's cache where it has been opened before.

        Raises:
            DatasetNotFoundError: There is no such dataset, branch, version or tag.
            StorageError: The storage refuses or fails.
        """
        return handles.get(self)

    def open_for_takes(self) -> lance.LanceDataset:
        """Like :meth:`open`, for reads of many small pieces: through io_uring for local files, where that is allowed.

        Otherwise Lance hands each piece to another thread, which takes as long as reading it. Reads of everything in
        order are equally fast both ways.
        """
        return handles.get(self, for_takes=is_available() and not self.is_remote)

    def pin(self) -> TableRef:
        """The same table with its version resolved to a number and its manifest and location attached."""
        if self.manifest is not None:
            return self
        dataset = open_table(self)
        pinned = replace(
            self,
            uri=absolute(dataset.uri),
            version=dataset.version,
            manifest=manifest_of(dataset),
            dataset_options=_without_time(self.dataset_options),
        )
        handles.put(pinned, dataset)
        return pinned

    def latest(self) -> TableRef:
        """The same branch of the table, at the version that is the latest when it is pinned or opened.

        Which branch a tag points into is looked up.
        """
        if self.manifest is None and isinstance(self.version, str):
            return self.pin().latest()
        return self._at(None)

    def at(self, version: int) -> TableRef:
        """The same branch of the table at another version."""
        return self._at(version)

    def without_manifest(self) -> TableRef:
        """The same table and version without the manifest, which grows with the dataset; opening it lists versions."""
        return self if self.manifest is None else self._at(self.number)

    @property
    def number(self) -> int:
        """The version number of a pinned table."""
        if not isinstance(self.version, int):
            raise InvalidArgumentError(f"version={self.version!r}: the table is not pinned to a version number")
        return self.version

    @cached_property
    def branch(self) -> str | None:
        """The branch; None where that is main, or what the uri or a tag names until it is pinned."""
        if self.manifest is not None:
            return branch_of(self.manifest)
        return self.version[0] if isinstance(self.version, tuple) else None

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

        The manifest is part of it: once a dataset was removed and written again, a version number means other data.
        """
        manifest = None if self.manifest is None else hashlib.blake2b(self.manifest, digest_size=16).hexdigest()
        parts = (manifest, self.uri, self.version, _as_json(self.storage_options), self.table_id, self.namespace_impl)
        return repr((*parts, _as_json(self.namespace_properties), _as_json(self.dataset_options)))

    def __hash__(self) -> int:
        return hash(self.cache_key)

    def _facts(self) -> dict[str, Any]:
        """What is worth showing, without credentials; None for what was not given."""
        shown = {"uri": self._shown_uri(), "version": self.version, "table_id": self.table_id}
        options = {name: getattr(self, name) for name in ("storage_options", "namespace_properties")}
        masked = {name: dict.fromkeys(sorted(given), "***") if given else None for name, given in options.items()}
        return {**shown, "namespace_impl": self.namespace_impl, **masked}

    @property
    def shown_place(self) -> str:
        """Where the table is, without credentials, for messages."""
        if self.uri is None:
            return f"table {list(self.table_id or ())} of the {self.namespace_impl!r} namespace"
        return mask_uri(self.uri)

    def _at(self, version: int | None) -> TableRef:
        """The same branch at a version, not pinned."""
        # The uri of a pinned table is that of its branch. A namespace is asked again where the table is.
        is_placed = self.manifest is not None and self.namespace_impl is None
        branch = None if is_placed else self.branch
        return replace(
            self,
            uri=self.uri if self.namespace_impl is None else None,
            version=version if branch is None else (branch, version),
            manifest=None,
            dataset_options=_without_time(self.dataset_options),
        )

    def _remember_secrets(self) -> None:
        stores = self.dataset_options.get("base_store_params") or {}
        remember(self.uri, self.storage_options, self.namespace_properties, stores)

    def _shown_uri(self) -> str | None:
        return None if self.uri is None else mask_uri(self.uri)

    def _is_resolved_namespace(self) -> bool:
        return self.uri is not None and self.namespace_impl is not None and self.manifest is not None

    def _is_at(self, version: Version) -> bool:
        if isinstance(version, tuple) and self.manifest is not None:
            return version[0] == (self.branch or MAIN) and version[1] in (None, self.version)
        return version == self.version

    def _with(
        self,
        version: Version | None,
        storage_options: Mapping[str, str] | None,
        dataset_options: Mapping[str, Any] | None,
    ) -> TableRef:
        version = as_version(version)
        if version is not None and self.version is not None and not self._is_at(version):
            of_branch = f" of the branch {self.branch!r}" if self.manifest is not None and self.branch else ""
            raise InvalidArgumentError(
                f"version={version!r} contradicts the source, which stands at version {self.version!r}{of_branch}: "
                "pass the uri instead to choose another version"
            )
        changes: dict[str, Any] = {}
        if version is not None and self.version is None:
            changes["version"] = version
        if storage_options is not None:
            changes["storage_options"] = as_options("storage_options", storage_options)
        if dataset_options:
            changes["dataset_options"] = {**self.dataset_options, **as_mapping("dataset_options", dataset_options)}
        return replace(self, **changes) if changes else self


def check_source(name: str, source: object) -> None:
    """Refuse what names no table.

    Args:
        name: The argument that it was given as.
        source: What was given.

    Raises:
        InvalidArgumentError: It is neither a path or URI, nor an open dataset, nor a reference.
    """
    if isinstance(source, (lance.LanceDataset, TableRef)):
        return
    is_path = isinstance(source, (str, os.PathLike)) and isinstance(os.fspath(source), str)
    if not is_path or not source:
        place = "''" if is_path else type(source).__name__
        raise InvalidArgumentError(
            f"{name}={place} must be a uri or a path that is not empty, a lance.LanceDataset or a TableRef"
        )


def _without_time(options: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if name != "asof"}


def _check_dataset_options(options: Mapping[str, Any], version: Version | None) -> None:
    for name in _OPTIONS_WITH_OWN_ARGUMENT:
        if name in options:
            raise InvalidArgumentError(f"dataset_options: {name!r} is set by an argument of its own")
    if "default_scan_options" in options:
        raise InvalidArgumentError("dataset_options: give 'default_scan_options' as scanner_options of the read")
    if "session" in options:
        raise InvalidArgumentError("dataset_options: a 'session' belongs to one process and cannot travel to workers")
    if "asof" in options and version is not None:
        raise InvalidArgumentError(f"dataset_options: 'asof' contradicts version={version!r}: give one of them")


def _ref_of_open_dataset(dataset: lance.LanceDataset) -> TableRef:
    return TableRef(
        uri=location_of(dataset),
        version=dataset.version,
        storage_options=storage_options_of(dataset),
        dataset_options=dataset_options_of(dataset),
        manifest=manifest_of(dataset),
    )


@lru_cache(maxsize=16)
def _namespace_client(pid: int, impl: str, properties: str) -> Any:  # noqa: ARG001  pid keeps clients out of children
    return lance_namespace.connect(impl, json.loads(properties))


def _as_json(options: Mapping[str, Any]) -> str:
    return json.dumps(dict(options), sort_keys=True, default=repr)
