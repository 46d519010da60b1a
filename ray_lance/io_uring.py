"""Whether this process may read local files through io_uring, which Lance can where its URI says so."""

from __future__ import annotations

import ctypes
import os
import platform
import struct
import urllib.parse
from functools import cache

__all__ = ["is_available", "most_files", "uring_uri"]

_SWITCH = "RAY_LANCE_IO_URING"
_SYS_IO_URING_SETUP = 425  # on all architectures, see io_uring_setup(2)
# Lance's default: more than old kernels give to processes that may lock little memory.
_QUEUE_DEPTH = 16 * 1024
_PARAMS_BYTES = 120  # sizeof(struct io_uring_params)
_FEATURES_AT = 20
_CAN_READ = 1 << 3  # IORING_FEAT_RW_CUR_POS: came with reads into one buffer, in Linux 5.6


@cache
def is_available() -> bool:
    """Whether the kernel gives this process a ring, as container runtimes by default forbid.

    ``RAY_LANCE_IO_URING=0`` in the environment says no.
    """
    if platform.system() != "Linux" or os.environ.get(_SWITCH) == "0":
        return False
    parameters = ctypes.create_string_buffer(_PARAMS_BYTES)
    ring: int = ctypes.CDLL(None).syscall(_SYS_IO_URING_SETUP, _QUEUE_DEPTH, parameters)
    if ring < 0:
        return False
    os.close(ring)
    (features,) = struct.unpack_from("I", parameters, _FEATURES_AT)
    return bool(features & _CAN_READ)


def uring_uri(uri: str) -> str | None:
    """``uri`` as Lance reads it through io_uring; None for what is on no local file system, or has its own reader."""
    if uri.startswith("file://"):
        return "file+uring://" + uri.removeprefix("file://")
    return None if "://" in uri else "file+uring://" + urllib.parse.quote(uri)


def most_files() -> int:
    """How many files may be read through io_uring: few of those that this process may have open.

    Lance keeps each of them open for a minute.
    """
    import resource  # which only POSIX systems have

    return resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 4
