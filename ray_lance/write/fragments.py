"""Writes rows: blocks in, published data files of about equal size out.

A write task gets a list of blocks that stay readable as long as it runs. It cuts them into files of about equal
bytes, each a range of rows, and writes one file after the other: the rows of the range stream through in small
batches, so that memory is bounded by a batch and by Lance's page buffers, whatever the size of the file. The file
is the unit of retry. Another attempt reads the range again from its first row and writes another file: no attempt
continues a stream of which an earlier one consumed a part.
"""

from __future__ import annotations

import json
import uuid
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any, Protocol

import lance
import pyarrow as pa
from lance.fragment import FragmentMetadata

from ray_lance.uris import below_tree
from ray_lance.write.data_file import write_data_file
from ray_lance.write.field_ids import renumbered
from ray_lance.write.job import WriteJob
from ray_lance.write.publish import published
from ray_lance.write.schema import fit
from ray_lance.write.storage import Storage
from ray_lance.write.target import LEGACY

__all__ = ["Rows", "TableRows", "WrittenFile", "plan_files", "write_files"]

# The rows of a piece of a file are taken to be of equal size; a piece is this many times smaller than the file.
_PIECES_PER_FILE = 16
# Lance holds several batches at a time, more on a busy machine; larger ones make it no faster.
_BATCH_BYTES = 4 * 2**20


class Rows(Protocol):
    """A block that can be read again and again."""

    @property
    def num_rows(self) -> int:
        """Rows in the block."""

    def num_bytes(self, start: int, stop: int) -> int:
        """Bytes in memory of rows ``[start, stop)``."""

    def table(self, start: int, stop: int) -> pa.Table:
        """Rows ``[start, stop)`` with standard Arrow types."""


@dataclass(frozen=True)
class TableRows:
    """:class:`Rows` of an Arrow table in memory."""

    rows: pa.Table

    @property
    def num_rows(self) -> int:
        """Rows in the table."""
        return int(self.rows.num_rows)

    def num_bytes(self, start: int, stop: int) -> int:
        """Bytes in memory of rows ``[start, stop)``."""
        return int(self.rows.slice(start, stop - start).nbytes)

    def table(self, start: int, stop: int) -> pa.Table:
        """Rows ``[start, stop)``, without a copy."""
        return self.rows.slice(start, stop - start)


@dataclass(frozen=True)
class WrittenFile:
    """One published data file, not committed yet.

    Attributes:
        fragment: The fragment's metadata as JSON.
        rows: Rows in the file.
        num_bytes: Bytes of the data file and of the blob files that belong to it.
    """

    fragment: str
    rows: int
    num_bytes: int

    def metadata(self) -> FragmentMetadata:
        """The metadata as Lance takes it."""
        return FragmentMetadata.from_json(self.fragment)


