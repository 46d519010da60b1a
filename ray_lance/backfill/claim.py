"""Holds one call's claim on columns: made when their first values are there, finished or wound up at the end."""

from __future__ import annotations

import logging
from collections.abc import Callable

import pyarrow as pa

from ray_lance.backfill.writer import ColumnWriter
from ray_lance.data.faults import own_error, said_once
from ray_lance.masking import cause
from ray_lance.write.column_commit import claim, drop_blank, finish, remove_leftovers, renewed
from ray_lance.write.column_job import ColumnJob
from ray_lance.write.column_record import ColumnRecord
from ray_lance.write.commit import Send
from ray_lance.write.target import Target

__all__ = ["ColumnClaim"]

logger = logging.getLogger(__name__)


class ColumnClaim:
    """One call's claim on the columns of a dataset.

    The columns are claimed, and added where they are missing, when the first values are there: a call that fails
    before that leaves the table as it was.

    Args:
        target: The dataset.
        writer: What writes the values.
        send: Makes new versions.

    Attributes:
        job: The job that has claimed the columns; None before.
    """

    def __init__(self, target: Target, writer: ColumnWriter, send: Send) -> None:
        self._target, self._writer, self._send = target, writer, send
        self.job: ColumnJob | None = None

    def take(self, record: ColumnRecord, schema: pa.Schema) -> ColumnJob:
        """The job that has claimed the columns: of this call, from its first time on."""
        if self.job is None:
            return self._begin(claim(self._target, record, schema, self._send))
        return self.job

    def renew(self) -> ColumnJob:
        """Pin the job to the latest version; see :func:`ray_lance.write.column_commit.renewed`."""
        assert self.job is not None
        return self._begin(renewed(self.job))

    def run(self, compute: Callable[[], None]) -> int:
        """Call ``compute``, which writes the values, and record that they are all there; returns the version.

        Where ``compute`` claims no columns nothing changes. After a failure what is finished is committed; the other
        files are removed, and columns that got no value at all.
        """
        try:
            with said_once():
                compute()
            version = self._target.table.number if self.job is None else finish(self.job, self._send)
        except BaseException as error:
            self._wind_up(error)
            own = own_error(error)
            if own is None or own is error:
                raise
            raise own from error
        if self.job is not None:
            remove_leftovers(self.job, self._written())
        return version

    def _begin(self, job: ColumnJob) -> ColumnJob:
        self.job = job
        self._writer.begin(job)
        return job

    def _wind_up(self, error: BaseException) -> None:
        if self.job is None:
            return
        added = not set(self.job.schema.names) & set(self._target.table.open().schema.names)
        try:
            if isinstance(error, Exception):
                self._writer.salvage()
            else:
                self._writer.abandon()
            if added and not self._writer.committed:
                drop_blank(self.job)
        except Exception as second:
            logger.warning("after %s: %s", type(error).__name__, cause(second))
        remove_leftovers(self.job, self._written())

    def _written(self) -> list[str]:
        return [written.file["path"] for written in self._writer.committed]
