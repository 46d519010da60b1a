"""Files in a dataset's folder that no version refers to."""

from __future__ import annotations

from pathlib import Path

import lance

# Files that belong to the dataset as a whole.
_ALWAYS = {"_versions/latest_version_hint.json"}


def orphans(uri: str) -> list[str]:
    """Paths, relative to the local dataset at ``uri``, of files that no version of it refers to."""
    root = Path(uri)
    present = {path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()}
    return sorted(path for path in present - _referred(uri) if not path.endswith(".manifest"))


def leftovers(folder: Path) -> list[str]:
    """Everything below ``folder``, empty folders included."""
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


def _referred(uri: str) -> set[str]:
    root = Path(uri)
    referred = set(_ALWAYS)
    for entry in lance.dataset(uri).versions():
        version = lance.dataset(uri, version=entry["version"])
        transaction = version.read_transaction(entry["version"])
        if transaction is not None:
            referred.add(f"_transactions/{transaction.read_version}-{transaction.uuid}.txn")
        for fragment in version.get_fragments():
            referred.update(_data_files(root, fragment))
            if deletion_file := fragment.deletion_file():
                referred.add(deletion_file)
        for index in version.describe_indices():
            for segment in index.segments:
                folder = root / "_indices" / segment.uuid
                referred.update(path.relative_to(root).as_posix() for path in folder.rglob("*"))
    return referred


def _data_files(root: Path, fragment: lance.LanceFragment) -> set[str]:
    files = set()
    for data_file in fragment.metadata.files:
        files.add(f"data/{data_file.path}")
        blobs = root / "data" / data_file.path.removesuffix(".lance")
        files.update(path.relative_to(root).as_posix() for path in blobs.rglob("*"))
    return files
