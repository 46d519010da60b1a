"""How often a function may end the process that it runs in. Ray would start another one for ever."""

from __future__ import annotations

from ray_lance.errors import RayLanceError
from ray_lance.ray_internals.tasks import attempts_before

__all__ = ["MOST_ATTEMPTS", "refuse_another_attempt"]

MOST_ATTEMPTS = 3


def refuse_another_attempt(place: str) -> None:
    """To be called in a task before it calls the user's function.

    Args:
        place: The rows that the task begins with, for the message.

    Raises:
        RayLanceError: The processes of all earlier attempts of this task have ended before it did.
    """
    before = attempts_before()
    if before >= MOST_ATTEMPTS:
        raise RayLanceError(
            f"fn was given up after {before} attempts, of a task that begins with {place}: each ended its process. "
            "Either fn ends it (os._exit, a fault in native code), or it took more memory than there was and was "
            "killed; then a smaller batch_size, less concurrency or memory= (bytes to reserve) helps. Ray's log has "
            "the exit codes"
        )
