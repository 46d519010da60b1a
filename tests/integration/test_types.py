"""The type table, end to end: Lance -> read_lance -> tensors, and back to Lance, for every type and every writer.

Each property draws one table with a column of every type, so that one read checks them all. The table lies in several
fragments with deleted rows, and neither tasks nor batches end where fragments do.
"""

from __future__ import annotations

import datetime
import decimal
import itertools
from collections.abc import Iterable
from typing import Any

import lance
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import ray
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

import ray_lance
from ray_lance import TensorCollate, read_lance, write_lance
from tests.examples import examples
from tests.ray_collation import rays_collation
from tests.unit.tensors.type_cases import CASES, VARIABLE, Case, array_of, plain

ROWS = 41
ROWS_PER_FILE = 13
BATCH = 7
TASKS = 5
DELETED = {0, 14, 15, 27, 40}
LIVE = [i for i in range(ROWS) if i not in DELETED]

Rows = dict[str, list[Any]]

# Ray has no conversion for the others.
RAY_CASES = [
    case for case in CASES if case.name.startswith(("int", "uint", "float", "bool", "fixed_shape", "permuted"))
]
# Stored as another type than it is read from: the standard one for tensors.
RESTORED = {"float32[2][2]": pa.fixed_shape_tensor(pa.float32(), [2, 2])}

# Shrinking would read the whole table a hundred times.
PHASES = (Phase.explicit, Phase.reuse, Phase.generate)
# A column of nothing but nulls has no type to write; tensors of varying shape have a test of their own.
WRITABLE = [case for case in CASES if case.name != "null" and case is not VARIABLE]

few = settings(max_examples=examples(3), phases=PHASES, suppress_health_check=list(HealthCheck))


def names(cases: Iterable[Case]) -> dict[str, Case]:
    return {f"c{index}": case for index, case in enumerate(cases)}


@st.composite
def drawn_rows(draw: st.DrawFn, cases: list[Case], *, nulls: bool, elements: bool = True) -> Rows:
    """``ROWS`` rows for each case, from a few drawn ones; ``elements`` says whether vectors may hold nulls."""
    columns = {}
    for place, (name, case) in enumerate(names(cases).items()):
        pool = draw(st.lists(case.rows if elements else case.rows.filter(is_full), min_size=3, max_size=3))
        rows = list(itertools.islice(itertools.cycle(pool), ROWS))
        if nulls and case is not VARIABLE:  # a null among those cannot pass through Ray, and is refused
            rows = [None if (row + place) % 6 == 1 else value for row, value in enumerate(rows)]
        columns[name] = rows
    return columns


def is_full(row: Any) -> bool:
    return row is not None and not (isinstance(row, list) and not all(map(is_full, row)))


def stored(cases: list[Case], columns: Rows, uri: str) -> str:
    """A Lance dataset of the rows and their ids, in several fragments, without the rows of ``DELETED``."""
    fields = [case.field.with_name(name) for name, case in names(cases).items()]
    arrays = [array_of(case.field, columns[name]) for name, case in names(cases).items()]
    schema = pa.schema([pa.field("id", pa.int64()), *fields])
    table = pa.Table.from_arrays([pa.array(range(ROWS)), *arrays], schema=schema)
    dataset = lance.write_dataset(table, uri, mode="overwrite", max_rows_per_file=ROWS_PER_FILE)
    dataset.delete(f"id IN {tuple(sorted(DELETED))}")
    return uri


def collected(batches: Iterable[dict[str, Any]]) -> dict[str, list[Any]]:
    """Every column of all batches, in the order of the ids, as plain values."""
    rows: dict[str, list[Any]] = {}
    for batch in batches:
        assert 0 < len(batch["id"]) <= BATCH
        for name, values in batch.items():
            assert len(values) == len(batch["id"]), name
            rows.setdefault(name, []).extend(plain(values))
    order = np.argsort(rows["id"])
    return {name: [values[i] for i in order] for name, values in rows.items()}


def expected(case: Case, rows: list[Any]) -> list[Any]:
    return plain([filled_null(case) if rows[i] is None else case.expected(rows[i]) for i in LIVE])


def filled_null(case: Case) -> Any:
    """What a null row becomes that is read with ``fill``: a list of numbers is empty then."""
    return [] if case.fill is not None and "list<" in case.name else case.null


def fills(cases: Iterable[Case]) -> dict[str, Any]:
    return {name: case.fill for name, case in names(cases).items() if case.fill is not None}


