"""Tells what a column means: a field in; the kind of tensor, blob or extension that it holds out.

An extension type occurs in two forms: as a type object, if the library that owns it has registered it in this process,
or as its storage type with the name and the parameters in the field's metadata. Only this module reads both.
Parameters are JSON; nothing is ever unpickled.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from ray_lance.errors import RayLanceError, SchemaMismatchError, TensorConversionError

__all__ = [
    "BFLOAT16",
    "BLOB",
    "BLOB_MARK",
    "RAY_TYPES",
    "ROW_COUNT_COLUMN",
    "VARIABLE_SHAPE",
    "FixedShape",
    "VariableShape",
    "bfloat16_field",
    "child_fields",
    "extension_name",
    "holds_blobs",
    "is_bfloat16",
    "is_blob",
    "is_list",
    "is_numeric",
    "is_older_blob",
    "refuse_pickled",
    "retyped",
    "shown_type",
    "storage_type",
    "tensor_kind",
    "variable_shape_field",
    "with_children",
]

BFLOAT16 = "lance.bfloat16"
BLOB = "lance.blob.v2"
BLOB_MARK = {b"lance-encoding:blob": b"true"}  # metadata of blobs of the older layout
VARIABLE_SHAPE = "arrow.variable_shape_tensor"
RAY_FIXED = frozenset({"ray.data.arrow_tensor", "ray.data.arrow_tensor_v2"})
RAY_VARIABLE = "ray.data.arrow_variable_shaped_tensor"
RAY_PICKLED = "ray.data.arrow_pickled_object"
RAY_TYPES = RAY_FIXED | {RAY_VARIABLE, RAY_PICKLED}
ROW_COUNT_COLUMN = "__bsp_stub"  # carries the number of rows in Ray's blocks without columns
LANCE_IMAGE = "lance.arrow.fixed_shape_image_tensor"

_NAME, _PARAMETERS = b"ARROW:extension:name", b"ARROW:extension:metadata"
_EXTENSION_KEYS = frozenset({_NAME, _PARAMETERS})


@dataclass(frozen=True)
class FixedShape:
    """A column of tensors of one shape.

    Attributes:
        value: Element field; its metadata tells bfloat16 from plain two-byte binary.
        shape: Shape of one row as stored, in row-major order.
        permutation: Logical dimension ``i`` is stored dimension ``permutation[i]``; None where they agree.
    """

    value: pa.Field
    shape: tuple[int, ...]
    permutation: tuple[int, ...] | None = None

    @property
    def size(self) -> int:
        """Elements per row."""
        return math.prod(self.shape)

    @property
    def ndim(self) -> int:
        """Dimensions of each row."""
        return len(self.shape)


@dataclass(frozen=True)
class VariableShape:
    """A column of tensors that differ in shape and agree in the number of dimensions ``ndim``."""

    value: pa.Field
    ndim: int


def extension_name(field: pa.Field) -> str | None:
    """Name of the extension type of ``field``, in either form; None for a plain type."""
    if isinstance(field.type, pa.BaseExtensionType):
        return str(field.type.extension_name)
    name = (field.metadata or {}).get(_NAME)
    return None if name is None else name.decode()


def shown_type(field: pa.Field) -> str:
    """The type of ``field`` for messages: the name of its extension if only the metadata has it."""
    name = extension_name(field)
    return str(field.type) if name is None or isinstance(field.type, pa.BaseExtensionType) else name


def storage_type(dtype: pa.DataType) -> pa.DataType:
    """The type that is stored: ``dtype`` itself unless it is an extension type."""
    return dtype.storage_type if isinstance(dtype, pa.BaseExtensionType) else dtype


def child_fields(dtype: pa.DataType) -> list[pa.Field]:
    """The fields of a nested type; none for extension types, which count as one value."""
    if isinstance(dtype, pa.BaseExtensionType):
        return []
    return [dtype.field(index) for index in range(dtype.num_fields)]


def with_children(dtype: pa.DataType, children: list[pa.Field]) -> pa.DataType:
    """A nested type with other fields; a type that is not nested itself."""
    if pa.types.is_fixed_size_list(dtype):
        return pa.list_(children[0], dtype.list_size)
    if pa.types.is_list(dtype):
        return pa.list_(children[0])
    if pa.types.is_large_list(dtype):
        return pa.large_list(children[0])
    if pa.types.is_map(dtype):
        key, item = child_fields(children[0].type)
        return pa.map_(key.with_nullable(False), item, keys_sorted=dtype.keys_sorted)
    return pa.struct(children) if pa.types.is_struct(dtype) else dtype


def is_bfloat16(field: pa.Field) -> bool:
    """Whether ``field`` holds bfloat16 numbers as Lance stores them: two bytes, little endian."""
    stored = storage_type(field.type)
    return pa.types.is_fixed_size_binary(stored) and stored.byte_width == 2 and extension_name(field) == BFLOAT16


def is_blob(field: pa.Field) -> bool:
    """Whether ``field`` holds blobs, in either of Lance's layouts."""
    return extension_name(field) == BLOB or is_older_blob(field)


