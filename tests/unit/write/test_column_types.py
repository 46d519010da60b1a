"""What functions return, in every layout that Arrow has for it, is stored with the values that it has."""

from __future__ import annotations

from collections.abc import Callable

import lance
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from ray_lance.backfill.udf import FAILURE, BatchCall, call_on_batch, first_schema, named
from ray_lance.scan.rebatch import rebatched
from ray_lance.table import TableRef
from ray_lance.write.column_commit import claim, commit_group, finish
from ray_lance.write.column_files import write_column_file
from ray_lance.write.column_plan import plan
from ray_lance.write.column_record import Recipe, check_columns
from ray_lance.write.lance_types import lance_schema
from ray_lance.write.schema import portable
from ray_lance.write.target import existing_target
from tests.writes import QUICK

BATCH, ROWS = 50, 300


def add_column(uri: str, fn: Callable[[dict], object], *, overwrite: str | None = None) -> None:
    """What add_columns does, in this process: in batches, fragment by fragment."""
    call = BatchCall(batch_format="numpy")
    target = existing_target(TableRef.of(uri), QUICK)
    dataset = target.table.open()
    rows = dataset.to_table(columns=["id"], with_row_address=True)
    schema = portable(lance_schema(first_schema(rows.slice(0, BATCH), lambda: fn, call)))
    call = BatchCall(batch_format="numpy", schema=schema, exact=True)
    recipe = Recipe(("id",), overwrite, fn.__name__, ())
    record = check_columns(dataset.schema, schema, recipe, overwrite=overwrite is not None)
    job = claim(target, record, schema)
    written = []
    for each in plan(job.target.table.open(), job.record).passes:
        for work in each.fragments:
            fragment = dataset.get_fragment(work.fragment_id)
            found = dataset.scanner(
                columns=["id"], with_row_address=True, filter=each.filter, fragments=[fragment]
            ).to_table()
            work = each.counted({work.fragment_id: len(found)}).fragments[0]
            blocks = [call_on_batch(batch, fn, call) for batch in rebatched([found], BATCH)]
            tables = [named(block.drop_columns([FAILURE]), schema) for block in blocks]
            written.append(write_column_file(job, work, lambda tables=tables: tables))
    commit_group(job, written)
    finish(job)


@pytest.fixture
def table(uri) -> str:
    """Two fragments, one of which lacks rows."""
    lance.write_dataset(pa.table({"id": range(ROWS)}), uri, max_rows_per_file=200)
    lance.dataset(uri).delete("id % 11 = 3")
    return uri


def values_of(ids: np.ndarray) -> list[str | None]:
    """Text, some of it missing, of which each batch has other values."""
    return [None if i % 5 == 2 else f"value {i}" for i in ids.tolist()]


def nested(ids: np.ndarray) -> pa.Array:
    inner = pa.array([None if i % 3 == 1 else {"c": {"d": i, "e": [i, None]}} for i in ids.tolist()])
    return pa.StructArray.from_arrays([inner, pa.array(values_of(ids))], ["a", "b"])


def sliced(make: Callable[[np.ndarray], pa.Array]) -> Callable[[np.ndarray], pa.Array]:
    """The same array as a slice of a longer one."""

    def fn(ids: np.ndarray) -> pa.Array:
        return make(np.concatenate([ids[:1], ids, ids[:2]])).slice(1, len(ids))

    return fn


LAYOUTS: dict[str, Callable[[np.ndarray], object]] = {
    "int8 categories": lambda ids: pa.array(values_of(ids), pa.dictionary(pa.int8(), pa.string())),
    "categories of pandas": lambda ids: pd.Categorical(values_of(ids)),
    "string view": lambda ids: pa.array(values_of(ids), pa.string_view()),
    "binary view": lambda ids: pa.array([str(i).encode() * 7 for i in ids], pa.binary_view()),
    "list view": lambda ids: pa.array([[i, i + 1][: i % 3] for i in ids.tolist()], pa.list_view(pa.int64())),
    "run ends": lambda ids: pa.compute.run_end_encode(pa.array(ids // 4)),
    "structs in structs": nested,
    "sliced structs in structs": sliced(nested),
    "sliced lists of structs": sliced(lambda ids: pa.array([[{"a": {"b": i}}] * (i % 3) for i in ids.tolist()])),
    "small decimals": lambda ids: pa.array([int(i) for i in ids], pa.decimal32(5, 1)),
    "large strings": lambda ids: pa.array(values_of(ids), pa.large_string()),
    "maps": lambda ids: pa.array([[("k", i)] for i in ids.tolist()], pa.map_(pa.string(), pa.int64())),
}


def expected(make: Callable[[np.ndarray], object], ids: np.ndarray) -> list[object]:
    """The values row by row."""
    made = [make(ids[row : row + 1]) for row in range(len(ids))]
    return [
        pa.array(row, from_pandas=True).to_pylist()[0] if isinstance(row, pd.Categorical) else row.to_pylist()[0]
        for row in made
    ]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_is_stored_with_its_values(table, layout):
    make = LAYOUTS[layout]

    def fn(batch: dict) -> object:
        made = make(batch["id"])
        return pd.DataFrame({"x": made}) if isinstance(made, pd.Categorical) else {"x": made}

    add_column(table, fn)

    found = lance.dataset(table).to_table(columns=["id", "x"])
    ids = found["id"].to_numpy()
    assert found["x"].to_pylist() == expected(make, ids)
    lance.dataset(table).validate()


@pytest.mark.parametrize("layout", ["int8 categories", "string view", "sliced structs in structs"])
def test_rows_that_are_not_computed_again_keep_their_values(table, layout):
    make = LAYOUTS[layout]
    add_column(table, lambda batch: {"x": make(batch["id"])})

    add_column(table, lambda batch: {"x": make(batch["id"] + 100)}, overwrite="id % 4 = 1")

    found = lance.dataset(table).to_table(columns=["id", "x"])
    ids = found["id"].to_numpy()
    assert found["x"].to_pylist() == expected(make, np.where(ids % 4 == 1, ids + 100, ids))
