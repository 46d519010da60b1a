"""Digests values: any Python object in, a digest out that is the same for the same content in every process.

Nothing enters a digest that differs from run to run: no address, no name of a file, no order of a set. Code enters as
bytecode, so that digests of functions are those of one version of Python.

What a function refers to is followed through the code of the user: other functions, classes, globals, and what it uses
of the user's modules. Code of installed packages counts by its name. Values are read to the end: about two seconds per
gigabyte, not more than it takes to send them to the workers.
"""

from __future__ import annotations

import copyreg
import hashlib
import inspect
import struct
import sys
import types
from collections.abc import Callable, Iterable
from typing import Any

import lance
import numpy as np
import pyarrow as pa
import ray
from ray import cloudpickle

from ray_lance.backfill.origin import (
    attribute_names,
    closure_of,
    global_names,
    is_installed,
    is_named,
    qualified_name,
)

__all__ = ["Digest", "NotComparableError", "reduced"]

_ATOMS: dict[type, Callable[[Any], str | bytes]] = {
    int: hex,
    float: lambda value: struct.pack("<d", value),
    str: lambda value: value,
    bytes: lambda value: value,
    bytearray: bytes,
    memoryview: lambda value: value.tobytes(),
} | dict.fromkeys((bool, complex, type(None), type(...), type(NotImplemented)), repr)
# What Python adds to classes, and what does not change what they compute.
_BOOKKEEPING = frozenset(
    [
        "__dict__",
        "__weakref__",
        "__module__",
        "__doc__",
        "__qualname__",
        "__annotations__",
        "__annotate__",
        "__annotate_func__",
        "__annotations_cache__",
        "__slotnames__",
        "__static_attributes__",
        "__firstlineno__",
        "__abstractmethods__",
        "_abc_impl",
        "__dataclass_fields__",
        "__dataclass_params__",
        "__match_args__",
    ]
)


class NotComparableError(Exception):
    """A value has nothing that is the same in every run, such as a lock or a connection. The text is its type."""


def reduced(value: Any) -> str | tuple[Any, ...]:
    """What pickle would make of an object: a global's name, or how to make it again.

    Raises:
        NotComparableError: It cannot be pickled.
    """
    kind = type(value)
    reduce = cloudpickle.CloudPickler.dispatch_table.get(kind, copyreg.dispatch_table.get(kind))
    try:
        found: str | tuple[Any, ...] = reduce(value) if reduce is not None else value.__reduce_ex__(4)
    except Exception as error:
        raise NotComparableError(qualified_name(kind)) from error
    return found


