"""What does not hold on older releases of what the package builds on, and why. On newer ones these tests must pass."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version

import pytest
from packaging.version import Version

__all__ = ["skip_on_older_releases"]


@dataclass(frozen=True)
class Lack:
    """Something that a release cannot do, and the tests of it.

    Attributes:
        before: A package, and the first release of it on which the tests pass.
        why: What is missing before, or wrong.
        tests: Regular expressions that find the ids of the tests.
    """

    before: tuple[str, str]
    why: str
    tests: Sequence[str]


LACKS = (
    Lack(
        ("ray", "2.59"),
        "read functions take resources and the like in ray_remote_args only",
        (r"test_cluster\.py::test_arguments_of_ray_remote_go_by_their_own_names",),
    ),
    Lack(
        ("ray", "2.60"),
        "the blocks of one write are not put together, so that each becomes a file",
        (r"test_write\.py::test_two_hundred_small_blocks_become_few_files_of_the_target_size",),
    ),
    Lack(
        ("pyarrow", "18"),
        "there is no type of UUIDs",
        (r"test_native_errors\.py::test_what_lance_refuses_is_no_fault_of_the_storage",),
    ),
    Lack(
        ("pyarrow", "19"),
        "there are no decimals of 32 and 64 bits",
        (r"test_column_types\.py::.*\[small decimals\]",),
    ),
    Lack(
        ("pyarrow", "24"),
        "tensors of varying shape are structs whose field says what they are, not extension types",
        (
            r"tensors/test_pickling\.py::test_(tensors_of_varying_shape_come_back|another_process_needs_nothing)",
            r"test_fields\.py::test_nested_lists_become_tensors",
        ),
    ),
    Lack(
        ("pyarrow", "25"),
        "views have no size, with which Ray counts memory, and cannot be compared",
        (
            r"test_lance_types\.py::.*(string|binary|list)_view",
            r"test_column_types\.py::.*\[(string|binary|list) view\]",
            r"test_decode\.py::TestTensors::test_from_other_types_of_bytes\[kind1\]",
        ),
    ),
    Lack(
        ("pyarrow", "26"),
        "null rows of integer tensors become numbers in NumPy, so that they are refused where they have no fill",
        (
            r"tensors/test_ray_types\.py::TestDelivered::test_reading_and_writing_back_loses_nothing\[(u?int|fixed_shape)",
            r"integration/test_types\.py::TestReadingAndWritingBack::test_gives_the_same_schema_values_and_nulls",
        ),
    ),
    Lack(
        ("pandas", "3"),
        "strings and times have other types in DataFrames",
        (
            r"tensors/test_from_pandas\.py::.*\[times\]",
            r"test_late_types\.py::test_frames_tell_types_by_their_dtypes\[categories\]",
        ),
    ),
)


def skip_on_older_releases(tests: Sequence[pytest.Item]) -> None:
    """Skip those of ``tests`` that cannot pass on the releases that are installed."""
    for lack in LACKS:
        package, release = lack.before
        if Version(version(package)) < Version(release):
            for test in tests:
                if any(re.search(pattern, test.nodeid) for pattern in lack.tests):
                    test.add_marker(pytest.mark.skip(reason=f"{package} before {release}: {lack.why}"))
