"""What glibc keeps of freed memory, in a process of its own."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

from ray_lance.allocator import MOST_ARENAS
from tests.datasets import write_fragments

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="arenas are glibc's")

# Opens a table, lets many threads allocate at the same time, and prints how many arenas there are.
PROBE = """
import ctypes, sys, threading
from pathlib import Path
from ray_lance.table import TableRef

TableRef.of(sys.argv[1]).pin()
together = threading.Barrier(16)

def allocate():
    libc.malloc(1000)
    together.wait()

libc = ctypes.CDLL(None)
libc.fopen.restype = ctypes.c_void_p
threads = [threading.Thread(target=allocate) for _ in range(together.parties)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
log = ctypes.c_void_p(libc.fopen(sys.argv[2].encode(), b"w"))
libc.malloc_info(0, log)
libc.fclose(log)
print(Path(sys.argv[2]).read_text().count("<heap nr="))
"""


def arenas(uri: str, log: str, **environment: str) -> int:
    inherited = {name: value for name, value in os.environ.items() if name != "MALLOC_ARENA_MAX"}
    command = [sys.executable, "-c", PROBE, uri, log]
    run = subprocess.run(command, capture_output=True, text=True, check=True, env={**inherited, **environment})
    return int(run.stdout)


def test_the_threads_of_a_process_that_opens_a_table_share_few_arenas(uri, tmp_path):
    write_fragments(uri, [10])

    assert arenas(uri, str(tmp_path / "log")) <= MOST_ARENAS + 1  # pyarrow has one of its own from its import on


def test_a_number_of_arenas_in_the_environment_stays(uri, tmp_path):
    write_fragments(uri, [10])

    assert arenas(uri, str(tmp_path / "log"), MALLOC_ARENA_MAX="12") > MOST_ARENAS + 1


@pytest.mark.parametrize(
    ("environment", "kept"),
    [({}, True), ({"MALLOC_TRIM_THRESHOLD_": "131072"}, False), ({"MALLOC_MMAP_THRESHOLD_": "131072"}, False)],
)
def test_a_threshold_in_the_environment_stays(environment, kept):
    command = [sys.executable, "-c", "from ray_lance.allocator import keep_freed_memory; print(keep_freed_memory())"]
    run = subprocess.run(command, capture_output=True, text=True, check=True, env={**os.environ, **environment})

    assert run.stdout.strip() == str(kept)


# Reads, then allocates and frees a buffer of 20 MiB again and again, and prints the page faults of ten times.
OTHERS = """
import ctypes, resource, sys
from ray_lance.torch import LanceIterableDataset

for batch in LanceIterableDataset(sys.argv[1], batch_size=10):
    pass

def use(times, size=20 * 2**20):
    for _ in range(times):
        buffer = libc.malloc(size)
        libc.memset(ctypes.c_void_p(buffer), 1, size)
        libc.free(ctypes.c_void_p(buffer))

libc = ctypes.CDLL(None)
libc.malloc.argtypes, libc.malloc.restype = (ctypes.c_size_t,), ctypes.c_void_p
libc.memset.argtypes = (ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t)
use(2)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
use(10)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def test_what_else_a_process_allocates_is_kept_as_glibc_would_keep_it(uri):
    write_fragments(uri, [100])
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    command = [sys.executable, "-c", OTHERS, uri]
    run = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    assert int(run.stdout) < 1000  # ten times 5,120 where each buffer is new