def plan_files(
    blocks: Sequence[tuple[int, int]], target_bytes: int, max_rows: int | None = None
) -> list[tuple[int, int]]:
    """Cut the rows of ``blocks`` into files of about equal bytes.

    Args:
        blocks: Rows and bytes of each block, or piece of a block.
        target_bytes: Wanted bytes per file. With at least two thirds of it in total, every file has between two
            thirds and four thirds of it, as far as the rows of a piece are of equal size.
        max_rows: Upper bound of rows per file.

    Returns:
        Row ranges ``(start, stop)`` that follow each other and cover all the rows; none is empty.
    """
    rows = [0, *accumulate(num_rows for num_rows, _ in blocks)]
    sizes = [0, *accumulate(size for _, size in blocks)]
    files = max(1, round(sizes[-1] / target_bytes))
    cuts = sorted({0, rows[-1], *(_row_at(sizes[-1] * k // files, rows, sizes) for k in range(1, files))})
    ranges = list(pairwise(cuts))
    if max_rows is None:
        return ranges
    return [part for start, stop in ranges for part in _evenly(start, stop, -(-(stop - start) // max_rows))]


def write_files(blocks: Sequence[Rows], job: WriteJob, storage: Storage | None = None) -> list[WrittenFile]:
    """Write ``blocks`` as data files of the job's dataset. Nothing is visible to readers before the commit.

    Args:
        blocks: The rows.
        job: What is written where; its schema must be known.
        storage: Where to publish; None for the storage of the job's dataset.

    Raises:
        SchemaMismatchError: The rows do not fit the schema.
        StorageError: Storage kept failing after every retry.
    """
    blocks = [block for block in blocks if block.num_rows]
    with job.native_errors("writing data files"):
        storage = storage or job.storage()
        return [
            _write_file(partial(_batches, blocks, start, stop, job), job, storage)
            for start, stop in _ranges(blocks, job)
        ]


def _ranges(blocks: Sequence[Rows], job: WriteJob) -> list[tuple[int, int]]:
    """The rows of each file."""
    options = job.options
    limit = max(1, options.target_bytes_per_file // _PIECES_PER_FILE)
    sizes = [(stop - start, size) for block in blocks for start, stop, size in _pieces(block, 0, block.num_rows, limit)]
    return plan_files(sizes, options.target_bytes_per_file, options.max_rows_per_file)


def _write_file(batches: Callable[[], Iterator[pa.RecordBatch]], job: WriteJob, storage: Storage) -> WrittenFile:
    name = f"{job.job_id}-{uuid.uuid4().hex}"
    fragment, num_bytes = published(
        job, storage, lambda folder: _stage(batches(), folder, job), name=name, prefix=job.job_id, what="a data file"
    )
    metadata = fragment.to_json()
    metadata["files"][0]["path"] = f"{name}.lance"
    return WrittenFile(json.dumps(metadata), int(fragment.physical_rows), num_bytes)


def _stage(batches: Iterator[pa.RecordBatch], folder: Path, job: WriteJob) -> tuple[FragmentMetadata, Path]:
    """Write ``batches`` as one data file below ``folder``; returns its metadata and its path."""
    folder /= below_tree(job.uri)
    operation = write_data_file(batches, job.schema, **_target(job, folder))
    (fragment,) = operation.fragments
    (file,) = fragment.files
    if isinstance(operation, lance.LanceOperation.Overwrite):
        file.fields = renumbered(file.fields, operation.new_schema, job.stored_schema())
    return fragment, folder / "data" / file.path


def _target(job: WriteJob, folder: Path) -> dict[str, Any]:
    """Arguments that make Lance write into ``folder`` a file of the dataset's version.

    Each file is written for a dataset of its own, so that Lance needs no file of the job's dataset, neither indexes nor
    the values of categories. The file gets the field ids of the job's dataset afterwards.
    """
    if not (job.adds_rows and job.file_version == LEGACY):
        return {"dataset_uri": str(folder), "mode": "create", "data_storage_version": job.file_version}
    # Files of this version hold field ids themselves, which Lance takes from a handle: one of the dataset's manifest,
    # with another root.
    _copy_manifest(job, folder)
    handle = lance.LanceDataset(str(folder), job.table.version, serialized_manifest=job.table.manifest)
    return {"dataset_uri": handle, "mode": "append"}


def _copy_manifest(job: WriteJob, folder: Path) -> None:
    """Lance reads indexes and the values of dictionary columns from the manifest file, so that must be there too."""
    session = job.session()
    version = job.version_before or 0
    # The current naming scheme counts down, the older one counts up.
    names = [f"_versions/{2**64 - 1 - version}.manifest", f"_versions/{version}.manifest"]
    name = next(name for name in names if session.contains(name))
    (folder / "_versions").mkdir(parents=True)
    session.download_file(name, str(folder / name))


def _batches(blocks: Sequence[Rows], start: int, stop: int, job: WriteJob) -> Iterator[pa.RecordBatch]:
    """Rows ``[start, stop)`` of all the blocks as batches of bounded bytes, with the job's schema."""
    first = 0
    for block in blocks:
        low, high = max(start - first, 0), min(stop - first, block.num_rows)
        first += block.num_rows
        if low >= high:
            continue
        for begin, end, _ in _pieces(block, low, high, _BATCH_BYTES):
            yield from fit(block.table(begin, end), job.schema).to_batches()


def _pieces(block: Rows, start: int, stop: int, limit: int) -> Iterator[tuple[int, int, int]]:
    """Cut rows ``[start, stop)`` into ranges ``(start, stop, bytes)`` of up to ``limit`` bytes, or of one row."""
    size = block.num_bytes(start, stop)
    if size <= limit or stop - start == 1:
        yield start, stop, size
        return
    for low, high in _evenly(start, stop, min(size // limit + 1, stop - start)):
        yield from _pieces(block, low, high, limit)


def _row_at(position: int, rows: list[int], sizes: list[int]) -> int:
    """The row that holds byte ``position``, if the rows of a piece are of equal size."""
    block = min(bisect_right(sizes, position) - 1, len(sizes) - 2)
    inside = (position - sizes[block]) / max(1, sizes[block + 1] - sizes[block])
    return rows[block] + round(inside * (rows[block + 1] - rows[block]))


def _evenly(start: int, stop: int, parts: int) -> list[tuple[int, int]]:
    cuts = [start + (stop - start) * k // parts for k in range(parts + 1)]
    return list(pairwise(cuts))
