"""Writes that meet killed workers, failing tasks, failing commits, interrupts and other writers."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from pathlib import Path

import lance
import pyarrow as pa
import pytest
import ray

import ray_lance
from ray_lance.data.datasink import LanceDatasink
from ray_lance.data.write import run, write
from ray_lance.errors import CommitError, DatasetExistsError, InvalidArgumentError
from ray_lance.table import TableRef
from ray_lance.write.options import WriteOptions
from tests.datasets import sample_table
from tests.orphans import leftovers, orphans
from tests.writes import QUICK, Cue, FaultySend, at_once

# Workers cannot import this module.
ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])

FILE = 2_000
OLD = sample_table(20, 1_000)
LASTING = frozenset(range(QUICK.max_attempts))


def new_rows(blocks: int = 6) -> ray.data.Dataset:
    return ray.data.from_arrow([sample_table(50, 50 * number) for number in range(blocks)])


def ids(uri: str) -> list[int]:
    return sorted(lance.dataset(uri).to_table()["id"].to_pylist())


class KillingRows:
    """Rows that kill the process that reads them, once, at a given read."""

    def __init__(self, rows, marker: str, at: int) -> None:
        self.inner, self.marker, self.at, self.reads = rows, marker, at, 0

    @property
    def num_rows(self) -> int:
        return self.inner.num_rows

    def num_bytes(self, start: int, stop: int) -> int:
        return self.inner.num_bytes(start, stop)

    def table(self, start: int, stop: int) -> pa.Table:
        if self.reads == self.at and not Path(self.marker).exists():
            Path(self.marker).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        self.reads += 1
        return self.inner.table(start, stop)


class KilledWhileWriting(LanceDatasink):
    """The first process to reach the ``at``-th read of a block is killed, having published files before."""

    def __init__(self, uri: str, options: WriteOptions, marker: Path, at: int) -> None:
        super().__init__(TableRef.of(uri), options)
        self.marker, self.at = str(marker), at

    def rows(self, blocks):
        return [KillingRows(rows, self.marker, self.at) for rows in super().rows(blocks)]


class KilledBeforeReturning(KilledWhileWriting):
    """The first process to have written all its files is killed before anybody knows of them."""

    def rows(self, blocks):
        return LanceDatasink.rows(self, blocks)

    def write(self, blocks, ctx):
        result = super().write(blocks, ctx)
        if not Path(self.marker).exists():
            Path(self.marker).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return result


@pytest.mark.parametrize("mode", ["create", "append"])
@pytest.mark.parametrize(("sink", "at"), [(KilledWhileWriting, 0), (KilledWhileWriting, 2), (KilledBeforeReturning, 0)])
def test_a_killed_write_worker_loses_and_doubles_nothing(uri, tmp_path, sink, at, mode):
    if mode == "append":
        lance.write_dataset(OLD, uri)
    # One block of several files per task, so that a worker dies with files published.
    rows = ray.data.from_arrow([sample_table(300), sample_table(300, 300)])

    run(rows, sink(uri, WriteOptions(mode=mode, target_bytes_per_file=FILE), tmp_path / "killed", at))

    assert (tmp_path / "killed").exists()
    assert ids(uri) == list(range(600)) + (OLD["id"].to_pylist() if mode == "append" else [])
    assert orphans(uri) == []


@pytest.mark.parametrize("mode", ["create", "append", "overwrite"])
def test_a_failing_task_leaves_nothing_behind(uri, tmp_path, mode):
    if mode != "create":
        lance.write_dataset(OLD, uri)

    def broken(rows):
        if rows["id"][0] == 250:
            raise ValueError("broken row")
        return rows

    with pytest.raises(Exception, match="broken row"):
        ray_lance.write_lance(new_rows().map_batches(broken), uri, mode=mode, target_bytes_per_file=FILE)

    if mode == "create":
        assert leftovers(tmp_path) == []
    else:
        assert lance.dataset(uri).to_table().equals(OLD)
        assert orphans(uri) == []


class Deaf(LanceDatasink):
    """Its task tells that it has begun, and is deaf to interrupts until it has written its rows."""

    def __init__(self, uri: str, options: WriteOptions, folder: Path) -> None:
        super().__init__(TableRef.of(uri), options)
        self.begun, self.given_up, self.ended = (str(folder / name) for name in ("begun", "given up", "ended"))

    def write(self, blocks, ctx):
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            Path(self.begun).touch()
            wait_for(self.given_up, at_most_s=1.0)
            return super().write(blocks, ctx)
        finally:
            Path(self.ended).touch()
            signal.signal(signal.SIGINT, signal.default_int_handler)


class Lingering(Deaf):
    """One task fails as soon as another has begun, which is deaf to interrupts."""

    def write(self, blocks, ctx):
        blocks = list(blocks)
        if blocks[0]["id"][0].as_py() == 0:
            wait_for(self.begun)
            raise ValueError("broken task")
        return super().write(blocks, ctx)


def wait_for(path: str, at_most_s: float = 60.0) -> None:
    deadline = time.monotonic() + at_most_s
    while not Path(path).exists() and time.monotonic() < deadline:
        time.sleep(0.01)


def write_directly(rows: ray.data.Dataset, sink: LanceDatasink) -> None:
    """As those do who know only Ray's own way to write."""
    rows.write_datasink(sink)


