"""Names tables as public functions do: a uri, or the identifier in a namespace, in; a ``TableRef`` out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ray_lance.arguments import as_mapping, as_names, as_options, as_text, either, shown
from ray_lance.errors import InvalidArgumentError
from ray_lance.masking import mask_uri
from ray_lance.table import TableRef, check_source
from ray_lance.versions import Version

__all__ = ["TableArguments"]


@dataclass(frozen=True, repr=False)  # it holds credentials
class TableArguments:
    """Which table is read or written, as :func:`ray_lance.read_lance` and :func:`ray_lance.write_lance` take it.

    Attributes:
        uri: Path, URI, open dataset or reference; of reads also a list of these. None for a table of a namespace.
        storage_options: Options of the object store.
        table_id: Identifier of the table in the namespace.
        namespace_impl: Implementation of the namespace, such as ``"dir"`` or ``"rest"``.
        namespace_properties: Properties of the connection to the namespace.
        version: Version to read.
        dataset_options: Further arguments of ``lance.dataset``, for reads.
        base_store_params: Storage options by URI of further base paths, for reads.

    Raises:
        InvalidArgumentError: An argument of the namespace breaks its rule.
    """

    uri: Any = None
    storage_options: Mapping[str, str] | None = None
    table_id: Sequence[str] | None = None
    namespace_impl: str | None = None
    namespace_properties: Mapping[str, str] | None = None
    version: Version | None = None
    dataset_options: Mapping[str, Any] | None = None
    base_store_params: Mapping[str, Mapping[str, Any]] | None = None

    def __post_init__(self) -> None:
        if self.table_id is not None:
            object.__setattr__(self, "table_id", as_names("table_id", self.table_id))
        if self.namespace_impl is not None:
            as_text("namespace_impl", self.namespace_impl, "the implementation of a namespace, such as 'dir' or 'rest'")
        if self.namespace_properties is not None:
            properties = as_options("namespace_properties", self.namespace_properties)
            object.__setattr__(self, "namespace_properties", properties)

    def to_write(self) -> TableRef:
        """The one table, not pinned to a version.

        Raises:
            InvalidArgumentError: Neither a uri nor a namespace is given, or both are.
        """
        if not self._of_namespace():
            if self.uri is None:
                raise InvalidArgumentError("uri=None: give a uri, or namespace_impl with table_id")
            check_source("uri", self.uri)
            return TableRef.of(self.uri, storage_options=self.storage_options)
        if self.uri is not None:
            place = mask_uri(self.uri) if isinstance(self.uri, str) else self.uri
            raise InvalidArgumentError(
                f"uri={shown(place)}, and {', '.join(self._of_namespace())} too: give either a uri or a namespace with "
                "table_id"
            )
        return TableRef(
            None,
            storage_options=as_options("storage_options", self.storage_options),
            table_id=None if self.table_id is None else tuple(self.table_id),
            namespace_impl=self.namespace_impl,
            namespace_properties=dict(self.namespace_properties or {}),
        )

    def to_read(self) -> list[TableRef]:
        """All the tables, each pinned to a version.

        Raises:
            InvalidArgumentError: Neither a uri nor a namespace is given, or both are, the list of uris is empty, or
                versions contradict each other.
            DatasetNotFoundError: There is no such dataset, version or tag.
        """
        options = self._open_options()
        version = either("version", self.version, options.pop("version", None))
        storage_options = either(
            "storage_options", self.storage_options, options.pop("storage_options", None), is_secret=True
        )
        sources = list(self.uri) if isinstance(self.uri, (list, tuple)) else [self.uri]
        if not sources:
            raise InvalidArgumentError("uri=[] must name at least one dataset")
        if self.uri is None or self._of_namespace():
            table = replace(self, storage_options=storage_options).to_write()
            return [replace(table, version=version, dataset_options=options).pin()]
        for source in sources:
            check_source("uri", source)
        return [
            TableRef.of(source, version=version, storage_options=storage_options, dataset_options=options).pin()
            for source in sources
        ]

    def _of_namespace(self) -> list[str]:
        """Names of the arguments that were given and that belong to a namespace."""
        names = ("table_id", "namespace_impl", "namespace_properties")
        return [name for name in names if getattr(self, name) is not None]

    def _open_options(self) -> dict[str, Any]:
        """Further arguments of ``lance.dataset``, with ``base_store_params`` among them."""
        options = as_mapping("dataset_options", self.dataset_options)
        for uri, params in as_mapping("base_store_params", self.base_store_params).items():
            as_mapping(f"base_store_params[{mask_uri(uri)!r}]", params)
        params = either(
            "base_store_params", self.base_store_params, options.pop("base_store_params", None), is_secret=True
        )
        return {**options, "base_store_params": params} if params else options
