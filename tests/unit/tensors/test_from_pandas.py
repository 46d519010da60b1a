"""DataFrames that functions return: what is missing is null, what is NaN is NaN."""

from __future__ import annotations

import datetime

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from ray_lance.errors import SchemaMismatchError
from ray_lance.tensors.from_pandas import from_pandas

NAN = float("nan")

COLUMNS = {
    "float64": (np.array([1.0, NAN]), pa.float64(), [1.0, NAN]),
    "float32": (np.array([1.0, NAN], np.float32), pa.float32(), [1.0, NAN]),
    "float16": (np.array([1.0, NAN], np.float16), pa.float16(), [1.0, NAN]),
    "masked float": (
        pd.arrays.FloatingArray(np.array([1.0, NAN, 3.0]), np.array([False, False, True])),
        pa.float64(),
        [1.0, NAN, None],
    ),
    "Arrow float": (pd.array([1.0, None], pd.ArrowDtype(pa.float64())), pa.float64(), [1.0, None]),
    "masked int": (pd.array([1, None], "Int64"), pa.int64(), [1, None]),
    "masked bool": (pd.array([True, None], "boolean"), pa.bool_(), [True, None]),
    "int": (np.array([1, 2], np.int16), pa.int16(), [1, 2]),
    "objects of floats": (pd.Series([1.0, None, NAN], dtype=object), pa.float64(), [1.0, None, NAN]),
    "objects of numpy's floats": (pd.Series([np.float32(1), NAN], dtype=object), None, [1.0, NAN]),
    "objects of nothing but NaN": (pd.Series([NAN, NAN], dtype=object), pa.float64(), [NAN, NAN]),
    "objects with NA": (pd.Series([1.0, pd.NA], dtype=object), pa.float64(), [1.0, None]),
    "objects of ints": (pd.Series([1, None, NAN], dtype=object), pa.int64(), [1, None, None]),
    "objects of text": (pd.Series(["a", None, NAN], dtype=object), pa.string(), ["a", None, None]),
    "text": (pd.array(["a", None], "string"), None, ["a", None]),
    "bytes": (pd.Series([b"a", None], dtype=object), pa.binary(), [b"a", None]),
    "times": (pd.Series([pd.Timestamp("2020"), pd.NaT]), None, [datetime.datetime(2020, 1, 1), None]),
    "dates": (
        pd.Series([datetime.date(2020, 1, 1), None], dtype=object),
        pa.date32(),
        [datetime.date(2020, 1, 1), None],
    ),
    "categories": (pd.Categorical(["a", None, "b"]), None, ["a", None, "b"]),
    "arrays": (pd.Series([np.array([1.0, NAN]), None]), pa.list_(pa.float64()), [[1.0, NAN], None]),
    "lists": (pd.Series([[1.0, NAN], NAN]), pa.list_(pa.float64()), [[1.0, NAN], None]),
    "dicts": (pd.Series([{"a": NAN}, {"a": 1.0}]), pa.struct({"a": pa.float64()}), [{"a": NAN}, {"a": 1.0}]),
    "tensors": (pd.Series([np.array([[1.0, NAN]]), None]), pa.fixed_shape_tensor(pa.float64(), [1, 2]), None),
}


@pytest.mark.parametrize("name", COLUMNS)
def test_nan_stays_and_what_is_missing_is_null(name):
    values, dtype, expected = COLUMNS[name]

    column = from_pandas(pd.DataFrame({"x": values}))["x"]

    assert dtype is None or column.type == dtype
    assert expected is None or repr(column.to_pylist()) == repr(expected)
    assert expected is not None or column.null_count == 1


def test_nan_is_a_missing_integer_where_integers_are_asked_for():
    frame = pd.DataFrame({"x": [1.0, NAN], "y": [1.0, NAN]})

    table = from_pandas(frame, pa.schema({"x": pa.int64(), "y": pa.float32()}))

    assert repr(table.to_pydict()) == repr({"x": [1.0, None], "y": [1.0, NAN]})


def test_names_and_order_are_kept_and_the_index_is_not():
    frame = pd.DataFrame({"b": [1], 3: [2], "a": [3]}, index=["row"])

    assert from_pandas(frame).column_names == ["b", "3", "a"]


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (pd.DataFrame({"x": [1 + 2j]}), "'x' of dtype complex128 cannot be stored"),
        (pd.DataFrame({"x": pd.arrays.SparseArray([0.0, NAN])}), "'x' of dtype Sparse"),
        (pd.DataFrame({"x": [object()]}), "'x' of dtype object cannot be stored"),
        (pd.DataFrame([[1, 2]], columns=["x", "x"]), r"columns \['x'\] occur twice"),
    ],
    ids=["complex", "sparse", "object", "twice"],
)
def test_what_has_no_type_is_refused_by_name(frame, message):
    with pytest.raises(SchemaMismatchError, match=message):
        from_pandas(frame)
