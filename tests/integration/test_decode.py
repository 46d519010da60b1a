"""Encoded images as tensors: read in tasks, shuffled, in the shards of a trainer, as input of add_columns."""

from __future__ import annotations

import sys

import datasets
import lance
import numpy as np
import PIL.Image
import pyarrow as pa
import pytest
import ray
import ray.data
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from ray.data.expressions import col

import ray_lance
from ray_lance import ImageDecode, Permutation, TensorCollate, add_columns, read_lance, write_lance
from ray_lance.data.explain import explain_dataset
from ray_lance.errors import InvalidArgumentError, TensorConversionError, UnknownColumnError
from ray_lance.torch import LanceIterableDataset
from ray_lance.train import LanceDataConfig
from tests.examples import examples
from tests.images import encoded, images, numbered_images
from tests.laws import Run, check_equal_steps, check_one_order, check_same_batches, sequence

# Workers cannot import this module.
ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])

SIZE = (4, 6)
SIZED = ImageDecode(size=SIZE)
FILL = ImageDecode(size=SIZE, on_error="fill", fill=9)
POLICIES = [ImageDecode(on_error="null"), ImageDecode(size=SIZE, on_error="null"), FILL]


@pytest.fixture(scope="module")
def table(tmp_path_factory) -> str:
    """40 images in fragments of 7; the red channel is the id."""
    uri = str(tmp_path_factory.mktemp("decode") / "images.lance")
    lance.write_dataset(numbered_images(40, size=SIZE), uri, max_rows_per_file=7)
    return uri


@pytest.fixture(scope="module")
def damaged(tmp_path_factory) -> str:
    """As ``table``, every fifth of its images damaged."""
    uri = str(tmp_path_factory.mktemp("damaged") / "images.lance")
    lance.write_dataset(numbered_images(40, range(0, 40, 5), SIZE), uri, max_rows_per_file=7)
    return uri


def first_batch(dataset, **options) -> dict:
    return next(iter(dataset.iter_torch_batches(batch_size=40, **options)))


def reds(pictures) -> list[int | None]:
    """The red channel of each image; None for None."""
    return [None if picture is None else int(picture[0, 0, 0]) for picture in pictures]


