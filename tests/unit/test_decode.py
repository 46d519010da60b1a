"""Encoded images as tensors: sizes, modes, policies for damaged ones, HuggingFace metadata."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
import zlib

import datasets
import lance
import numpy as np
import PIL.Image
import pyarrow as pa
import pytest
import torch

import ray_lance
from ray_lance.decode import ImageDecode, decode_table, decoded_schema, find_decoders
from ray_lance.scan.pushdown import build_scan
from ray_lance.scan.reader import ReadPlan
from ray_lance.scan.size import row_bytes
from ray_lance.scan.tasks import FragmentRange
from ray_lance.table import TableRef
from ray_lance.torch import LanceIterableDataset, LanceMapDataset
from ray_lance.torch.image_tensors import to_image_tensors
from tests.images import DAMAGED, encoded, images


def saved(image: PIL.Image.Image, format: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format=format, **options)
    return buffer.getvalue()


def header_only(height: int, width: int) -> bytes:
    """A PNG of that size without its pixels."""
    fields = struct.pack(">4sIIBBBBB", b"IHDR", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + fields + struct.pack(">I", zlib.crc32(fields))


def decode(table: pa.Table, decoder, **options):
    decoders = find_decoders({"image": decoder}, table.schema)
    decoded = decode_table(table, decoders)
    assert decoded.schema == decoded_schema(table.schema, decoders)
    assert decoded.num_rows == table.num_rows
    return to_image_tensors(decoded, decoders, **options)


class TestTensors:
    @pytest.mark.parametrize("format", ["PNG", "JPEG", "BMP"])
    def test_of_one_size_are_one_tensor(self, format):
        batch = decode(images(encoded(4, 6, format=format), encoded(4, 6, (1, 2, 3), format)), "image")
        assert batch["image"].shape == (2, 4, 6, 3)
        assert batch["image"].dtype == torch.uint8
        assert (batch["image"][0, 0, 0].int() - torch.tensor([10, 20, 30])).abs().max() <= 2
        assert batch["id"].tolist() == [0, 1]

    def test_of_several_sizes_are_a_list(self):
        batch = decode(images(encoded(4, 6), encoded(2, 3)), True)
        assert [tuple(image.shape) for image in batch["image"]] == [(4, 6, 3), (2, 3, 3)]

    def test_are_resized(self):
        batch = decode(images(encoded(4, 6), encoded(20, 3)), ImageDecode(size=(5, 7)))
        assert batch["image"].shape == (2, 5, 7, 3)
        assert (batch["image"] == torch.tensor([10, 20, 30])).all()

    @pytest.mark.parametrize(("mode", "channels"), [("L", 1), ("RGB", 3), ("RGBA", 4), ("CMYK", 4), ("YCbCr", 3)])
    @pytest.mark.parametrize("stored", ["L", "RGB", "P"])
    @pytest.mark.parametrize("size", [None, (3, 3)])
    def test_have_the_channels_of_the_mode(self, mode, channels, stored, size):
        batch = decode(images(encoded(3, 3, mode=stored)), ImageDecode(mode=mode, size=size))
        assert batch["image"].shape == (1, 3, 3, channels)

    @pytest.mark.parametrize("size", [None, (3, 3)])
    def test_of_no_rows(self, size):
        batch = decode(images(), ImageDecode(size=size))
        assert len(batch["image"]) == 0

    @pytest.mark.parametrize("kind", [pa.large_binary(), pa.binary_view()])
    def test_from_other_types_of_bytes(self, kind):
        table = pa.table({"image": pa.array([encoded(2, 2)]).cast(kind)})
        assert decode(table, "image")["image"].shape == (1, 2, 2, 3)


GREY_16 = PIL.Image.fromarray(np.full((3, 4), 40_000, np.uint16))
ODD_IMAGES = {
    "16 bits of grey, png": (saved(GREY_16, "PNG"), [156, 156, 156]),
    "16 bits of grey, tiff": (saved(GREY_16, "TIFF"), [156, 156, 156]),
    "16 bits of grey, ppm": (b"P5 4 3 65535\n" + np.full((3, 4), 40_000, ">u2").tobytes(), [156, 156, 156]),
    "cmyk": (saved(PIL.Image.new("CMYK", (4, 3), (55, 235, 225, 0)), "TIFF"), [200, 20, 30]),
    "one bit": (saved(PIL.Image.new("1", (4, 3), 1), "PNG"), [255, 255, 255]),
    "grey with alpha": (saved(PIL.Image.new("LA", (4, 3), (75, 9)), "PNG"), [75, 75, 75]),
    "palette": (encoded(3, 4, (204, 0, 51), "PNG", "P"), [204, 0, 51]),
    "palette with transparency": (
        saved(PIL.Image.new("RGB", (4, 3), (204, 0, 51)).convert("P"), "PNG", transparency=b"\0\x80"),
        [204, 0, 51],
    ),
    "animation": (
        saved(PIL.Image.new("RGB", (4, 3), (204, 0, 51)), "GIF", save_all=True, append_images=[GREY_16.convert("L")]),
        [204, 0, 51],
    ),
}
BROKEN_IMAGES = {
    "no bytes": b"",
    "cut off": saved(PIL.Image.effect_noise((90, 90), 50), "JPEG")[:-2000],
    "32 bits of grey": saved(PIL.Image.fromarray(np.full((3, 4), 70_000, np.int32)), "TIFF"),
    "floats": saved(PIL.Image.fromarray(np.full((3, 4), 0.5, np.float32)), "TIFF"),
    "a bomb": header_only(20_000, 20_000),
}


class TestOddImages:
    @pytest.mark.parametrize("name", ODD_IMAGES)
    @pytest.mark.parametrize("size", [None, 2])
    def test_are_decoded(self, name, size):
        data, color = ODD_IMAGES[name]
        image = decode(images(data), ImageDecode(size=size))["image"][0]
        assert image.shape == ((3, 4, 3) if size is None else (2, 2, 3))
        assert image[0, 0].tolist() == color

    @pytest.mark.parametrize("name", BROKEN_IMAGES)
    def test_that_are_broken_follow_the_policy(self, uri, name):
        lance.write_dataset(images(encoded(2, 2), BROKEN_IMAGES[name]), uri)

        def read(decoder) -> list:
            scan = build_scan([TableRef.of(uri).pin()], None, None, [], {}).decoding({"image": decoder})
            plan = ReadPlan(scan, scan.schema(), row_bytes(scan))
            return [row["image"] for table in plan.read(FragmentRange(0, None, 0, 2)) for row in table.to_pylist()]

        for readers in (read, lambda decoder: list(LanceMapDataset(uri, decode={"image": decoder}))):
            with pytest.raises(ray_lance.TensorConversionError, match=r"row address 1 .*cannot be decoded") as caught:
                readers(ImageDecode())
            assert "0x" not in str(caught.value)
            assert readers(ImageDecode(size=2, on_error="fill", fill=9))[1] is not None
        assert read(ImageDecode(on_error="null"))[1] is None
        assert LanceMapDataset(uri, decode={"image": ImageDecode(on_error="null")})[1]["image"] is None


class TestDamagedImages:
    @pytest.mark.parametrize("damaged", DAMAGED)
    def test_raise_with_their_place(self, damaged):
        table = images(encoded(2, 2), damaged)
        with pytest.raises(
            ray_lance.TensorConversionError, match=r"column 'image', row 1 of the batch.*on_error='null'"
        ):
            decode(table, "image")
        addressed = table.append_column("_rowaddr", pa.array([7, (3 << 32) + 9], pa.uint64()))
        with pytest.raises(ray_lance.TensorConversionError, match=r"row address 12884901897 \(fragment 3, row 9\)"):
            decode(addressed, "image")

    @pytest.mark.parametrize("damaged", DAMAGED)
    @pytest.mark.parametrize("size", [None, (2, 2)])
    def test_become_none(self, damaged, size):
        decoder = ImageDecode(on_error="null", size=size)
        batch = decode(images(damaged, encoded(2, 2)), decoder)
        assert batch["image"][0] is None
        assert batch["image"][1].shape == (2, 2, 3)

    @pytest.mark.parametrize("damaged", DAMAGED)
    def test_become_a_filler(self, damaged):
        batch = decode(images(damaged, encoded(2, 2)), ImageDecode(on_error="fill", size=(2, 2), fill=9))
        assert batch["image"].shape == (2, 2, 2, 3)
        assert (batch["image"][0] == 9).all()

    @pytest.mark.parametrize("fill", [7, {"image": 7}])
    def test_nulls_can_be_filled_later(self, fill):
        batch = decode(images(None, encoded(2, 2)), ImageDecode(on_error="null", size=(2, 2)), fill=fill)
        assert batch["image"].shape == (2, 2, 2, 3)
        assert (batch["image"][0] == 7).all()
        batch = decode(images(None, encoded(2, 2)), ImageDecode(on_error="null"), fill=fill)
        assert [tuple(image.shape) for image in batch["image"]] == [(0, 0, 3), (2, 2, 3)]

    def test_never_change_the_steps_of_a_rank(self, uri):
        values = [DAMAGED[i % 4] if i % 3 == 0 else encoded(4, 4) for i in range(20)]
        lance.write_dataset(images(*values), uri)
        for on_error in ("null", "fill"):
            dataset = LanceIterableDataset(
                uri, batch_size=5, shuffle=1, decode={"image": ImageDecode(size=(4, 4), on_error=on_error)}
            )
            assert [len(batch["image"]) for batch in dataset] == [5, 5, 5, 5]

    def test_are_named_by_their_row_address_in_a_dataset(self, uri):
        lance.write_dataset(images(encoded(2, 2), encoded(2, 2), b"no image"), uri, max_rows_per_file=2)
        for dataset in (LanceIterableDataset(uri, batch_size=3, decode={"image": "image"}),):
            with pytest.raises(ray_lance.TensorConversionError, match=r"row address 4294967296 \(fragment 1, row 0\)"):
                list(dataset)
        with pytest.raises(ray_lance.TensorConversionError, match=r"fragment 1, row 0"):
            LanceMapDataset(uri, decode={"image": "image"})[2]


class TestHuggingFace:
    @pytest.fixture
    def table(self, uri) -> str:
        features = datasets.Features(
            {
                "image": datasets.Image(),
                "label": datasets.ClassLabel(names=["cat", "dog"]),
                "text": datasets.Value("string"),
            }
        )
        pictures = [PIL.Image.new("RGB", (5, 4), (i, 0, 0)) for i in range(3)]
        source = {"image": pictures, "label": [0, 1, 1], "text": ["a", "b", "c"]}
        lance.write_dataset(datasets.Dataset.from_dict(source, features=features), uri)
        return uri

    def test_reads_as_tensors(self, table):
        (batch,) = LanceIterableDataset(table, batch_size=3)
        assert batch["image"].shape == (3, 4, 5, 3)
        assert batch["image"][:, 0, 0, 0].tolist() == [0, 1, 2]
        assert batch["label"].dtype == torch.int64
        assert batch["label"].tolist() == [0, 1, 1]
        assert list(batch) == ["image", "label", "text"]

    def test_as_rows_of_a_map_dataset(self, table):
        row = LanceMapDataset(table, columns=["image"])[2]
        assert list(row) == ["image"]
        assert row["image"].shape == (4, 5, 3)

    def test_without_decoding(self, table):
        (batch,) = LanceIterableDataset(table, batch_size=3, decode=None, columns=["image"])
        assert batch["image.bytes"][0].startswith(b"\x89PNG")

    def test_with_a_decoder_of_ones_own(self, table):
        (batch,) = LanceIterableDataset(table, batch_size=3, decode={"image": ImageDecode(size=(2, 2), mode="L")})
        assert batch["image"].shape == (3, 2, 2, 1)

    @pytest.mark.parametrize(
        "metadata", [b"no json", b"{}", b'{"info": {"features": {"image": 3, "gone": {"_type": "Image"}}}}']
    )
    def test_metadata_of_another_kind_is_none_of_it(self, metadata):
        schema = pa.schema([pa.field("image", pa.binary())], metadata={"huggingface": metadata})
        assert find_decoders("auto", schema) == {}


class TestFormats:
    def test_numpy(self, uri):
        lance.write_dataset(images(encoded(2, 2), encoded(2, 2)), uri)
        (batch,) = LanceIterableDataset(uri, batch_size=2, format="numpy", decode={"image": ImageDecode(size=(2, 2))})
        assert isinstance(batch["image"], np.ndarray)
        assert batch["image"].shape == (2, 2, 2, 3)

    @pytest.mark.parametrize("size", [None, (2, 2)])
    def test_numpy_with_a_null_image(self, uri, size):
        lance.write_dataset(images(encoded(2, 2), None), uri)
        decoder = ImageDecode(size=size, on_error="null")
        (batch,) = LanceIterableDataset(uri, batch_size=2, format="numpy", decode={"image": decoder})
        assert batch["image"][0].shape == (2, 2, 3)
        assert batch["image"][1] is None


class TestArguments:
    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"size": (0, 3)}, r"size=\(0, 3\)"),
            ({"size": (3,)}, "size="),
            ({"size": 0}, "size=0 must be"),
            ({"size": True}, "size=True must be"),
            ({"size": "big"}, "size='big' must be .height, width."),
            ({"size": (3, 2.5)}, r"size=\(3, 2.5\) must be"),
            ({"mode": "RGBX"}, "mode='RGBX' must be one of"),
            ({"on_error": "skip"}, "on_error='skip' must be one of"),
            ({"on_error": "fill"}, "needs size="),
            ({"fill": 256}, "fill=256"),
            ({"fill": True}, "fill=True"),
        ],
    )
    def test_of_a_decoder(self, options, message):
        with pytest.raises(ray_lance.InvalidArgumentError, match=message):
            ImageDecode(**options)

    @pytest.mark.parametrize("size", [3, np.int64(3), (3, 3), [np.int32(3), 3]])
    def test_a_size_is_a_pair_or_one_number_for_both(self, size):
        assert ImageDecode(size=size) == ImageDecode(size=(3, 3))
        assert ImageDecode(size=size).shape == (3, 3, 3)

    @pytest.mark.parametrize(
        ("decode", "message"),
        [
            ({"imgae": "image"}, "no column 'imgae'. Did you mean 'image'"),
            ({"id": "image"}, "column 'id' is int64, which holds no encoded images"),
            ({"image": "video"}, "decode\\['image'\\]='video' must be"),
            ("image", "decode='image' must map columns.* or be 'auto' or None"),
            (False, "decode=False must map columns"),
        ],
    )
    def test_of_a_table(self, decode, message):
        with pytest.raises(ray_lance.InvalidArgumentError, match=message):
            find_decoders(decode, images(encoded(1, 1)).schema)

    def test_pillow_that_is_missing_is_named(self):
        code = (
            "import sys; sys.modules['PIL'] = None\n"
            "import pyarrow as pa\n"
            "from ray_lance.decode import find_decoders\n"
            "try: find_decoders({'image': True}, pa.schema([('image', pa.binary())]))\n"
            "except ValueError as error: print(error)"
        )
        run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert "pip install 'ray-lance[images]'" in run.stdout
