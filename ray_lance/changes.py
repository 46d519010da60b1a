"""Which rows of a table were added or changed since an earlier version.

Lance notes for each row of a table with stable row ids in which version it was created and last updated, and keeps
that through compactions. Of other tables only whole fragments can be told to be new, and that only where nothing but
appends, deletions and new columns happened meanwhile.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Literal, TypeAlias, get_args

import lance
import numpy as np

from ray_lance.arguments import as_choice, shown
from ray_lance.errors import InvalidArgumentError
from ray_lance.lance_internals import manifest_of
from ray_lance.table import TableRef
from ray_lance.versions import branch_of

__all__ = ["Changed", "Changes", "Since", "changed_since"]

Since: TypeAlias = int | str | datetime
"""A version number, a tag, or a time: then the latest version that was there at that time."""

Changes: TypeAlias = Literal["all", "inserted", "updated"]

_CREATED, _UPDATED = "_row_created_at_version", "_row_last_updated_at_version"
# Operations that move no row from one fragment to another, and change no value of a row.
_ROWS_STAY = (
    lance.LanceOperation.Append,
    lance.LanceOperation.Delete,
    lance.LanceOperation.CreateIndex,
    lance.LanceOperation.Merge,
    lance.LanceOperation.Project,
    lance.LanceOperation.DataReplacement,
    lance.LanceOperation.UpdateConfig,
)


@dataclass(frozen=True)
class Changed:
    """The rows to read.

    Attributes:
        condition: SQL condition that is true for them; None for no condition.
        fragment_ids: The fragments that hold them; None for all.
    """

    condition: str | None = None
    fragment_ids: Sequence[int] | None = None

    def and_filter(self, filter: Any) -> Any:
        """The condition together with a filter of the caller's.

        Raises:
            InvalidArgumentError: The filter is no SQL, and there is a condition.
        """
        if self.condition is None or filter is None:
            return filter if self.condition is None else self.condition
        if not isinstance(filter, str):
            raise InvalidArgumentError(f"filter={shown(filter)}: with since= it must be SQL")
        return f"({filter}) AND ({self.condition})"


def changed_since(table: TableRef, since: Since, changes: Changes = "all") -> Changed:
    """The rows of a pinned table that were added or changed since an earlier version of it.

    Args:
        table: The pinned table.
        since: The earlier version: what it already held, unchanged, is left out.
        changes: ``"inserted"`` rows, ``"updated"`` ones that were there before, or both.

    Raises:
        InvalidArgumentError: An argument breaks its rule, or the table does not tell which rows these are.
        DatasetNotFoundError: There is no such tag, or the version is needed and has been cleaned up.
    """
    as_choice("changes", changes, get_args(Changes))
    dataset = table.open()
    before = _version_of(table, dataset, since)
    if dataset.has_stable_row_ids:
        created, updated = f"{_CREATED} > {before}", f"{_UPDATED} > {before}"
        earlier = f"{_CREATED} <= {before}"
        return Changed({"all": updated, "inserted": created, "updated": f"{updated} AND {earlier}"}[changes])
    if changes == "updated":
        raise InvalidArgumentError(f"changes='updated': {_no_stable_ids(table)}")
    _check_rows_stayed(table, dataset, before)
    old = {fragment.fragment_id for fragment in table.at(before).open().get_fragments()} if before else set()
    return Changed(fragment_ids=[each.fragment_id for each in dataset.get_fragments() if each.fragment_id not in old])


def _version_of(table: TableRef, dataset: lance.LanceDataset, since: Since) -> int:
    """The number of the earlier version; 0 for a time before the first one."""
    if isinstance(since, datetime):
        return _version_at(dataset, since)
    number = _version_of_tag(table, since) if isinstance(since, str) and since else since
    if isinstance(number, bool) or not isinstance(number, (int, np.integer)) or not 1 <= number <= dataset.version:
        raise InvalidArgumentError(
            f"since={shown(since)} must be a version number, a tag or a datetime, and not later than what is read: "
            f"version {dataset.version}"
        )
    return int(number)


def _version_of_tag(table: TableRef, tag: str) -> int:
    tagged = replace(table, version=tag, manifest=None).pin().open()
    if branch_of(manifest_of(tagged)) != branch_of(manifest_of(table.open())):
        raise InvalidArgumentError(f"since={tag!r}: the tag is of another branch than the version that is read")
    return int(tagged.version)


def _version_at(dataset: lance.LanceDataset, time: datetime) -> int:
    local = time.astimezone().replace(tzinfo=None)  # as Lance gives the times of versions
    known = [each["version"] for each in dataset.versions() if each["timestamp"] <= local]
    return max((number for number in known if number <= dataset.version), default=0)


def _check_rows_stayed(table: TableRef, dataset: lance.LanceDataset, before: int) -> None:
    for version in range(max(before, 1) + 1, dataset.version + 1):
        try:
            transaction = dataset.read_transaction(version)
        except (OSError, ValueError):  # its files have been cleaned up
            transaction = None
        if transaction is None:
            what = f"how version {version} was made is not known any more"
        elif isinstance(transaction.operation, _ROWS_STAY):
            continue
        else:
            what = f"version {version} was made by something else than an append, a delete or new columns"
        raise InvalidArgumentError(f"since={before}: {what}, and {_no_stable_ids(table)}")


def _no_stable_ids(table: TableRef) -> str:
    return (
        f"{table.shown_place} has no stable row ids, without which updated and moved rows cannot be told from new "
        "ones. Tables have them from the start or not at all: write_lance(..., enable_stable_row_ids=True)"
    )
