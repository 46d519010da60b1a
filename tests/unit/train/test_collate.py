from __future__ import annotations

import pyarrow as pa
import pytest
import torch

from ray_lance.train.collate import torch_collate

BATCH = pa.table({"id": [1, 2], "x": pa.array([0.5, 1.5], pa.float32()), "name": ["a", "b"]})


@pytest.mark.parametrize(
    ("dtypes", "expected"),
    [
        (None, {"id": torch.int64, "x": torch.float32}),
        (torch.float64, {"id": torch.float64, "x": torch.float64}),
        ({"id": torch.int32}, {"id": torch.int32, "x": torch.float32}),
    ],
)
def test_dtypes_mean_what_they_mean_to_ray(dtypes, expected):
    batch = torch_collate(dtypes, "cpu", pin_memory=False)(BATCH)
    assert {name: batch[name].dtype for name in expected} == expected
    assert batch["id"].tolist() == [1, 2]
    assert batch["name"] == ["a", "b"]


@pytest.mark.parametrize("device", ["auto", "cpu", torch.device("cpu")])
def test_outside_of_ray_train_batches_stay_on_the_cpu(device):
    assert torch_collate(None, device, pin_memory=False).device is None


def test_other_devices_are_where_everything_goes():
    assert torch_collate(None, "meta", pin_memory=False)(BATCH)["id"].device.type == "meta"
