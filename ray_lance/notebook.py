"""Tables in the HTML that notebooks show."""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

__all__ = ["facts_as_html", "html_table"]


def facts_as_html(title: str, facts: Mapping[str, Any]) -> str:
    """A table of what is known of something; facts that are None are left out."""
    lines = [[name, str(value)] for name, value in facts.items() if value is not None]
    return f"<p><b>{html.escape(title)}</b></p>{html_table(lines)}"


def html_table(lines: Iterable[Sequence[str]], head: Sequence[str] = ()) -> str:
    """A table of lines of text, below a line of titles where there is one."""
    titles = "".join(f"<th>{html.escape(cell)}</th>" for cell in head)
    rows = "".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in line) + "</tr>" for line in lines)
    return f"<table>{f'<thead><tr>{titles}</tr></thead>' if head else ''}<tbody>{rows}</tbody></table>"
