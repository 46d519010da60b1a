"""Writes of Ray Data's sink in this process, without Ray."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import lance
import pyarrow as pa
from ray.data.datasource.datasink import WriteResult

from ray_lance.data.datasink import LanceDatasink
from ray_lance.table import TableRef
from ray_lance.write.options import WriteOptions, WriteSummary
from tests.writes import QUICK

__all__ = ["column_of", "one_task_each", "sink_tasks"]


def sink_tasks(uri: str, tasks: Sequence[Sequence[Any]], **options: Any) -> WriteSummary:
    """Write ``tasks``, each of them some blocks, as one Ray dataset would be: check, tasks, commit, clean-up."""
    options.setdefault("retry", QUICK)
    sink = LanceDatasink(TableRef.of(uri), WriteOptions(**options))
    try:
        first = next((block for blocks in tasks for block in blocks), None)
        sink.on_write_start(first.schema if isinstance(first, pa.Table) else None)
        results = [sink.write(blocks, None) for blocks in tasks]
        sink.on_write_complete(WriteResult(num_rows=0, size_bytes=0, write_returns=results))
    except BaseException:
        sink.abort()
        raise
    assert sink.summary is not None
    return sink.summary


def one_task_each(uri: str, *blocks: Any, **options: Any) -> WriteSummary:
    """Write blocks in tasks that see one each."""
    return sink_tasks(uri, [[block] for block in blocks], **options)


def column_of(uri: str, name: str = "x") -> list[Any]:
    """The values of a column as plain Lance reads it, those of extension types as they are stored."""
    chunks = lance.dataset(uri).to_table()[name].chunks
    return [row for c in chunks for row in (c.storage if isinstance(c, pa.ExtensionArray) else c).to_pylist()]
