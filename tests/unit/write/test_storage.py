from __future__ import annotations

import fcntl
import os
from pathlib import Path

import pytest

from ray_lance.write.storage import LocalStorage, ObjectStorage, existing_folder, storage_for
from tests.orphans import leftovers

JOB = "0123456789abcdef0123456789abcdef"


@pytest.mark.parametrize("prefix", ["", "file://"])
def test_a_path_and_a_file_uri_are_local(tmp_path, prefix):
    assert storage_for(f"{prefix}{tmp_path}/a b", {}, {}) == LocalStorage(tmp_path / "a b")


def test_a_percent_encoded_file_uri_is_decoded(tmp_path):
    assert storage_for(f"file://{tmp_path}/a%20b", {}, {}) == LocalStorage(tmp_path / "a b")


def test_a_staged_file_appears_under_its_new_name(tmp_path):
    storage = LocalStorage(tmp_path / "table")

    with storage.stage(JOB) as folder:
        (folder / "x").write_text("content")
        storage.publish(folder / "x", "data/y.lance")

    assert storage.list("data") == ["data/y.lance"]
    assert (tmp_path / "table/data/y.lance").read_text() == "content"


class Contended(type(Path())):
    """A file before whose first renaming another job removes the empty target folder."""

    others = 1

    def replace(self, target: Path) -> Path:
        if Contended.others:
            Contended.others -= 1
            target.parent.rmdir()
        return super().replace(target)


def test_a_file_is_published_although_another_job_removes_the_empty_folder(tmp_path):
    storage = LocalStorage(tmp_path / "table")

    with storage.stage(JOB) as folder:
        (folder / "x").write_text("content")
        storage.publish(Contended(folder / "x"), "data/y.lance")

    assert Contended.others == 0
    assert storage.list("data") == ["data/y.lance"]


def test_a_file_that_is_not_there_is_not_published(tmp_path):
    with pytest.raises(FileNotFoundError):
        LocalStorage(tmp_path).publish(tmp_path / "x", "data/y.lance")


def test_nothing_remains_of_a_job_that_published_nothing(tmp_path):
    storage = LocalStorage(tmp_path / "table")

    with storage.stage(JOB) as folder:
        (folder / "x").write_text("content")
    storage.finish(JOB)

    assert leftovers(tmp_path) == []


def test_staging_folders_of_killed_processes_are_removed_with_the_job(tmp_path):
    storage = LocalStorage(tmp_path / "table")
    storage.stage(JOB).__enter__()  # never left

    storage.finish(JOB)

    assert leftovers(tmp_path) == []


def test_finishing_a_job_leaves_other_jobs_alone(tmp_path):
    storage = LocalStorage(tmp_path / "table")

    with storage.stage("f" * 32) as folder:
        (folder / "x").write_text("content")
        storage.finish(JOB)
        storage.publish(folder / "x", "data/x")

    assert storage.list("data") == ["data/x"]


def test_listing_a_folder_that_is_not_there_is_empty(tmp_path):
    assert LocalStorage(tmp_path).list("data") == []


def abandoned(scratch: Path, *, age_s: float) -> Path:
    folder = scratch / "_ray_lance-abandoned"
    folder.mkdir()
    (folder / "lock").touch()
    os.utime(folder / "lock", (folder.stat().st_mtime - age_s,) * 2)
    return folder


def test_scratch_folders_of_killed_processes_are_swept(tmp_path):
    folder = abandoned(tmp_path, age_s=3600)

    with ObjectStorage(session=None, scratch=tmp_path).stage(JOB):
        assert not folder.exists()

    assert leftovers(tmp_path) == []


def test_a_scratch_folder_in_use_is_not_swept(tmp_path):
    folder = abandoned(tmp_path, age_s=3600)

    with (folder / "lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with ObjectStorage(session=None, scratch=tmp_path).stage(JOB):
            assert folder.exists()


def test_a_young_scratch_folder_is_not_swept(tmp_path):
    folder = abandoned(tmp_path, age_s=0)

    with ObjectStorage(session=None, scratch=tmp_path).stage(JOB):
        assert folder.exists()


@pytest.mark.parametrize("storage", [LocalStorage, lambda folder: ObjectStorage(None, folder)], ids=["local", "store"])
def test_nobody_else_may_look_into_a_staging_folder(tmp_path, storage):
    before = os.umask(0)
    try:
        with storage(tmp_path / "table").stage(JOB) as folder:
            inside = [path for path in (folder, *folder.parents) if path.is_relative_to(tmp_path / "table")][:-1]
            assert [path.stat().st_mode & 0o077 for path in inside] == [0] * len(inside)
    finally:
        os.umask(before)


@pytest.mark.parametrize("existing", [".", "a", "a/b", "a/b/table"])
def test_folders_that_existed_before_the_write_stay(tmp_path, existing):
    (tmp_path / existing).mkdir(parents=True, exist_ok=True)
    root = tmp_path / "a/b/table"
    before = leftovers(tmp_path)
    storage = storage_for(str(root), {}, {}, existing_folder(str(root)))

    with storage.stage(JOB) as folder:
        (folder / "x").write_text("content")
        storage.publish(folder / "x", "data/x")
    storage.remove("data/x")
    storage.finish(JOB)

    assert leftovers(tmp_path) == before
