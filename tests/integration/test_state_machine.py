"""Random sequences of everything that changes or reads a dataset, against rows in plain memory."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass

import lance
import numpy as np
import pyarrow as pa
import pytest
import ray
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from ray_lance import Permutation, add_columns, read_lance, write_lance
from ray_lance.torch import LanceIterableDataset
from tests.orphans import orphans

SCHEMA = pa.schema([("id", pa.int64()), ("label", pa.int64()), ("text", pa.string())])
counts = st.integers(1, 40)
seeds = st.integers(0, 2**31)


@dataclass(frozen=True)
class Pinned:
    """A permutation of one version, and the ids and labels that it has to deliver, in order."""

    permutation: Permutation
    rows: list[tuple[int, int]]


def twice(batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {"twice": batch["label"] * 2}


class Dataset(RuleBasedStateMachine):
    """The model: label and text by id, the ids whose new column has a value, and what was pinned."""

    @initialize(rows=counts)
    def create(self, rows: int) -> None:
        self.folder = tempfile.mkdtemp()
        self.uri = f"{self.folder}/table.lance"
        self.rows: dict[int, tuple[int, str | None]] = {}
        self.computed: set[int] | None = None  # None: the dataset has no such column
        self.next_id = 0
        self.pinned: list[Pinned] = []
        self._write(self._new(rows), "create")

    def teardown(self) -> None:
        if hasattr(self, "folder"):
            shutil.rmtree(self.folder)

    @rule(rows=counts)
    def append(self, rows: int) -> None:
        self._write(self._new(rows), "append")

    @rule(rows=counts)
    def overwrite(self, rows: int) -> None:
        self.rows, self.computed = {}, None
        self._write(self._new(rows), "overwrite")

    @precondition(lambda self: self.rows)
    @rule(data=st.data(), new=counts, label=st.integers(100, 200))
    def merge(self, data: st.DataObject, new: int, label: int) -> None:
        old = data.draw(st.sets(st.sampled_from(sorted(self.rows)), max_size=10))
        changed = dict.fromkeys(old, (label, None)) | self._new(new)
        self.rows |= changed
        if self.computed is not None:
            self.computed -= old

        # A merge replaces whole rows: it takes every column, and the computed one has to be computed again.
        schema = SCHEMA if self.computed is None else SCHEMA.append(pa.field("twice", pa.int64()))
        write_lance(self._dataset(changed, schema), self.uri, mode="merge", on="id")

    @rule(divisor=st.integers(2, 7), remainder=st.integers(0, 6))
    def delete(self, divisor: int, remainder: int) -> None:
        gone = {number for number in self.rows if number % divisor == remainder}
        self.rows = {number: row for number, row in self.rows.items() if number not in gone}
        if self.computed is not None:
            self.computed -= gone

        lance.dataset(self.uri).delete(f"id % {divisor} = {remainder}")

    @rule()
    def compact(self) -> None:
        lance.dataset(self.uri).optimize.compact_files(target_rows_per_fragment=1000)

    @precondition(lambda self: self.rows)
    @rule()
    def compute_a_column(self) -> None:
        left = len(self.rows) - len(self.computed or ())

        summary = add_columns(self.uri, twice, input_columns="label")

        assert summary.rows >= left
        self.computed = set(self.rows)

    @rule(seed=seeds, clump=st.sampled_from([1, 4]), windows=st.integers(1, 8))
    def pin(self, seed: int, clump: int, windows: int) -> None:
        permutation = Permutation(self.uri).shuffle(seed, clump, clump * windows)
        dataset = lance.dataset(self.uri, version=permutation.table.version)
        taken = dataset.take(permutation.rows(0, len(permutation)), columns=["id", "label"])
        assert sorted(taken["id"].to_pylist()) == sorted(self.rows)
        self.pinned.append(Pinned(permutation, list(zip(*(column.to_pylist() for column in taken), strict=True))))

    @precondition(lambda self: self.pinned)
    @rule(data=st.data())
    def read_what_was_pinned(self, data: st.DataObject) -> None:
        pinned = data.draw(st.sampled_from(self.pinned))
        dataset = read_lance(pinned.permutation.epoch(0), columns=["id", "label"], override_num_blocks=3)
        dataset.context.execution_options.preserve_order = True

        assert [(row["id"], row["label"]) for row in dataset.take_all()] == pinned.rows

    @precondition(lambda self: self.pinned)
    @rule(data=st.data(), batch_size=st.integers(1, 9), steps=st.integers(0, 5))
    def stop_and_go_on(self, data: st.DataObject, batch_size: int, steps: int) -> None:
        pinned = data.draw(st.sampled_from(self.pinned))

        def loader() -> LanceIterableDataset:
            return LanceIterableDataset(pinned.permutation, batch_size=batch_size, columns=["id"], tail="uneven")

        first, second = loader(), loader()
        seen = [number for _, batch in zip(range(steps), first, strict=False) for number in batch["id"].tolist()]
        second.load_state_dict(first.state_dict())

        rest = [number for batch in second for number in batch["id"].tolist()]

        wanted = [number for number, _ in pinned.rows]
        if len(seen) == len(wanted):  # then the next pass is the next epoch
            assert seen == wanted
            assert sorted(rest) == sorted(wanted)
        else:
            assert seen + rest == wanted

    @rule()
    def read_all(self) -> None:
        dataset = read_lance(self.uri)

        assert dataset.count() == len(self.rows)
        assert sorted(row["id"] for row in dataset.take_all()) == sorted(self.rows)

    @invariant()
    def the_dataset_holds_the_rows(self) -> None:
        if not hasattr(self, "uri"):
            return
        table = lance.dataset(self.uri).to_table().sort_by("id").to_pylist()
        assert {row["id"]: (row["label"], row["text"]) for row in table} == self.rows
        assert len(table) == len(self.rows)
        if self.computed is None:
            assert all("twice" not in row for row in table)
        else:
            wanted = {number: 2 * row[0] if number in self.computed else None for number, row in self.rows.items()}
            assert {row["id"]: row["twice"] for row in table} == wanted
        assert orphans(self.uri) == []

    def _new(self, count: int) -> dict[int, tuple[int, str | None]]:
        ids = range(self.next_id, self.next_id + count)
        self.next_id += count
        return {number: (number % 10, None if number % 3 == 0 else f"row {number}") for number in ids}

    def _write(self, rows: dict[int, tuple[int, str | None]], mode: str) -> None:
        self.rows |= rows
        write_lance(self._dataset(rows), self.uri, mode=mode, max_rows_per_file=16)

    @staticmethod
    def _dataset(rows: dict[int, tuple[int, str | None]], schema: pa.Schema = SCHEMA) -> ray.data.Dataset:
        records = [{"id": number, "label": label, "text": text} for number, (label, text) in rows.items()]
        return ray.data.from_arrow([pa.Table.from_pylist(records[i::2], schema) for i in range(min(2, len(records)))])


def run(examples: int, steps: int) -> None:
    Dataset.TestCase.settings = settings(
        max_examples=examples, stateful_step_count=steps, deadline=None, suppress_health_check=list(HealthCheck)
    )
    Dataset.TestCase("runTest").runTest()


def test_a_few_sequences():
    run(examples=2, steps=8)


@pytest.mark.slow
def test_many_sequences():
    run(examples=8, steps=20)
