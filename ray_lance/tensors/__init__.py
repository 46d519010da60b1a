"""Arrow <-> torch, for every type that Lance stores, in both directions.

kinds           what a column means, by its type and extension metadata
memory          flat Arrow arrays <-> flat tensors, over the same memory
fixed_shape     rows of one shape: taken apart, put together, nulls that travel as NaN
ragged          rows of different lengths and shapes
shapes          rows of tensors in any layout: as flat values and shapes, and back
categories      dictionary-encoded columns: as values, or as codes of one dictionary
tensor_options  what callers give for ragged columns, nulls and categories, checked
dense           the registry of types that become one tensor
to_torch        Arrow -> torch: to_tensors, and the registry of all other types
from_torch      torch, numpy, lists -> Arrow: from_tensors
from_pandas     DataFrames -> Arrow
to_ray          Lance -> Ray Data: deliver
from_ray        Ray Data -> Lance: storable
filling         nulls replaced in Arrow
casts           conform: fit a schema, where that loses nothing; value_casts: one column of plain values
unify           one schema for several; number_types: one type for several of numbers
field_code      fields as Python code, for errors
objects         Arrow -> Python objects, of all but pickles
dtypes          one dtype for several columns of numbers
pickling        types that pyarrow itself cannot pickle, or not completely

Importing this package imports neither Ray nor Lance.
"""

from __future__ import annotations

from ray_lance.tensors.casts import conform
from ray_lance.tensors.categories import Categories, CategoryOption
from ray_lance.tensors.from_ray import storable, storable_schema
from ray_lance.tensors.from_torch import from_tensors
from ray_lance.tensors.kinds import FixedShape, VariableShape, tensor_kind
from ray_lance.tensors.pickling import register
from ray_lance.tensors.tensor_options import Fill, FillValue, Ragged, named_fill
from ray_lance.tensors.to_ray import deliver, delivered_schema
from ray_lance.tensors.to_torch import Tensors, to_tensors

register()

__all__ = [
    "Categories",
    "CategoryOption",
    "Fill",
    "FillValue",
    "FixedShape",
    "Ragged",
    "Tensors",
    "VariableShape",
    "conform",
    "deliver",
    "delivered_schema",
    "from_tensors",
    "named_fill",
    "storable",
    "storable_schema",
    "tensor_kind",
    "to_tensors",
]
