"""Secrets kept out of what is shown: uris, storage options, and the texts of Lance's errors.

Lance puts uris and values of options into its messages. A process therefore remembers the secrets that it was given,
and every message, log line and repr that quotes an error or a uri goes through this module.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TypeVar
from urllib.parse import unquote

__all__ = ["cause", "mask", "mask_uri", "remember", "without_secrets"]

_E = TypeVar("_E", bound=BaseException | None)
_HIDDEN = "***"

# The most recently given secrets; credentials of long runs are renewed again and again.
_MAX_SECRETS = 512
# Shorter values, such as "1", are no secrets, and to blot them out would leave no message to read.
_MIN_SECRET = 4
_MIN_DISTINCT = 8
_PLAIN_VALUES = ("true", "false")
_PLAIN_NAMES = re.compile(r"region|endpoint|timeout|retr(y|ies)|bucket|^root$|^uri$", re.IGNORECASE)

_URI = re.compile(r"[a-z][a-z0-9+.-]*:/{1,2}[^\s'\"]*", re.IGNORECASE)
_URI_PARTS = re.compile(r"(?P<scheme>[a-z][a-z0-9+.-]*:/{1,2})(?P<rest>.*)", re.IGNORECASE | re.DOTALL)
# Lance appends the place in its own source code to a message.
_SOURCE_PLACE = re.compile(r",? ?/[^ ,]*\.rs:\d+:\d+")

_secrets: dict[str, None] = {}


def mask_uri(uri: str) -> str:
    """``uri`` without the user information and the query, which may hold credentials.

    A password may hold ``@``, ``/`` and ``#`` as they are: where a colon begins one, everything up to the last ``@``
    is hidden, be it more than the password.
    """
    if (parts := _URI_PARTS.fullmatch(uri)) is None:
        return uri
    scheme, rest = parts["scheme"], parts["rest"]
    user = _user_information(rest)
    if user is not None:
        rest = _HIDDEN + rest[len(user) :]
    address, mark, _ = rest.partition("?")
    return f"{scheme}{address}{mark}{_HIDDEN if mark else ''}"


def remember(uri: str | None, *options: Mapping[str, object]) -> None:
    """Blot out from now on, wherever they come up in messages, the secrets in ``uri`` and ``options``."""
    found = [] if uri is None else _secrets_in(uri)
    for name, value in _pairs(*options):
        found += _secrets_in(value) if _PLAIN_NAMES.search(name) else [value]
    for secret in found:
        if len(secret) >= _MIN_SECRET and secret.lower() not in _PLAIN_VALUES:
            _secrets.pop(secret, None)
            _secrets[secret] = None
    while len(_secrets) > _MAX_SECRETS:
        _secrets.pop(next(iter(_secrets)), None)


def mask(text: str) -> str:
    """``text`` without the secrets that this process knows, and without those in uris."""
    for secret in sorted(_secrets, key=len, reverse=True):
        if secret in text:
            text = re.sub(_pattern(secret), _HIDDEN, text)
    return _URI.sub(lambda found: mask_uri(found[0]), text)


def cause(error: BaseException) -> str:
    """The text of an error of Lance for a message: without secrets and without places in Lance's source code."""
    return mask(_SOURCE_PLACE.sub("", str(error)).removeprefix("Invalid user input: "))


def without_secrets(error: _E) -> _E:
    """``error``, or one of the same type with a masked text where its own shows secrets."""
    if error is None or (masked := mask(text := str(error))) == text:
        return error
    # Not by the constructor, which may take other arguments than a message.
    shown = type(error).__new__(type(error), masked)
    shown.args = (masked,)
    shown.__dict__.update(
        {name: masked if isinstance(value, str) and value == text else value for name, value in error.__dict__.items()}
    )
    return shown.with_traceback(error.__traceback__)


def _pattern(secret: str) -> str:
    """What to blot out: a short secret only where it is a word of its own, as "test" is not in "latest"."""
    literal = re.escape(secret)
    return literal if len(secret) >= _MIN_DISTINCT else rf"(?<![a-zA-Z0-9]){literal}(?![a-zA-Z0-9])"


def _user_information(rest: str) -> str | None:
    """What stands before the host in the part of a uri behind the scheme; None for nothing."""
    authority = rest.partition("/")[0].partition("?")[0]
    begins = authority.find(":")
    if begins >= 0 and "@" in rest[begins:]:
        return rest.rpartition("@")[0]
    return authority.rpartition("@")[0] if "@" in authority else None


def _secrets_in(uri: str) -> list[str]:
    """The user information, the password, and the values of the query."""
    if (parts := _URI_PARTS.fullmatch(uri)) is None:
        return []
    user = _user_information(parts["rest"]) or ""
    query = parts["rest"][len(user) :].partition("?")[2]
    values = [part.partition("=")[2] or part for part in query.split("&")]
    found = [user, user.partition(":")[2], query, *values]
    return [*found, *map(unquote, found)]


def _pairs(*options: Mapping[str, object]) -> list[tuple[str, str]]:
    """Names and values, also of options within options."""
    pairs: list[tuple[str, str]] = []
    for name, value in (item for mapping in options for item in mapping.items()):
        pairs += _pairs(value) if isinstance(value, Mapping) else [(str(name), str(value))]
    return pairs
