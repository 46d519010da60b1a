"""Ray's job checkpoints, which a write with one commit at its end cannot keep."""

from __future__ import annotations

from ray.data import DataContext

from ray_lance.errors import InvalidArgumentError

__all__ = ["refuse_job_checkpoints"]


def refuse_job_checkpoints(context: DataContext, mode: str) -> None:
    """Refuse to write what Ray would leave out the next time.

    Ray notes rows as written when their task ends, but they are part of the dataset only once everything is committed.
    After a failure in between, another run would read neither them nor find them in the dataset (Ray 2.60).

    Args:
        context: The context of the Ray dataset that is written.
        mode: How it is written, for the message.

    Raises:
        InvalidArgumentError: The context asks for job checkpoints.
    """
    config = getattr(context, "checkpoint_config", None)
    if config is None:
        return
    raise InvalidArgumentError(
        f"DataContext.checkpoint_config (id_column={config.id_column!r}): job checkpoints do not go with a write to "
        f"Lance (mode={mode!r}). Ray notes rows as written when their task ends, but the dataset gets all of them in "
        "one commit at the end: after a failure in between they would be lost without an error. Set "
        "ds.context.checkpoint_config = None and run the whole write again after a failure, which leaves nothing "
        "behind. To keep what is finished, write part by part with mode='append', or compute columns of a dataset "
        "with add_columns, which resumes"
    )