def torch_batches(dataset: ray.data.Dataset, **options: Any) -> list[dict[str, Any]]:
    return list(dataset.iter_torch_batches(batch_size=BATCH, **options))


class TestReading:
    @few
    @given(columns=drawn_rows(RAY_CASES, nulls=False))
    def test_rays_own_conversion_gives_values_dtypes_and_shapes(self, columns, tmp_path_factory):
        uri = stored(RAY_CASES, columns, str(tmp_path_factory.mktemp("t") / "table.lance"))
        dataset = read_lance(uri, fill=fills(RAY_CASES), override_num_blocks=TASKS)
        batches = torch_batches(dataset, collate_fn=rays_collation())
        found = collected(batches)
        assert found["id"] == LIVE
        for name, case in names(RAY_CASES).items():
            assert {batch[name].dtype for batch in batches} == {case.dtype}, case.name
            assert found[name] == expected(case, columns[name]), case.name

    @few
    @given(columns=drawn_rows([*CASES], nulls=True))
    def test_our_collate_function_gives_them_for_every_type_with_nulls(self, columns, tmp_path_factory):
        uri = stored(CASES, columns, str(tmp_path_factory.mktemp("t") / "table.lance"))
        fill = fills(CASES)
        dataset = read_lance(uri, fill=fill, override_num_blocks=TASKS)
        batches = torch_batches(dataset, collate_fn=TensorCollate(ragged="list", fill=fill))
        found = collected(batches)
        assert found["id"] == LIVE
        for name, case in names(CASES).items():
            if case.dtype is not None:
                assert {batch[name].dtype for batch in batches} == {case.dtype}, case.name
            assert found[name] == expected(case, columns[name]), case.name

    def test_the_schema_is_the_one_delivered_for_every_type(self, uri):
        nullable = [case for case in CASES if case is not VARIABLE]
        stored(nullable, {name: [None] * ROWS for name in names(nullable)}, uri)
        dataset = read_lance(uri, fill=fills(nullable), filter="id < 30")
        tables = list(dataset.iter_batches(batch_size=None, batch_format="pyarrow"))
        assert tables
        for table in tables:
            assert table.schema.equals(dataset.schema().base_schema)

    def test_null_rows_of_float_vectors_are_nan_in_rays_own_conversion(self, uri):
        vectors = pa.array([[1.0, 2.0], None, [None, 3.0]], pa.list_(pa.float32(), 2))
        lance.write_dataset(pa.table({"v": vectors}), uri)
        for collate in (rays_collation(), None):
            (batch,) = torch_batches(read_lance(uri), collate_fn=collate)
            assert plain(batch["v"]) == [[1.0, 2.0], ["NaN", "NaN"], ["NaN", 3.0]]

    def test_null_elements_of_integer_vectors_are_refused_by_name_or_filled(self, uri):
        lance.write_dataset(pa.table({"v": pa.array([[1, None], [3, 4]], pa.list_(pa.int32(), 2))}), uri)
        with pytest.raises(Exception, match=r"column 'v'.*fill="):
            torch_batches(read_lance(uri))
        (batch,) = torch_batches(read_lance(uri, fill={"v": -1}))
        assert batch["v"].tolist() == [[1, -1], [3, 4]]

    def test_structs_become_one_entry_per_leaf(self, uri):
        rows = [{"x": i, "y": {"z": [float(i)] * 2, "s": f"s{i}"}} for i in range(9)]
        vector = pa.list_(pa.float32(), 2)
        inner = pa.struct([("z", vector), ("s", pa.string())])
        column = pa.array([*rows, None], pa.struct([("x", pa.int64()), ("y", inner)]))
        lance.write_dataset(pa.table({"id": range(10), "a": column}), uri, max_rows_per_file=4)
        dataset = read_lance(uri, filter="id != 4")
        found = collected(torch_batches(dataset, collate_fn=TensorCollate(fill={"a.x": -1})))
        kept = [0, 1, 2, 3, 5, 6, 7, 8]
        assert found == {
            "id": [*kept, 9],
            "a.x": [*kept, -1],
            "a.y.z": [*([float(i)] * 2 for i in kept), ["NaN", "NaN"]],
            "a.y.s": [*(f"s{i}" for i in kept), None],
        }

    @pytest.mark.parametrize(
        ("ragged", "form"),
        [
            ("nested", lambda value: [row.tolist() for row in value.unbind()]),
            ("list", lambda value: [row.tolist() for row in value]),
            ("pad", lambda value: value.tolist()),
        ],
    )
    def test_ragged_columns(self, uri, ragged, form):
        lists = [[float(j) for j in range(i % 4)] for i in range(10)]
        lance.write_dataset(pa.table({"id": range(10), "l": pa.array(lists, pa.list_(pa.float32()))}), uri)
        dataset = read_lance(uri)
        dataset.context.execution_options.preserve_order = True
        batches = list(dataset.iter_torch_batches(batch_size=4, collate_fn=TensorCollate(ragged=ragged)))
        for batch in batches:
            rows = [lists[i] for i in batch["id"].tolist()]
            longest = max(map(len, rows))
            wanted = [row + [0.0] * (longest - len(row)) for row in rows] if ragged == "pad" else rows
            assert form(batch["l"]) == wanted
            if ragged == "pad":
                assert batch["l.lengths"].tolist() == [len(row) for row in rows]

    @pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
    @pytest.mark.parametrize("zone", [None, "UTC", "Asia/Tokyo"])
    def test_timestamps_are_counts_of_their_unit_in_utc(self, uri, unit, zone):
        moment = datetime.datetime(2024, 3, 1, 12, 0, 7, tzinfo=datetime.timezone.utc)
        stamp = pa.array([int(moment.timestamp()), None], pa.int64()).cast(pa.timestamp("s", zone))
        lance.write_dataset(pa.table({"t": stamp.cast(pa.timestamp(unit, zone))}), uri)
        (batch,) = torch_batches(read_lance(uri), collate_fn=TensorCollate(fill=-1))
        scale = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}[unit]
        assert batch["t"].tolist() == [int(moment.timestamp()) * scale, -1]

    @pytest.mark.parametrize("version", ["2.1", "2.2"])
    def test_blobs_are_bytes(self, uri, version):
        values = [b"x" * 5000 * i if i % 3 else None for i in range(12)]
        old = pa.field("b", pa.large_binary(), metadata={"lance-encoding:blob": "true"})
        field = old if version == "2.1" else lance.blob_field("b")
        array = pa.array(values, pa.large_binary()) if version == "2.1" else lance.blob_array(values)
        schema = pa.schema([pa.field("id", pa.int64()), field])
        table = pa.Table.from_arrays([pa.array(range(12)), array], schema=schema)
        lance.write_dataset(table, uri, data_storage_version=version, max_rows_per_file=5).delete("id = 7")
        found = collected(torch_batches(read_lance(uri, override_num_blocks=4), collate_fn=TensorCollate()))
        assert dict(zip(found["id"], found["b"], strict=True)) == {i: values[i] for i in range(12) if i != 7}


