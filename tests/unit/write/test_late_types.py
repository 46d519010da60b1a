"""Tasks that see different blocks of one Ray dataset write one dataset, in types that hold the values of all."""

from __future__ import annotations

import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import lance
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from ray.data._internal.tensor_extensions.arrow import ArrowTensorArray, ArrowVariableShapedTensorArray

from ray_lance.errors import InvalidArgumentError, SchemaMismatchError, UnknownColumnError
from ray_lance.fields import blob
from tests.orphans import leftovers, orphans
from tests.sinks import column_of, one_task_each, sink_tasks


def block(*rows: Any) -> pa.Table:
    return pa.Table.from_pylist([{"x": row} for row in rows])


def written(uri: str, blocks: list[pa.Table], together: bool, **options: Any) -> None:
    sink_tasks(uri, [blocks] if together else [[each] for each in blocks], **options)


together = pytest.mark.parametrize("together", [True, False], ids=["one task", "a task each"])

LATE = {
    "an empty list first": ([[]], [["a"]], pa.list_(pa.string())),
    "a null first": ([None], ["a"], pa.string()),
    "a null in a struct": ([{"a": None}], [{"a": 1}], pa.struct([("a", pa.int64())])),
    "a null in a list": ([[None]], [[1.5]], pa.list_(pa.float64())),
    "fields that come later": (
        [{"a": 1}],
        [{"a": 2, "b": {"c": ["x"]}}],
        pa.struct([("a", pa.int64()), ("b", pa.struct([("c", pa.list_(pa.string()))]))]),
    ),
    "structs in lists": (
        [[{"a": 1}], []],
        [[{"b": [{"c": "x"}]}]],
        pa.list_(pa.struct([("a", pa.int64()), ("b", pa.list_(pa.struct([("c", pa.string())])))])),
    ),
    "growing decimals": ([Decimal("1.5")], [Decimal("12345.25")], pa.decimal128(7, 2)),
    "an integer before a float": ([1], [1.5], pa.float64()),
    "an integer before a float, in a list": ([[1], None], [[1.5]], pa.list_(pa.float64())),
    "finer times": (
        pa.array([1], pa.timestamp("s", "UTC")),
        pa.array([1_500], pa.timestamp("ms", "UTC")),
        pa.timestamp("ms", "UTC"),
    ),
    "categories and text": (pa.array(["a", None]).dictionary_encode(), ["b"], pa.string()),
    "shorter vectors": (
        pa.array([[1.0, 2.0]], pa.list_(pa.float32(), 2)),
        pa.array([[3.0]], pa.list_(pa.float32(), 1)),
        pa.list_(pa.float32()),
    ),
}


def as_block(rows: Any) -> pa.Table:
    return pa.table({"x": rows}) if isinstance(rows, pa.Array) else block(*rows)


def completed(row: Any, like: Any) -> Any:
    """``row`` with the fields that it lacks as nulls."""
    if isinstance(row, dict):
        return {field.name: completed(row.get(field.name), field.type) for field in like}
    return [completed(item, like.value_type) for item in row] if isinstance(row, list) else row


@together
@pytest.mark.parametrize("name", LATE)
@pytest.mark.parametrize("backwards", [False, True])
def test_types_that_are_seen_late_are_those_of_the_column(uri, tmp_path, name, together, backwards):
    first, second, expected = LATE[name]
    blocks = [as_block(first), as_block(second), as_block(first).slice(0, 1)]
    blocks = blocks[::-1] if backwards else blocks

    written(uri, blocks, together)

    assert lance.dataset(uri).schema.field("x").type == expected
    assert column_of(uri) == [completed(row, expected) for each in blocks for row in each["x"].to_pylist()]
    assert orphans(uri) == []


@together
def test_a_column_that_is_seen_late_is_null_before(uri, together):
    blocks = [pa.table({"a": [1]}), pa.table({"b": ["x"], "a": [2]}), pa.table({"c": [[1.5]]})]

    written(uri, blocks, together)

    expected = {"a": [1, 2, None], "b": [None, "x", None], "c": [None, None, [1.5]]}
    assert lance.dataset(uri).to_table().to_pydict() == expected
    assert orphans(uri) == []


def arrays(*shape: int, count: int = 2, dtype: Any = np.float32) -> list[np.ndarray]:
    return [np.arange(int(np.prod(shape))).reshape(shape).astype(dtype) + row for row in range(count)]


