"""Peak memory of a write task in a worker process of Ray: bounded by a chunk, whatever the size of the file."""

from __future__ import annotations

import re
import sys
import uuid
from pathlib import Path

import lance
import numpy as np
import pyarrow as pa
import pytest
import ray

from ray_lance.data.datasink import LanceDatasink
from ray_lance.data.write import run
from ray_lance.table import TableRef
from ray_lance.write.options import WriteOptions

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="peak memory is read from /proc"),
]

# Workers cannot import this module.
ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])

MIB = 2**20
CHUNK = 24 * MIB


class Measured(LanceDatasink):
    """Writes by how many bytes the peak memory of its worker grows, while it writes blocks that lie in shared memory.

    The pages of shared memory count as soon as they are read, so all of them are read before.
    """

    def __init__(self, uri: str, options: WriteOptions) -> None:
        super().__init__(TableRef.of(uri), options)
        self.noted = uri + "-growth"

    def write(self, blocks, ctx):
        blocks = list(blocks)
        assert len(blocks) > 1
        for block in blocks:
            read_every_page(block)
        before = peak()
        result = super().write(blocks, ctx)
        Path(self.noted).write_text(str(peak() - before))
        return result


def read_every_page(table: pa.Table) -> None:
    for column in table.columns:
        for chunk in column.chunks:
            for buffer in filter(None, chunk.buffers()):
                np.frombuffer(buffer, np.uint8)[::4096].sum()


def peak() -> int:
    # Not ru_maxrss, which a child inherits from its parent.
    return int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text()).group(1)) * 1024


def growth(uri: str, row_bytes: int, file_bytes: int) -> int:
    """Bytes by which writing one file of blocks of 4 MiB makes the peak memory of a new worker process grow."""
    sink = Measured(uri, WriteOptions(target_bytes_per_file=file_bytes))
    own_process = {"runtime_env": {"env_vars": {"WORKER_OF": uuid.uuid4().hex}}}
    run(ray.data.from_arrow(blocks(row_bytes, file_bytes)), sink, own_process)
    (fragment,) = lance.dataset(uri).get_fragments()
    assert fragment.metadata.files[0].file_size_bytes > 0.9 * file_bytes
    return int(Path(sink.noted).read_text())


def blocks(row_bytes: int, file_bytes: int) -> list[pa.Table]:
    generator = np.random.default_rng(0)
    rows = 4 * MIB // row_bytes
    values = [generator.integers(0, 255, 4 * MIB, np.uint8) for _ in range(file_bytes // (4 * MIB))]
    return [
        pa.table({"id": np.arange(rows), "x": pa.FixedSizeListArray.from_arrays(pa.array(each), row_bytes)})
        for each in values
    ]


@pytest.mark.parametrize("row_bytes", [512, MIB], ids=["small rows", "huge rows"])
def test_the_peak_stays_under_three_chunks_for_a_file_eight_times_as_large(tmp_path, row_bytes):
    small = growth(str(tmp_path / "small.lance"), row_bytes, CHUNK)
    large = growth(str(tmp_path / "large.lance"), row_bytes, 8 * CHUNK)

    assert small <= 3 * CHUNK
    assert large <= 3 * CHUNK
