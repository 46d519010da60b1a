"""Uris of datasets and of their branches: a path, a uri or an open dataset in, the uri of the branch out.

The branch ``dev`` of a dataset is in its folder ``tree/dev``. The uri of an open dataset does not tell which branch was
checked out: it stays what it was opened with.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from urllib.parse import urlsplit

import lance

from ray_lance.errors import DatasetNotFoundError, InvalidArgumentError
from ray_lance.lance_internals import manifest_of, storage_options_of
from ray_lance.masking import mask_uri
from ray_lance.versions import MAIN, branch_of

__all__ = ["absolute", "below_tree", "check_uri", "location_of", "roots_above", "says_not_found"]

_TREE = "/tree/"
_NOT_FOUND = re.compile(r"not found|does not exist|no such file|not a directory", re.IGNORECASE)


def absolute(uri: str) -> str:
    """A local path as an absolute one: workers have another working directory, and may have another home."""
    if "://" in uri:
        return uri.rstrip("/") if uri.rpartition("://")[2].strip("/") else uri
    return os.path.abspath(os.path.expanduser(uri))  # noqa: PTH100, PTH111  Path resolves ".."


def check_uri(uri: str) -> None:
    """Refuse a malformed URI, which Lance would take for a local path.

    Raises:
        InvalidArgumentError: The port is no number, as where a password has a slash in it.
    """
    if "://" not in uri:
        return
    try:
        urlsplit(uri).port  # noqa: B018  reading the property parses it
    except ValueError:
        raise InvalidArgumentError(
            f"uri={mask_uri(uri)!r} is no URI that Lance can read: the port is no number. In a user name or password "
            "write / as %2F, @ as %40, : as %3A, # as %23 and ? as %3F, or pass credentials as storage_options"
        ) from None


def location_of(dataset: lance.LanceDataset) -> str:
    """The uri of the branch that ``dataset`` has open; on main, that of the dataset itself.

    Looks into storage only where the uri leaves it open: where it has a folder named ``tree``.

    Raises:
        DatasetNotFoundError: The version that ``dataset`` has open is gone.
    """
    uri = absolute(dataset.uri)
    branch = branch_of(manifest_of(dataset))
    if not roots_above(uri):
        return uri if branch is None else _below(uri, branch)
    for candidate in _candidates(uri, branch):
        if _holds(candidate, dataset):
            return candidate
    raise DatasetNotFoundError(
        f"version {dataset.version} of the branch {branch or MAIN!r}, which the open dataset of {mask_uri(uri)} has "
        "open, is gone: open it again"
    )


def roots_above(uri: str) -> list[tuple[str, str]]:
    """Uris of the datasets of which ``uri`` can be a branch, with the name of the branch; the nearest first."""
    scheme, separator, _ = uri.rpartition("://")
    path, query = _split_query(uri)
    parts = path.removeprefix(scheme + separator).split(_TREE)
    roots = [(_TREE.join(parts[:cut]), _TREE.join(parts[cut:])) for cut in range(len(parts) - 1, 0, -1)]
    return [(f"{scheme}{separator}{root}{query}", branch) for root, branch in roots if root]


def below_tree(uri: str) -> str:
    """The path below a folder that makes Lance take it for the same branch as ``uri``; ``"."`` outside of branches."""
    path, _ = _split_query(uri)
    _, tree, rest = path.partition(_TREE)
    return f"tree/{rest}" if tree else "."


def says_not_found(text: str) -> bool:
    """Whether Lance says by this text of an error that something is not there."""
    return _NOT_FOUND.search(text) is not None


def _candidates(uri: str, branch: str | None) -> Iterator[str]:
    """Uris at which the branch can lie that a dataset opened with ``uri`` has open."""
    yield uri
    for root in (uri, *(root for root, _ in roots_above(uri))):
        yield root if branch is None else _below(root, branch)


def _holds(uri: str, dataset: lance.LanceDataset) -> bool:
    """Whether the version that ``dataset`` has open is at ``uri``."""
    try:
        found = lance.dataset(uri, version=dataset.version, storage_options=storage_options_of(dataset) or None)
    except (ValueError, OSError) as error:
        if not says_not_found(str(error)):
            raise
        return False
    return bool(manifest_of(found) == manifest_of(dataset))


def _below(root: str, branch: str) -> str:
    path, query = _split_query(root)
    return f"{path}{_TREE}{branch}{query}"


def _split_query(uri: str) -> tuple[str, str]:
    if "://" not in uri:
        return uri, ""  # a local path may have a question mark in it
    path, mark, query = uri.partition("?")
    return path, mark + query