def uniform(*shape: int, **options: Any) -> pa.Table:
    return pa.table({"x": ArrowTensorArray.from_numpy(np.stack(arrays(*shape, **options)))})


def ragged(*rows: np.ndarray) -> pa.Table:
    return pa.table({"x": ArrowVariableShapedTensorArray.from_numpy(list(rows))})


IMAGES = {
    "padded per batch": ([uniform(1, 2), uniform(3, 2)], arrays(1, 2) + arrays(3, 2)),
    "uniform after ragged": (
        [ragged(np.ones((2, 3)), np.ones((1, 1))), uniform(2, 2, dtype=np.float64)],
        [np.ones((2, 3)), np.ones((1, 1)), *arrays(2, 2)],
    ),
    "uniform before ragged": (
        [uniform(2, 2, dtype=np.float64), ragged(np.ones((2, 3)), np.ones((1, 1)))],
        [*arrays(2, 2), np.ones((2, 3)), np.ones((1, 1))],
    ),
    "colours": (
        [uniform(2, 1, 3, dtype=np.uint8), uniform(1, 2, 3, dtype=np.uint8)],
        arrays(2, 1, 3) + arrays(1, 2, 3),
    ),
}


@together
@pytest.mark.parametrize("name", IMAGES)
def test_tensors_of_many_shapes_are_written_added_and_replaced(uri, name, together):
    blocks, expected = IMAGES[name]

    written(uri, blocks, together)
    for mode in ("append", "overwrite"):
        written(uri, blocks, together, mode=mode)

        rows = column_of(uri)
        assert [row["shape"] for row in rows] == [list(each.shape) for each in expected] * (
            2 if mode == "append" else 1
        )
        values = [value for row in rows for value in row["data"]]
        assert values == [value for each in expected for value in each.reshape(-1)] * (2 if mode == "append" else 1)
        assert orphans(uri) == []


@together
def test_vectors_of_many_lengths_are_lists(uri, together):
    blocks = [uniform(3), uniform(4), ragged(np.ones(2, np.float32), np.ones(1, np.float32)), block([1.0, 2.0])]

    written(uri, blocks, together)
    written(uri, blocks[1:2], together, mode="append")

    assert lance.dataset(uri).schema.field("x").type == pa.list_(pa.float64())
    assert [len(row) for row in column_of(uri)] == [3, 3, 4, 4, 2, 1, 2, 4, 4]


@together
@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        ([1], ["a"], r"column 'x' is int64 .* string .*schema=\[pyarrow\.field\('x', pyarrow\.int64\(\)\)\]"),
        ([{"a": [1]}], [{"a": ["b"]}], r"column 'x\.a' is int64 .* string .*schema="),
        ([2**60 + 1], [1.5], r"'x': 1152921504606846977 .* float|double"),
        ([datetime.datetime(2020, 1, 1)], [datetime.datetime(2020, 1, 1, tzinfo=datetime.timezone.utc)], "tz=UTC"),
        ([datetime.date(2020, 1, 1)], [datetime.datetime(2020, 1, 1)], "date32"),
        ([[]], [[None]], r"columns \['x'\] hold only nulls .*schema=\[.*pyarrow\.list_\(pyarrow\.string\(\)\)\)\]"),
        (
            [{"a": None}],
            [{"b": 1}],
            r"columns \['x'\] .*pyarrow\.struct\(\[\('a', pyarrow\.string\(\)\), \('b', pyarrow",
        ),
    ],
)
def test_what_no_type_holds_is_refused_and_says_what_to_write(uri, tmp_path, first, second, message, together):
    with pytest.raises(SchemaMismatchError, match=message):
        written(uri, [block(*first), block(*second)], together)

    assert leftovers(tmp_path) == []


def test_tensors_of_other_dimensions_are_refused(uri, tmp_path):
    with pytest.raises(SchemaMismatchError, match=r"shape=\[2,2\].*shape=\[2,2,3\]"):
        one_task_each(uri, uniform(2, 2), uniform(2, 2, 3))

    assert leftovers(tmp_path) == []


@together
def test_the_schema_that_the_error_shows_is_taken(uri, together):
    rows = [block([]), block([], None)]

    written(uri, rows, together, schema=[pa.field("x", pa.list_(pa.string()))])

    assert column_of(uri) == [[], [], None]
    assert lance.dataset(uri).schema.field("x").type == pa.list_(pa.string())


