"""Every argument of every public call, given what it cannot be: a short error that names it, before any work."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import lance
import numpy as np
import pyarrow as pa
import pytest
import ray
from ray.train import ScalingConfig
from ray.train.torch import TorchTrainer

import ray_lance
import ray_lance.torch
import ray_lance.train
from ray_lance import ImageDecode, Mixture, Permutation, TableRef, TensorCollate
from ray_lance.ordered import Ordered
from ray_lance.torch import LanceIterableDataset, LanceMapDataset
from ray_lance.train import DatasetOptions, LanceDataConfig

SECRET = "correct horse battery staple"
LONG = "long " * 1000

# Wrong values, by what an argument takes. Each is wrong whatever the other arguments are.
NO_TEXT = [object(), 2.5, -1, [object()], b"x", {"a": 1}, np.zeros((20, 2))]
NO_NAMES = [object(), 2.5, [object()], [[1]], b"x", {"a": 1}, float("nan")]
NO_PLACE = [object(), 2.5, b"x", {"a": 1}, "", np.zeros((20, 2))]
NO_INTEGER = [object(), 2.5, "1", LONG, [1], {"a": 1}, True, float("nan"), np.zeros((20, 2))]
NO_COUNT = [*NO_INTEGER, 0, -1, 10**30]
NO_SIZE = [*NO_INTEGER, -1, 10**30]
NO_AMOUNT = [object(), "1", [1], {"a": 1}, -1, float("nan"), float("inf"), 10**30]
NO_FLAG = [object(), 1, "false", [True], np.zeros(2, bool)]
NO_MAPPING = [object(), 2.5, LONG, [1], b"x", [("a", 1)], {1: "a"}]
NO_OPTIONS = [*NO_MAPPING, [SECRET], {"key": [SECRET]}, {SECRET[:3]: 1}]
NO_CHOICE = [object(), 2.5, "nonsense", LONG, [1], {"a": 1}, b"x"]
NO_FUNCTION = [object(), 2.5, "nonsense", [1], {"a": 1}]
NO_COLUMNS = [object(), 2.5, "x", LONG, [object()], ["nonsense"], ["x", "x"], b"x"]
NO_CONDITION = [object(), 2.5, "nonsense", "x >", "", [1], {"a": 1}, b"x"]
NO_SEQUENCE = [object(), 2.5, "text", b"x", {"a": 1}]
NO_FILL = [object(), [1], {"x": object()}, {"nonsense": 1}]
NO_VERSION = [object(), 2.5, -1, 0, 10**30, "", [1], (1, 2, 3), ("", 1)]
NO_DECODE = [object(), 2.5, "nonsense", [1], {"nonsense": "image"}, {"x": "image"}]
NO_SCHEMA = [object(), 2.5, "x", [1], {"x": "int64"}]
NO_LANES = [*NO_INTEGER, 0, -1]
NO_STATE = [object(), 2.5, "x", [1], {}, {"epoch": 0}]
NO_CATEGORIES = [object(), 2.5, "nonsense", [1], {"x": [1, 1]}]
NO_GROUPS = [object(), 2.5, "0", 0, -1, True, [0, 2], {0: 1}]
NO_DEVICE_MESH = [object(), 2.5, "dp", [1]]

# What neither a table nor a row can tell: any object is right.
ANY = None

TABLE = {
    "storage_options": NO_OPTIONS,
    "table_id": [object(), 2.5, [1], b"x", {"a": 1}],
    "namespace_impl": [*NO_TEXT, ""],
    "namespace_properties": NO_OPTIONS,
}
RAY = {
    "num_cpus": NO_AMOUNT,
    "num_gpus": NO_AMOUNT,
    "memory": NO_AMOUNT,
    "ray_remote_args": [*NO_MAPPING, {"nonsense": 1}, {"num_cpus": "x"}],
}
BATCHES = {
    "columns": NO_COLUMNS,
    "transform": NO_FUNCTION,
    "format": NO_CHOICE,
    "decode": NO_DECODE,
    "fill": NO_FILL,
    "ragged": NO_CHOICE,
    "categories": NO_CATEGORIES,
    "version": NO_VERSION,
    "storage_options": NO_OPTIONS,
    "cache_bytes": [*NO_SIZE, "nonsense"],
    "filter": NO_CONDITION,
}


BATCHING = {
    "prefetch_batches": NO_SIZE,
    "batch_size": NO_COUNT,
    "dtypes": [object(), 2.5, "float", [1], {"x": "float"}],
    "collate_fn": NO_FUNCTION,
    "drop_last": NO_FLAG,
    "local_shuffle_buffer_size": NO_COUNT,
    "pin_memory": NO_FLAG,
}


@dataclass(frozen=True)
class Call:
    """A public call, with arguments that are right, and wrong values for each of its parameters.

    Attributes:
        of: Makes what is called, of the fixture's things.
        wrong: Wrong values by parameter; ANY where there are none.
        right: Makes the arguments beside the wrong one.
        out_of_range: Parameters whose wrong values may be an IndexError, as Python's own sequences raise.
    """

    of: Callable[[Things], Callable[..., Any]]
    wrong: dict[str, list[Any] | None]
    right: Callable[[Things], dict[str, Any]] = lambda _: {}
    out_of_range: tuple[str, ...] = ()


@dataclass
class Things:
    """What calls need: one table, and what is made of it."""

    uri: str
    rows: ray.data.Dataset
    permutation: Permutation = field(init=False)
    mixture: Mixture = field(init=False)
    iterable: LanceIterableDataset = field(init=False)
    mapped: LanceMapDataset = field(init=False)

    def __post_init__(self) -> None:
        self.permutation = Permutation(self.uri)
        self.mixture = Mixture({"a": self.permutation})
        self.iterable = LanceIterableDataset(self.uri, batch_size=2)
        self.mapped = LanceMapDataset(self.uri)

    @property
    def images(self) -> str:
        """A table whose image is none."""
        uri = f"{self.uri}.images"
        lance.write_dataset(pa.table({"image": [b"no image"]}), uri, mode="overwrite")
        return uri

    @property
    def shard(self) -> ray_lance.train.LanceShard:
        config = LanceDataConfig(global_batch_size=2)
        return config.configure({"train": ray_lance.read_lance(self.permutation)}, 1, None, None)[0]["train"]


def _double(batch: dict[str, Any]) -> dict[str, Any]:
    return {"y": batch["x"]}


CALLS: dict[str, Call] = {
    "read_lance": Call(
        lambda _: ray_lance.read_lance,
        {
            **TABLE,
            **RAY,
            "uri": [*NO_PLACE, None, [], [object()]],
            "columns": NO_COLUMNS,
            "filter": NO_CONDITION,
            "version": NO_VERSION,
            "missing": [*NO_NAMES, [], ""],
            "since": [object(), 2.5, -1, 0, 10**30, "", [1], ("dev", None), True],
            "changes": NO_CHOICE,
            "without": [object(), 2.5, b"x", {"a": 1}, "", [1], np.zeros((20, 2)), "nowhere.lance"],
            "on": [*NO_NAMES, "x"],
            "shuffle": NO_INTEGER,
            "base_store_params": [*NO_OPTIONS, {"s3://bucket": SECRET}],
            "scanner_options": [*NO_MAPPING, {"nonsense": 1}],
            "dataset_options": [*NO_MAPPING, {"nonsense": 1}, {"uri": "x"}],
            "fragment_ids": [object(), 2.5, "x", [object()], [99], [-1]],
            "with_row_id": NO_FLAG,
            "with_row_address": NO_FLAG,
            "with_metadata": NO_FLAG,
            "decode": NO_DECODE,
            "fill": NO_FILL,
            "resources": [*NO_MAPPING, {"a": object()}, {"a": -1}],
            "label_selector": [*NO_MAPPING, {"a": 1}],
            "fallback_strategy": [object(), 2.5, "x", [1], {"a": 1}],
            "max_calls": NO_SIZE,
            "accelerator_type": [*NO_TEXT, ""],
            "runtime_env": NO_MAPPING,
            "concurrency": NO_COUNT,
            "override_num_blocks": NO_COUNT,
        },
        lambda things: {"uri": things.uri},
    ),
    "write_lance": Call(
        lambda _: ray_lance.write_lance,
        {
            **TABLE,
            "dataset": [None, object(), [{"a": 1}], {"a": [1]}, LONG, pa.table({"a": [1]}), np.zeros((20, 2))],
            "uri": [*NO_PLACE, None],
            "mode": NO_CHOICE,
            "on": [*NO_NAMES, ["x", "x"], "x"],
            "update": [*NO_FLAG, False],
            "insert": [*NO_FLAG, False],
            "delete_missing": [*NO_FLAG, True],
            "schema": NO_SCHEMA,
            "target_bytes_per_file": NO_COUNT,
            "max_rows_per_file": NO_COUNT,
            "data_storage_version": NO_CHOICE,
            "enable_stable_row_ids": NO_FLAG,
            "commit_every": [*NO_COUNT, 5],
            "id_column": [*NO_TEXT, "", "id"],
            "ray_remote_args": RAY["ray_remote_args"],
            "concurrency": NO_COUNT,
        },
        lambda things: {"dataset": things.rows, "uri": f"{things.uri}.new"},
    ),
    "add_columns": Call(
        lambda _: ray_lance.add_columns,
        {
            **TABLE,
            **RAY,
            "uri": [*NO_PLACE, None],
            "fn": [*NO_FUNCTION, None],
            "input_columns": [*NO_NAMES, [], "nonsense", LONG],
            "schema": [*NO_SCHEMA, pa.schema([])],
            "where": NO_CONDITION,
            "batch_size": NO_COUNT,
            "batch_format": NO_CHOICE,
            "decode": NO_DECODE,
            "overwrite": NO_FLAG,
            "on_error": NO_CHOICE,
            "fragments_per_commit": NO_COUNT,
            "fn_args": NO_SEQUENCE,
            "fn_kwargs": NO_MAPPING,
            "fn_constructor_args": [*NO_SEQUENCE, [1]],
            "fn_constructor_kwargs": [*NO_MAPPING, {"a": 1}],
            "concurrency": [*NO_COUNT[:4], 0, (2, 1), (1, 2, 3)],
        },
        lambda things: {
            "uri": things.uri,
            "fn": _double,
            "input_columns": "x",
            "schema": pa.schema({"y": pa.float64()}),
        },
    ),
    "merge_columns_from": Call(
        lambda _: ray_lance.merge_columns_from,
        {
            **TABLE,
            "uri": [*NO_PLACE, None],
            "dataset": [object(), None, 2.5, "x", [1], pa.table({"a": [1]})],
            "on": NO_CHOICE,
            "columns": [*NO_NAMES, [], ["y", "y"], ["_rowaddr"]],
            "schema": [*NO_SCHEMA, pa.schema([])],
            "read_version": NO_COUNT,
            "require_full_coverage": NO_FLAG,
            "overwrite": NO_FLAG,
            "fragments_per_commit": NO_COUNT,
        },
        lambda things: {
            "uri": things.uri,
            "dataset": ray_lance.read_lance(things.uri, columns=["x"], with_row_address=True),
        },
    ),
    "explain": Call(lambda _: ray_lance.explain, {"source": [*NO_PLACE, None, [], [object()]]}),
    "blob": Call(
        lambda _: ray_lance.blob,
        {"name": [*NO_TEXT, ""], "version": [object(), 0, 3, "1", 2.5], "nullable": NO_FLAG},
        lambda _: {"name": "b"},
    ),
    "tensor": Call(
        lambda _: ray_lance.tensor,
        {
            "name": [*NO_TEXT, ""],
            "value_type": [object(), None, "nonsense", pa.string(), [1], 2.5],
            "ndim": [*NO_COUNT, 65],
            "nullable": NO_FLAG,
        },
        lambda _: {"name": "t", "value_type": "float32", "ndim": 2},
    ),
    "TableRef": Call(
        lambda _: TableRef,
        {
            **TABLE,
            "uri": [*NO_TEXT, "", None],
            "version": NO_VERSION,
            "dataset_options": [*NO_MAPPING, {"uri": "x"}],
            "manifest": [object(), "x", 1],
        },
        lambda things: {"uri": things.uri},
    ),
    "TableRef.of": Call(
        lambda _: TableRef.of,
        {
            "source": [*NO_PLACE, None],
            "version": NO_VERSION,
            "storage_options": NO_OPTIONS,
            "dataset_options": NO_MAPPING,
        },
        lambda things: {"source": things.uri},
    ),
    "TableRef.at": Call(lambda things: TableRef(things.uri).at, {"version": NO_VERSION}),
    "TensorCollate": Call(
        lambda _: TensorCollate,
        {
            "ragged": NO_CHOICE,
            "fill": [object(), [1], {"x": object()}],
            "dtypes": [object(), 2.5, "float", [1], {"x": "float"}],
            "device": [object(), 2.5, "nonsense", [1], {"a": 1}],
            "pin_memory": NO_FLAG,
            "categories": NO_CATEGORIES,
        },
    ),
    "ImageDecode": Call(
        lambda _: ImageDecode,
        {
            "size": [object(), 2.5, "x", 0, (1, 2, 3), (0, 1), [object()], {"a": 1}],
            "mode": NO_CHOICE,
            "on_error": [*NO_CHOICE, "fill"],
            "fill": [*NO_SIZE, 256],
        },
    ),
    "Permutation": Call(
        lambda _: Permutation,
        {
            "source": [*NO_PLACE, None],
            "filter": NO_CONDITION,
            "version": NO_VERSION,
            "storage_options": NO_OPTIONS,
        },
        lambda things: {"source": things.uri},
    ),
    "Mixture": Call(
        lambda _: Mixture,
        {
            "sources": [object(), None, 2.5, "x", {}, [1], {1: "x"}, {"a": object()}],
            "weights": [object(), 2.5, "x", [], [1, 1], [0], [-1], ["1"], [float("nan")], [True], {"b": 1}, [(1, [1])]],
            "repeat": [object(), 2.5, "x", [1], {"b": 1}, {"a": 0}, {"a": "1"}, {"a": float("inf")}],
            "epoch_size": NO_COUNT,
            "stopping": NO_CHOICE,
            "stratified": NO_FLAG,
            "source_column": [*NO_TEXT, "", "x", "_rowid"],
        },
        lambda things: {"sources": {"a": things.permutation}},
    ),
    "Mixture.counts": Call(lambda things: things.mixture.counts, {"rows": NO_SIZE}),
    "Permutation.shuffle": Call(
        lambda things: things.permutation.shuffle,
        {"seed": NO_INTEGER, "clump": [*NO_COUNT[:8], 0, "x"], "window": [*NO_COUNT[:8], 0, "x"]},
        lambda _: {"seed": 1, "clump": 2},
    ),
    "Permutation.epoch": Call(lambda things: things.permutation.epoch, {"number": NO_SIZE}),
    "Permutation.shard": Call(
        lambda things: things.permutation.shard,
        {"rank": [*NO_SIZE, 2], "world_size": NO_COUNT},
        lambda _: {"rank": 0, "world_size": 2},
    ),
    "Permutation.split": Call(
        lambda things: things.permutation.split,
        {
            "fractions": [object(), 2.5, "x", {}, [], {"a": object()}, {"a": 1.5}, {"a": -1}, [0.9, 0.9], [object()]],
            "seed": NO_INTEGER,
            "by": [*NO_NAMES, [], "nonsense", LONG],
        },
        lambda _: {"fractions": {"a": 0.5}},
    ),
    "Permutation.rows": Call(
        lambda things: things.permutation.rows,
        {"start": NO_SIZE, "stop": NO_SIZE},
        out_of_range=("start", "stop"),
    ),
    "Permutation.fetch": Call(
        lambda things: things.permutation.fetch,
        {
            "indices": [object(), None, 2.5, "x", [object()], [[1]], [[1], [1, 2]], {"a": 1}, 99, 10**30],
            "columns": NO_COLUMNS,
            "format": NO_CHOICE,
        },
        lambda _: {"indices": [0]},
        out_of_range=("indices",),
    ),
    "Permutation.head": Call(
        lambda things: things.permutation.head,
        {"rows": NO_SIZE, "columns": NO_COLUMNS},
    ),
    "Permutation.iter_batches": Call(
        lambda things: things.permutation.iter_batches,
        {"batch_size": NO_COUNT, "columns": NO_COLUMNS, "format": NO_CHOICE, "threads": NO_COUNT},
        lambda _: {"batch_size": 2},
    ),
    "Permutation.quality": Call(
        lambda things: things.permutation.quality, {"batch_size": NO_COUNT, "labels": [*NO_COUNT, 1]}
    ),
    "Permutation.load": Call(
        lambda _: Permutation.load,
        {"uri": [*NO_PLACE, None], "storage_options": NO_OPTIONS},
        lambda things: {"uri": f"{things.uri}.new"},
    ),
    "Permutation.save": Call(
        lambda things: things.permutation.save,
        {"uri": [*NO_PLACE, None], "storage_options": NO_OPTIONS},
        lambda things: {"uri": f"{things.uri}.saved"},
    ),
    "Permutation.from_lancedb": Call(
        lambda _: Permutation.from_lancedb,
        {
            "table": NO_PLACE,
            "permutation_table": [object(), None, "x", pa.table({"a": [1]})],
            "split": [object(), 2.5, -1, [1], "nonsense", 7],
        },
        lambda things: {
            "table": things.uri,
            "permutation_table": pa.table({"row_id": pa.array([0], pa.uint64()), "split_id": pa.array([0])}),
        },
    ),
    "LanceIterableDataset": Call(
        lambda _: LanceIterableDataset,
        {
            **BATCHES,
            "source": [*NO_PLACE, None],
            "batch_size": NO_COUNT,
            "shuffle": NO_INTEGER,
            "rank": [*NO_SIZE, 1, 2],
            "world_size": [*NO_COUNT, 2],
            "device_mesh": NO_DEVICE_MESH,
            "dp_dim": [object(), "dp", 0],
            "data_parallel": NO_GROUPS,
            "lanes": NO_LANES,
            "tail": NO_CHOICE,
            "prefetch": NO_SIZE,
        },
        lambda things: {"source": things.uri, "batch_size": 2},
    ),
    "LanceIterableDataset.load_state_dict": Call(
        lambda things: things.iterable.load_state_dict, {"state": [*NO_STATE, None]}
    ),
    "LanceIterableDataset.set_epoch": Call(lambda things: things.iterable.set_epoch, {"epoch": NO_SIZE}),
    "LanceIterableDataset.state_after": Call(
        lambda things: things.iterable.state_after, {"steps": [*NO_SIZE, 99]}, out_of_range=("steps",)
    ),
    "LanceIterableDataset.is_over": Call(
        lambda things: things.iterable.is_over,
        {"states": ANY, "more": ANY},  # for loaders, which have them from here
    ),
    "LanceMapDataset": Call(
        lambda _: LanceMapDataset,
        {**BATCHES, "source": [*NO_PLACE, None]},
        lambda things: {"source": things.uri},
    ),
    "make_loader": Call(
        lambda _: ray_lance.torch.make_loader,
        {
            "dataset": [object(), None, 2.5, "path", b"x", pa.table({"a": [1]})],
            "batch_size": NO_COUNT,
            "shuffle": NO_FLAG,
            "num_workers": NO_SIZE,
            "multiprocessing_context": [object(), 2.5, "nonsense", "fork", [1], {"a": 1}],
            "stateful": NO_FLAG,
            "options": ANY,  # torch's own
        },
        lambda things: {"dataset": things.mapped},
    ),
    "to_tensors": Call(
        lambda _: ray_lance.torch.to_tensors,
        {
            "data": [object(), None, 2.5, "x", [1], {"a": [1]}, np.zeros((20, 2))],
            "ragged": NO_CHOICE,
            "fill": NO_FILL,
            "categories": NO_CATEGORIES,
        },
        lambda _: {"data": pa.table({"x": [1]})},
    ),
    "DatasetOptions": Call(
        lambda _: DatasetOptions,
        {"global_batch_size": NO_COUNT, "batch_size": NO_COUNT, "lanes": NO_COUNT, "tail": NO_CHOICE},
    ),
    "LanceDataConfig": Call(
        lambda _: LanceDataConfig,
        {
            "global_batch_size": NO_COUNT,
            "batch_size": [*NO_COUNT, 2],
            "lanes": [*NO_COUNT, 3],
            "tail": NO_CHOICE,
            "datasets": [object(), 2.5, "x", [1], {"a": object()}, {"a": {"nonsense": 1}}, {"a": {"tail": "x"}}],
            "execution_options": [object(), 2.5, "x", [1]],
            "data_parallel": [*NO_GROUPS, 10**30],
        },
        lambda _: {"global_batch_size": 4},
    ),
    "iter_torch_batches": Call(  # of what read_lance returns
        lambda things: lambda **given: ray_lance.read_lance(things.uri).iter_torch_batches(**given), BATCHING
    ),
    "LanceShard.iter_torch_batches": Call(
        lambda things: things.shard.iter_torch_batches,
        {
            **BATCHING,
            "batch_size": [*NO_COUNT, 3],
            "local_shuffle_buffer_size": [*NO_COUNT, 3],
            "local_shuffle_seed": [*NO_INTEGER, 3],
            "device": [object(), 2.5, "nonsense", [1]],
        },
    ),
    "LanceShard.iter_batches": Call(
        lambda things: things.shard.iter_batches,
        {
            "prefetch_batches": NO_SIZE,
            "batch_size": [*NO_COUNT, 3],
            "batch_format": NO_CHOICE,
            "drop_last": NO_FLAG,
            "local_shuffle_buffer_size": [*NO_COUNT, 3],
            "local_shuffle_seed": [*NO_INTEGER, 3],
        },
    ),
    "LanceShard.load_state_dict": Call(lambda things: things.shard.load_state_dict, {"state": [*NO_STATE, None]}),
    "LanceShard.set_epoch": Call(lambda things: things.shard.set_epoch, {"epoch": NO_SIZE}),
    "LanceShard.state_after": Call(
        lambda things: things.shard.state_after, {"steps": [*NO_SIZE, 99]}, out_of_range=("steps",)
    ),
}

# Classes that the library makes, and methods that Ray, torch or the library calls, with what those have checked.


def _of_mixture(method: str) -> Call:
    """The same wrong values as of a permutation's method."""
    return replace(CALLS[f"Permutation.{method}"], of=lambda things: getattr(things.mixture, method))


