"""Removes what jobs left: paths in; those that no version of any branch refers to are removed."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from functools import partial

from ray_lance.masking import cause
from ray_lance.write.history import referred
from ray_lance.write.job import WriteJob
from ray_lance.write.storage import Storage
from ray_lance.write.target import Target

__all__ = ["Leftovers", "give_up", "remove_left", "remove_uncommitted", "remove_unreferred"]

logger = logging.getLogger(__name__)


def remove_uncommitted(job: WriteJob, keep: Collection[str] | None = None, storage: Storage | None = None) -> None:
    """Remove every file of the job except the committed ones, also files of killed and repeated attempts.

    Costs one listing of the dataset's ``data`` folder. Raises nothing: a file that cannot be removed is logged and
    left.

    Args:
        job: The job; none of its tasks may be running any more.
        keep: Names of the data files that were committed; None where nobody knows them.
        storage: Where to look; None for the storage of the job's dataset.
    """
    stems = {name.removesuffix(".lance") for name in keep or ()}
    try:
        storage = storage or job.storage()
        paths = [path for path in storage.list("data") if _stem(path).startswith(job.job_id)]
        if keep is None:
            # A transaction file is called <read version>-<transaction uuid>.txn, and the job's id is that uuid.
            paths += [path for path in storage.list("_transactions") if job.transaction_uuid in path]
        remove_unreferred(job, [path for path in paths if _stem(path) not in stems], storage=storage)
        storage.finish(job.job_id)
    except Exception as error:
        logger.warning("files of job %s at %s may be left behind: %s", job.job_id, job.shown_uri, cause(error))


def give_up(job: WriteJob, storage: Storage | None = None) -> None:
    """Remove what the job wrote, after a failure. What was committed in spite of it stays. Raises nothing.

    Args:
        job: The job; none of its tasks may be running any more.
        storage: Where to look; None for the storage of the job's dataset.
    """
    remove_uncommitted(job, storage=storage)
    try:
        if job.open_latest() is None:
            job.withdraw()
    except Exception as error:
        logger.warning("the table at %s may be left declared: %s", job.shown_uri, cause(error))


@dataclass(frozen=True)
class Leftovers:
    """What jobs that commit in groups, and may have been killed, can have left.

    Attributes:
        prefixes: What the names of their files begin with.
        owners: What the ids of their transactions begin with: 16 hexadecimal digits each.
        since: A version that is older than all of that.
        before: The version that the last of them began with.
        is_claim: Whether the content of a transaction that no version refers to is a claim of such a job.
    """

    prefixes: tuple[str, ...]
    owners: tuple[str, ...]
    since: int
    before: int
    is_claim: Callable[[bytes], bool]


def remove_left(target: Target, left: Leftovers, committed: Collection[str]) -> None:
    """Remove what jobs left, but for what a version refers to.

    Args:
        target: Where; no task of the jobs may be running any more.
        left: What they may have left.
        committed: Names of files that were committed, which need not be looked for.
    """
    kept = {name.removesuffix(".lance") for name in committed}
    transactions = tuple(str(uuid.UUID(owner.ljust(32, "0")))[:18] for owner in left.owners)
    storage = target.storage()
    stems = {path: _stem(path) for path in storage.list("data")}
    mine = {path for path, stem in stems.items() if stem.startswith(left.prefixes) and stem not in kept}
    logged = storage.list("_transactions")
    mine |= {path for path in logged if path.partition("-")[2].startswith(transactions)}
    maybe = {path for path in logged if left.since <= _read_version(path) <= left.before}

    def is_left(path: str) -> bool:
        return path in mine or left.is_claim(target.retried(partial(storage.read, path), f"reading {path}"))

    remove_unreferred(target, mine | maybe, since=left.since, storage=storage, is_left=is_left)
    for prefix in left.prefixes:
        storage.finish(prefix)


def remove_unreferred(
    target: Target,
    paths: Iterable[str],
    since: int | None = None,
    storage: Storage | None = None,
    is_left: Callable[[str], bool] = lambda _: True,
) -> None:
    """Remove those of the files at ``paths`` that no version of any branch refers to.

    Args:
        target: Where they were written; no task of the job may be running any more.
        paths: The files, relative to the dataset.
        since: A version that is older than all of them; None for the version that the job began with.
        storage: Where they are; None for the storage of the job's dataset.
        is_left: Whether a file that no version refers to may be removed.
    """
    owners = {path: _owner(path) for path in paths}
    if not owners:
        return
    storage = storage or target.storage()
    since = (target.version_before or 0) if since is None else since
    used = target.retried(lambda: referred(target, set(owners.values()), since), "looking for the files in use")
    for path in (path for path, owner in owners.items() if owner not in used):
        if is_left(path):
            target.retried(partial(storage.remove, path), f"removing {path}")


def _read_version(path: str) -> int:
    """The version that the transaction at ``path`` is based on, which its name begins with; -1 for other files."""
    number = path.rsplit("/", 1)[-1].partition("-")[0]
    return int(number) if number.isdecimal() else -1


def _stem(path: str) -> str:
    return path.split("/")[1].removesuffix(".lance")


def _owner(path: str) -> str:
    """The name by which versions refer to a file: blob files are in a folder that has the name of their data file."""
    return f"{_stem(path)}.lance" if path.startswith("data/") else path.rsplit("/", 1)[-1]