def is_older_blob(field: pa.Field) -> bool:
    """Whether ``field`` holds blobs in the older layout, or descriptors of such."""
    return BLOB_MARK.items() <= (field.metadata or {}).items()


def holds_blobs(field: pa.Field) -> bool:
    """Whether there are blobs in ``field``, at any depth."""
    return is_blob(field) or any(holds_blobs(child) for child in child_fields(field.type))


def is_list(dtype: pa.DataType) -> bool:
    """Whether ``dtype`` is a list of any kind: of any offsets, of fixed size, or a view."""
    kinds = (
        pa.types.is_list,
        pa.types.is_large_list,
        pa.types.is_fixed_size_list,
        pa.types.is_list_view,
        pa.types.is_large_list_view,
    )
    return any(is_kind(dtype) for is_kind in kinds)


def is_numeric(dtype: pa.DataType) -> bool:
    """Whether ``dtype`` is an integer or floating-point type (bool is neither)."""
    return bool(pa.types.is_integer(dtype) or pa.types.is_floating(dtype))


def bfloat16_field(name: str, metadata: dict[bytes, bytes] | None = None) -> pa.Field:
    """A field of Lance's bfloat16, as storage and metadata, so that making and pickling it needs no Lance.

    The order of the metadata, which is part of a serialized schema, is always the same.
    """
    kept = {key: text for key, text in (metadata or {}).items() if key not in _EXTENSION_KEYS}
    return pa.field(name, pa.binary(2), metadata={**kept, _NAME: BFLOAT16.encode(), _PARAMETERS: b""})


def retyped(field: pa.Field, dtype: pa.DataType) -> pa.Field:
    """``field`` with another type, and without the metadata of its extension type."""
    kept = {key: text for key, text in (field.metadata or {}).items() if key not in _EXTENSION_KEYS}
    return field.with_type(dtype).with_metadata(kept or None)


def variable_shape_field(field: pa.Field, value: pa.Field, ndim: int) -> pa.Field:
    """``field`` as Arrow's canonical variable-shape tensor: struct{data: list<T>, shape: int32[ndim]}.

    The form with metadata is used, because pyarrow cannot pickle the type object.
    """
    stored = pa.struct([("data", pa.list_(value)), ("shape", pa.list_(pa.int32(), ndim))])
    plain = retyped(field, stored)
    return plain.with_metadata({**(plain.metadata or {}), _NAME: VARIABLE_SHAPE.encode(), _PARAMETERS: b"{}"})


