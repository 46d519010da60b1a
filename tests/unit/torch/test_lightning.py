"""Datasets under PyTorch Lightning, in one process and in several ranks."""

from __future__ import annotations

import itertools
import os
from typing import Any

import lance
import pyarrow as pa
import pytest
import torch

from ray_lance.torch import LanceIterableDataset, make_loader
from tests.ranks import run_ranks

lightning = pytest.importorskip("lightning")

ROWS, BATCH = 120, 10  # whole steps of one, two and three ranks
pytestmark = [
    pytest.mark.filterwarnings("ignore::UserWarning:lightning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]


class Seen(lightning.LightningModule):
    """Notes the rows of each epoch: of training, and of each validation."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)
        self.trained: dict[int, list[int]] = {}
        self.validated: list[list[int]] = []

    def on_validation_epoch_start(self) -> None:
        self.validated.append([])

    def training_step(self, batch: dict[str, torch.Tensor], _: int) -> torch.Tensor:
        self.trained.setdefault(self.current_epoch, []).extend(batch["id"].tolist())
        return self.layer(batch["id"][:, None].float()).mean()

    def validation_step(self, batch: dict[str, torch.Tensor], _: int) -> None:
        self.validated[-1] += batch["id"].tolist()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.0)


@pytest.fixture(scope="module")
def table(tmp_path_factory) -> str:
    uri = str(tmp_path_factory.mktemp("data") / "table.lance")
    lance.write_dataset(pa.table({"id": range(ROWS)}), uri)
    return uri


def training(table: str) -> LanceIterableDataset:
    return LanceIterableDataset(table, batch_size=BATCH, shuffle=7)


def epochs(table: str, count: int) -> dict[int, list[int]]:
    dataset = training(table)
    return {epoch: [number for batch in dataset for number in batch["id"].tolist()] for epoch in range(count)}


def fit(train: Any, val: Any = None, checkpoint: str | None = None, **options: Any) -> Seen:
    module = Seen()
    trainer = lightning.Trainer(
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **{"enable_checkpointing": False, "num_sanity_val_steps": 0} | options,
    )
    trainer.fit(module, train, val, ckpt_path=checkpoint)
    return module


@pytest.mark.parametrize("through", [lambda dataset: dataset, make_loader], ids=["the dataset", "a loader"])
def test_each_pass_is_the_next_epoch(table, through):
    assert fit(through(training(table)), max_epochs=3).trained == epochs(table, 3)


def test_passes_that_a_limit_breaks_off_are_epochs_of_their_own(table):
    seen = fit(training(table), max_epochs=3, limit_train_batches=4)

    assert seen.trained == {epoch: rows[: 4 * BATCH] for epoch, rows in epochs(table, 3).items()}


@pytest.mark.parametrize("limit", [None, 2])
def test_every_validation_starts_at_the_first_row_also_after_the_sanity_check(table, limit):
    val = LanceIterableDataset(table, batch_size=BATCH)

    seen = fit(training(table), val, max_epochs=2, num_sanity_val_steps=2, limit_val_batches=limit)

    whole = list(range(ROWS if limit is None else limit * BATCH))
    assert seen.validated == [list(range(2 * BATCH)), whole, whole]


@pytest.mark.parametrize("steps", [4, 12, 15, 24])
def test_a_checkpoint_resumes_with_exactly_the_rest(table, tmp_path, steps):
    saving = lightning.pytorch.callbacks.ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=1, save_top_k=-1)
    stopped = fit(training(table), max_epochs=3, max_steps=steps, callbacks=[saving], enable_checkpointing=True)

    resumed = fit(training(table), max_epochs=3, checkpoint=str(tmp_path / f"step={steps}.ckpt"))

    together = {epoch: stopped.trained.get(epoch, []) + resumed.trained.get(epoch, []) for epoch in range(3)}
    assert together == epochs(table, 3)


def fit_as_a_rank(dataset: LanceIterableDataset, limit: int | None) -> list[list[int]]:
    """The rows of each of three epochs on this rank, under the strategy that a torchrun would be given."""
    rank, world_size = torch.distributed.get_rank(), torch.distributed.get_world_size()
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world_size)}
    os.environ |= {"LOCAL_WORLD_SIZE": str(world_size), "TORCHELASTIC_RUN_ID": "0"}
    seen = fit(dataset, max_epochs=3, strategy="ddp", devices=world_size, limit_train_batches=limit)
    return list(seen.trained.values())


@pytest.mark.slow
@pytest.mark.parametrize("limit", [None, 3])
@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_ranks_train_on_their_parts_of_the_same_epochs(table, tmp_path, world_size, limit):
    ranks = run_ranks(fit_as_a_rank, world_size, training(table), limit, folder=tmp_path)

    steps = None if limit is None else limit * BATCH
    for rank, epochs_of_rank in enumerate(ranks):
        told = LanceIterableDataset(table, batch_size=BATCH, shuffle=7, rank=rank, world_size=world_size)
        for epoch in epochs_of_rank:
            assert epoch == [number for batch in told for number in batch["id"].tolist()][:steps]
    if limit is None:
        assert all(sorted(itertools.chain(*epoch)) == list(range(ROWS)) for epoch in zip(*ranks, strict=True))
