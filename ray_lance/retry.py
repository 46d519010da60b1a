"""Tries again: a function in, its result out. The only backoff loop of the code base."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from ray_lance.arguments import as_integer
from ray_lance.masking import cause, without_secrets
from ray_lance.native_errors import as_own

__all__ = ["RetryPolicy", "is_transient"]

logger = logging.getLogger(__name__)
T = TypeVar("T")

# What Lance and its object store clients say about faults that pass. Lance raises plain OSError, ValueError
# or RuntimeError with the cause in the text, so that only the text can be checked.
_TRANSIENT_MARKS = (
    "lanceerror(io)",
    "timed out",
    "timeout",
    "connection",
    "broken pipe",
    "temporarily unavailable",
    "service unavailable",
    "slow down",
    "slowdown",
    "too many requests",
    "internal server error",
    "error sending request",
    "error decoding response body",
    "generic s3 error",
    "generic gcs error",
    "generic microsoftazure error",
)
_PERMANENT_MARKS = ("not found", "no such file", "permission denied", "access denied", "forbidden", "unauthorized")


def is_transient(error: BaseException) -> bool:
    """Whether trying again can help: connection faults, time-outs, throttling, storage I/O errors."""
    if isinstance(error, (ConnectionError, TimeoutError)):
        return True
    if not isinstance(error, (OSError, RuntimeError, ValueError)):
        return False
    text = str(error).lower()
    if isinstance(error, (FileNotFoundError, PermissionError)) or any(mark in text for mark in _PERMANENT_MARKS):
        return False
    return any(mark in text for mark in _TRANSIENT_MARKS)


@dataclass(frozen=True)
class RetryPolicy:
    """How often to try again, and after which pauses.

    Attributes:
        max_attempts: Attempts in a row without progress, the first one included.
        base_delay_s: Upper bound in seconds of the first pause; it doubles with each further attempt.
        max_delay_s: Upper bound in seconds of any pause.
        should_retry: Whether an error may pass.
    """

    max_attempts: int = 8
    base_delay_s: float = 0.1
    max_delay_s: float = 16.0
    should_retry: Callable[[BaseException], bool] = is_transient

    def __post_init__(self) -> None:
        object.__setattr__(self, "max_attempts", as_integer("max_attempts", self.max_attempts, 1))

    def pause(self, attempt: int, what: str, error: Exception) -> None:
        """Sleep before the next attempt, or raise ``error`` where there is none, as this library's own if it is native.

        Full jitter: a uniform share of the exponential bound, so that many workers that failed together do not try
        again together.

        Args:
            attempt: Attempts made so far without progress, at least 1.
            what: What was attempted, for the log.
            error: The error of the last attempt.
        """
        if attempt >= self.max_attempts or not self.should_retry(error):
            own = as_own(error, what)
            raise without_secrets(own) from (error.__cause__ if own is error else without_secrets(error))
        delay = random.uniform(0, min(self.max_delay_s, self.base_delay_s * 2 ** (attempt - 1)))
        logger.warning(
            "%s failed (attempt %d of %d), again in %.1f s: %s", what, attempt, self.max_attempts, delay, cause(error)
        )
        time.sleep(delay)

    def call(self, function: Callable[[], T], what: str, on_retry: Callable[[], object] | None = None) -> T:
        """Call ``function`` until it succeeds. It must do all of its work before it returns: no generators.

        Args:
            function: What to call.
            what: What it does, for the log.
            on_retry: Called before each further attempt.
        """
        attempt = 0
        while True:
            try:
                return function()
            except Exception as error:
                attempt += 1
                self.pause(attempt, what, error)
                if on_retry is not None:
                    on_retry()
