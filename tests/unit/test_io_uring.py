"""Local files are taken from through io_uring where the kernel allows it, and as ever where it does not."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import lance
import numpy as np
import pyarrow as pa
import pytest

from ray_lance import handles
from ray_lance.io_uring import is_available, uring_uri
from ray_lance.scan.pushdown import build_scan
from ray_lance.scan.take import take_rows
from ray_lance.table import TableRef

# Reads shuffled rows and says whether that went through io_uring; "forbid" has the kernel refuse it, as the default
# profiles of container runtimes do: a filter of four instructions that answers EPERM to system call 425.
SCRIPT = """
import ctypes, struct, sys
import lance, numpy as np
if sys.argv[2] == "forbid":
    def instruction(code, yes, no, k):
        return struct.pack("HBBI", code, yes, no, k)
    program = ctypes.create_string_buffer(
        instruction(0x20, 0, 0, 0) + instruction(0x15, 0, 1, 425)
        + instruction(0x06, 0, 0, 0x00050001) + instruction(0x06, 0, 0, 0x7FFF0000)
    )
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.prctl(38, 1, 0, 0, 0) == 0
    filter = struct.pack("HxxxxxxP", 4, ctypes.addressof(program))
    assert libc.prctl(22, 2, ctypes.create_string_buffer(filter), 0, 0) == 0, ctypes.get_errno()
from ray_lance.table import TableRef
from ray_lance.torch import LanceIterableDataset
batches = LanceIterableDataset(sys.argv[1], batch_size=10, shuffle=1, tail="uneven")
assert sorted(row for batch in batches for row in batch["id"].tolist()) == list(range(1000))
print(TableRef.of(sys.argv[1]).pin().open_for_takes().uri.partition(":")[0])
"""


def scheme_of_takes(uri, condition="", **environment):
    command = [sys.executable, "-c", SCRIPT, uri, condition]
    result = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **environment}, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


@pytest.fixture
def numbers(uri):
    lance.write_dataset(pa.table({"id": range(1000)}), uri, max_rows_per_file=300)
    return uri


@pytest.mark.skipif(sys.platform != "linux", reason="io_uring is Linux's")
class TestAvailable:
    def test_where_the_kernel_forbids_it_reads_go_another_way(self, numbers):
        assert scheme_of_takes(numbers, "forbid") == numbers

    def test_the_environment_can_switch_it_off(self, numbers):
        assert scheme_of_takes(numbers, RAY_LANCE_IO_URING="0") == numbers

    @pytest.mark.skipif(not is_available(), reason="this kernel gives no ring")
    def test_else_takes_go_through_it(self, numbers):
        assert scheme_of_takes(numbers) == "file+uring"


@pytest.mark.parametrize("name", ["plain", "a b", "a%20b", "a#b", "a?b=1", "ü", "%", "[x]"])
def test_any_path_can_be_taken_from(tmp_path, name):
    uri = str(tmp_path / name)
    lance.write_dataset(pa.table({"id": range(10)}), uri)
    taken = TableRef.of(uri).pin().open_for_takes()
    assert taken.take([7, 2])["id"].to_pylist() == [7, 2]
    assert taken.uri == (uring_uri(uri) if is_available() else uri)


def test_a_relative_path_can_be_taken_from(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    lance.write_dataset(pa.table({"id": range(10)}), "table.lance")
    for ref in (TableRef("table.lance"), TableRef("file://" + str(tmp_path / "table.lance"))):
        assert ref.pin().open_for_takes().take([7, 2])["id"].to_pylist() == [7, 2]


def test_a_table_of_a_namespace_can_be_taken_from(tmp_path):
    lance.write_dataset(pa.table({"id": range(10)}), str(tmp_path / "table.lance"))
    ref = TableRef(None, table_id=("table",), namespace_impl="dir", namespace_properties={"root": str(tmp_path)})
    assert ref.pin().open_for_takes().take([7, 2])["id"].to_pylist() == [7, 2]


def test_more_files_than_may_stay_open_are_read_as_ever(numbers, monkeypatch):
    for limit, expected in ((3, numbers), (4, uring_uri(numbers) if is_available() else numbers)):  # of four files
        monkeypatch.setattr(handles, "most_files", lambda limit=limit: limit)
        ref = TableRef.of(lance.dataset(numbers), storage_options={"test_case": str(limit)}).pin()
        assert ref.open_for_takes().uri == expected


@pytest.mark.parametrize("uri", ["s3://bucket/x.lance", "memory://x", "file+uring:///x", "file-object-store:///x"])
def test_what_has_another_scheme_is_opened_once(uri):
    assert uring_uri(uri) is None


def test_a_dataset_that_took_the_place_of_another_is_read_from_its_own_files(uri):
    for first in (0, 100):
        shutil.rmtree(uri, ignore_errors=True)
        lance.write_dataset(pa.table({"id": range(first, first + 10)}), uri)
        scan = build_scan([TableRef.of(uri).pin()], None, None, [], {})
        taken = take_rows(scan, np.array([3, 1]))
        assert taken["id"].to_pylist() == [first + 3, first + 1]


def test_handles_are_opened_once(numbers):
    ref = TableRef.of(numbers).pin()
    assert ref.open_for_takes() is ref.open_for_takes()
    assert ref.open_for_takes().version == ref.open().version
