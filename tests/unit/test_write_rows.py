from __future__ import annotations

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch

import ray_lance
from ray_lance.errors import InvalidArgumentError

GIVEN = [
    (pd.DataFrame({"a": [1]}), "dataset=DataFrame", "ray.data.from_pandas(dataset)"),
    (pa.table({"a": [1]}), "dataset=Table", "ray.data.from_arrow(dataset)"),
    (pa.record_batch({"a": [1]}), "dataset=RecordBatch", "ray.data.from_arrow(pyarrow.Table.from_batches([dataset]))"),
    ([{"a": 1}], "dataset=list", "ray.data.from_items(dataset)"),
    ({"a": [1]}, "dataset=dict", "ray.data.from_arrow(pyarrow.table(dataset))"),
    (np.ones(3), "dataset=ndarray", "ray.data.from_numpy(dataset)"),
    ("table.lance", "dataset=str", "ray_lance.read_lance(dataset)"),
    (ray_lance.TableRef.of("table.lance"), "dataset=TableRef", "ray_lance.read_lance(dataset)"),
    (torch.utils.data.TensorDataset(torch.ones(2)), "dataset=TensorDataset", "ray.data.from_torch(dataset)"),
    (None, "dataset=None", "ray.data.from_items(rows)"),
    (object(), "dataset=object", "ray.data.from_items(rows)"),
]


@pytest.mark.parametrize(("rows", "shown", "way"), GIVEN, ids=[shown for _, shown, _ in GIVEN])
@pytest.mark.parametrize("mode", ["create", "append", "merge"])
def test_what_is_no_ray_dataset_is_refused_with_the_way_to_make_one(uri, tmp_path, rows, shown, way, mode):
    with pytest.raises(InvalidArgumentError) as caught:
        ray_lance.write_lance(rows, uri, mode=mode, on="a" if mode == "merge" else None)

    assert shown in str(caught.value)
    assert way in str(caught.value)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_polars_frames_are_refused_with_the_way_to_make_one(uri):
    polars = pytest.importorskip("polars")

    with pytest.raises(InvalidArgumentError, match=r"ray\.data\.from_arrow\(dataset\.to_arrow\(\)\)"):
        ray_lance.write_lance(polars.DataFrame({"a": [1]}), uri)
