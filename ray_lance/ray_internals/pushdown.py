"""What Ray pushes down to a datasource."""

from __future__ import annotations

from typing import Any

from ray.data.expressions import Expr

from ray_lance.ray_internals.ways import fast_module

__all__ = ["columns_of", "note_predicate", "pushes_down"]

_pushdown = fast_module("_pushdown", "projections and filters after the read are pushed down to Lance")


def pushes_down() -> bool:
    """Whether a datasource may take projections and predicates; by the public way Ray applies them to the rows."""
    return _pushdown is not None


def columns_of(predicate: Expr) -> list[Any]:
    """The columns that a predicate names, which has been pushed down."""
    assert _pushdown is not None
    return list(_pushdown.columns_of(predicate))


def note_predicate(datasource: Any, predicate: Expr) -> None:
    """Tell Ray, which asks the datasource, that a predicate has been pushed down to it beside those before."""
    before = datasource._predicate_expr
    datasource._predicate_expr = predicate if before is None else before & predicate
