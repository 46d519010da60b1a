"""Writing, end to end: every type in every mode comes back as it was, and is a standard type for everybody else."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import lance
import numpy as np
import pyarrow as pa
import pytest
import ray
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from ray.data.extensions import ArrowTensorTypeV2

import ray_lance
from ray_lance import TensorCollate, blob, read_lance, write_lance
from ray_lance.tensors import from_tensors, to_tensors
from ray_lance.tensors.kinds import extension_name, storage_type
from tests.examples import examples
from tests.integration.test_types import WRITABLE, collected, drawn_rows, filled_null, fills, names, torch_batches
from tests.orphans import orphans
from tests.unit.tensors.type_cases import VARIABLE, Case, array_of, column, integers, plain

MODES = ["create", "append", "overwrite", "merge"]

STRUCTS = Case(
    "struct",
    column("x", pa.struct([("a", pa.int16()), ("b", pa.struct([("c", pa.list_(pa.string()))]))])),
    st.fixed_dictionaries(
        {
            "a": integers(16, True) | st.none(),
            "b": st.none() | st.fixed_dictionaries({"c": st.lists(st.text(max_size=3) | st.none(), max_size=2)}),
        }
    ),
    None,
)
TYPES = [*WRITABLE, STRUCTS, VARIABLE]

# Shrinking would write every table a hundred times.
PHASES = (Phase.explicit, Phase.reuse, Phase.generate)
few = settings(max_examples=examples(2), phases=PHASES, suppress_health_check=list(HealthCheck))

Steps = Iterator[tuple[str, range, dict[int, int]]]


def steps() -> Steps:
    """Each mode, the rows it is given, and where each row of the dataset comes from then: id -> row of the source."""
    yield "create", range(12), {row: row for row in range(12)}
    yield "append", range(12, 30), {row: row for row in range(30)}
    yield "overwrite", range(20), {row: row for row in range(20)}
    # The rows of a merge carry the ids of those three places before, so that some replace others.
    yield "merge", range(18, 41), {**{row: row for row in range(15)}, **{row - 3: row for row in range(18, 41)}}


def ids_of(mode: str, rows: range) -> list[int]:
    return [row - 3 if mode == "merge" else row for row in rows]


def blocks(table: pa.Table, size: int = 7) -> ray.data.Dataset:
    return ray.data.from_arrow([table.slice(start, size) for start in range(0, table.num_rows, size)])


def written(dataset: ray.data.Dataset, uri: str, mode: str, **options: Any) -> ray_lance.WriteSummary:
    return write_lance(dataset, uri, mode=mode, on="id" if mode == "merge" else None, **options)


def table_of(columns: dict[str, list[Any]], ids: list[int], rows: range) -> pa.Table:
    fields = [case.field.with_name(name) for name, case in names(TYPES).items()]
    arrays = [array_of(case.field, [columns[name][row] for row in rows]) for name, case in names(TYPES).items()]
    return pa.Table.from_arrays([pa.array(ids), *arrays], schema=pa.schema([pa.field("id", pa.int64()), *fields]))


def values(column: pa.ChunkedArray) -> list[Any]:
    """Rows as plain Python values, those of extension types as they are stored."""
    chunks = [chunk.storage if isinstance(chunk, pa.ExtensionArray) else chunk for chunk in column.chunks]
    return plain([row for chunk in chunks for row in chunk.to_pylist()])


def stored(uri: str, **options: Any) -> pa.Table:
    """What plain Lance reads, by id."""
    table = lance.dataset(uri).scanner(**options).to_table()
    return table.take(np.argsort(table["id"].to_numpy()))


@pytest.mark.usefixtures("plain_bfloat16")
@few
@given(columns=drawn_rows(TYPES, nulls=True))
def test_arrow_columns_of_every_type_survive_every_mode(columns, tmp_path_factory):
    uri = str(tmp_path_factory.mktemp("t") / "table.lance")

    for mode, rows, source in steps():
        table = table_of(columns, ids_of(mode, rows), rows)
        summary = written(blocks(table), uri, mode)

        found = stored(uri)
        assert summary.rows == len(rows)
        assert found["id"].to_pylist() == sorted(source)
        for name, case in names(TYPES).items():
            wanted = [columns[name][source[row]] for row in sorted(source)]
            like = pa.chunked_array([array_of(case.field, wanted)])
            field = found.schema.field(name)
            assert storage_type(field.type) == storage_type(case.field.type), (mode, case.name)
            assert extension_name(field) == extension_name(case.field), (mode, case.name)
            assert values(found[name]) == values(like), (mode, case.name)
        assert orphans(uri) == []
    check_tensors(uri, {id: {name: columns[name][row] for name in names(TYPES)} for id, row in source.items()})


def check_tensors(uri: str, rows: dict[int, dict[str, Any]]) -> None:
    """``read_lance`` gives the rows, by id, as tensors."""
    cases = {name: case for name, case in names(TYPES).items() if case is not STRUCTS}
    fill = fills(TYPES)
    dataset = read_lance(uri, columns=["id", *cases], fill=fill)
    found = collected(torch_batches(dataset, collate_fn=TensorCollate(ragged="list", fill=fill)))
    assert found["id"] == sorted(rows)
    for name, case in cases.items():
        values = [rows[id][name] for id in sorted(rows)]
        assert found[name] == plain(
            [filled_null(case) if value is None else case.expected(value) for value in values]
        ), name


def test_a_function_can_be_given_the_schema_of_a_dataset_with_tensors_of_varying_shape(uri):
    """Lance tells their type as an object that pyarrow cannot pickle."""

    def images(ids):
        return [np.full((i % 3 + 1, i % 5 + 1), i, np.float32) if i % 2 else None for i in map(int, ids)]

    lance.write_dataset(from_tensors({"id": np.arange(4), "image": images(range(4))}), uri)
    schema = lance.dataset(uri).schema

    more = ray.data.range(6).map_batches(
        lambda rows: from_tensors({"id": rows["id"] + 4, "image": images(rows["id"] + 4)}, schema)
    )
    written(more, uri, "append")

    assert lance.dataset(uri).schema == schema
    assert values(stored(uri)["image"]) == values(from_tensors({"image": images(range(10))})["image"])


NUMPY_DTYPES = ["bool", "float16", "float32", "float64"]
NUMPY_DTYPES += [f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)]
SHAPES: dict[str, tuple[int, ...]] = {"number": (), "vector": (3,), "image": (2, 2), "frames": (2, 1, 3)}


def source_of_tensors(seed: int) -> dict[str, np.ndarray]:
    """41 rows of any bit patterns for each dtype and shape, NaN and infinity among them."""
    generator = np.random.default_rng(seed)
    arrays = {}
    for dtype in NUMPY_DTYPES:
        for kind, shape in SHAPES.items():
            size = 41 * int(np.prod(shape))
            raw = generator.bytes(size * np.dtype(dtype).itemsize)
            values = np.frombuffer(raw, np.uint8) % 2 == 0 if dtype == "bool" else np.frombuffer(raw, dtype)
            arrays[f"{dtype} {kind}"] = values.reshape(41, *shape)
    return arrays


def stored_type(name: str) -> pa.DataType:
    dtype, kind = name.split()
    value, shape = pa.from_numpy_dtype(dtype), SHAPES[kind]
    if not shape:
        return value
    return pa.list_(value, shape[0]) if len(shape) == 1 else pa.fixed_shape_tensor(value, shape)


@pytest.mark.parametrize("kind", [pytest.param("numpy", marks=pytest.mark.slow), "torch"])
@few
@given(seed=st.integers(0, 2**32))
def test_tensor_columns_of_a_function_survive_every_mode(kind, seed, tmp_path_factory):
    uri = str(tmp_path_factory.mktemp("t") / "table.lance")
    arrays = source_of_tensors(seed)
    convert = torch.tensor if kind == "torch" else np.array

    for mode, rows, now in steps():
        source = now

        def tensors(batch, mode=mode):
            row = batch["id"] + 3 if mode == "merge" else batch["id"]
            return {"id": batch["id"], **{name: convert(values[row]) for name, values in arrays.items()}}

        ids = ray.data.from_items([{"id": id} for id in ids_of(mode, rows)], override_num_blocks=3)
        written(ids.map_batches(tensors), uri, mode)

        schema = lance.dataset(uri).schema
        assert {name: schema.field(name).type for name in arrays} == {name: stored_type(name) for name in arrays}
    found = read_lance(uri).take_batch(100)
    order = np.argsort(found["id"])
    assert found["id"][order].tolist() == sorted(source)
    for name, values in arrays.items():
        wanted = values[[source[id] for id in sorted(source)]]
        read = np.stack(found[name][order])  # Ray gives vectors of bool as an array of objects
        assert read.dtype == wanted.dtype
        np.testing.assert_array_equal(read, wanted, err_msg=name)


def test_what_ray_cannot_carry_survives_every_mode_as_an_arrow_table(uri):
    """bfloat16, jagged tensors and tensors of varying shape of a function, by way of ``from_tensors``."""
    rows_of = torch.arange(41).float()

    def tensors(batch, shift):
        rows = [int(id) + shift for id in batch["id"]]
        return from_tensors(
            {
                "id": batch["id"],
                "brain": rows_of[rows].bfloat16(),
                "brains": torch.stack([rows_of[rows].bfloat16()] * 3, dim=1),
                "jagged": torch.nested.nested_tensor([rows_of[: row % 4] + row for row in rows], layout=torch.jagged),
                "pages": [torch.full((row % 3 + 1, row % 2 + 1), row) for row in rows],
            }
        )

    for mode, rows, source in steps():
        ids = ray.data.from_items([{"id": id} for id in ids_of(mode, rows)], override_num_blocks=3)
        shift = 3 if mode == "merge" else 0
        written(ids.map_batches(tensors, fn_kwargs={"shift": shift}), uri, mode)

        found = to_tensors(stored(uri), ragged="list")
        rows_now = [source[id] for id in sorted(source)]
        assert found["brain"].dtype == found["brains"].dtype == torch.bfloat16
        assert found["brain"].tolist() == rows_of[rows_now].tolist()
        assert found["brains"].tolist() == [[float(row)] * 3 for row in rows_now]
        assert plain(found["jagged"]) == [[float(i + row) for i in range(row % 4)] for row in rows_now]
        assert plain(found["pages"]) == [[[row] * (row % 2 + 1)] * (row % 3 + 1) for row in rows_now]


@pytest.mark.parametrize("version", [pytest.param(1, marks=pytest.mark.slow), 2])
@few
@given(values=st.lists(st.none() | st.binary(max_size=9) | st.just(b"x" * 70_000), min_size=41, max_size=41))
def test_blobs_survive_every_mode(version, values, tmp_path_factory):
    uri = str(tmp_path_factory.mktemp("t") / "table.lance")
    storage = "2.1" if version == 1 else "2.2"

    for mode, rows, source in steps():
        table = pa.table({"id": ids_of(mode, rows), "data": pa.array([values[row] for row in rows], pa.binary())})
        fields = {"schema": [blob("data", version=version)]} if mode != "merge" else {}
        written(blocks(table), uri, mode, data_storage_version=storage, **fields)

        found = stored(uri, blob_handling="all_binary")
        assert found["data"].to_pylist() == [values[source[id]] for id in sorted(source)]
        assert found["id"].to_pylist() == sorted(source)
        assert orphans(uri) == []
    read = read_lance(uri).take_all()
    assert {row["id"]: row["data"] for row in read} == {id: values[row] for id, row in source.items()}


PROGRAM = """
import sys, lance
dataset = lance.dataset(sys.argv[1])
table = dataset.to_table()
assert table.num_rows == int(sys.argv[2])
assert not {"ray", "ray_lance"} & set(sys.modules)