class TestReadingAndWritingBack:
    """``write_lance(read_lance(uri), other)`` gives an equal Lance table."""

    @few
    @given(columns=drawn_rows(WRITABLE, nulls=True, elements=False))
    def test_gives_the_same_schema_values_and_nulls(self, columns, tmp_path_factory):
        folder = tmp_path_factory.mktemp("t")
        source = stored(WRITABLE, columns, str(folder / "table.lance"))
        write_lance(read_lance(source, override_num_blocks=TASKS), folder / "other.lance", mode="overwrite")
        before = lance.dataset(source).to_table()
        after = lance.dataset(folder / "other.lance").to_table().sort_by("id")
        for name, case in names(WRITABLE).items():
            old, new = before.schema.field(name), after.schema.field(name)
            assert new.type == RESTORED.get(case.name, old.type), case.name
            assert (new.metadata or {}) == (old.metadata or {}), case.name
            assert plain(flat(after[name])) == plain(flat(before[name])), case.name
            assert after[name].null_count == before[name].null_count, case.name

    def test_keeps_tensors_of_varying_shape(self, uri, tmp_path):
        rows = [{"data": list(range(i)), "shape": [1, i]} for i in range(1, 9)]
        table = pa.Table.from_arrays([array_of(VARIABLE.field, rows)], schema=pa.schema([VARIABLE.field]))
        lance.write_dataset(table, uri, max_rows_per_file=3)
        write_lance(read_lance(uri, override_num_blocks=4), tmp_path / "other.lance")
        assert flat(lance.dataset(tmp_path / "other.lance").to_table()["x"]) == rows

    def test_keeps_structs_and_schema_metadata(self, uri, tmp_path):
        rows = [{"x": 1, "y": ["a", None]}, None, {"x": None, "y": []}]
        struct = pa.struct([("x", pa.int16()), ("y", pa.list_(pa.string()))])
        table = pa.table({"a": pa.array(rows, struct)}).replace_schema_metadata({"owner": "me"})
        lance.write_dataset(table, uri)
        write_lance(read_lance(uri), tmp_path / "other.lance")
        after = lance.dataset(tmp_path / "other.lance").to_table()
        assert after.schema.equals(table.schema, check_metadata=True)
        assert after["a"].to_pylist() == rows

    @pytest.mark.parametrize("version", ["2.1", "2.2"])
    def test_keeps_blobs(self, uri, tmp_path, version):
        values = [b"a" * 70_000, None, b"", b"b"]
        array = lance.blob_array(values) if version == "2.2" else pa.array(values, pa.large_binary())
        old = pa.field("b", pa.large_binary(), metadata={"lance-encoding:blob": "true"})
        field = lance.blob_field("b") if version == "2.2" else old
        table = pa.Table.from_arrays([array], schema=pa.schema([field]))
        lance.write_dataset(table, uri, data_storage_version=version)
        write_lance(read_lance(uri), tmp_path / "other.lance", data_storage_version=version)
        after = lance.dataset(tmp_path / "other.lance")
        kept, given = after.schema.field("b"), lance.dataset(uri).schema.field("b")
        assert str(kept.type) == str(given.type)
        assert kept.metadata == given.metadata
        assert after.scanner(blob_handling="all_binary").to_table()["b"].to_pylist() == values


