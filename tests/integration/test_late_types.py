"""Ray datasets whose blocks differ in their types, written in every mode."""

from __future__ import annotations

import traceback

import lance
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import ray
from PIL import Image
from ray.data._internal.tensor_extensions.arrow import ArrowTensorArray, ArrowVariableShapedTensorArray

from ray_lance import InvalidArgumentError, SchemaMismatchError, read_lance, write_lance
from tests.orphans import orphans


def items(*rows: object) -> ray.data.Dataset:
    """One block for each row, and a file for each block."""
    return ray.data.from_items(
        [{"id": number, "x": row} for number, row in enumerate(rows)], override_num_blocks=len(rows)
    )


def stored(uri: str) -> dict[int, object]:
    table = lance.dataset(uri).to_table()
    chunks = table["x"].chunks
    values = [row for c in chunks for row in (c.storage if isinstance(c, pa.ExtensionArray) else c).to_pylist()]
    return dict(zip(table["id"].to_pylist(), values, strict=True))


ROWS = {
    "empty lists": ([[], ["a"], None], pa.list_(pa.string()), [[], ["a"], None]),
    "fields": (
        [{"a": 1}, {"b": [1.5]}, {"a": None}],
        pa.struct([("a", pa.int64()), ("b", pa.list_(pa.float64()))]),
        [{"a": 1, "b": None}, {"a": None, "b": [1.5]}, {"a": None, "b": None}],
    ),
    "numbers": ([1, 1.5, 2], pa.float64(), [1.0, 1.5, 2.0]),
    "arrays": ([np.zeros(3), np.zeros(4)], pa.list_(pa.float64()), [[0.0] * 3, [0.0] * 4]),
}


@pytest.mark.parametrize("name", ROWS)
def test_blocks_in_tasks_of_their_own_are_written_as_one_column(uri, name):
    rows, dtype, expected = ROWS[name]

    summary = write_lance(items(*rows), uri, target_bytes_per_file=1)

    field = lance.dataset(uri).schema.field("x")
    assert {*field.type} == {*dtype} if pa.types.is_struct(dtype) else field.type == dtype
    assert stored(uri) == dict(enumerate(expected))
    assert summary.rows == len(rows)
    assert orphans(uri) == []


def padded(batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    size = int(batch["id"][0]) % 3 + 1
    return {"id": batch["id"], "x": np.ones((len(batch["id"]), size, 2), np.float32) * batch["id"][:, None, None]}


def test_tensors_that_are_padded_per_batch_are_written_added_and_merged(uri):
    rows = ray.data.range(8, override_num_blocks=4).map_batches(padded, batch_size=2)

    write_lance(rows, uri, target_bytes_per_file=1)
    write_lance(rows, uri, mode="merge", on="id")
    uniform = ray.data.range(10).filter(lambda row: row["id"] > 7).map_batches(padded, batch_size=2)
    write_lance(uniform, uri, mode="append")

    found = read_lance(uri).take_all()
    assert sorted(row["id"] for row in found) == list(range(10))
    assert {row["id"]: row["x"].shape for row in found} == {i: ((i - i % 2) % 3 + 1, 2) for i in range(10)}
    assert all((row["x"] == row["id"]).all() for row in found)
    assert orphans(uri) == []


def test_images_of_many_sizes_are_written(uri, tmp_path):
    sizes = [(2, 3), (2, 3), (4, 1), (5, 5)]
    (tmp_path / "images").mkdir()
    for number, size in enumerate(sizes):
        Image.new("RGB", size, (number, 0, 0)).save(tmp_path / "images" / f"{number}.png")

    write_lance(ray.data.read_images(str(tmp_path / "images"), override_num_blocks=3), uri, target_bytes_per_file=1)

    found = read_lance(uri).take_all()
    assert sorted(row["image"].shape for row in found) == sorted((height, width, 3) for width, height in sizes)


def test_categories_of_many_frames_are_one_column(uri):
    frames = [
        pd.DataFrame({"id": range(at, at + 100), "x": pd.Categorical([f"{at + i}" for i in range(100)])})
        for at in (0, 100, 200)
    ]

    write_lance(ray.data.from_pandas(frames), uri)
    write_lance(ray.data.from_pandas(frames[1:2]), uri, mode="merge", on="id")

    assert stored(uri) == {number: str(number) for number in range(300)}


def test_blocks_of_different_types_are_merged(uri):
    ragged = ArrowVariableShapedTensorArray.from_numpy([np.ones((2, 2)), np.ones((1, 1))])
    uniform = ArrowTensorArray.from_numpy(np.zeros((2, 1, 2), np.float32))
    words = [pa.array(["a", "b"], pa.large_string()), pa.array(["c", "d"]).dictionary_encode(), pa.nulls(2)]
    structs = [[{"a": 1}] * 2, [{"b": "x"}] * 2, [{"a": None}] * 2]
    blocks = [
        pa.table({"id": [2 * n, 2 * n + 1], "x": tensor, "word": word, "s": struct})
        for n, (tensor, word, struct) in enumerate(zip([ragged, uniform, ragged], words, structs, strict=True))
    ]
    write_lance(ray.data.from_arrow(blocks), uri)

    write_lance(ray.data.from_arrow(blocks[::-1]), uri, mode="merge", on="id")

    assert lance.dataset(uri).count_rows() == 6
    assert [row["shape"] for _, row in sorted(stored(uri).items())] == [[2, 2], [1, 1], [1, 2], [1, 2], [2, 2], [1, 1]]
    table = lance.dataset(uri).to_table(columns=["id", "word", "s"]).sort_by("id")
    assert table["word"].to_pylist() == ["a", "b", "c", "d", None, None]
    assert [row["a"] for row in table["s"].to_pylist()] == [1, 1, None, None, None, None]
    assert orphans(uri) == []


REFUSED = [
    ([1, "a"], {}, r"column 'x' is int64 in some blocks and string in others.*schema=\["),
    ([[], None], {}, r"columns \['x'\] hold only nulls or empty lists.*pyarrow\.list_\(pyarrow\.string\(\)\)"),
    ([1, 300], {"mode": "append"}, r"column 'x': 300 in row 0 cannot be held exactly by int8"),
    ([1, 300], {"mode": "merge", "on": "id"}, r"column 'x': 300 in row 0 cannot be held exactly by int8"),
]


@pytest.mark.parametrize(("rows", "options", "message"), REFUSED)
def test_what_cannot_be_written_is_said_once_in_a_line(uri, tmp_path, capfd, rows, options, message):
    if options:
        lance.write_dataset(pa.table({"id": [0], "x": pa.array([0], pa.int8())}), uri)

    with pytest.raises(SchemaMismatchError, match=message) as caught:
        write_lance(items(*rows), uri, **options)

    assert "\n" not in str(caught.value)
    assert "ray/data" not in "".join(traceback.format_exception(caught.value))
    assert "Traceback" not in capfd.readouterr().err
    assert orphans(uri) == [] if options else list(tmp_path.iterdir()) == []


def test_a_name_that_cannot_be_read_is_said_once_in_a_line(uri, tmp_path, capfd):
    with pytest.raises(InvalidArgumentError, match=r"^column 'a\.b': Lance takes a dot .* rename it") as caught:
        write_lance(items(1).rename_columns({"x": "a.b"}), uri)

    assert "ray/data" not in "".join(traceback.format_exception(caught.value))
    assert "Traceback" not in capfd.readouterr().err
    assert list(tmp_path.iterdir()) == []