def tensor_kind(field: pa.Field) -> FixedShape | VariableShape | None:
    """The kind of tensor that a column holds, according to its schema.

    Args:
        field: Field of the column, in either form of its extension type.

    Returns:
        None where a row is not a tensor: numbers, lists, strings, structs and all other types.

    Raises:
        TensorConversionError: Metadata of a known tensor type that is not the JSON it should be.
    """
    name = extension_name(field)
    if name is None:
        return _fixed_size_list(field.type) if pa.types.is_fixed_size_list(field.type) else None
    stored = storage_type(field.type)
    if isinstance(field.type, pa.FixedShapeTensorType):
        permutation = field.type.permutation
        return FixedShape(
            pa.field("item", field.type.value_type),
            tuple(field.type.shape),
            None if not permutation or permutation == sorted(permutation) else tuple(permutation),
        )
    if name in RAY_FIXED:
        return FixedShape(stored.value_field, _sizes(field, _parameters(field, "shape")))
    if name == LANCE_IMAGE:
        parameters = _parameters(field, "shape")
        shape = parameters.get("shape") if isinstance(parameters, dict) else parameters
        return FixedShape(stored.value_field, _sizes(field, shape))
    if name == RAY_VARIABLE:
        return VariableShape(stored.field("data").type.value_field, *_sizes(field, [_parameters(field, "ndim")]))
    if name == VARIABLE_SHAPE:
        _refuse_permuted(field)
        return VariableShape(stored.field("data").type.value_field, stored.field("shape").type.list_size)
    return None


def refuse_pickled(field: pa.Field, error: type[RayLanceError] = SchemaMismatchError) -> None:
    """Raise ``error`` where ``field`` holds, at any depth, pickled Python objects."""
    if extension_name(field) == RAY_PICKLED:
        raise error(
            f"column {field.name!r} holds pickled Python objects, which can run any code and so are never read from "
            "nor written to a dataset: leave the column out, or write it with an Arrow type, for instance numbers, "
            "strings or tensors of one dtype. Of lists and structs, map_batches(..., batch_format='pyarrow') makes no "
            "such objects"
        )
    stored = storage_type(field.type)
    children = [stored.field(index) for index in range(stored.num_fields)]
    if pa.types.is_dictionary(stored):  # which counts its values as no field
        children.append(pa.field(field.name, stored.value_type))
    for child in children:
        refuse_pickled(child.with_name(field.name), error)


def _fixed_size_list(dtype: pa.DataType) -> FixedShape | None:
    shape: list[int] = []
    value = None
    while pa.types.is_fixed_size_list(dtype):
        shape.append(dtype.list_size)
        value, dtype = dtype.value_field, dtype.value_type
    if value is None or not (is_numeric(dtype) or pa.types.is_boolean(dtype) or is_bfloat16(value)):
        return None
    return FixedShape(value, tuple(shape))


def _parameters(field: pa.Field, attribute: str) -> Any:
    """Parameters of an extension type: from the live type object, else from JSON metadata."""
    if isinstance(field.type, pa.BaseExtensionType):
        return getattr(field.type, attribute)
    text = (field.metadata or {}).get(_PARAMETERS, b"")
    try:
        return json.loads(text)
    except ValueError:
        raise TensorConversionError(
            f"column {field.name!r}: the metadata of its type {extension_name(field)!r} is not JSON. Old versions of "
            "Ray wrote pickled metadata, which is never loaded here: rewrite the dataset with Ray 2.55 or later"
        ) from None


def _sizes(field: pa.Field, sizes: Any) -> tuple[int, ...]:
    valid = isinstance(sizes, (list, tuple)) and all(type(size) is int and size >= 0 for size in sizes)
    if not valid:
        raise TensorConversionError(
            f"column {field.name!r}: {sizes!r} in the metadata of its type {extension_name(field)!r} is no shape, "
            "which is a list of sizes of at least 0"
        )
    return tuple(sizes)


def _refuse_permuted(field: pa.Field) -> None:
    # The type object shows its permutation in its text only.
    live = isinstance(field.type, pa.BaseExtensionType)
    text = str(field.type) if live else (field.metadata or {}).get(_PARAMETERS, b"").decode()
    if '"permutation"' in text or "permutation=" in text:
        raise TensorConversionError(
            f"column {field.name!r}: {VARIABLE_SHAPE} with a permutation of its dimensions is not supported; "
            "store its tensors in row-major order"
        )
