"""The iterable dataset's threads."""

from __future__ import annotations

import subprocess
import sys
import threading

import lance
import pyarrow as pa

from ray_lance.ahead import await_reads
from ray_lance.torch import LanceIterableDataset


def test_the_threads_of_an_epoch_read_the_next_one(tmp_path):
    uri = str(tmp_path / "table.lance")
    lance.write_dataset(pa.table({"id": range(1000)}), uri)
    dataset = LanceIterableDataset(uri, batch_size=10, shuffle=1, prefetch=2)

    def epoch() -> set[str]:
        names = set()
        for batch in dataset:
            names |= {thread.name for thread in threading.enumerate() if thread.name.startswith("ray_lance")}
            assert len(batch["id"]) == 10
        return names

    before = epoch()
    for _ in range(3):
        assert epoch() <= before


def test_an_iterator_that_is_left_in_a_module_says_nothing_at_the_end(tmp_path):
    uri = str(tmp_path / "table.lance")
    lance.write_dataset(pa.table({"id": range(1000)}), uri)
    code = f"""if True:
        from ray_lance.torch import LanceIterableDataset, make_loader

        dataset = LanceIterableDataset({uri!r}, batch_size=10, shuffle=1, transform=lambda batch: batch)
        left = iter(dataset)
        assert len(next(left)["id"]) == 10
        loaded = iter(make_loader(dataset))
        next(loaded)
    """
    run = subprocess.run([sys.executable, "-c", code], timeout=120, check=True, capture_output=True, text=True)

    assert run.stdout + run.stderr == ""


def test_many_iterators_that_live_at_once_leave_few_threads(tmp_path):
    uri = str(tmp_path / "table.lance")
    lance.write_dataset(pa.table({"id": range(1000)}), uri)
    dataset = LanceIterableDataset(uri, batch_size=10, shuffle=1, prefetch=2, cache_bytes=0)

    live = [iter(dataset) for _ in range(300)]
    assert all(len(next(each)["id"]) == 10 for each in live)
    live.clear()
    await_reads()

    assert sum(thread.name.startswith("ray_lance-read") and thread.is_alive() for thread in threading.enumerate()) <= 10
