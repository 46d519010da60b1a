"""Streams the blocks of a Ray dataset while it runs: a Ray dataset in, references to its blocks out."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray
from ray.data import Dataset

from ray_lance.backfill.assemble import BlockRows
from ray_lance.native_output import ACTOR_RESTARTS, without_lines

__all__ = ["iterate_blocks"]

# Blocks that may wait while the caller is busy. With more of them waiting Ray slows down.
_MOST_WAITING = 4
# A running function cannot be interrupted: the thread ends with its batch, and nobody waits longer than this.
_LONGEST_JOIN_S = 5.0


@contextmanager
def iterate_blocks(dataset: Dataset, pause_s: float = 0.5) -> Iterator[Iterator[BlockRows[ray.ObjectRef] | None]]:
    """Run ``dataset``; iterate over references to its blocks, with None whenever ``pause_s`` seconds pass without one.

    The dataset runs in a thread, which ends with the context. A generator could not end it: it may be closed by the
    garbage collector, whose finalizers must not wait.

    Args:
        dataset: What to run.
        pause_s: Longest wait in seconds.
    """
    waiting: queue.Queue[BlockRows[ray.ObjectRef] | BaseException | None] = queue.Queue(_MOST_WAITING)
    stopped = threading.Event()
    thread = threading.Thread(target=_run, args=(dataset, waiting, stopped), daemon=True)
    thread.start()
    try:
        yield _received(waiting, pause_s)
    finally:
        stopped.set()
        thread.join(timeout=_LONGEST_JOIN_S)


def _received(
    waiting: queue.Queue[BlockRows[ray.ObjectRef] | BaseException | None], pause_s: float
) -> Iterator[BlockRows[ray.ObjectRef] | None]:
    while True:
        try:
            item = waiting.get(timeout=pause_s)
        except queue.Empty:
            yield None
            continue
        if isinstance(item, BaseException):
            raise item
        if item is None:
            return
        yield item


def _run(dataset: Dataset, waiting: queue.Queue[Any], stopped: threading.Event) -> None:
    end: BaseException | None = None
    try:
        with without_lines(ACTOR_RESTARTS):
            bundles = dataset.iter_internal_ref_bundles()  # starts the actors
        for bundle in bundles:
            for entry, part in zip(bundle.blocks, bundle.slices, strict=True):
                start, stop = (0, entry.metadata.num_rows) if part is None else (part.start_offset, part.end_offset)
                if not _put(BlockRows(entry.ref, start, stop), waiting, stopped):
                    return
    except BaseException as error:
        end = error
    _put(end, waiting, stopped)


def _put(item: Any, waiting: queue.Queue[Any], stopped: threading.Event) -> bool:
    while not stopped.is_set():
        try:
            waiting.put(item, timeout=0.1)
        except queue.Full:
            continue
        return True
    return False
