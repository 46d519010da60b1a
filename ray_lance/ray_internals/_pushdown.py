"""The fast way of pushdown: projections by name, and predicates that a datasource may decline. See ``pushdown.py``."""

from __future__ import annotations

from dataclasses import is_dataclass

from ray.data._internal.logical.operators import Read
from ray.data._internal.planner.plan_expression.expression_visitors import _ColumnReferenceCollector
from ray.data.datasource import Datasource
from ray.data.expressions import Expr

from ray_lance.ray_internals.ways import MissingNameError, needs

__all__ = ["columns_of"]

needs(Datasource, "supports_predicate_pushdown", "apply_predicate", "apply_projection", "_projection_map")
if not is_dataclass(Read):
    # Before Read became one (Ray 2.56), Ray took a predicate for pushed down that the datasource had declined, and
    # left renaming of columns to the datasource.
    raise MissingNameError("Ray drops predicates that a datasource declines")


def columns_of(predicate: Expr) -> list[str]:
    """The columns that a predicate names."""
    collector = _ColumnReferenceCollector()
    collector.visit(predicate)
    return list(collector.get_column_refs())
