"""What Lance and file systems refuse arrives as this library's errors, with what was being done and what to try."""

from __future__ import annotations

import shutil
from pathlib import Path

import lance
import pyarrow as pa
import pytest

from ray_lance import InvalidArgumentError, LancePanicError, Permutation, StorageError
from ray_lance.masking import remember
from ray_lance.native_errors import as_own, native_errors
from ray_lance.table import TableRef
from ray_lance.write.fragments import TableRows, write_files
from ray_lance.write.job import begin
from ray_lance.write.options import WriteOptions

NOT_HERE = r"Not found.*tag versions that stay in use"


@pytest.fixture
def uri(tmp_path):
    uri = str(tmp_path / "rows.lance")
    lance.write_dataset(pa.table({"id": range(10), "word": [f"w{i}" for i in range(10)]}), uri)
    lance.dataset(uri).delete("id = 3")
    lance.dataset(uri).create_scalar_index("id", "BTREE")
    return uri


@pytest.mark.parametrize(
    ("gone", "read", "message"),
    [
        ("data", lambda table: table.fetch([1]), rf"taking 1 rows of TableRef.*{NOT_HERE}"),
        ("data", lambda table: table.head(2).rows, rf"taking 2 rows of TableRef.*{NOT_HERE}"),
        ("data", lambda table: table.split([0.5, 0.5], by="word"), rf"reading the columns \['word'\].*{NOT_HERE}"),
        ("data", lambda table: Permutation(table.table, filter="word = 'w1'"), rf"filter=.*{NOT_HERE}"),
        ("_deletions", lambda table: table.fetch([1]), NOT_HERE),
        ("_indices", lambda table: Permutation(table.table, filter="id = 1"), r"filter='id = 1' on .*drop_index"),
    ],
)
def test_a_file_that_is_gone(uri, gone, read, message):
    table = Permutation(uri)
    shutil.rmtree(Path(uri, gone))

    with pytest.raises(StorageError, match=message) as caught:
        read(table)

    assert ".rs:" not in str(caught.value)
    assert caught.value.__cause__ is not None


def test_a_filter_that_fails_at_a_row(uri):
    with pytest.raises(InvalidArgumentError, match=r"filter=.* no value for some row: .*Cannot cast string 'w0'"):
        Permutation(uri, filter="CAST(word AS INT) > 1")


def test_what_lance_refuses_is_no_fault_of_the_storage(tmp_path):
    ids = pa.array([b"0" * 16], pa.binary(16)).cast(pa.uuid())
    rows = pa.table({"ids": pa.FixedSizeListArray.from_arrays(ids, 1)})
    job = begin(TableRef.of(tmp_path / "table"), WriteOptions(mode="create")).with_schema(rows.schema)

    with pytest.raises(
        InvalidArgumentError, match=r"writing a data file \(uri=.*: Lance refuses it: field `ids\.item`"
    ):
        write_files([TableRows(rows)], job)


def test_a_place_where_no_folder_can_be(tmp_path):
    (tmp_path / "file").touch()
    rows = pa.table({"id": [1]})
    job = begin(TableRef.of(tmp_path / "file" / "table"), WriteOptions(mode="create")).with_schema(rows.schema)

    message = r"^writing data files \(uri='.*table'\): .*Not a directory.*Choose a place below a folder"
    with pytest.raises(StorageError, match=message):
        write_files([TableRows(rows)], job)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (PermissionError("Permission denied: '/data'"), r"^doing it: Permission denied: '/data'\. Check the rights"),
        (OSError("LanceError(IO): 403 Forbidden with hunter22"), r"403 Forbidden with \*\*\*\. .*storage_options$"),
        (
            RuntimeError("Encountered internal error, /rust/lance/src/x.rs:1:2"),
            "^doing it: Encountered internal error$",
        ),
        (pa.ArrowInvalid("External error: LanceError(IO): timed out"), "timed out$"),
        (TimeoutError("no answer"), "^doing it: no answer$"),
    ],
)
def test_what_native_code_says_is_masked_and_explained(error, message):
    remember(None, {"password": "hunter22"})

    with pytest.raises(StorageError, match=message), native_errors("doing it"):
        raise error


@pytest.mark.parametrize("error", [ValueError("a bug"), KeyError("x"), RuntimeError("a bug"), StorageError("ours")])
def test_other_errors_stay_what_they_are(error):
    with pytest.raises(type(error)) as caught, native_errors("doing it"):
        raise error

    assert caught.value is error is as_own(error, "doing it")


def test_panics_are_told(uri):
    panic = type("PanicException", (BaseException,), {})

    with pytest.raises(LancePanicError, match="while doing it"), native_errors("doing it"):
        raise panic("lost")