def test_a_field_is_given_for_a_column_that_only_some_blocks_have(uri):
    one_task_each(uri, pa.table({"a": [1]}), pa.table({"a": [2], "b": [None]}), schema=[pa.field("b", pa.int8())])

    assert lance.dataset(uri).to_table().to_pydict() == {"a": [1, 2], "b": [None, None]}
    assert lance.dataset(uri).schema.field("b").type == pa.int8()


def test_a_field_for_a_column_that_no_block_has_is_refused(uri, tmp_path):
    with pytest.raises(UnknownColumnError, match=r"'bb'\. Did you mean 'b'"):
        one_task_each(uri, pa.table({"a": [1], "b": [1]}), schema=[pa.field("bb", pa.int8())])

    assert leftovers(tmp_path) == []


def test_blobs_are_not_written_again_but_the_error_says_how_to_do_without(uri, tmp_path):
    blocks = [pa.table({"b": [b"x"], "n": [1]}), pa.table({"b": [b"y"], "n": [1.5]})]

    with pytest.raises(SchemaMismatchError, match=r"\['b'\].*schema=\[pyarrow\.field\('n', pyarrow\.float64\(\)\)\]"):
        one_task_each(uri, *blocks, schema=[blob("b")])
    assert leftovers(tmp_path) == []
    one_task_each(uri, *blocks, schema=[blob("b"), pa.field("n", pa.float64())])

    assert lance.dataset(uri).scanner(blob_handling="all_binary").to_table()["b"].to_pylist() == [b"x", b"y"]


def test_only_files_that_differ_are_written_again(uri):
    tables = [pa.table({"x": [1.5] * 10}), pa.table({"x": [1] * 10}), pa.table({"x": [2.5] * 10})]

    summary = one_task_each(uri, *tables)

    assert (summary.rows, summary.fragments) == (30, 3)
    assert column_of(uri) == [1.5] * 10 + [1.0] * 10 + [2.5] * 10
    assert summary.bytes == sum(path.stat().st_size for path in Path(uri, "data").iterdir())


def test_memory_does_not_grow_with_the_files_that_are_written_again(uri, monkeypatch):
    seen = []
    from ray_lance.write import rewrite

    table = rewrite.FileRows.table

    def noted(self, start: int, stop: int) -> pa.Table:
        rows = table(self, start, stop)
        seen.append(rows.nbytes)
        return rows

    monkeypatch.setattr(rewrite.FileRows, "table", noted)
    monkeypatch.setattr("ray.is_initialized", lambda: False)  # else it is done in tasks, where nothing is noted
    large = np.random.default_rng(0).integers(0, 2**40, 4_000_000)

    one_task_each(uri, pa.table({"x": large}), pa.table({"x": [0.5]}))

    assert lance.dataset(uri).to_table()["x"][:-1].to_numpy().tolist() == large.tolist()
    assert sum(seen) == large.nbytes
    assert max(seen) <= 8 * 2**20


FRAMES = {
    "no value of a float": (pd.DataFrame({"x": [np.nan]}), [None], pa.float64()),
    "no value of a date": (pd.DataFrame({"x": pd.Series([None], dtype="datetime64[ns]")}), [None], pa.timestamp("ns")),
    "categories": (
        pd.DataFrame({"x": pd.Categorical(pd.Series(["a", "b", None], dtype="str"))}),
        ["a", "b", None],
        pa.large_string(),
    ),
}


@pytest.mark.parametrize("name", FRAMES)
def test_frames_tell_types_by_their_dtypes(uri, name):
    frame, expected, dtype = FRAMES[name]

    one_task_each(uri, frame, frame)

    stored = lance.dataset(uri).schema.field("x").type
    assert (stored.value_type if pa.types.is_dictionary(stored) else stored) == dtype
    assert column_of(uri) == expected * 2


def test_frames_whose_categories_differ_are_one_column(uri):
    """More categories than the int8 of each frame can tell apart."""
    frames = [pd.DataFrame({"x": pd.Categorical([f"{name}{i}" for i in range(100)])}) for name in "abc"]

    one_task_each(uri, *frames)
    sink_tasks(uri, [frames], mode="append")

    assert column_of(uri) == [word for frame in frames for word in frame["x"]] * 2


def test_frames_of_objects_of_many_types_are_refused(uri, tmp_path):
    with pytest.raises((SchemaMismatchError, InvalidArgumentError), match="x"):
        one_task_each(uri, pd.DataFrame({"x": [1, "a", object()]}))

    assert leftovers(tmp_path) == []