class TestReading:
    @pytest.mark.parametrize("format", ["JPEG", "PNG"])
    def test_images_of_one_size_are_one_tensor_without_a_collate_function(self, uri, format):
        lance.write_dataset(images(*(encoded(8, 6, (90, 20 * i, 30), format) for i in range(5))), uri)

        batch = first_batch(read_lance(uri, decode={"image": ImageDecode(size=(8, 6))}))

        assert batch["image"].shape == (5, 8, 6, 3)
        assert batch["image"].dtype == torch.uint8
        expected = torch.tensor([[90, 20 * i, 30] for i in batch["id"].tolist()])
        assert (batch["image"][:, 4, 3].int() - expected).abs().max() <= 3

    @pytest.mark.parametrize("decode", [{"image": "image"}, {"image": True}, {"image": ImageDecode()}])
    def test_images_of_their_own_sizes_are_a_list(self, uri, decode):
        lance.write_dataset(images(encoded(4, 6), encoded(2, 3)), uri)

        dataset = read_lance(uri, decode=decode)

        for options in ({}, {"collate_fn": TensorCollate()}):
            batch = first_batch(dataset, **options)
            assert [tuple(image.shape) for image in batch["image"]] == [(4, 6, 3), (2, 3, 3)]
        assert [row["image"].shape for row in dataset.take_all()] == [(4, 6, 3), (2, 3, 3)]

    @pytest.mark.parametrize("decoder", [SIZED, ImageDecode(), *POLICIES, ImageDecode(mode="L", size=(2, 2))])
    def test_the_schema_is_what_is_delivered(self, table, decoder):
        dataset = read_lance(table, decode={"image": decoder})

        delivered = next(iter(dataset.iter_batches(batch_format="pyarrow"))).schema

        assert dataset.schema().base_schema.equals(delivered)

    @pytest.mark.parametrize("make", ["uri", "list", "dataset", "ref", "permutation"])
    def test_every_source_is_decoded(self, table, make):
        source = {
            "uri": lambda: table,
            "list": lambda: [table],
            "dataset": lambda: lance.dataset(table),
            "ref": lambda: ray_lance.TableRef.of(table),
            "permutation": lambda: Permutation(table, "id >= 0"),
        }[make]()

        batch = first_batch(read_lance(source, decode={"image": SIZED}))

        assert reds(batch["image"]) == batch["id"].tolist()
        assert sorted(batch["id"].tolist()) == list(range(40))

    def test_nothing_is_decoded_unless_it_is_asked_for(self, table):
        ours, theirs = (read(table).take_all() for read in (read_lance, ray.data.read_lance))
        assert sorted(row["image"] for row in ours) == sorted(row["image"] for row in theirs)

    @pytest.mark.parametrize("override_num_blocks", [1, 9, None])
    def test_tasks_of_any_size_give_the_same(self, table, override_num_blocks):
        dataset = read_lance(table, decode={"image": SIZED}, override_num_blocks=override_num_blocks)
        rows = dataset.take_all()
        assert sorted(row["id"] for row in rows) == list(range(40))
        assert [row["image"][0, 0, 0] for row in rows] == [row["id"] for row in rows]

    def test_tasks_are_sized_by_what_is_decoded(self, table):
        large = read_lance(table, decode={"image": ImageDecode(size=(1000, 1000))})
        (stored,), (decoded,) = explain_dataset(read_lance(table)), explain_dataset(large)
        assert (stored.tasks, decoded.row_bytes) == (1, 8 + 1000 * 1000 * 3)
        assert decoded.tasks >= 4  # 114 MiB in tasks of at most 32

    def test_what_follows_the_read_sees_tensors(self, table):
        dataset = read_lance(table, decode={"image": SIZED}).map_batches(
            lambda batch: {"id": batch["id"], "mean": batch["image"].mean(axis=(1, 2))[:, 0]}
        )
        assert {row["id"]: row["mean"] for row in dataset.take_all()} == {i: i for i in range(40)}

    def test_projections_and_filters_are_pushed_down_past_the_decoding(self, damaged):
        decoded = read_lance(damaged, decode={"image": SIZED})
        assert sorted(row["id"] for row in decoded.select_columns(["id"]).take_all()) == list(range(40))
        few = decoded.filter(expr=col("id").is_in([1, 2, 36]))
        assert {row["id"]: int(row["image"][0, 0, 0]) for row in few.take_all()} == {1: 1, 2: 2, 36: 36}
        assert decoded.count() == 40

    def test_rows_without_an_image_can_be_left_out(self, damaged):
        dataset = read_lance(damaged, decode={"image": ImageDecode(on_error="null")})
        kept = dataset.filter(expr=col("image").is_not_null()).take_all()
        assert sorted(row["id"] for row in kept) == [i for i in range(40) if i % 5]

    @pytest.mark.parametrize("decoder", [FILL, ImageDecode(on_error="null")])
    def test_what_is_written_back_reads_as_the_same_tensors(self, damaged, uri, decoder):
        dataset = read_lance(damaged, decode={"image": decoder})

        write_lance(dataset, uri)

        stored = ray_lance.tensors.to_tensors(lance.dataset(uri).to_table())
        missing = 9 if decoder.on_error == "fill" else None
        assert reds(stored["image"]) == [missing if i % 5 == 0 else i for i in stored["id"].tolist()]


class TestShuffled:
    def test_the_order_is_the_one_without_decoding(self, table):
        permutation = Permutation(table).shuffle(5, 2, 8).epoch(1)
        expected = permutation.fetch(range(40), ["id"], "python_col")["id"]

        dataset = read_lance(permutation, decode={"image": SIZED}, override_num_blocks=6)
        dataset.context.execution_options.preserve_order = True
        batches = list(dataset.iter_torch_batches(batch_size=7))

        ids = [i for batch in batches for i in batch["id"].tolist()]
        pictures = [red for batch in batches for red in reds(batch["image"])]
        check_one_order({"permutation": expected, "ids": ids, "images": pictures})

    def test_shuffle_by_seed(self, table):
        batch = first_batch(read_lance(table, shuffle=1, decode={"image": SIZED}, columns=["image"]))
        assert sorted(reds(batch["image"])) == list(range(40))
        assert list(batch) == ["image"]


