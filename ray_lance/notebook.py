"""Shows objects: facts by name in, a line for a terminal and a table for a notebook out."""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from typing import Any, ClassVar

__all__ = ["Count", "Facts", "FieldFacts", "html_table"]


class Facts:
    """Shows the facts of an object. Those that are None are left out, and none may be a secret."""

    # The fact that a line begins with, even if it is None, without its name.
    _first_fact: ClassVar[str | None] = None

    def _facts(self) -> Mapping[str, Any]:
        raise NotImplementedError

    def __repr__(self) -> str:
        facts = {**self._facts()}
        parts = [] if self._first_fact is None else [repr(facts.pop(self._first_fact))]
        parts += [f"{name}={value!r}" for name, value in facts.items() if value is not None]
        return f"{type(self).__name__}({', '.join(parts)})"

    def _repr_html_(self) -> str:
        lines = [[name, str(value)] for name, value in self._facts().items() if value is not None]
        return f"<p><b>{html.escape(type(self).__name__)}</b></p>{html_table(lines)}"


class Count(int):
    """A number that is shown with commas."""

    def __repr__(self) -> str:
        return f"{self:,}"

    __str__ = int.__repr__


class FieldFacts(Facts):
    """Shows the fields of a dataclass, those that it hides aside."""

    def _facts(self) -> Mapping[str, Any]:
        return {each.name: getattr(self, each.name) for each in fields(self) if each.repr}  # type: ignore[arg-type]


def html_table(lines: Iterable[Sequence[str]], head: Sequence[str] = ()) -> str:
    """A table of lines of text, below a line of titles where there is one."""
    titles = "".join(f"<th>{html.escape(cell)}</th>" for cell in head)
    rows = "".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in line) + "</tr>" for line in lines)
    return f"<table>{f'<thead><tr>{titles}</tr></thead>' if head else ''}<tbody>{rows}</tbody></table>"