def fields(parent):
    for index in range(parent.num_fields):
        child = parent.field(index)
        yield child
        yield from fields(getattr(child.type, "storage_type", child.type))

every = [field for top in dataset.schema for field in (top, *fields(getattr(top.type, "storage_type", top.type)))]
for field in every:
    noted = (field.metadata or {}).get(b"ARROW:extension:name", b"").decode()
    name = getattr(field.type, "extension_name", None) or noted
    assert name.partition(".")[0] in ("", "arrow", "lance"), field
    assert b"ray." not in str(field.metadata).encode() and "pickle" not in str(field.metadata), field
print("read")
"""


@pytest.mark.parametrize("mode", MODES)
def test_plain_lance_reads_standard_types_where_ray_was_never_imported(uri, mode):
    """Of Ray's tensors, asked for by name too, of Arrow tables of every type, and of what a function returns."""
    images = np.arange(8 * 4, dtype=np.float32).reshape(8, 2, 2)
    ragged = np.empty(8, dtype=object)
    ragged[:] = [np.ones((i % 3 + 1, 2)) for i in range(8)]
    tensors = {"id": np.arange(8), "image": images, "line": images[:, 0], "flag": images > 3, "ragged": ragged}
    asked_for = pa.field("image", ArrowTensorTypeV2((2, 2), pa.float32()))
    dataset = ray.data.range(1).map_batches(lambda _: tensors)
    if mode != "create":
        write_lance(dataset, uri)

    written(dataset, uri, mode, schema=[asked_for])

    rows = 16 if mode == "append" else 8
    run = subprocess.run([sys.executable, "-c", PROGRAM, uri, str(rows)], capture_output=True, text=True, check=False)
    assert (run.stdout, run.returncode) == ("read\n", 0), run.stderr


