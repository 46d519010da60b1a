"""Retries: errors that pass are tried again a bounded number of times, others never."""

from __future__ import annotations

import pytest

from ray_lance.errors import InvalidArgumentError, StorageError
from ray_lance.retry import RetryPolicy, is_transient


@pytest.mark.parametrize(
    ("error", "transient"),
    [
        (ConnectionResetError("peer"), True),
        (TimeoutError(), True),
        (OSError("LanceError(IO): Generic S3 error: 503 Slow Down"), True),
        (RuntimeError("error sending request for url"), True),
        (ValueError("Query Execution error: operation timed out"), True),
        (FileNotFoundError("connection file"), False),
        (PermissionError("timeout"), False),
        (OSError("LanceError(IO): Not found: data/x.lance"), False),
        (OSError("Generic S3 error: 403 Forbidden"), False),
        (ValueError("No field named x"), False),
        (KeyError("connection"), False),
    ],
)
def test_what_passes_and_what_stays(error, transient):
    assert is_transient(error) is transient


class Flaky:
    def __init__(self, failures: int) -> None:
        self.failures, self.calls = failures, 0

    def __call__(self) -> str:
        self.calls += 1
        if self.calls <= self.failures:
            raise TimeoutError("no answer")
        return "done"


def test_call_tries_until_it_succeeds():
    flaky = Flaky(2)
    assert RetryPolicy(max_attempts=3, base_delay_s=0).call(flaky, "test") == "done"
    assert flaky.calls == 3


def test_call_gives_up_after_the_last_attempt():
    flaky = Flaky(3)
    with pytest.raises(StorageError, match="asking a server: ") as caught:
        RetryPolicy(max_attempts=3, base_delay_s=0).call(flaky, "asking a server")
    assert flaky.calls == 3
    assert isinstance(caught.value.__cause__, TimeoutError)


def test_at_least_one_attempt():
    with pytest.raises(InvalidArgumentError, match="max_attempts=0"):
        RetryPolicy(max_attempts=0)
