"""Datasets with branches, and every way to say which branch is meant."""

from __future__ import annotations

from collections.abc import Callable

import lance
import pyarrow as pa

from ray_lance.table import TableRef
from tests.datasets import sample_table

BRANCHES = ("dev", "team/x")


def branched(uri: str) -> str:
    """A dataset of two versions with a deleted row, and branches of it at version 3, with more rows and a tag each."""
    lance.write_dataset(sample_table(8), uri, max_rows_per_file=3)
    main = lance.dataset(uri)
    main.delete("id = 1")
    for number, name in enumerate(BRANCHES):
        branch = main.create_branch(name)
        branch = lance.write_dataset(sample_table(number + 1, start=100), branch, mode="append")
        main.tags.create(f"tag-of-{number}", (name, branch.version))
    return uri


def open_branch(uri: str, name: str) -> lance.LanceDataset:
    """The latest version of a branch, as Lance opens it."""
    return lance.dataset(uri).checkout_version((name, None))


def rows_of(uri: str, name: str = "main") -> pa.Table:
    """The rows of a branch, as Lance reads them."""
    return open_branch(uri, name).to_table()


# What may be handed over as a table, for the branch of a name.
WAYS: dict[str, Callable[[str, str], object]] = {
    "handle": open_branch,
    "handle from another branch": lambda uri, name: open_branch(f"{uri}/tree/dev", name),
    "uri": lambda uri, name: f"{uri}/tree/{name}",
    "version": lambda uri, name: TableRef.of(uri, version=(name, None)),
    "version below another branch": lambda uri, name: TableRef.of(f"{uri}/tree/dev", version=(name, None)),
    "version number": lambda uri, name: TableRef.of(uri, version=(name, open_branch(uri, name).version)),
    "tag": lambda uri, name: TableRef.of(uri, version=f"tag-of-{BRANCHES.index(name)}"),
    "handle of a tag": lambda uri, name: lance.dataset(uri, version=f"tag-of-{BRANCHES.index(name)}"),
}