@pytest.mark.parametrize("mode", ["append", "merge"])
def test_rows_are_not_added_to_types_that_only_ray_can_read(uri, mode):
    tensor = pa.field("x", ArrowTensorTypeV2((2, 2), pa.float32()))
    stored_as = tensor.type.wrap_array(pa.array([[1.0] * 4], tensor.type.storage_type))
    lance.write_dataset(pa.table({"id": [1], "x": stored_as}), uri)

    with pytest.raises(ray_lance.InvalidArgumentError, match=r"columns \['x'\] in types that only Ray can read"):
        written(read_lance(uri), uri, mode)
    write_lance(read_lance(uri), uri, mode="overwrite")
    written(read_lance(uri), uri, mode)

    assert lance.dataset(uri).schema.field("x").type == pa.fixed_shape_tensor(pa.float32(), [2, 2])


def test_tensors_of_one_dimension_are_added_to_the_type_that_is_there(uri):
    vectors = pa.array([[1.0, 2.0]], pa.list_(pa.float32(), 2))
    tensor = pa.ExtensionArray.from_storage(pa.fixed_shape_tensor(pa.float32(), [2]), vectors)
    lance.write_dataset(pa.table({"id": [0], "v": tensor}), uri)

    for mode, id in (("append", 1), ("merge", 0)):
        written(ray.data.from_arrow(pa.table({"id": [id], "v": vectors})), uri, mode)

    assert stored(uri)["v"].combine_chunks().storage.to_pylist() == [[1.0, 2.0]] * 2
    assert lance.dataset(uri).schema.field("v").type == tensor.type


