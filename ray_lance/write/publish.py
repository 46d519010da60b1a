"""Publishes files: a function that writes one into a local folder in, the file in the dataset out.

Attempts that fail are repeated; each writes into a folder of its own. Readers see nothing of it before the commit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from itertools import count
from pathlib import Path
from typing import TypeVar

from ray_lance.write.storage import Storage
from ray_lance.write.target import Target

__all__ = ["published"]

T = TypeVar("T")


def published(
    target: Target,
    storage: Storage,
    write: Callable[[Path], tuple[T, Path]],
    *,
    name: str,
    prefix: str,
    what: str,
) -> tuple[T, int]:
    """Write a data file, and the blob files that belong to it, and make them appear in the dataset.

    Args:
        target: Where the job writes.
        storage: Where to stage and to publish.
        write: Writes the file into the folder that it is given; returns what the caller wants to know of it, and the
            path of the data file. Called again for each attempt.
        name: Name of the data file in the dataset, without suffix.
        prefix: What ``name`` begins with; names the staging folder, so that clean-up finds it.
        what: What is being written, for errors and the log.

    Returns:
        What ``write`` returned, and the bytes of all the files.

    Raises:
        StorageError: Storage kept failing after every retry.
    """
    with storage.stage(prefix) as folder:
        attempts = count()
        written, data_file = target.retried(lambda: write(folder / f"attempt-{next(attempts)}"), f"writing {what}")
        num_bytes = 0
        for source, path in _publications(data_file, name):
            num_bytes += source.stat().st_size
            target.retried(partial(storage.publish, source, path), f"publishing {path}")
    return written, num_bytes


def _publications(data_file: Path, name: str) -> Iterator[tuple[Path, str]]:
    """The staged files with their paths in the dataset: blob files before the data file that points to them."""
    blobs = data_file.with_suffix("")
    for blob_file in sorted(path for path in blobs.rglob("*") if path.is_file()):
        yield blob_file, f"data/{name}/{blob_file.relative_to(blobs).as_posix()}"
    yield data_file, f"data/{name}.lance"
