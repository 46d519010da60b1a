"""Finds where code comes from: a module, a function or a class in; whether it is installed or the user's own out."""

from __future__ import annotations

import dis
import sys
import sysconfig
import types
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

__all__ = ["attribute_names", "closure_of", "global_names", "is_installed", "is_named", "qualified_name", "version_of"]

_LIBRARY_FOLDERS = tuple({sysconfig.get_path(name) for name in ("stdlib", "platstdlib")})
_PACKAGE_FOLDERS = ("/site-packages/", "/dist-packages/")
_THIS_PACKAGE = "ray_lance"
_LOADED = ("LOAD_GLOBAL", "LOAD_NAME")
_ASSIGNED = ("STORE_GLOBAL", "DELETE_GLOBAL")
_HEAP_TYPE = 1 << 9  # Py_TPFLAGS_HEAPTYPE: not part of the interpreter or of an extension module


@lru_cache(maxsize=4096)
def is_installed(module: str | None) -> bool:
    """Whether a module belongs to Python or to an installed package; False where that is not known."""
    if module in (None, "__main__"):  # None: made by exec, in a namespace without a name
        return False
    package = module.partition(".")[0]
    path = str(getattr(sys.modules.get(module), "__file__", None) or "").replace("\\", "/")
    if not path or package == _THIS_PACKAGE:
        return package in (_THIS_PACKAGE, *sys.builtin_module_names, *sys.stdlib_module_names)
    return any(folder in path for folder in _PACKAGE_FOLDERS) or path.startswith(_LIBRARY_FOLDERS)


def is_named(value: Any) -> bool:
    """Whether a function or a class is what its name means in an installed package."""
    if isinstance(value, type) and not value.__flags__ & _HEAP_TYPE:
        return True
    module = value.__module__
    if not isinstance(module, str) or not is_installed(module):
        return False
    found: Any = sys.modules.get(module)
    for name in value.__qualname__.split("."):
        found = getattr(found, name, None)
    return found is value


def qualified_name(value: Any) -> str:
    """Name of a function or a class, with its module."""
    return f"{value.__module__}.{value.__qualname__}"


def version_of(module: str) -> str:
    """The version that the package of a module says it has; empty where it says nothing."""
    package = sys.modules.get(module.partition(".")[0])
    return str(getattr(package, "__version__", ""))


def closure_of(function: types.FunctionType) -> Iterator[tuple[str, types.CellType]]:
    """The cells of a function's closure, by name."""
    return zip(function.__code__.co_freevars, function.__closure__ or (), strict=True)


def global_names(function: types.FunctionType) -> list[str]:
    """Names of the globals that a function reads and that exist.

    Without those that it assigns itself, such as a model that is loaded by the first call.
    """
    loaded, assigned = set(), set()
    for code in _all_code(function.__code__):
        for instruction in dis.get_instructions(code):
            if instruction.opname in _LOADED:
                loaded.add(str(instruction.argval))
            elif instruction.opname in _ASSIGNED:
                assigned.add(str(instruction.argval))
    names = loaded - assigned
    return sorted(name for name in names if name in function.__globals__ and not name.startswith("__"))


def attribute_names(function: types.FunctionType) -> list[str]:
    """All names that a function's code mentions, attributes included."""
    return sorted({name for code in _all_code(function.__code__) for name in code.co_names})


def _all_code(code: types.CodeType) -> Iterator[types.CodeType]:
    """A function's code and that of the functions inside it."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _all_code(constant)