class TestDamagedImages:
    @pytest.mark.parametrize("shuffle", [None, 3])
    @pytest.mark.parametrize("decoder", POLICIES)
    def test_keep_their_rows(self, damaged, decoder, shuffle):
        dataset = read_lance(damaged, decode={"image": decoder}, shuffle=shuffle, override_num_blocks=3)

        batches = list(dataset.iter_torch_batches(batch_size=8, collate_fn=TensorCollate()))

        assert [len(batch["image"]) for batch in batches] == [8] * 5
        seen = {i: red for batch in batches for i, red in zip(batch["id"].tolist(), reds(batch["image"]), strict=True)}
        missing = 9 if decoder.on_error == "fill" else None
        assert seen == {i: i if i % 5 else missing for i in range(40)}

    @pytest.mark.parametrize("options", [{}, {"shuffle": 3}, {"filter": "id > 36 or id = 35"}])
    @pytest.mark.parametrize("decoder", ["image", SIZED])
    def test_raise_with_the_row_address(self, uri, decoder, options):
        lance.write_dataset(numbered_images(40, [35]), uri, max_rows_per_file=7)
        with pytest.raises(TensorConversionError, match=r"'image', row address 21474836480 \(fragment 5, row 0\)"):
            read_lance(uri, decode={"image": decoder}, **options).take_all()

    @pytest.mark.parametrize("consume", ["take_all", "materialize", "count"])
    def test_raise_one_short_error_without_a_traceback_in_the_log(self, uri, consume, caplog):
        lance.write_dataset(numbered_images(10, [5]), uri)
        dataset = read_lance(uri, decode={"image": ImageDecode()}).map_batches(lambda batch: batch)
        with pytest.raises(TensorConversionError) as caught:
            getattr(dataset, consume)()
        assert type(caught.value) is TensorConversionError
        assert len(str(caught.value).splitlines()) == 1
        assert "issue on the Ray project" not in caplog.text
        assert not any(record.exc_info for record in caplog.records)

    def test_do_not_matter_to_those_who_read_other_columns(self, damaged):
        assert len(read_lance(damaged, columns=["id"]).take_all()) == 40


class ShardExecutor:
    """Runs every rank of a trainer's data after the other, in this process."""

    def __init__(self, dataset, **config) -> None:
        self.dataset, self.config = dataset, config
        self.pictures: list[int | None] = []

    def __call__(self, world_size, cursor=None, steps=None):
        assert (cursor, steps) == (None, None)
        ranks = LanceDataConfig(**self.config).configure({"train": self.dataset}, world_size, None, None)
        run: list[list[np.ndarray]] = []
        for rank in ranks:
            batches = list(rank["train"].iter_torch_batches())
            run.append([batch["id"].numpy() for batch in batches])
            self.pictures += [red for batch in batches if "image" in batch for red in reds(batch["image"])]
        return Run(run)


