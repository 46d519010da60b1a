"""What people see of rows and of references, in a terminal and in a notebook."""

from __future__ import annotations

import html

import lance
import numpy as np
import pyarrow as pa
import pytest
from ray.data.extensions import ArrowPythonObjectType

import ray_lance
from ray_lance import Permutation, TableRef
from ray_lance.head import Head
from tests.images import encoded

ROWS = 8


@pytest.fixture(scope="module")
def uri(tmp_path_factory) -> str:
    place = str(tmp_path_factory.mktemp("head") / "table.lance")
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(np.arange(ROWS * 4, dtype=np.float32)), 4)
    table = pa.table(
        {
            "id": pa.array([None, *range(1, ROWS)]),
            "vec": vectors,
            "image": [encoded(30, 40)] * ROWS,
            "text": ["<b>bold</b>" * 30] * ROWS,
            "ragged": [[0.5] * row for row in range(ROWS)],
            "meta": [{"a.b": row, "c": "x"} for row in range(ROWS)],
            "video": pa.array([b"x" * 1000] * ROWS, pa.large_binary()),
        }
    )
    marked = table.schema.field("video").with_metadata({"lance-encoding:blob": "true"})
    table = table.set_column(table.column_names.index("video"), marked, table["video"])
    lance.write_dataset(table, place, data_storage_version="2.1")
    return place


class TestHead:
    def test_has_a_line_for_each_column_with_type_shape_and_values(self, uri):
        title, head, *lines = repr(Permutation(uri).head(2)).splitlines()
        assert title == "2 of 8 rows"
        assert head.split() == ["column", "type", "shape", "row", "0", "row", "1"]
        assert [line.split() for line in lines[:2]] == [
            ["id", "int64", "None", "1"],
            ["vec", "float", "(4,)", "[0,", "1,", "2,", "3]", "[4,", "5,", "6,", "7]"],
        ]
        assert lines[2].split()[:2] == ["image", "binary"]
        assert lines[2].endswith("bytes PNG")
        assert lines[4].split() == ["ragged", "list<item:", "double>", "(0,)", "to", "(1,)", "[]", "[0.5]"]
        assert lines[6].split()[:2] == ["video", "blob"]

    def test_is_narrow_whatever_is_stored(self, uri):
        assert max(map(len, repr(Permutation(uri).head(2)).splitlines())) < 120

    @pytest.mark.parametrize(("rows", "expected"), [(0, 0), (3, 3), (100, ROWS)])
    def test_has_as_many_rows_as_there_are(self, uri, rows, expected):
        assert Permutation(uri).head(rows).rows.num_rows == expected
        assert "row 0" in repr(Permutation(uri).head(rows)) or expected == 0

    def test_is_in_order_and_of_the_columns_asked_for(self, uri):
        shuffled = Permutation(uri, "id > 2").shuffle(3)
        head = shuffled.head(3, ["meta.`a.b`"])
        assert head.rows["meta.`a.b`"].to_pylist() == shuffled.fetch([0, 1, 2], ["meta.`a.b`"])["meta.`a.b`"].tolist()
        assert head.total == 5

    def test_unpickles_nothing(self, tmp_path):
        kind = ArrowPythonObjectType()
        stored = pa.array([b"cos\nabort\n(tR."], pa.large_binary())
        inner = pa.StructArray.from_arrays([stored], fields=[pa.field("x", pa.large_binary())])
        table = pa.table({"x": pa.ExtensionArray.from_storage(kind, stored), "inside": inner})
        lance.write_dataset(table, str(tmp_path / "objects.lance"))
        assert repr(Permutation(tmp_path / "objects.lance").head()).count("14 bytes") == 2
        nested = pa.StructArray.from_arrays([table["x"].chunk(0)], ["x"])
        assert "(pickled, not loaded)" in repr(Head(pa.table({"inside": nested}), (), 1))

    def test_is_a_table_in_a_notebook_with_nothing_of_the_data_taken_for_html(self, uri):
        text = Permutation(uri).head(2)._repr_html_()
        assert text.count("<tr>") == 8
        assert "<b>bold" not in text
        assert html.escape("'<b>bold</b>") in text

    @pytest.mark.parametrize(("arguments", "message"), [({"rows": -1}, "rows=-1"), ({"rows": "all"}, "rows='all'")])
    def test_of_wrong_arguments(self, uri, arguments, message):
        with pytest.raises(ray_lance.InvalidArgumentError, match=message):
            Permutation(uri).head(**arguments)


class TestReferences:
    def test_of_a_permutation_tell_its_settings(self, uri):
        permutation = Permutation(uri, "id > 2").shuffle(7, 2, 4).epoch(1)
        assert repr(permutation) == (
            f"Permutation({permutation.table!r}, rows=5, filter='id > 2', seed=7, clump=2, window=4, epoch=1)"
        )
        shown = permutation._repr_html_()
        for cells in ("<td>rows</td><td>5</td>", "<td>id &gt; 2</td>", "<td>window</td><td>4</td>"):
            assert cells in shown
        assert "seed" not in Permutation(uri)._repr_html_()

    def test_of_a_table_show_no_secret(self, uri):
        ref = TableRef.of("s3://user:hunter2@bucket/t.lance?sig=hunter2", storage_options={"key": "hunter2"}, version=3)
        assert "hunter2" not in ref._repr_html_() + repr(ref)
        assert "<td>version</td><td>3</td>" in ref._repr_html_()
        assert "storage_options" in ref._repr_html_()
