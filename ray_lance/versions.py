"""What ``version=`` may be, and which branch a manifest is of."""

from __future__ import annotations

from typing import Any, TypeAlias

from ray_lance.arguments import as_integer, shown
from ray_lance.errors import InvalidArgumentError

__all__ = ["MAIN", "Version", "as_version", "branch_of", "is_fixed"]

Version: TypeAlias = int | str | tuple[str | None, int | None]
"""A version number of the branch that the uri names, a tag, or a branch and a number (None: its latest version)."""

MAIN = "main"

_RULE = (
    "must be a version number (an integer of at least 1), the name of a tag, or a tuple of a branch and a version "
    'number, such as ("dev", 3), or ("dev", None) for the latest version of the branch'
)
# Field of the manifest message in Lance's table format: the name of the branch, absent for main.
_BRANCH_FIELD = 20
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


def as_version(version: Any) -> Version | None:
    """``version`` with plain Python integers, and with the name of the main branch where that is meant.

    Raises:
        InvalidArgumentError: It is something else.
    """
    if version is None or (isinstance(version, str) and version):
        return version
    if isinstance(version, tuple):
        return _branch_version(version)
    return _number(version, version)


def is_fixed(version: Version | None) -> bool:
    """Whether ``version`` names the same version whenever it is asked for: no tag, and not the latest."""
    return isinstance(version, int) or (isinstance(version, tuple) and version[1] is not None)


def branch_of(manifest: bytes) -> str | None:
    """The branch of a serialized manifest; None for main."""
    position = 0
    while position < len(manifest):
        key, position = _varint(manifest, position)
        number, kind = key >> 3, key & 7
        if kind == _BYTES:
            size, position = _varint(manifest, position)
            if number == _BRANCH_FIELD:
                return manifest[position : position + size].decode() or None
            position += size
        elif kind == _VARINT:
            _, position = _varint(manifest, position)
        else:
            position += {_FIXED64: 8, _FIXED32: 4}[kind]
    return None


def _branch_version(version: tuple[Any, ...]) -> tuple[str, int | None]:
    if len(version) != 2 or not (version[0] is None or (isinstance(version[0], str) and version[0])):
        raise InvalidArgumentError(f"version={shown(version)} {_RULE}")
    branch, number = version
    return branch or MAIN, None if number is None else _number(number, version)


def _number(number: Any, version: Any) -> int:
    try:
        plain = as_integer("version", number)
    except InvalidArgumentError:
        raise InvalidArgumentError(f"version={shown(version)} {_RULE}") from None
    if not 1 <= plain < 2**64:
        raise InvalidArgumentError(f"version={shown(version)} must be at least 1, the first version of a dataset")
    return plain


def _varint(data: bytes, position: int) -> tuple[int, int]:
    """The variable-length integer at ``position``, and the position behind it."""
    value = shift = 0
    while True:
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return value, position