class Digest:
    """A digest of everything that is added to it, and of all that this refers to.

    Objects that may refer back to themselves get a number when they are first met, and count by it from then on.

    Args:
        root: What the added values are parts of; None for nothing.
        own: Modules whose code counts by its content though they are installed.

    Attributes:
        has_code: Whether any bytecode has been added.
    """

    def __init__(self, root: Any = None, own: frozenset[str] = frozenset()) -> None:
        self._own = own
        self._hash = hashlib.blake2b(digest_size=16)
        self._numbers: dict[int, int] = {}
        self._met: list[Any] = []  # kept alive, so that no other object gets its address
        self._inside_globals = 0
        self.has_code = False
        if root is not None:
            self._is_known(root)

    def hexdigest(self) -> str:
        """The digest, 32 hexadecimal digits."""
        return self._hash.hexdigest()

    def add(self, value: Any) -> None:
        """Add an object of any kind.

        Raises:
            NotComparableError: Something in it cannot be told from another of its type.
        """
        kind = type(value)
        if kind in _ATOMS:
            self._note(kind.__name__, _ATOMS[kind](value))
        elif kind is tuple:
            self._add_all("tuple", value)
        elif isinstance(value, (set, frozenset)):
            self._add_set(value)
        elif kind in (np.ndarray, np.memmap) and not value.dtype.hasobject:
            self._note("array", repr(value.dtype), repr(value.shape), _bytes_of_array(value))
        elif (data := _bytes_of_tensor(value)) is not None:
            self._note(kind.__name__, str(getattr(value, "dtype", "")), str(tuple(getattr(value, "shape", ()))), data)
        elif not self._is_known(value):
            self._add_object(value)

    def add_code(self, code: types.CodeType) -> None:
        """Add the bytecode of a function, without file names and line numbers."""
        self.has_code = True
        sizes = (code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount, code.co_flags)
        names = (code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars)
        handlers = getattr(code, "co_exceptiontable", b"")  # Python 3.10 has them in the code
        self._note("code", code.co_code, handlers, repr((sizes, names)))
        for constant in code.co_consts:
            self.add_code(constant) if isinstance(constant, types.CodeType) else self.add(constant)

    def add_global(self, function: types.FunctionType, name: str) -> None:
        """Add what a function finds under a global name.

        What cannot be pickled, such as a lock or a connection, counts by its type: workers have one of their own.
        """
        self._inside_globals += 1
        value = function.__globals__[name]
        if isinstance(value, types.ModuleType):
            self._add_module(value, attribute_names(function))
        else:
            self.add(value)
        self._inside_globals -= 1

    def _note(self, *parts: str | bytes | memoryview) -> None:
        for part in parts:
            data = part.encode("utf-8", "surrogatepass") if isinstance(part, str) else part
            self._hash.update(b"%d:" % len(data))
            self._hash.update(data)

    def _is_known(self, value: Any) -> bool:
        """Whether ``value`` was met before: then its number is noted."""
        number = self._numbers.setdefault(id(value), len(self._met))
        if number < len(self._met):
            self._note("again", hex(number))
            return True
        self._met.append(value)
        return False

    def _forget(self, count: int) -> None:
        for value in self._met[count:]:
            del self._numbers[id(value)]
        del self._met[count:]

    def _add_all(self, kind: str, values: Iterable[Any]) -> None:
        values = tuple(values)
        self._note(kind, hex(len(values)))
        for value in values:
            self.add(value)

    def _add_set(self, values: set[Any] | frozenset[Any]) -> None:
        """Add elements by ascending digest, each as if it were the only one: their order differs from run to run."""
        before, met, found = self._hash, len(self._met), []
        for value in values:
            self._hash = hashlib.blake2b(digest_size=16)
            self.add(value)
            self._forget(met)
            found.append(self._hash.digest())
        self._hash = before
        self._note(qualified_name(type(values)), *sorted(found))

    def _add_object(self, value: Any) -> None:
        kind = type(value)
        wrapped = inspect.getattr_static(value, "__wrapped__", None)
        if kind in _KINDS:
            _KINDS[kind](self, value)
        elif isinstance(value, type):
            self._add_class(value)
        elif isinstance(value, types.ModuleType):
            self._add_module(value)
        elif isinstance(wrapped, types.FunctionType) and is_installed(kind.__module__):
            self._note("wrapped", qualified_name(kind))  # a function with a cache, or a compiled one
            self.add(wrapped)
        else:
            self._add_reduced(value)

    def _add_function(self, function: types.FunctionType) -> None:
        if is_named(function) and function.__module__ not in self._own:
            self._note("name", qualified_name(function))
            return
        self._note("function")
        self.add_code(function.__code__)
        self._add_all("defaults", (function.__defaults__, function.__kwdefaults__, vars(function)))
        self._add_all("closure", (cell for _, cell in closure_of(function)))
        if self._is_followed(function.__module__):
            for name in global_names(function):
                self._note("global", name)
                self.add_global(function, name)

    def _add_class(self, cls: type) -> None:
        if is_named(cls) and cls.__module__ not in self._own:
            self._note("name", qualified_name(cls))
            return
        self._note("class", cls.__qualname__)
        self._add_all("bases", (type(cls), *cls.__bases__))
        self._inside_globals += 1
        for name, value in sorted(vars(cls).items()):
            if name not in _BOOKKEEPING:
                self._note("attribute", name)
                self.add(value)
        self._inside_globals -= 1

    def _add_module(self, module: types.ModuleType, names: Iterable[str] = ()) -> None:
        """A module by its name; of a module of the user's what ``names`` mean in it, too."""
        self._note("module", module.__name__)
        if not self._is_followed(module.__name__):
            return
        for name in names:
            value = vars(module).get(name)
            if isinstance(value, types.ModuleType):
                if not self._is_known(value):
                    self._add_module(value, names)
            elif name in vars(module):
                self._note("global", name)
                self.add(value)

    def _add_cell(self, cell: types.CellType) -> None:
        try:
            self._add_all("cell", [cell.cell_contents])
        except ValueError:  # its variable has no value yet
            self._note("cell")

    def _add_dict(self, value: dict[Any, Any]) -> None:
        """Add keys and values in the order of the dict, which may hold the steps of a pipeline."""
        self._add_all("keys", value.keys())
        self._add_all("values", value.values())

    def _add_reduced(self, value: Any) -> None:
        try:
            found = reduced(value)
        except NotComparableError:
            if not self._inside_globals:
                raise
            self._note("unknown", qualified_name(type(value)))
            self.add(getattr(value, "__dict__", None))
            return
        if isinstance(found, str):
            self._note("name", qualified_name(type(value)), str(getattr(value, "__module__", "")), found)
            return
        make, arguments, state, elements, items = (*found, None, None, None)[:5]
        self._note("object", qualified_name(type(value)))
        self._add_all("made", (make, arguments, state, list(elements or ()), list(items or ())))

    def _is_followed(self, module: str) -> bool:
        return module in self._own or not is_installed(module)


