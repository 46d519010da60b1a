"""The kernel's page cache: what it holds of some files, and making it forget them."""

from __future__ import annotations

import ctypes
import mmap
import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

__all__ = ["drop_from_page_cache", "forgetting"]

_EVERY_S = 0.02


@contextmanager
def forgetting(folder: Path) -> Iterator[list[int]]:
    """Let the kernel forget a folder's files all the time. Yields a list that grows by the bytes it held each time."""
    for path in (path for path in folder.rglob("*") if path.is_file()):
        with path.open("rb") as file:
            os.fsync(file.fileno())  # only what is on disk can be forgotten
    held: list[int] = []
    ended = threading.Event()

    def forget() -> None:
        while not ended.wait(_EVERY_S):
            held.append(drop_from_page_cache([folder]))

    drop_from_page_cache([folder])
    thread = threading.Thread(target=forget)
    thread.start()
    try:
        yield held
    finally:
        ended.set()
        thread.join()
        held.append(drop_from_page_cache([folder]))


def drop_from_page_cache(folders: Sequence[Path]) -> int:
    """Let the kernel forget the files of some folders, as far as they are on disk. Returns how many bytes it held."""
    held = 0
    # os.walk leaves out folders that vanish meanwhile.
    for path in [Path(at, name) for folder in folders for at, _, names in os.walk(folder) for name in names]:
        try:
            handle = os.open(path, os.O_RDONLY)
        except FileNotFoundError:
            continue
        try:
            held += _cached_bytes(handle)
            os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(handle)
    return held


def _cached_bytes(handle: int) -> int:
    size = os.fstat(handle).st_size
    if size == 0:
        return 0
    pages = np.zeros(-(-size // mmap.PAGESIZE), np.uint8)
    # A private mapping that may be written, since ctypes takes the address of no other.
    with mmap.mmap(handle, size, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ | mmap.PROT_WRITE) as mapped:
        address = ctypes.byref(ctypes.c_char.from_buffer(mapped))
        failed = ctypes.CDLL(None).mincore(address, ctypes.c_size_t(size), ctypes.c_void_p(pages.ctypes.data))
        del address
    return 0 if failed else int((pages & 1).sum()) * mmap.PAGESIZE
