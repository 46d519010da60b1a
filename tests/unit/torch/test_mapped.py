"""LanceMapDataset: rows by index, batches in one take."""

from __future__ import annotations

import pickle

import lance
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import torch
from torch.utils.data import ConcatDataset, DataLoader, DistributedSampler, Subset

import ray_lance
from ray_lance import Permutation
from ray_lance.torch import LanceMapDataset
from tests.datasets import write_fragments


@pytest.fixture(scope="module")
def table(tmp_path_factory) -> str:
    """100 rows, of which 94 are left."""
    uri = str(tmp_path_factory.mktemp("data") / "table.lance")
    write_fragments(uri, [40, 1, 39, 20], deleted="id % 16 = 5")
    return uri


KEPT = [i for i in range(100) if i % 16 != 5]


@pytest.fixture
def dataset(table):
    return LanceMapDataset(table, columns=["id", "vec", "text"])


class TestRows:
    @pytest.mark.parametrize("index", [0, 5, 93, -1, -94, np.int64(7)])
    def test_by_index(self, dataset, index):
        row = dataset[index]
        assert row["id"].item() == KEPT[index]
        assert row["vec"].tolist() == [KEPT[index]] * 4
        assert row["text"] == f"row {KEPT[index]}"

    @pytest.mark.parametrize("index", [94, -95, 10**9])
    def test_out_of_range(self, dataset, index):
        with pytest.raises(IndexError, match=f"position {index} is out of range for 94 rows"):
            dataset[index]

    @pytest.mark.parametrize("index", [1.0, 1.7, True, np.True_, "1", None, np.float64(2), torch.tensor(1.5)])
    def test_that_are_no_integers(self, dataset, index):
        with pytest.raises(ray_lance.InvalidArgumentError, match=r"index=.*must be an integer"):
            dataset[index]
        with pytest.raises(ray_lance.InvalidArgumentError, match="must be integers"):
            dataset.__getitems__([0, index])

    @pytest.mark.parametrize("index", [np.int64(3), np.uint8(3), torch.tensor(3)])
    def test_that_are_integers_of_other_kinds(self, dataset, index):
        assert dataset[index]["id"].item() == KEPT[3]
        assert dataset.__getitems__([index, 0]).batch["id"].tolist() == [KEPT[3], KEPT[0]]
        assert dataset.__getitems__(np.array([2, 1])).batch["id"].tolist() == [KEPT[2], KEPT[1]]

    @pytest.mark.parametrize("rows", [slice(2, 5), slice(-3, None), slice(None, None, 40), slice(5, 2), slice(90, 200)])
    def test_by_a_slice(self, dataset, rows):
        found = dataset[rows]
        assert len(found) == len(KEPT[rows])
        assert [row["id"].item() for row in found] == KEPT[rows]
        assert found.batch["id"].tolist() == KEPT[rows]

    def test_can_be_iterated_over(self, table):
        assert [row["id"].item() for row in LanceMapDataset(table, columns=["id"])] == KEPT

    def test_are_counted_without_reading(self, dataset):
        assert len(dataset) == 94

    def test_of_a_filter_and_of_a_permutation(self, table):
        filtered = LanceMapDataset(table, columns=["id"], filter="label = 3")
        assert filtered[-1]["id"].item() == 93
        shuffled = Permutation(table).shuffle(1)
        expected = shuffled.fetch([3, 1], columns=["id"])["id"]
        assert torch.equal(LanceMapDataset(shuffled).__getitems__([3, 1]).batch["id"], expected)

    @pytest.mark.parametrize(
        ("format", "check"),
        [
            ("torch", lambda row: row["id"].item() == 3),
            ("torch_row", lambda row: row.tolist() == [3, 3]),
            ("torch_col", lambda row: row.tolist() == [3, 3]),
            ("numpy", lambda row: isinstance(row["id"], np.int64) and row["id"] == 3),
            ("python", lambda row: row == {"id": 3, "label": 3}),
            ("python_col", lambda row: row == {"id": 3, "label": 3}),
            ("pandas", lambda row: isinstance(row, pd.DataFrame) and row["id"].tolist() == [3]),
            ("arrow", lambda row: isinstance(row, pa.Table) and row["id"].to_pylist() == [3]),
            ("polars", lambda row: isinstance(row, pl.DataFrame) and row["id"].to_list() == [3]),
        ],
    )
    def test_in_every_format(self, table, format, check):
        dataset = LanceMapDataset(table, columns=["id", "label"], format=format)
        assert check(dataset[3])
        assert check(dataset.__getitems__([1, 3])[1])

    def test_of_a_transform_that_makes_tuples(self, table):
        dataset = LanceMapDataset(table, columns=["id", "vec"], transform=lambda batch: (batch["vec"], batch["id"]))
        vector, number = dataset[4]
        assert vector.shape == (4,)
        assert number.item() == 4