COMMON = ("epoch", "shard", "rows", "fetch", "iter_batches", "shuffle", "split")
CALLS |= {f"Mixture.{method}": _of_mixture(method) for method in COMMON}

MADE_BY_THE_LIBRARY = {"AddColumnsSummary", "WriteSummary", "LanceShard"}
CALLED_BY_OTHERS = {
    "DatasetOptions.layouts",
    "DatasetOptions.of",
    "DatasetOptions.over",
    "LanceDataConfig.check",
    "LanceDataConfig.configure",
    "Mixture.stored",
    "Permutation.stored",
    "TensorCollate.knowing",
    "TensorCollate.tensors",
}


@pytest.fixture(scope="module")
def things(tmp_path_factory) -> Things:
    uri = str(tmp_path_factory.mktemp("bad") / "table.lance")
    lance.write_dataset(pa.table({"id": range(10), "x": np.arange(10.0)}), uri, max_rows_per_file=4)
    return Things(uri, ray.data.from_items([{"id": 1, "x": 1.0}]))


def _rows() -> Iterator[Any]:
    for name, call in CALLS.items():
        for parameter, values in call.wrong.items():
            if values is not ANY:
                yield pytest.param(name, parameter, id=f"{name}({parameter})")


@pytest.mark.parametrize(("name", "parameter"), list(_rows()))
def test_a_wrong_value_is_refused_by_name_in_a_few_lines(things, name, parameter):
    call = CALLS[name]
    assert call.wrong[parameter]

    for value in call.wrong[parameter]:
        found = _refusal(call, things, parameter, value)

        assert found is not None, f"{value!r:.100} was taken"
        known = (ray_lance.RayLanceError, TypeError, *((IndexError,) if parameter in call.out_of_range else ()))
        assert isinstance(found, known), f"{value!r:.100}: {type(found).__name__}: {found}"
        text = str(found)
        assert parameter in text or (parameter in call.out_of_range and isinstance(found, IndexError)), text
        assert text.count("\n") < 10, text
        assert len(text) < 2000, text
        assert SECRET not in text, text


