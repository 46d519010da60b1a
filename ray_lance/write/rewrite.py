"""Rewrites files before the commit: files whose types are too narrow in, files of the job's schema out.

Tasks that write at the same time see different rows, and so may write one column with different types. When all of
them are known, files that are narrower than the dataset are read back and written once more.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate

import numpy as np
import pyarrow as pa
from lance.file import LanceFileReader

from ray_lance.errors import SchemaMismatchError
from ray_lance.tensors.field_code import fields_code
from ray_lance.tensors.kinds import child_fields, extension_name, holds_blobs
from ray_lance.write.fragments import WrittenFile, write_files
from ray_lance.write.job import WriteJob
from ray_lance.write.schema import portable

__all__ = ["FileRows", "check_rewritable", "rewrite_file"]

_CHUNK_BYTES = 2**20
_MOST_CHUNK_ROWS = 2**13
# Files hold these in another form than they were written in, and only a dataset converts them back.
_ENCODED = frozenset({"arrow.json", "lance.json"})


@dataclass(frozen=True)
class FileRows:
    """:class:`ray_lance.write.fragments.Rows` of a published file.

    Attributes:
        job: The job that wrote it.
        file: The file.
    """

    job: WriteJob
    file: WrittenFile

    @property
    def num_rows(self) -> int:
        """Rows in the file."""
        return self.file.rows

    def num_bytes(self, start: int, stop: int) -> int:
        """Bytes in memory of rows ``[start, stop)``, if the rows of a chunk are of equal size."""
        rows = self._chunk_rows * np.arange(len(self._sizes))
        below = np.interp([start, stop], np.minimum(rows, self.num_rows), self._sizes)
        return int(below[1] - below[0])

    def table(self, start: int, stop: int) -> pa.Table:
        """Rows ``[start, stop)``."""
        table: pa.Table = self._reader.read_range(start, stop - start, batch_size=stop - start).to_table()
        return table

    @cached_property
    def _reader(self) -> LanceFileReader:
        return self.job.session().open_reader(f"data/{self.file.metadata().files[0].path}")

    @property
    def _chunk_rows(self) -> int:
        return max(1, min(_MOST_CHUNK_ROWS, self.num_rows * _CHUNK_BYTES // max(1, self.file.num_bytes)))

    @cached_property
    def _sizes(self) -> list[int]:
        """Bytes in memory before each chunk and after the last, found by reading the file once."""
        batches = self._reader.read_all(batch_size=self._chunk_rows).to_batches()
        return [0, *accumulate(batch.nbytes for batch in batches)]


def rewrite_file(job: WriteJob, file: WrittenFile, schema: pa.Schema) -> list[WrittenFile]:
    """The rows of ``file`` in files of the job's schema. The old file stays until the job is cleaned up.

    Args:
        job: The job; its schema is that of all files together.
        file: The file.
        schema: Its schema.

    Raises:
        SchemaMismatchError: A value does not fit the job's schema.
        OSError: Storage kept failing after every retry.
    """
    job = job.with_schema(portable(job.schema))  # it may have been sent here as extension types
    try:
        return write_files([FileRows(job, file)], job)
    except SchemaMismatchError as error:
        raise SchemaMismatchError(
            f"{error}. The type was inferred from blocks that differ; to set it, pass {_differing(job, schema)}"
        ) from None


def check_rewritable(job: WriteJob, schema: pa.Schema) -> None:
    """Refuse files that cannot be read back as they were written.

    Args:
        job: The job; its schema is that of all files together.
        schema: Schema of a file.

    Raises:
        SchemaMismatchError: The file holds blobs or JSON.
    """
    encoded = [field.name for field in schema if _is_encoded(field)]
    if encoded:
        raise SchemaMismatchError(
            f"the blocks differ in their types, and files with blobs or JSON (columns {encoded}) cannot be written "
            f"again: set the types at the start, and pass {_differing(job, schema)}"
        )


def _differing(job: WriteJob, schema: pa.Schema) -> str:
    wanted = portable(job.schema)
    return fields_code(
        field for field in wanted if field.name not in schema.names or schema.field(field.name).type != field.type
    )


def _is_encoded(field: pa.Field) -> bool:
    encoded = holds_blobs(field) or extension_name(field) in _ENCODED
    return encoded or any(_is_encoded(child) for child in child_fields(field.type))