@pytest.mark.parametrize("mode", MODES)
def test_metadata_of_schema_and_fields_survives_every_mode(uri, mode):
    """That of Hugging Face datasets, for one, is what the columns mean."""
    metadata = {b"huggingface": b'{"info": {"features": {"id": {"dtype": "int64", "_type": "Value"}}}}', b"own": b"x"}
    field = pa.field("id", pa.int64(), metadata={"unit": "m"})
    table = pa.table({"id": [1, 2]}, schema=pa.schema([field], metadata=metadata))
    if mode != "create":
        lance.write_dataset(table.slice(1) if mode in ("append", "merge") else pa.table({"z": [1]}), uri)

    written(ray.data.from_arrow([table.slice(0, 1), table.slice(1)]), uri, mode)

    schema = lance.dataset(uri).schema
    assert (schema.metadata, schema.field("id").metadata) == (metadata, field.metadata)


@pytest.mark.parametrize("mode", MODES)
def test_files_come_within_a_factor_of_two_of_the_target_in_every_mode(uri, mode):
    """All but the last one, which holds the rest: of blocks that hold from a tenth of a file to several files."""
    generator = np.random.default_rng(0)
    sizes = [3, 1, 40, 7, 250, 2, 2, 90, 11, 60, 5]
    tables, start = [], 0
    for size in sizes:
        data = pa.array([generator.bytes(500 * (i % 9 + 1)) for i in range(size)], pa.binary())
        tables.append(pa.table({"id": np.arange(start, start + size), "data": data}))
        start += size
    target = sum(table.nbytes for table in tables) // 9
    if mode != "create":
        lance.write_dataset(tables[0], uri)
    before = {fragment.fragment_id for fragment in lance.dataset(uri).get_fragments()} if mode != "create" else set()

    written(ray.data.from_arrow(tables), uri, mode, target_bytes_per_file=target)

    fragments = lance.dataset(uri).get_fragments()
    new = fragments if mode == "overwrite" else [each for each in fragments if each.fragment_id not in before]
    sizes = sorted(fragment.to_table().nbytes for fragment in new)
    assert len(sizes) > 5
    assert all(target / 2 <= size <= target * 2 for size in sizes[1:])
    assert sizes[0] <= target * 2


