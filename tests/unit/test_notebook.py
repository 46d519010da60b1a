"""What objects say of themselves, in a terminal and in a notebook."""

from __future__ import annotations

import pytest

from ray_lance import AddColumnsSummary, Permutation, WriteSummary
from ray_lance.metrics import LoaderMetrics
from ray_lance.torch import LanceIterableDataset, LanceMapDataset
from ray_lance.train import LanceDataConfig
from tests.datasets import write_fragments


@pytest.fixture
def permutation(uri) -> Permutation:
    write_fragments(uri, [10, 10])
    return Permutation(uri).shuffle(7)


def test_an_iterable_dataset_says_where_it_stands(permutation):
    dataset = LanceIterableDataset(permutation, batch_size=2, columns=["id"], rank=1, world_size=2)
    next(iter(dataset))

    facts = "columns=['id'], rank=1, world_size=2, batch_size=2, steps_per_epoch=5, epoch=0, rows_read=4"
    assert repr(dataset) == f"LanceIterableDataset(permutation={permutation!r}, {facts})"
    assert "<p><b>LanceIterableDataset</b></p><table>" in dataset._repr_html_()
    assert "<td>rows_read</td><td>4</td>" in dataset._repr_html_()


def test_a_map_dataset_says_what_it_reads(permutation):
    dataset = LanceMapDataset(permutation, format="arrow")

    assert repr(dataset) == f"LanceMapDataset(permutation={permutation!r}, format='arrow')"
    assert "<td>format</td><td>arrow</td>" in dataset._repr_html_()


def test_a_configuration_says_what_was_given():
    config = LanceDataConfig(global_batch_size=8, datasets={"val": {"tail": "uneven"}})

    assert repr(config).startswith("LanceDataConfig(global_batch_size=8, tail='drop', datasets={'val': DatasetOptions(")
    assert "<td>global_batch_size</td><td>8</td>" in config._repr_html_()


@pytest.mark.parametrize(
    "summary",
    [
        WriteSummary("t.lance", None, 1, 20, 2, 300, 0.5),
        AddColumnsSummary("t.lance", 1, 2, 2, 0, 20, 0, (), 300, 0.5),
        LoaderMetrics(rows=20),
    ],
    ids=lambda summary: type(summary).__name__,
)
def test_summaries_are_tables(summary):
    shown = summary._repr_html_()

    assert f"<b>{type(summary).__name__}</b>" in shown
    assert "<td>rows</td><td>20</td>" in shown
    assert "failures" not in shown
    assert repr(summary).startswith(f"{type(summary).__name__}(")
