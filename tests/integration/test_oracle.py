"""Random tables with a history, through the public functions on a Ray cluster and through Lance in process."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import HealthCheck, Phase, given, reject, settings

from tests.examples import examples
from tests.oracle.cases import Case, cases
from tests.oracle.pair import carry_out
from tests.oracle.ways import Refused, ThroughRay

# Fewer than in process, where each takes a tenth of the time.
ORACLE = settings(
    derandomize=True, deadline=None, suppress_health_check=list(HealthCheck), phases=(Phase.generate, Phase.shrink)
)


@pytest.mark.slow
@pytest.mark.timeout(900)
@settings(ORACLE, max_examples=examples(8))
@given(cases())
def test_histories_through_ray_end_as_in_lance(case: Case):
    with TemporaryDirectory() as folder:
        try:
            carry_out(case, Path(folder), ThroughRay())
        except Refused:
            reject()
