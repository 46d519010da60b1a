"""Stores files: a local file in, a file of the dataset out; lists and removes them, on disk and in object stores.

A data file is first written to a staging folder and then published under a name that begins with the id of the job. All
files of a job have such names, so that clean-up never takes the files of another writer for those of a job that died.
(Lance's own names are random, and do not say whose a ``.tmp`` file is.) On a file system the staging folder is inside
the dataset and publishing is a rename; for an object store it is on the worker's disk and publishing is an upload.
"""

from __future__ import annotations

import fcntl
import logging
import shutil
import tempfile
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import unquote, urlparse

from lance.file import LanceFileSession

__all__ = ["LocalStorage", "ObjectStorage", "Storage", "existing_folder", "storage_for"]

logger = logging.getLogger(__name__)

_STAGE = "_ray_lance-"
# The process that made a folder younger than this may not have taken its lock yet.
_MIN_STALE_S = 60.0


class Storage(Protocol):
    """The operations on a dataset's folder that a write job needs. Paths are relative to the dataset."""

    def stage(self, job_id: str) -> Any:
        """Context manager: a local folder to write one file's data into, removed on leaving."""

    def publish(self, staged: Path, path: str) -> None:
        """Make the local file ``staged`` appear at ``path``."""

    def list(self, folder: str) -> list[str]:
        """Paths of all the files below ``folder``; empty where there is no such folder."""

    def read(self, path: str) -> bytes:
        """What the file at ``path`` holds."""

    def remove(self, path: str) -> None:
        """Delete the file at ``path``."""

    def finish(self, job_id: str) -> None:
        """Remove the staging folders of a job, and folders that became empty."""


def storage_for(
    uri: str, storage_options: Mapping[str, str], namespace: Mapping[str, Any], existing: str | None = None
) -> Storage:
    """The storage that holds the dataset at ``uri``.

    Args:
        uri: Location of the dataset.
        storage_options: Object store options.
        namespace: Keyword arguments that let Lance refresh credentials, from ``TableRef.namespace_arguments``.
        existing: What :func:`existing_folder` returned before the write.
    """
    if (root := _local_path(uri)) is not None:
        return LocalStorage(root, None if existing is None else Path(existing))
    return ObjectStorage(LanceFileSession(uri, storage_options=dict(storage_options) or None, **namespace))


def existing_folder(uri: str) -> str | None:
    """The innermost folder on the path of a local dataset that exists; None for an object store."""
    root = _local_path(uri)
    return None if root is None else str(next(folder for folder in (root, *root.parents) if folder.exists()))


def _local_path(uri: str) -> Path | None:
    if uri.startswith("file://"):
        return Path(unquote(urlparse(uri).path))
    return None if "://" in uri else Path(uri)


@dataclass(frozen=True)
class LocalStorage:
    """A dataset on a file system.

    Attributes:
        root: The dataset's folder.
        existing: The innermost folder of its path that existed before the write; None for the parent of ``root``.
    """

    root: Path
    existing: Path | None = None

    @contextmanager
    def stage(self, job_id: str) -> Iterator[Path]:
        """A folder inside the dataset's, so that publishing is a rename."""
        folder = self._new_stage(job_id)
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _new_stage(self, job_id: str) -> Path:
        while True:
            self.root.mkdir(parents=True, exist_ok=True)
            with suppress(FileNotFoundError):  # another job that cleans up may have removed the folder again
                return _private(_private(self._stages(job_id)) / uuid.uuid4().hex)

    def publish(self, staged: Path, path: str) -> None:
        """Rename ``staged`` to ``path``."""
        target = self.root / path
        while True:
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                staged.replace(target)
                return
            except FileNotFoundError:
                # Another job that cleans up may have removed the folder while it was empty.
                if not staged.exists():
                    raise

    def list(self, folder: str) -> list[str]:
        """Paths of all the files below ``folder``."""
        return [path.relative_to(self.root).as_posix() for path in (self.root / folder).rglob("*") if path.is_file()]

    def read(self, path: str) -> bytes:
        """What the file at ``path`` holds."""
        return (self.root / path).read_bytes()

    def remove(self, path: str) -> None:
        """Delete the file at ``path``, and its folder where that became empty."""
        target = self.root / path
        target.unlink(missing_ok=True)
        _remove_if_empty(target.parent)

    def finish(self, job_id: str) -> None:
        """Remove the staging folders of a job, and where nothing was ever committed also the folders that it made."""
        shutil.rmtree(self._stages(job_id), ignore_errors=True)
        for name in ("data", "_transactions", "_deletions", "_versions"):
            _remove_if_empty(self.root / name)
        existing = self.root.parent if self.existing is None else self.existing
        for folder in (self.root, *self.root.parents):
            if not folder.is_relative_to(existing) or folder == existing:
                return
            _remove_if_empty(folder)

    def _stages(self, job_id: str) -> Path:
        return self.root / f"{_STAGE}{job_id}"


@dataclass(frozen=True)
class ObjectStorage:
    """A dataset in an object store.

    Attributes:
        session: Lance's access to the store, rooted at the dataset.
        scratch: Local folder in which files are staged; ``TMPDIR`` moves it.
    """

    session: LanceFileSession = field(repr=False)
    scratch: Path = field(default_factory=lambda: Path(tempfile.gettempdir()))

    @contextmanager
    def stage(self, job_id: str) -> Iterator[Path]:
        """A folder on this machine. Folders that killed processes left there are removed first."""
        _sweep(self.scratch)
        self.scratch.mkdir(parents=True, exist_ok=True)
        folder = _private(self.scratch / f"{_STAGE}{job_id}-{uuid.uuid4().hex}")
        with (folder / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            try:
                yield folder
            finally:
                shutil.rmtree(folder, ignore_errors=True)

    def publish(self, staged: Path, path: str) -> None:
        """Upload ``staged`` to ``path``."""
        self.session.upload_file(str(staged), path)

    def list(self, folder: str) -> list[str]:
        """Paths of all the objects below ``folder``."""
        return list(self.session.list(folder))

    def read(self, path: str) -> bytes:
        """What the object at ``path`` holds."""
        with tempfile.TemporaryDirectory() as folder:
            local = Path(folder) / "object"
            self.session.download_file(path, str(local))
            return local.read_bytes()

    def remove(self, path: str) -> None:
        """Delete the object at ``path``."""
        self.session.delete_file(path)

    def finish(self, job_id: str) -> None:
        """Do nothing: no file is staged in the object store itself."""


def _private(folder: Path) -> Path:
    """Make ``folder``, which only this user can read: it holds rows and blobs that are not published yet."""
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder


def _remove_if_empty(folder: Path) -> None:
    try:
        folder.rmdir()
    except OSError:
        return  # it is not empty, or does not exist


def _sweep(scratch: Path) -> None:
    for folder in scratch.glob(f"{_STAGE}*"):
        lock_file = folder / "lock"
        try:
            if time.time() - lock_file.stat().st_mtime < _MIN_STALE_S:
                continue
            with lock_file.open("r+") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)
                logger.info("removed %s, left by a process that was killed", folder)
        except OSError:
            continue  # it is in use, or its owner has just removed it