class TestBatches:
    def test_keep_the_order_and_repeat_rows(self, dataset):
        rows = dataset.__getitems__([7, -1, 7, 0])
        assert [row["id"].item() for row in rows] == [KEPT[7], KEPT[-1], KEPT[7], KEPT[0]]
        assert len(rows) == 4
        assert [row["id"].item() for row in rows[1:3]] == [KEPT[-1], KEPT[7]]
        with pytest.raises(IndexError):
            rows[4]

    def test_are_one_take(self, dataset, monkeypatch):
        sizes = []
        for name in ("take", "_take_rows"):
            take = getattr(lance.LanceDataset, name)

            def counted(self, rows, *rest, take=take):
                sizes.append(len(rows))
                return take(self, rows, *rest)

            monkeypatch.setattr(lance.LanceDataset, name, counted)
        dataset.__getitems__(list(range(50)))
        assert sizes == [50]

    def test_go_through_torch_s_default_collate_whole(self, dataset):
        rows = dataset.__getitems__([2, 1])
        assert torch.utils.data.default_collate(rows) is rows.batch

    def test_equal_what_stacking_single_rows_gives(self, dataset):
        whole = torch.utils.data.default_collate(dataset.__getitems__([2, 9]))
        stacked = torch.utils.data.default_collate([dataset[2], dataset[9]])
        assert torch.equal(whole["vec"], stacked["vec"])
        assert whole["text"] == stacked["text"]

    def test_of_wrapped_datasets(self, dataset):
        for wrapped in (Subset(dataset, range(10, 20)), ConcatDataset([dataset, dataset])):
            batch = next(iter(DataLoader(wrapped, batch_size=5)))
            assert batch["vec"].shape == (5, 4)


class TestLoading:
    def test_shuffled_by_torch(self, dataset):
        loader = DataLoader(dataset, batch_size=16, shuffle=True)
        epochs = [torch.cat([batch["id"] for batch in loader]).tolist() for _ in range(2)]
        assert epochs[0] != epochs[1]
        assert sorted(epochs[0]) == sorted(epochs[1]) == KEPT

    def test_shared_among_ranks_by_torch(self, dataset):
        samplers = [DistributedSampler(dataset, num_replicas=2, rank=rank, seed=4) for rank in range(2)]
        parts = [
            [row for batch in DataLoader(dataset, batch_size=8, sampler=sampler) for row in batch["id"].tolist()]
            for sampler in samplers
        ]
        assert sorted(parts[0] + parts[1]) == KEPT


class TestRecipe:
    def test_is_small_and_reads_the_same(self, dataset):
        dataset[0]
        recipe = pickle.dumps(dataset)
        assert len(recipe) < 2048
        assert pickle.loads(recipe)[5]["text"] == dataset[5]["text"]

    def test_stays_pinned(self, uri):
        write_fragments(uri, [10, 10])
        dataset = LanceMapDataset(uri, columns=["id"])
        recipe = pickle.dumps(dataset)
        lance.dataset(uri).delete("id < 5")
        assert len(pickle.loads(recipe)) == 20
        assert pickle.loads(recipe)[0]["id"].item() == 0

    def test_refuses_what_cannot_work(self, table):
        with pytest.raises(ray_lance.UnknownColumnError, match="'idd'"):
            LanceMapDataset(table, columns=["idd"])
        with pytest.raises(ray_lance.DatasetNotFoundError):
            LanceMapDataset("/no/such/place.lance")
