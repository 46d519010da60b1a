"""Ray's job checkpoints: a write that would lose rows by them is refused before it begins."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import lance
import pyarrow as pa
import pytest
import ray
from ray.data import DataContext
from ray.data.checkpoint import CheckpointConfig

import ray_lance
from ray_lance.data.datasink import LanceDatasink
from ray_lance.errors import InvalidArgumentError
from ray_lance.table import TableRef
from ray_lance.write.options import WriteOptions
from tests.datasets import sample_table, write_fragments


@pytest.fixture
def checkpoints(tmp_path) -> Iterator[Path]:
    """Where Ray would keep checkpoints, in the context of every Ray dataset that is made from now on."""
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    context = DataContext.get_current()
    context.checkpoint_config = CheckpointConfig(id_column="id", checkpoint_path=str(folder))
    yield folder
    context.checkpoint_config = None


def rows_of_files(tmp_path: Path) -> ray.data.Dataset:
    """Rows that Ray reads from files: of those it leaves out what it has noted as written."""
    import pyarrow.parquet as pq

    pq.write_table(sample_table(20), tmp_path / "rows.parquet")
    return ray.data.read_parquet(str(tmp_path / "rows.parquet"))


@pytest.mark.parametrize(
    "options",
    [{"mode": "create"}, {"mode": "append"}, {"mode": "overwrite"}, {"mode": "ignore"}, {"mode": "merge", "on": "id"}],
    ids=lambda options: options["mode"],
)
def test_writes_are_refused_in_every_mode(uri, tmp_path, checkpoints, options):
    rows = rows_of_files(tmp_path)

    with pytest.raises(InvalidArgumentError, match=r"id_column='id'.*ds.context.checkpoint_config = None"):
        ray_lance.write_lance(rows, uri, **options)

    assert not Path(uri).exists()
    assert list(checkpoints.iterdir()) == []


def test_a_datasink_refuses_before_rows_are_noted_as_written(uri, tmp_path, checkpoints):
    rows = rows_of_files(tmp_path)
    DataContext.get_current().checkpoint_config = None  # the Ray dataset has the context that it was made with

    with pytest.raises(Exception, match="job checkpoints do not go with a write to Lance"):
        rows.write_datasink(LanceDatasink(TableRef.of(uri), WriteOptions()))

    assert not Path(uri).exists()
    assert list(checkpoints.rglob("*.parquet")) == []


def test_without_them_the_same_rows_are_written(uri, tmp_path, checkpoints):
    rows = rows_of_files(tmp_path)
    rows.context.checkpoint_config = None

    assert ray_lance.write_lance(rows, uri).rows == 20


def test_add_columns_needs_none_and_is_not_kept_from_going_on(uri, checkpoints, recwarn):
    write_fragments(uri, [10, 10])

    summary = ray_lance.add_columns(uri, lambda batch: {"x": batch["id"] + 1}, input_columns="id")

    assert summary.rows == 20
    assert lance.dataset(uri).to_table(columns=["x"])["x"] == pa.chunked_array([list(range(1, 21))])
    assert not [warning for warning in recwarn if "checkpoint" in str(warning.message)]
