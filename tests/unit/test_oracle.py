"""Random tables with a history, through this library's tasks and through Lance in process."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import HealthCheck, Phase, given, reject, settings

from tests.examples import examples
from tests.oracle.cases import Case, cases
from tests.oracle.pair import carry_out
from tests.oracle.ways import InProcess, Refused

# Every run makes the same tables: a difference is a change of the code, not of luck.
ORACLE = settings(
    derandomize=True,
    deadline=None,
    print_blob=True,
    suppress_health_check=list(HealthCheck),
    phases=(Phase.generate, Phase.shrink),
)


def check(case: Case) -> None:
    with TemporaryDirectory() as folder:
        try:
            carry_out(case, Path(folder), InProcess())
        except Refused:
            reject()


@settings(ORACLE, max_examples=examples(12))
@given(cases())
def test_a_few_histories_end_as_in_lance(case: Case):
    check(case)


@pytest.mark.slow
@settings(ORACLE, max_examples=500)
@given(cases())
def test_many_histories_end_as_in_lance(case: Case):
    check(case)