def flat(column: pa.ChunkedArray) -> list[Any]:
    """Rows as plain Python lists, tensors as the flat list of their elements."""
    if isinstance(column.type, pa.BaseExtensionType):
        column = pa.chunked_array([chunk.storage for chunk in column.chunks], column.type.storage_type)
    rows = column.to_pylist()
    nested = pa.types.is_fixed_size_list(column.type) and pa.types.is_fixed_size_list(column.type.value_type)
    return [row and list(itertools.chain(*row)) for row in rows] if nested else rows


NUMPY_DTYPES = ["bool", *(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64))]
NUMPY_DTYPES += ["float16", "float32", "float64"]
NUMPY_COLUMNS = [(dtype, shape) for dtype in NUMPY_DTYPES for shape in ((), (3,), (2, 3))]


def numbers(dtype: str, shape: tuple[int, ...]) -> np.ndarray:
    return (np.arange(20 * int(np.prod(shape))).reshape(20, *shape) % 120).astype(dtype)


@pytest.fixture(scope="module")
def numpy_columns(tmp_path_factory):
    """What comes back of numpy columns of every dtype, as scalars, vectors and images."""
    uri = str(tmp_path_factory.mktemp("ours") / "table.lance")
    columns = {f"{dtype}{list(shape)}": numbers(dtype, shape) for dtype, shape in NUMPY_COLUMNS}
    table = ray.data.from_items([{"id": i} for i in range(20)], override_num_blocks=3)
    made = table.map_batches(lambda batch: {**batch, **{n: v[batch["id"]] for n, v in columns.items()}})
    write_lance(made, uri, max_rows_per_file=6)
    return uri, torch_batches(read_lance(uri))


