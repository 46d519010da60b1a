"""What releases of pyarrow do not agree on: types that older ones lack, and values that they treat otherwise."""

from __future__ import annotations

from functools import cache

import numpy as np
import pyarrow as pa

__all__ = ["fill_nulls", "loses_null_tensors", "type_ids"]


def type_ids(*names: str) -> list[int]:
    """The ids of those Arrow types that this release has, by its names for them."""
    return [found for name in names if (found := getattr(pa.lib, f"Type_{name}", None)) is not None]


def fill_nulls(array: pa.Array, value: pa.Scalar) -> pa.Array:
    """``array`` with ``value`` in the place of nulls."""
    if not pa.types.is_float16(array.type):
        return array.fill_null(value)
    # Before pyarrow 21 float16 can only be filled as the integers of the same bits.
    bits = pa.scalar(int(np.float16(value.as_py()).view(np.uint16)), pa.uint16())
    return array.view(pa.uint16()).fill_null(bits).view(pa.float16())


@cache
def loses_null_tensors() -> bool:
    """Whether a null among tensors of one shape becomes numbers in NumPy, as it does before pyarrow 26."""
    tensors = pa.fixed_shape_tensor(pa.int8(), [1]).wrap_array(pa.array([None], pa.list_(pa.int8(), 1)))
    try:
        tensors.to_numpy_ndarray()
    except pa.ArrowInvalid:
        return False
    return True
