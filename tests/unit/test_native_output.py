"""Lines that native code prints past Python are left out, and no others."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from ray_lance.native_output import without_lines


def test_lines_with_the_mark_are_left_out_and_the_others_come_in_order(capfd):
    os.write(2, b"before\n")
    with without_lines(b"not stable"):
        os.write(2, b"one\nthis is not stable yet\n")
        os.write(2, b"two\nthe end without a line feed")
    os.write(2, b"\nafter\n")

    assert capfd.readouterr().err.splitlines() == ["before", "one", "two", "the end without a line feed", "after"]


def test_an_error_passes_and_what_was_printed_is_not_lost(capfd):
    def fail() -> None:
        with without_lines(b"mark"):
            os.write(2, b"printed\n")
            raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        fail()

    os.write(2, b"after\n")
    assert capfd.readouterr().err == "printed\nafter\n"


def test_much_output_blocks_nobody(capfd):
    with without_lines(b"mark"):
        for _ in range(100):
            os.write(2, b"x" * 4096 + b"\n")

    assert len(capfd.readouterr().err) == 100 * 4097


def test_contexts_inside_one_another_and_in_other_threads_do_no_harm(capfd):
    def inside() -> None:
        with without_lines(b"mark"):
            os.write(2, b"inner\n")

    with without_lines(b"mark"):
        thread = threading.Thread(target=inside)
        thread.start()
        thread.join()
        inside()

    assert capfd.readouterr().err == "inner\ninner\n"


def test_no_file_stays_open():
    before = len(list(Path("/proc/self/fd").iterdir()))

    for _ in range(20):
        with without_lines(b"mark"):
            os.write(2, b"mark\n")

    assert len(list(Path("/proc/self/fd").iterdir())) == before
