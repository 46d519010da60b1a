"""How objects show themselves: a line in a terminal, a table in a notebook."""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from typing import Any

__all__ = ["Facts", "FieldFacts", "facts_as_html", "html_table"]


class Facts:
    """Shows the facts of an object. Those that are None are left out, and none may be a secret."""

    def _facts(self) -> Mapping[str, Any]:
        raise NotImplementedError

    def __repr__(self) -> str:
        facts = (f"{name}={value!r}" for name, value in self._facts().items() if value is not None)
        return f"{type(self).__name__}({', '.join(facts)})"

    def _repr_html_(self) -> str:
        return facts_as_html(type(self).__name__, self._facts())


class FieldFacts(Facts):
    """Shows the fields of a dataclass, those that it hides aside."""

    def _facts(self) -> Mapping[str, Any]:
        return {each.name: getattr(self, each.name) for each in fields(self) if each.repr}  # type: ignore[arg-type]


def facts_as_html(title: str, facts: Mapping[str, Any]) -> str:
    """A table of what is known of something; facts that are None are left out."""
    lines = [[name, str(value)] for name, value in facts.items() if value is not None]
    return f"<p><b>{html.escape(title)}</b></p>{html_table(lines)}"


def html_table(lines: Iterable[Sequence[str]], head: Sequence[str] = ()) -> str:
    """A table of lines of text, below a line of titles where there is one."""
    titles = "".join(f"<th>{html.escape(cell)}</th>" for cell in head)
    rows = "".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in line) + "</tr>" for line in lines)
    return f"<table>{f'<thead><tr>{titles}</tr></thead>' if head else ''}<tbody>{rows}</tbody></table>"