class TestShards:
    @given(
        bad=st.sets(st.integers(0, 29)),
        decoder=st.sampled_from(POLICIES),
        world_size=st.sampled_from([1, 2, 3]),
        tail=st.sampled_from(["drop", "pad"]),
        filter=st.sampled_from([None, "id % 4 < 3"]),
    )
    @settings(max_examples=examples(8))
    def test_damaged_images_never_change_a_step_of_a_rank(
        self, tmp_path_factory, bad, decoder, world_size, tail, filter
    ):
        uri = str(tmp_path_factory.mktemp("shards") / "images.lance")
        lance.write_dataset(numbered_images(30, bad, SIZE), uri, max_rows_per_file=9)
        order = Permutation(uri, filter).shuffle(2, 1, 5)
        config = {"global_batch_size": 6, "tail": tail}

        executor = ShardExecutor(read_lance(order, decode={"image": decoder}), **config)
        run = executor(world_size)

        check_equal_steps(run)
        stored = ShardExecutor(read_lance(order, columns=["id"]), **config)(world_size)
        check_same_batches({"stored": stored, "decoded": run})
        missing = 9 if decoder.on_error == "fill" else None
        in_rank_order = [int(i) for batches in run.batches for batch in batches for i in batch]
        assert executor.pictures == [missing if i in bad else i for i in in_rank_order]

    def test_raise_one_short_error(self, damaged):
        config = LanceDataConfig(global_batch_size=5)
        dataset = read_lance(damaged, decode={"image": SIZED})
        shard = config.configure({"train": dataset}, 1, None, None)[0]["train"]
        with pytest.raises(TensorConversionError, match="row address") as caught:
            list(shard.iter_torch_batches())
        assert type(caught.value) is TensorConversionError
        assert len(str(caught.value).splitlines()) == 1

    def test_give_the_batches_of_the_iterable_dataset(self, damaged):
        permutation = Permutation(damaged).shuffle(4, 2, 8)
        shards = ShardExecutor(read_lance(permutation, decode={"image": FILL}), global_batch_size=8)
        alone = LanceIterableDataset(permutation, batch_size=8, decode={"image": FILL})
        batches = list(alone)
        ids = [batch["id"].numpy() for batch in batches]
        check_one_order({"iterable": sequence(Run([ids])), "shard": sequence(shards(1))})
        assert shards.pictures == [red for batch in batches for red in reds(batch["image"])]

    def test_a_read_in_scan_order_keeps_its_decoders(self, table):
        executor = ShardExecutor(read_lance(table, decode={"image": SIZED}), global_batch_size=8)
        run = executor(2)
        check_equal_steps(run)
        assert sorted(executor.pictures) == list(range(40))


def mean_of(batch: dict) -> dict:
    """Mean of the red channel: numpy arrays ``(n, h, w, c)``."""
    assert batch["image"].dtype == np.uint8
    assert batch["image"].shape[1:] == (*SIZE, 3)
    return {"mean": batch["image"].mean(axis=(1, 2))[:, 0].astype(np.float32)}


class MeanOfTensors:
    """The same of torch tensors, in actors."""

    def __call__(self, batch: dict) -> dict:
        return {"mean": batch["image"].float().mean(dim=(1, 2))[:, 0]}


def count_missing(batch: dict) -> dict:
    return {"missing": [image is None for image in batch["image"]]}


def means(uri: str, name: str = "mean") -> dict[int, object]:
    found = lance.dataset(uri).to_table(columns=["id", name])
    return dict(zip(found["id"].to_pylist(), found[name].to_pylist(), strict=True))


class TestAddColumns:
    @pytest.mark.parametrize(
        ("fn", "options"),
        [(mean_of, {}), (MeanOfTensors, {"batch_format": "torch", "concurrency": 1})],
        ids=["tasks", "actors"],
    )
    def test_fn_is_given_tensors(self, uri, fn, options):
        lance.write_dataset(numbered_images(20, size=SIZE), uri, max_rows_per_file=7)
        add_columns(uri, fn, input_columns="image", decode={"image": SIZED}, batch_size=6, **options)
        assert means(uri) == {i: float(i) for i in range(20)}

    def test_damaged_images_follow_the_policy(self, uri):
        lance.write_dataset(numbered_images(20, [3, 9], SIZE), uri, max_rows_per_file=7)
        add_columns(uri, mean_of, input_columns=["image"], decode={"image": FILL}, batch_size=6)
        assert means(uri) == {i: 9.0 if i in (3, 9) else float(i) for i in range(20)}
        null = {"image": ImageDecode(on_error="null")}
        add_columns(uri, count_missing, input_columns=["image"], decode=null, batch_format="torch", batch_size=6)
        assert means(uri, "missing") == {i: i in (3, 9) for i in range(20)}

    def test_damaged_images_raise_with_the_row_address(self, uri):
        lance.write_dataset(numbered_images(20, [9], SIZE), uri, max_rows_per_file=7)
        with pytest.raises(TensorConversionError, match=r"row address 4294967298 \(fragment 1, row 2\)"):
            add_columns(uri, mean_of, input_columns=["image"], decode={"image": SIZED})
        assert lance.dataset(uri).schema.names == ["id", "image"]

    def test_another_decoder_is_another_computation(self, uri):
        lance.write_dataset(numbered_images(5, size=SIZE), uri)
        arguments = {"fn": mean_of, "input_columns": ["image"]}
        add_columns(uri, decode={"image": SIZED}, **arguments)
        assert add_columns(uri, decode={"image": SIZED}, **arguments).rows == 0
        with pytest.raises(InvalidArgumentError, match="overwrite=True"):
            add_columns(uri, decode={"image": FILL}, **arguments)

    def test_columns_that_are_no_input_are_refused(self, table):
        version = lance.dataset(table).version
        with pytest.raises(UnknownColumnError, match="no column 'image'"):
            add_columns(table, lambda batch: batch, input_columns=["id"], decode={"image": SIZED})
        assert lance.dataset(table).version == version