def _refusal(call: Call, things: Things, parameter: str, value: Any) -> BaseException | None:
    arguments = {**call.right(things), parameter: value}
    try:
        call.of(things)(**arguments)
    except Exception as error:
        return error
    return None


def test_no_refused_call_leaves_anything_behind(things):
    assert lance.dataset(things.uri).version == 1
    assert not Path(f"{things.uri}.new").exists()


@pytest.mark.parametrize("name", CALLS)
def test_every_parameter_has_its_row(things, name):
    parameters = inspect.signature(CALLS[name].of(things)).parameters

    assert set(CALLS[name].wrong) == set(parameters) or "given" in parameters


def test_every_public_call_has_its_rows():
    assert _public_calls() == (set(CALLS) - {"iter_torch_batches"}) | CALLED_BY_OTHERS


def _public_calls() -> set[str]:
    """Functions, classes and methods with parameters, of everything that the packages name as public."""
    found = set()
    for module in (ray_lance, ray_lance.torch, ray_lance.train):
        for name in module.__all__:
            public = getattr(module, name)
            if not inspect.isclass(public):
                found.add(name)
            elif not issubclass(public, Exception):
                found |= ({name} - MADE_BY_THE_LIBRARY) | {f"{name}.{method}" for method in _methods(public)}
    return found