@pytest.mark.parametrize("write", [run, write_directly])
@pytest.mark.parametrize("mode", ["create", "append"])
def test_a_task_that_outlives_the_failed_write_leaves_nothing_behind(uri, tmp_path, mode, write):
    """The driver cleans up when the last task has ended, not when the first one has failed."""
    if mode == "append":
        lance.write_dataset(OLD, uri)
    folder = tmp_path / "marks"
    folder.mkdir()
    lingering = Lingering(uri, WriteOptions(mode=mode, target_bytes_per_file=1), folder)

    with pytest.raises(Exception, match="broken task"):
        write(ray.data.from_arrow([sample_table(10), sample_table(10, 10)]), lingering)
    Path(lingering.given_up).touch()
    wait_for(lingering.ended)

    assert Path(lingering.ended).exists()
    if mode == "create":
        assert not Path(uri).exists()
    else:
        assert orphans(uri) == []


def sink(uri: str, send, **options) -> LanceDatasink:
    return LanceDatasink(TableRef.of(uri), WriteOptions(retry=QUICK, **options), send=send)


def test_a_commit_that_keeps_failing_leaves_nothing_behind(uri, tmp_path):
    with pytest.raises(CommitError):
        run(new_rows(), sink(uri, FaultySend(before=Cue(LASTING)), target_bytes_per_file=FILE))

    assert leftovers(tmp_path) == []


def test_a_commit_whose_acknowledgement_is_lost_is_applied_once(uri):
    summary = run(new_rows(), sink(uri, FaultySend(after=Cue(LASTING))))

    assert summary.version == lance.dataset(uri).version == 1
    assert ids(uri) == list(range(300))
    assert orphans(uri) == []


def test_create_refuses_a_dataset_that_appears_during_the_write(uri):
    send = FaultySend(meanwhile=lambda: lance.write_dataset(OLD, uri))

    with pytest.raises(DatasetExistsError):
        run(new_rows(), sink(uri, send, target_bytes_per_file=FILE))

    assert lance.dataset(uri).to_table().equals(OLD)
    assert orphans(uri) == []


@pytest.fixture
def interruptible():
    """SIGINT raises KeyboardInterrupt, also where the tests were started in the background and would ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
@pytest.mark.parametrize("write", [run, write_directly])
@pytest.mark.parametrize("mode", ["create", "append"])
def test_an_interrupt_of_the_commit_leaves_nothing_behind(uri, tmp_path, mode, write):
    if mode == "append":
        lance.write_dataset(OLD, uri)

    def interrupted(*arguments, **options):
        signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        write(new_rows(), sink(uri, interrupted, mode=mode, target_bytes_per_file=FILE))

    if mode == "create":
        assert leftovers(tmp_path) == []
    else:
        assert lance.dataset(uri).to_table().equals(OLD)
        assert orphans(uri) == []


@pytest.mark.usefixtures("interruptible")
@pytest.mark.parametrize("write", [run, write_directly])
def test_an_interrupt_of_the_tasks_leaves_nothing_behind(uri, tmp_path, write):
    lance.write_dataset(OLD, uri)
    folder = tmp_path / "marks"
    folder.mkdir()
    deaf = Deaf(uri, WriteOptions(mode="append", target_bytes_per_file=1), folder)

    def interrupt():
        wait_for(deaf.begun)
        os.kill(os.getpid(), signal.SIGINT)

    interrupter = threading.Thread(target=interrupt)
    interrupter.start()
    with pytest.raises(KeyboardInterrupt):
        write(ray.data.from_arrow([sample_table(10)]), deaf)
    interrupter.join()
    Path(deaf.given_up).touch()
    wait_for(deaf.ended)

    assert Path(deaf.ended).exists()
    assert lance.dataset(uri).to_table().equals(OLD)
    assert orphans(uri) == []


def test_eight_concurrent_appends_are_all_there_once(uri):
    lance.write_dataset(OLD, uri)
    parts = [ray.data.from_arrow(sample_table(50, 50 * number)) for number in range(8)]

    results = at_once(*(lambda part=part: ray_lance.write_lance(part, uri, mode="append") for part in parts))

    assert [result for result in results if isinstance(result, Exception)] == []
    assert sorted(result.version for result in results) == list(range(2, 10))
    assert ids(uri) == list(range(400)) + OLD["id"].to_pylist()
    assert orphans(uri) == []


def test_a_datasink_alone_does_no_merge(uri):
    with pytest.raises(InvalidArgumentError, match="mode='merge'"):
        sink(uri, lance.LanceDataset.commit, mode="merge", on="id")


def test_a_merge_is_done_again_after_a_conflict(uri):
    """Another writer changes the rows that the merge is about to replace."""
    lance.write_dataset(OLD, uri)
    send = FaultySend(meanwhile=lambda: lance.dataset(uri).update({"label": "99"}, where="id < 1010"))
    changed = sample_table(5, 1_000).set_column(1, "label", pa.array([7] * 5))

    write(ray.data.from_arrow(changed), TableRef.of(uri), WriteOptions(mode="merge", on="id", retry=QUICK), send=send)

    table = lance.dataset(uri).to_table().sort_by("id")
    assert table["id"].to_pylist() == OLD["id"].to_pylist()
    assert table["label"].to_pylist()[:10] == [7] * 5 + [99] * 5
    assert orphans(uri) == []