class TestWrittenByUs:
    @pytest.mark.parametrize(("dtype", "shape"), NUMPY_COLUMNS)
    def test_numpy_columns_come_back_as_they_were(self, numpy_columns, dtype, shape):
        uri, parts = numpy_columns
        name = f"{dtype}{list(shape)}"
        ids = torch.cat([part["id"] for part in parts])
        found = torch.cat([part[name] for part in parts])
        assert found.dtype == getattr(torch, dtype)
        assert found.numpy().tolist() == numbers(dtype, shape)[ids.numpy()].tolist()
        kind = lance.dataset(uri).schema.field(name).type
        assert isinstance(kind, pa.FixedShapeTensorType) == (len(shape) == 2)
        assert pa.types.is_fixed_size_list(kind) == (len(shape) == 1)

    def test_torch_columns_come_back_as_they_were(self, uri):
        made = ray.data.range(10).map_batches(
            lambda batch: {
                "id": batch["id"],
                "vector": torch.as_tensor(batch["id"])[:, None].float().repeat(1, 4),
                "image": torch.as_tensor(batch["id"])[:, None, None].to(torch.uint8).repeat(1, 2, 2),
            }
        )
        write_lance(made, uri)
        found = collected(torch_batches(read_lance(uri)))
        assert found["vector"] == [[float(i)] * 4 for i in range(10)]
        assert found["image"] == [[[i, i], [i, i]] for i in range(10)]
        assert lance.dataset(uri).schema.field("vector").type == pa.list_(pa.float32(), 4)

    @pytest.mark.parametrize(
        "shape",
        [
            pytest.param(lambda i: (i % 4,), id="lines"),
            pytest.param(lambda i: (i % 3 + 1, 2), id="pages"),
        ],
    )
    def test_ragged_arrays_come_back_as_lists_and_tensors(self, uri, shape):
        rows = [{"id": i, "x": np.full(shape(i), i * 1.5)} for i in range(10)]
        write_lance(ray.data.from_items(rows, override_num_blocks=1), uri)
        found = collected(torch_batches(read_lance(uri), collate_fn=TensorCollate(ragged="list")))
        assert found["x"] == [row["x"].tolist() for row in rows]


class TestWrittenByOthers:
    def test_lance_rays_private_tensor_types(self, uri, tmp_path):
        import lance_ray

        images = np.arange(10 * 2 * 3, dtype=np.float32).reshape(10, 2, 3)
        rows = [
            {"id": i, "image": images[i], "vec": images[i, 0], "page": np.full((i % 3 + 1, 2), i)} for i in range(10)
        ]
        lance_ray.write_lance(ray.data.from_items(rows, override_num_blocks=1), uri)
        for place in (uri, self.rewritten(uri, tmp_path)):
            batches = torch_batches(read_lance(place, columns=["id", "image", "vec"]))
            assert {batch["image"].dtype for batch in batches} == {torch.float32}
            found = collected(batches)
            assert found["image"] == images.tolist()
            assert found["vec"] == images[:, 0].tolist()
        pages = torch_batches(read_lance(uri, columns=["id", "page"]), collate_fn=TensorCollate(ragged="list"))
        assert collected(pages)["page"] == [row["page"].tolist() for row in rows]

    @staticmethod
    def rewritten(uri: str, folder: Any) -> str:
        """The same rows written by us: in standard types."""
        place = str(folder / "ours.lance")
        write_lance(read_lance(uri, columns=["id", "vec", "image"]), place)
        schema = lance.dataset(place).schema
        assert schema.field("vec").type == pa.list_(pa.float32(), 3)
        assert schema.field("image").type == pa.fixed_shape_tensor(pa.float32(), [2, 3])
        assert "ray" not in str(schema)
        return place

    def test_lancedb(self, tmp_path):
        import lancedb

        rows = [{"id": i, "vector": [float(i), 1.0], "text": f"t{i}"} for i in range(10)]
        table = lancedb.connect(str(tmp_path)).create_table("t", rows)
        dataset = read_lance(table.to_lance())
        found = collected(torch_batches(dataset, collate_fn=TensorCollate()))
        assert found == {
            "id": list(range(10)),
            "vector": [[float(i), 1.0] for i in range(10)],
            "text": [f"t{i}" for i in range(10)],
        }

    def test_polars_and_pandas(self, tmp_path):
        values = {"id": list(range(6)), "s": ["a", None, "ü", "", "b", "c"], "l": [[1], [], [2, 3], [4], [], [5]]}
        values["d"] = [decimal.Decimal(i) / 4 for i in range(6)]
        frames = {"polars": pl.DataFrame(values).to_arrow(), "pandas": pa.Table.from_pandas(pd.DataFrame(values))}
        for name, table in frames.items():
            uri = str(tmp_path / f"{name}.lance")
            lance.write_dataset(table, uri)
            found = collected(torch_batches(read_lance(uri), collate_fn=TensorCollate(ragged="list")))
            assert found["s"] == values["s"], name
            assert found["l"] == values["l"], name
            assert found["d"] == [i / 4 for i in range(6)], name

    def test_pickled_objects_are_refused_on_the_driver(self, uri):
        from ray.data._internal.object_extensions.arrow import ArrowPythonObjectArray

        lance.write_dataset(pa.table({"o": ArrowPythonObjectArray.from_objects([{1}, {2}])}), uri)
        with pytest.raises(ray_lance.TensorConversionError, match="column 'o'"):
            read_lance(uri).schema()