def _methods(public: type) -> Iterator[str]:
    for name, member in {**vars(Ordered if issubclass(public, Ordered) else public), **vars(public)}.items():
        function = getattr(member, "__func__", member)
        if (
            not name.startswith("_")
            and inspect.isfunction(function)
            and len(inspect.signature(function).parameters) > 1
        ):
            yield name


def _no_directory(things: Things) -> str:
    path = Path(things.uri).parent / "a file"
    path.write_text("")
    return str(path / "table.lance")


class Model:
    """A class for add_columns that is not given what its constructor needs."""

    def __init__(self, weights: str) -> None:
        self.weights = weights

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        return {"y": batch["x"]}


# What users did in their first hour, and the words that must come back.
MISTAKES: dict[str, tuple[Callable[[Things], Any], str]] = {
    "below a file": (lambda things: ray_lance.write_lance(things.rows, _no_directory(things)), "Not a directory.*file"),
    "no such folder": (lambda things: ray_lance.write_lance(things.rows, "/proc/table.lance"), "/proc/table.lance"),
    "column with a dot": (
        lambda things: ray_lance.write_lance(ray.data.from_items([{"a.b": 1}]), f"{things.uri}.new"),
        "column 'a.b'.*rename",
    ),
    "reserved column": (
        lambda things: ray_lance.write_lance(ray.data.from_items([{"_rowid": 1}]), f"{things.uri}.new"),
        "column '_rowid'.*reserved",
    ),
    "types of an append": (
        lambda things: ray_lance.write_lance(
            ray_lance.read_lance(things.uri, columns={"id": "cast(id as string)", "x": "x"}), things.uri, mode="append"
        ),
        "column 'id' is string.*int64",
    ),
    "class without its arguments": (
        lambda things: ray_lance.add_columns(things.uri, Model, input_columns="x"),
        "constructor of fn, Model, failed.*'weights'",
    ),
    "permutation[0]": (lambda things: things.permutation[0], "LanceMapDataset"),
    "iterated permutation": (lambda things: list(things.permutation), "iter_batches"),
    "shuffle=True": (lambda things: ray_lance.read_lance(things.uri, shuffle=True), "shuffle=True must be an integer"),
    "damaged image": (
        lambda things: ray_lance.read_lance(things.images, decode={"image": "image"}).take_all(),
        "column 'image', row address .*cannot be decoded.*on_error='null'",
    ),
    "damaged image in process": (
        lambda things: LanceMapDataset(things.images, decode={"image": "image"})[0],
        "column 'image', row address .*cannot be decoded.*on_error='null'",
    ),
    "batch that no rank can share": (
        lambda things: TorchTrainer(
            lambda: None,
            datasets={"train": ray_lance.read_lance(things.uri)},
            dataset_config=LanceDataConfig(global_batch_size=3),
            scaling_config=ScalingConfig(num_workers=2),
        ),
        "global batch of 3 rows does not divide by world_size=2",
    ),
    "dataset that the trainer has not": (
        lambda things: TorchTrainer(
            lambda: None,
            datasets={"train": ray_lance.read_lance(things.uri)},
            dataset_config=LanceDataConfig(global_batch_size=2, datasets={"vall": {}}),
            scaling_config=ScalingConfig(num_workers=1),
        ),
        "'vall'.*'train'",
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_comes_back_as_one_short_error(things, name):
    call, words = MISTAKES[name]

    with pytest.raises(ray_lance.RayLanceError, match=words) as raised:
        call(things)

    assert str(raised.value).count("\n") < 10
    assert lance.dataset(things.uri).version == 1