# Of these types themselves: an object of a subclass may hold more, and counts by how it is pickled.
_KINDS: dict[type, Callable[[Digest, Any], None]] = {
    list: lambda digest, value: digest._add_all("list", value),
    dict: Digest._add_dict,
    types.FunctionType: Digest._add_function,
    types.MethodType: lambda digest, value: digest._add_all("method", (value.__func__, value.__self__)),
    types.CodeType: Digest.add_code,
    types.CellType: Digest._add_cell,
    ray.ObjectRef: lambda digest, value: digest.add(ray.get(value)),
    # Ray pickles these in a way of its own, but only once it runs.
    pa.Schema: lambda digest, value: digest._note("schema", memoryview(value.serialize())),
    pa.Table: lambda digest, value: digest._add_all("table", (value.schema, *value.columns)),
    # Its version moves on with each commit of what is computed.
    lance.LanceDataset: lambda digest, value: digest._note("dataset", value.uri),
}


def _bytes_of_array(value: np.ndarray[Any, Any]) -> bytes | memoryview:
    return np.ascontiguousarray(value).reshape(-1).view(np.uint8).data if value.nbytes else b""


def _bytes_of_tensor(value: Any) -> memoryview | None:
    """The bytes of a torch tensor or of its storage; None for other objects, and for tensors that have none."""
    torch = sys.modules.get("torch")
    if torch is None:
        return None
    if isinstance(value, torch.UntypedStorage):
        value = torch.empty(0, dtype=torch.uint8).set_(value.cpu())
    elif type(value) not in (torch.Tensor, torch.nn.Parameter) or not _is_plain(value):
        return None
    plain = value.detach().cpu().resolve_conj().resolve_neg().contiguous().reshape(-1)
    return memoryview(plain.view(torch.uint8).numpy())


def _is_plain(tensor: Any) -> bool:
    """Whether a tensor has its values in memory, one after the other."""
    return str(tensor.layout) == "torch.strided" and not (tensor.is_meta or tensor.is_quantized or tensor.is_nested)
