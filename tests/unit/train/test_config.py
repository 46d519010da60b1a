from __future__ import annotations

import pytest

from ray_lance.errors import InvalidArgumentError
from ray_lance.train import DatasetOptions, LanceDataConfig
from ray_lance.train.shard import ShardLayout


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"global_batch_size": 64, "batch_size": 32}, "global_batch_size=64 and batch_size=32: give one of them"),
        ({"global_batch_size": 0}, "global_batch_size=0"),
        ({"batch_size": -1}, "batch_size=-1"),
        ({"batch_size": 1.5}, "batch_size=1.5"),
        ({"lanes": 0}, "lanes=0"),
        ({"tail": "trim"}, "tail='trim' must be one of"),
        ({"global_batch_size": 64, "lanes": 3}, "lanes=3 does not divide global_batch_size=64"),
    ],
)
@pytest.mark.parametrize("make", [DatasetOptions, LanceDataConfig])
def test_options_that_cannot_work_are_refused_at_once(make, options, message):
    with pytest.raises(InvalidArgumentError, match=message):
        make(**options)


def test_an_override_that_contradicts_the_default_is_refused_at_once():
    with pytest.raises(InvalidArgumentError, match="lanes=7 does not divide global_batch_size=64"):
        LanceDataConfig(global_batch_size=64, datasets={"val": DatasetOptions(lanes=7)})


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        (DatasetOptions(), DatasetOptions(64, None, 4, "drop")),
        (DatasetOptions(tail="uneven"), DatasetOptions(64, None, 4, "uneven")),
        (DatasetOptions(batch_size=10), DatasetOptions(None, 10, 4, "drop")),
        (DatasetOptions(global_batch_size=8, lanes=1), DatasetOptions(8, None, 1, "drop")),
    ],
)
def test_what_an_override_leaves_out_is_the_defaults(override, expected):
    assert override.over(DatasetOptions(64, None, 4, "drop")) == expected


@pytest.mark.parametrize(("options", "global_batch"), [(DatasetOptions(12), 12), (DatasetOptions(batch_size=12), 36)])
def test_a_batch_is_over_all_ranks_or_per_rank(options, global_batch):
    assert options.layouts("train", 3) == [ShardLayout(global_batch, 3, rank, None, "drop") for rank in range(3)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (DatasetOptions(), "dataset 'train' has no batch size: give LanceDataConfig"),
        (DatasetOptions(64), "global batch of 64 rows does not divide by world_size=3.*: 63 or 66"),
        (DatasetOptions(2), "global batch of 2 rows does not divide by world_size=3.*: 3"),
        (DatasetOptions(batch_size=5, lanes=2), "global batch of 15 rows does not divide by lanes=2.*: 14 or 16"),
    ],
)
def test_a_batch_that_does_not_divide_is_refused(options, message):
    with pytest.raises(InvalidArgumentError, match=message):
        options.layouts("train", 3)


def test_ray_adds_no_coordinator():
    assert LanceDataConfig(batch_size=1)._datasets_to_split == []


@pytest.mark.parametrize(
    ("datasets", "message"),
    [
        ({"val": {"tial": "uneven"}}, r"datasets\['val'\] has an unknown option 'tial': the options are"),
        ({"val": {"tail": "trim"}}, r"datasets\['val'\]: tail='trim' must be one of"),
        ({"val": "uneven"}, r"datasets\['val'\]='uneven' must be DatasetOptions, or a dict of"),
        ({"val": None}, r"datasets\['val'\]=None must be"),
        (["val"], r"datasets=\['val'\] must map names"),
    ],
)
def test_options_of_a_dataset_that_are_none_are_refused_at_once(datasets, message):
    with pytest.raises(InvalidArgumentError, match=message):
        LanceDataConfig(global_batch_size=64, datasets=datasets)


def test_options_of_a_dataset_may_be_a_dict():
    by_dict, by_class = (
        LanceDataConfig(global_batch_size=64, datasets={"val": options})._layouts("val", 2)
        for options in ({"tail": "uneven", "batch_size": 8}, DatasetOptions(tail="uneven", batch_size=8))
    )
    assert by_dict == by_class == [ShardLayout(16, 2, rank, None, "uneven") for rank in range(2)]


@pytest.mark.parametrize("data_parallel", [0, 1.5, True, "dp", [], [0, 2], {1: 0}])
def test_what_is_no_map_of_ranks_is_refused_at_once(data_parallel):
    with pytest.raises(InvalidArgumentError, match="data_parallel="):
        LanceDataConfig(global_batch_size=8, data_parallel=data_parallel)


def test_layouts_of_one_data_parallel_rank_are_equal():
    config = LanceDataConfig(global_batch_size=8, data_parallel=lambda rank, world_size: rank % 2)
    assert config._layouts("train", 4) == [ShardLayout(8, 2, rank % 2) for rank in range(4)]


@pytest.mark.parametrize("options", ["fast", 1, ["fast"]])
def test_execution_options_that_are_none_are_refused_at_once(options):
    with pytest.raises(InvalidArgumentError, match=r"execution_options=.* must be ray\.data\.ExecutionOptions"):
        LanceDataConfig(global_batch_size=8, execution_options=options)
