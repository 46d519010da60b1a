"""Identifies a computation: a function and its arguments in, a digest of each of their parts out.

Parts are compared by digest: values may be secrets, and every reader of the dataset sees its records.
"""

from __future__ import annotations

import copyreg
import functools
import inspect
import sys
import types
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from ray_lance.backfill.digest import Digest, NotComparableError, reduced
from ray_lance.backfill.origin import closure_of, global_names, is_installed, version_of
from ray_lance.errors import InvalidArgumentError
from ray_lance.write.column_record import PYTHON

__all__ = ["parts_of"]


def parts_of(function: Callable[..., Any], arguments: Mapping[str, Any]) -> dict[str, str]:
    """Digests of what a function is made of, and of its arguments, by what each of them is called.

    Args:
        function: A function, a class, or a callable object.
        arguments: What else it is given.

    Raises:
        InvalidArgumentError: A value in them cannot be compared with that of another run.
    """
    parts = _Parts(frozenset(_modules_of(function)))
    parts.add_function(function)
    for name, value in arguments.items():
        parts.add(name, value)
    return parts.found


class _Parts:
    """Collects digests by name.

    Args:
        own: The modules that the function is from. Their code counts by its content, though they may be installed.
    """

    def __init__(self, own: frozenset[str]) -> None:
        self._own = own
        self.found: dict[str, str] = {}
        for module in sorted(own):
            if is_installed(module) and (version := version_of(module)):
                self.found[f"version of {module.partition('.')[0]}"] = version

    def add(self, name: str, value: Any, root: Any = None) -> None:
        """Add the part ``name``, which is ``value``; ``root`` is what it may refer back to."""
        self._add(name, lambda digest: digest.add(value), root)

    def add_function(self, function: Any) -> None:
        """Add the parts of what is called."""
        if isinstance(function, functools.partial):
            self.add_function(function.func)
            self.add("partial's arguments", [*function.args])
            for name, value in function.keywords.items():
                self.add(f"partial's argument {name!r}", value)
        elif isinstance(function, types.MethodType):
            self.add_function(function.__func__)
            self._add_object(function.__self__)
        elif isinstance(function, types.FunctionType):
            self._add_plain(function)
        elif inspect.isroutine(function) or inspect.isclass(function):
            self.add("fn's code", function)
        else:
            self._add_object(function)

    def _add_plain(self, function: types.FunctionType) -> None:
        self._add("fn's code", lambda digest: digest.add_code(function.__code__), function)
        self.add("fn's defaults", [function.__defaults__, function.__kwdefaults__, vars(function)], function)
        for name, cell in closure_of(function):
            self.add(f"fn's variable {name!r}", cell, function)
        if self._is_followed(function.__module__):
            for name in global_names(function):
                add = functools.partial(Digest.add_global, function=function, name=name)
                self._add(f"fn's global {name!r}", add, function)

    def _add_object(self, value: Any) -> None:
        """Add the class and the state of an object, by attribute where it has such."""
        if inspect.isclass(value) or inspect.ismodule(value):
            self.add("fn's owner", value)
            return
        self.add("fn's class", type(value))
        for name, state in _state_of(value):
            self.add(name, state, value)

    def _add(self, name: str, tell: Callable[[Digest], None], root: Any) -> None:
        digest = Digest(root, self._own)
        try:
            tell(digest)
        except NotComparableError as error:
            raise InvalidArgumentError(
                f"{name}: a {error} cannot be compared with that of another run, and a call that resumes an "
                "interrupted one must be the same computation: make it in the constructor of a callable class"
            ) from error
        except RecursionError as error:
            raise InvalidArgumentError(
                f"{name}: is nested too deeply to be compared with that of another run"
            ) from error
        self.found[name] = digest.hexdigest()
        if digest.has_code:
            self.found[PYTHON] = str(sys.implementation.cache_tag)

    def _is_followed(self, module: str) -> bool:
        return module in self._own or not is_installed(module)


def _modules_of(function: Any) -> Iterator[str]:
    """The modules that a function and its class are from."""
    if isinstance(function, functools.partial):
        yield from _modules_of(function.func)
    elif isinstance(function, types.MethodType):
        yield from _modules_of(function.__func__)
        yield from _modules_of(function.__self__)
    elif inspect.isroutine(function) or inspect.isclass(function):
        yield str(function.__module__)
    else:
        yield type(function).__module__


def _state_of(value: Any) -> Iterator[tuple[str, Any]]:
    """The attributes of an object as pickle finds them; the object as one where it is pickled in another way."""
    attributes = _attributes(value)
    if attributes is None:
        yield "fn's state", value
        return
    for name, attribute in attributes.items():
        yield f"fn's attribute {name!r}", attribute


def _attributes(value: Any) -> dict[str, Any] | None:
    try:
        found = reduced(value)
    except NotComparableError:
        return None
    if isinstance(found, str) or found[0] is not copyreg.__newobj__ or any(part is not None for part in found[3:]):  # type: ignore[attr-defined]
        return None
    states = found[2] if isinstance(found[2], tuple) else (found[2],)
    if not all(state is None or isinstance(state, dict) for state in states):
        return None
    return {str(name): attribute for state in states for name, attribute in (state or {}).items()}
