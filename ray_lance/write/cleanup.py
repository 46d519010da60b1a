"""Removing what a job wrote and did not commit."""

from __future__ import annotations

import logging
from collections.abc import Collection

from ray_lance.write.job import WriteJob
from ray_lance.write.storage import Storage

__all__ = ["remove_uncommitted"]

logger = logging.getLogger(__name__)


def remove_uncommitted(job: WriteJob, keep: Collection[str] | None = None, storage: Storage | None = None) -> None:
    """Remove every file of the job except the committed ones, those of killed and repeated attempts included.

    Costs one listing of the dataset's ``data`` folder. A file that cannot be removed is logged and left.

    Args:
        job: The job; none of its tasks may be running any more.
        keep: Names of the data files that were committed; None where the job committed nothing at all.
        storage: Where to look; None for the storage of the job's dataset.
    """
    storage = storage or job.storage()
    stems = {name.removesuffix(".lance") for name in keep or ()}
    try:
        paths = storage.list("data")
        if keep is None:
            paths += storage.list("_transactions")
        for path in paths:
            if _belongs(path, job) and path.split("/")[1].removesuffix(".lance") not in stems:
                job.options.retry.call(lambda path=path: storage.remove(path), f"removing {path}")  # type: ignore[misc]
        storage.finish(job.job_id)
    except Exception as error:
        logger.warning("files of job %s at %s may be left behind: %s", job.job_id, job.shown_uri, error)


def _belongs(path: str, job: WriteJob) -> bool:
    folder, name = path.split("/")[:2]
    # A transaction file is called <read version>-<transaction uuid>.txn, and the job's id is that uuid.
    return name.startswith(job.job_id) if folder == "data" else job.transaction_uuid in name
