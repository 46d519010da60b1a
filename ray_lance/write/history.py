"""Searches versions: a job in, the version that it committed out; names of files in, those in use out."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

import lance
from lance.fragment import FragmentMetadata

from ray_lance.errors import CommitError
from ray_lance.write.target import Target

__all__ = [
    "JOB_PROPERTY",
    "LostHistoryError",
    "deletion_file_name",
    "find_commit",
    "is_complete",
    "names_of_files",
    "referred",
]

JOB_PROPERTY = "ray_lance.job"
_DELETION_SUFFIXES = {"array": "arrow", "bitmap": "bin"}


class LostHistoryError(CommitError):
    """Versions that the job may have committed were removed, so that nobody can know whether it did."""


def find_commit(target: Target, files: Collection[str], since: int) -> int | None:
    """The version that the job committed, None where it committed nothing.

    If that version was removed since, it is the first one left that refers to one of the job's files.

    Args:
        target: Where the job writes, and its id.
        files: Names of files that only the job's commit can have added to the dataset.
        since: The latest version before the first attempt.

    Raises:
        LostHistoryError: Versions are missing, and none that is left refers to one of ``files``.
    """
    return target.retried(lambda: _find(target, files, since), f"looking for the commit of job {target.job_id}")


def names_of_files(operation: lance.LanceOperation.BaseOperation, job_id: str) -> set[str]:
    """Names of the files that ``operation``, and no other, adds to a dataset; ``job_id``: of the job that it is of."""
    files = [file for fragment in _new_fragments(operation) for file in fragment.files]
    changed = getattr(operation, "updated_fragments", ())
    files += [file for fragment in changed for file in fragment.files if file.path.startswith(job_id)]
    if isinstance(operation, lance.LanceOperation.DataReplacement):
        files = [group.new_file for group in operation.replacements]
    deletions = [deletion_file_name(each) for each in changed]
    return {file.path for file in files} | {name for name in deletions if name is not None}


def deletion_file_name(fragment: FragmentMetadata) -> str | None:
    """Name of the file that says which rows of a fragment are deleted; None where no row is."""
    deletion = fragment.deletion_file
    if deletion is None:
        return None
    return f"{fragment.id}-{deletion.read_version}-{deletion.id}.{_DELETION_SUFFIXES[deletion.file_type]}"


def is_complete(dataset: lance.LanceDataset, since: int) -> bool:
    """Whether no version from ``since`` on was removed; 0 stands for a dataset that does not exist yet."""
    if dataset.version <= since:
        return True
    present = {int(entry["version"]) for entry in dataset.version_refs()}
    return present.issuperset(range(max(1, since), int(dataset.version) + 1))


def referred(target: Target, names: Collection[str], since: int) -> set[str]:
    """Those of the files ``names`` to which a version of any branch refers.

    Versions up to ``since`` are not looked at: they are older than the files.
    """
    found: set[str] = set()
    for line in _lines(target.open_latest()):
        found.update(name for _, name in _tracked(line, since) if name in names)
    return found


def _new_fragments(operation: lance.LanceOperation.BaseOperation) -> Sequence[FragmentMetadata]:
    if isinstance(operation, lance.LanceOperation.Update):
        return list(operation.new_fragments)
    is_rows = isinstance(operation, (lance.LanceOperation.Append, lance.LanceOperation.Overwrite))
    return list(operation.fragments) if is_rows else []


def _find(target: Target, files: Collection[str], after: int) -> int | None:
    dataset = target.open_latest()
    if dataset is None:
        return None
    versions = [int(entry["version"]) for entry in dataset.version_refs()]
    for version in sorted((version for version in versions if version > after), reverse=True):
        transaction = dataset.read_transaction(version)
        if transaction is not None and (transaction.transaction_properties or {}).get(JOB_PROPERTY) == target.job_id:
            return version
    if is_complete(dataset, after + 1):
        return None
    holding = [version for version, name in _tracked(dataset, after) if name in files]
    if not holding:
        raise LostHistoryError(
            f"uri={target.shown_uri!r}: versions after {after} were removed during the commit, so that nothing shows "
            "whether it was made; look at the rows before you run the write again"
        )
    return min(holding)


def _lines(dataset: lance.LanceDataset | None) -> Iterator[lance.LanceDataset]:
    """The latest version of the dataset on the main branch and on all the others."""
    if dataset is None:
        return
    for branch in (None, *dataset.branches.list()):
        yield dataset.checkout_version((branch, None))


def _tracked(dataset: lance.LanceDataset, since: int) -> Iterator[tuple[int, str]]:
    """Versions after ``since`` and the names of the files that they refer to."""
    for batch in dataset.tracked_files(min_version=since + 1):
        for version, path in zip(batch["version"].to_pylist(), batch["path"].to_pylist(), strict=True):
            yield version, path.rsplit("/", 1)[-1]
