"""Brings files to one schema before the commit: results of tasks in, results of one schema out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import pyarrow as pa
import ray

from ray_lance.write.fragments import WrittenFile
from ray_lance.write.job import WriteJob
from ray_lance.write.rewrite import check_rewritable, rewrite_file
from ray_lance.write.schema import portable

__all__ = ["TaskResult", "in_one_schema"]


@dataclass(frozen=True)
class TaskResult:
    """What one write task hands to the driver.

    Attributes:
        files: The files it published.
        schema: The schema of their rows; None where there are no files.
    """

    files: tuple[WrittenFile, ...]
    schema: pa.Schema | None

    @property
    def rows(self) -> int:
        """Rows written."""
        return sum(file.rows for file in self.files)

    @property
    def file_names(self) -> list[str]:
        """Names of the data files."""
        return [data_file.path for file in self.files for data_file in file.metadata().files]

    @property
    def sizes(self) -> list[int]:
        """Bytes of each data file, with the blob files that belong to it."""
        return [file.num_bytes for file in self.files]


Result = TypeVar("Result", bound=TaskResult)


def in_one_schema(job: WriteJob, results: Sequence[Result]) -> list[Result]:
    """``results`` with files of the job's schema: those that differ are written again, in tasks where Ray runs.

    Raises:
        SchemaMismatchError: A value does not fit the schema, or a file cannot be read back.
    """
    wanted = portable(job.schema)
    job = job.with_schema(wanted)
    differing = [number for number, result in enumerate(results) if _differs(result, wanted)]
    narrow = [(file, portable(results[number].schema)) for number in differing for file in results[number].files]
    for _, schema in narrow:
        check_rewritable(job, schema)
    rewritten = iter(_rewrite_all(job, narrow))
    new = list(results)
    for number in differing:
        files = tuple(file for _ in results[number].files for file in next(rewritten))
        new[number] = replace(results[number], files=files, schema=wanted)
    return new


def _differs(result: TaskResult, wanted: pa.Schema) -> bool:
    return result.schema is not None and not portable(result.schema).equals(wanted)


def _rewrite_all(job: WriteJob, files: Sequence[tuple[WrittenFile, pa.Schema]]) -> list[list[WrittenFile]]:
    if not ray.is_initialized():
        return [rewrite_file(job, file, schema) for file, schema in files]
    shared = ray.put(job)
    task = ray.remote(rewrite_file)
    tasks = [task.remote(shared, file, schema) for file, schema in files]
    # All of them, also when one has failed: what is written after the clean-up would stay.
    ray.wait(tasks, num_returns=len(tasks), fetch_local=False) if tasks else None
    rewritten: list[list[WrittenFile]] = ray.get(tasks)
    return rewritten