class TestHuggingFace:
    @pytest.fixture
    def animals(self, uri) -> str:
        features = datasets.Features(
            {
                "image": datasets.Image(),
                "label": datasets.ClassLabel(names=["cat", "dog"]),
                "text": datasets.Value("string"),
            }
        )
        pictures = [PIL.Image.new("RGB", (6, 4), (i, 0, 0)) for i in range(6)]
        rows = {"image": pictures, "label": [0, 1] * 3, "text": list("abcdef")}
        lance.write_dataset(datasets.Dataset.from_dict(rows, features=features), uri)
        return uri

    def test_image_and_class_label_columns_read_as_tensors(self, animals):
        dataset = read_lance(animals, decode="auto", shuffle=1)

        batch = first_batch(dataset, collate_fn=TensorCollate())

        assert sorted(reds(batch["image"])) == list(range(6))
        assert {tuple(image.shape) for image in batch["image"]} == {(4, 6, 3)}
        assert batch["label"].dtype == torch.int64
        assert [red % 2 for red in reds(batch["image"])] == batch["label"].tolist()
        assert ["abcdef"[red] for red in reds(batch["image"])] == batch["text"]

    def test_a_size_makes_them_one_tensor(self, animals):
        dataset = read_lance(animals, columns=["image", "label"], decode={"image": ImageDecode(size=(2, 3))})
        batch = first_batch(dataset)
        assert batch["image"].shape == (6, 2, 3, 3)
        assert batch["label"].shape == (6,)

    def test_without_decode_they_are_what_ray_reads(self, animals):
        ours, theirs = (read(animals).sort("text").take_all() for read in (read_lance, ray.data.read_lance))
        assert [row["image"]["bytes"] for row in ours] == [row["image"]["bytes"] for row in theirs]

    def test_what_datasets_has_not_marked_is_left_alone(self, table):
        assert read_lance(table, decode="auto").schema().types[1] == pa.binary()


class TestRefusals:
    @pytest.mark.parametrize(
        ("options", "error", "message"),
        [
            ({"decode": {"imgae": "image"}}, UnknownColumnError, "'imgae'.*Did you mean 'image'"),
            ({"decode": {"image": "image"}, "columns": ["id"]}, UnknownColumnError, "'image'"),
            ({"decode": {"id": "image"}}, InvalidArgumentError, "column 'id' is int64, which holds no encoded images"),
            ({"decode": {"image": "video"}}, InvalidArgumentError, r"decode\['image'\]='video'"),
            ({"decode": "image"}, InvalidArgumentError, "decode='image' must map columns"),
        ],
    )
    @pytest.mark.parametrize("shuffle", [None, 1])
    def test_come_before_any_task_starts(self, table, options, error, message, shuffle):
        with pytest.raises(error, match=message):
            read_lance(table, shuffle=shuffle, **options)

    def test_say_that_pillow_is_missing(self, table, monkeypatch):
        monkeypatch.setitem(sys.modules, "PIL", None)
        with pytest.raises(InvalidArgumentError, match="pip install 'ray-lance"):
            read_lance(table, decode={"image": "image"})
        with pytest.raises(InvalidArgumentError, match="pip install 'ray-lance"):
            add_columns(table, mean_of, input_columns=["image"], decode={"image": "image"})
        assert read_lance(table).count() == 40