@pytest.mark.parametrize("options", [{}, {"delete_missing": True}], ids=["upsert", "delete missing"])
def test_merging_no_rows_is_a_merge(uri, options):
    lance.write_dataset(pa.table({"id": [1, 2]}), uri)
    none = ray.data.from_arrow(pa.table({"id": [1]})).filter(lambda row: False)

    summary = write_lance(none, uri, mode="merge", on="id", **options)

    assert lance.dataset(uri).count_rows() == (0 if options else 2)
    assert (summary.rows, summary.rows_updated, summary.rows_deleted) == (0, 0, 2 if options else 0)
    assert orphans(uri) == []


def test_processes_that_know_lances_bfloat16_write_the_same(uri):
    def halves(batch):
        import lance.arrow  # noqa: F401  registers the type for the life of the process, as a user's import would

        ids = torch.from_numpy(np.array(batch["id"]))
        return from_tensors({"id": ids, "half": ids[:, None].repeat(1, 3).to(torch.bfloat16)})

    for mode, ids in (("create", [1, 2, 3]), ("merge", [3, 4])):
        rows = ray.data.from_items([{"id": id} for id in ids], override_num_blocks=2).map_batches(halves)
        write_lance(rows, uri, mode=mode, **({"on": "id"} if mode == "merge" else {}))
    summary = ray_lance.add_columns(
        uri, lambda batch: {"twice": batch["half"] * 2}, input_columns=["half"], batch_format="torch"
    )

    found = to_tensors(lance.dataset(uri).to_table())
    order = found["id"].argsort()
    assert found["id"][order].tolist() == [1, 2, 3, 4]
    assert found["half"].dtype == found["twice"].dtype == torch.bfloat16
    assert found["half"][order].tolist() == [[id] * 3 for id in (1, 2, 3, 4)]
    assert found["twice"][order].tolist() == [[2 * id] * 3 for id in (1, 2, 3, 4)]
    assert summary.rows == 4
