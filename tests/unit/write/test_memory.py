"""Peak memory of a write task, measured in a process of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="peak memory is read from /proc")

MIB = 2**20

PROGRAM = """
import re, sys
from pathlib import Path
import numpy as np, pyarrow as pa
from ray_lance.table import TableRef
from ray_lance.write.fragments import write_files
from ray_lance.write.job import begin
from ray_lance.write.options import WriteOptions

row_bytes, file_bytes = int(sys.argv[2]), int(sys.argv[3])

class Generated:
    '''Rows that exist only while they are read, as those of a block in shared memory.'''
    def __init__(self, num_bytes):
        self.num_rows = num_bytes // row_bytes
    def num_bytes(self, start, stop):
        return (stop - start) * row_bytes
    def table(self, start, stop):
        values = np.random.default_rng(start).integers(0, 255, (stop - start) * row_bytes, np.uint8)
        return pa.table({"x": pa.FixedSizeListArray.from_arrays(pa.array(values), row_bytes)})

def write(uri, num_bytes):
    block = Generated(num_bytes)
    job = begin(TableRef.of(uri), WriteOptions(target_bytes_per_file=num_bytes)).with_schema(block.table(0, 1).schema)
    files = write_files([block], job)
    assert len(files) == 1 and files[0].rows == block.num_rows, files
    # Not ru_maxrss, which a child inherits from its parent.
    return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text()).group(1)) * 1024

before = write(sys.argv[1] + "/warm", 2**20)
print(write(sys.argv[1] + "/file", file_bytes) - before)
"""


def growth(folder: Path, row_bytes: int, file_bytes: int) -> int:
    """Bytes by which writing one file makes the peak memory of a process grow."""
    arguments = [str(folder), str(row_bytes), str(file_bytes)]
    done = subprocess.run([sys.executable, "-c", PROGRAM, *arguments], check=True, capture_output=True, text=True)
    return int(done.stdout)


@pytest.mark.slow
@pytest.mark.parametrize("row_bytes", [512, MIB], ids=["small rows", "huge rows"])
def test_memory_does_not_grow_with_the_file(tmp_path, row_bytes):
    small = growth(tmp_path / "small", row_bytes, 64 * MIB)
    large = growth(tmp_path / "large", row_bytes, 512 * MIB)

    # How many batches and pages are on their way at once depends on how busy the machine is, not on the file.
    assert large <= small + 64 * MIB
    assert large <= 128 * MIB
