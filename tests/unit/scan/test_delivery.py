"""Encoded images in a read: what the tasks deliver, how large they are planned, which columns they read for it."""

from __future__ import annotations

from dataclasses import replace

import lance
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ray_lance.decode import ImageDecode
from ray_lance.errors import TensorConversionError, UnknownColumnError
from ray_lance.order import DenseRows, RowPermutation
from ray_lance.scan.pushdown import build_scan
from ray_lance.scan.reader import PermutationPlan, ReadPlan
from ray_lance.scan.scan import ROW_ADDRESS
from ray_lance.scan.size import row_bytes
from ray_lance.scan.tasks import FragmentRange, PermutationRange
from ray_lance.table import TableRef
from ray_lance.tensors import to_tensors
from tests.examples import examples
from tests.images import encoded, images, numbered_images

SIZE = (4, 6)
POLICIES = [
    ImageDecode(on_error="null"),
    ImageDecode(size=SIZE, on_error="null"),
    ImageDecode(size=SIZE, on_error="fill", fill=9),
]


def scan_of(uri, decoder=None, columns=None, filter=None, meta=(), options=None):
    scan = build_scan([TableRef.of(uri).pin()], columns, filter, list(meta), options or {})
    return scan if decoder is None else scan.decoding({"image": decoder})


def read(scan, rows, in_order=None, row_size=1.0, limit=None) -> pa.Table:
    """Every row, in scan order or in an order of row numbers."""
    if in_order is None:
        plan = ReadPlan(scan, scan.schema(), row_size)
        tables = list(plan.read(FragmentRange(0, None, 0, rows), limit))
    else:
        plan = PermutationPlan(scan, in_order, scan.schema(), row_size)
        tables = list(plan.read(PermutationRange(0, rows), limit))
    assert all(table.schema.equals(scan.schema(), check_metadata=True) for table in tables)
    return pa.concat_tables(tables)


def reds(table: pa.Table) -> list[int | None]:
    """The first pixel's red channel of each image; None for null ones."""
    return [None if image is None else int(image[0, 0, 0]) for image in to_tensors(table)["image"]]


@given(
    rows=st.integers(0, 12),
    damaged=st.sets(st.integers(0, 11)),
    decoder=st.sampled_from(POLICIES),
    shuffled=st.booleans(),
    row_size=st.sampled_from([1.0, 2**24, 2**26]),
    limit=st.none() | st.integers(0, 12),
)
@settings(max_examples=examples(40))
def test_no_damage_changes_the_number_or_the_order_of_rows(
    tmp_path_factory, rows, damaged, decoder, shuffled, row_size, limit
):
    uri = str(tmp_path_factory.mktemp("damaged") / "images.lance")
    lance.write_dataset(numbered_images(rows, damaged, SIZE), uri)
    order = RowPermutation(DenseRows(rows)).shuffle(3, 1, 4) if shuffled else None

    table = read(scan_of(uri, decoder), rows, order, row_size, limit)

    ids = list(range(rows)) if order is None else order.rows().tolist()
    assert table["id"].to_pylist() == ids[:limit]
    missing = None if decoder.on_error == "null" else 9
    assert reds(table) == [missing if i in damaged else i for i in ids[:limit]]


@pytest.mark.parametrize("shuffled", [False, True])
def test_large_images_come_in_several_tables(uri, shuffled):
    lance.write_dataset(numbered_images(10), uri)
    scan = scan_of(uri, ImageDecode(size=SIZE))
    order = RowPermutation(DenseRows(10))
    row_size = 11 * 2**20  # of which two fit what is decoded at once

    if shuffled:
        plan = PermutationPlan(scan, order, scan.schema(), row_size)
        tables = list(plan.read(PermutationRange(0, 10)))
    else:
        plan = ReadPlan(scan, scan.schema(), row_size)
        tables = list(plan.read(FragmentRange(0, None, 0, 10)))

    assert max(len(table) for table in tables) == 2
    assert [i for table in tables for i in reds(table)] == list(range(10))


class TestRowAddress:
    def test_is_read_for_messages_only(self, uri):
        lance.write_dataset(numbered_images(3), uri)
        assert scan_of(uri).read_names == ("id", "image")
        assert scan_of(uri, ImageDecode(size=SIZE, on_error="fill")).read_names == ("id", "image")
        assert scan_of(uri, ImageDecode()).read_names == ("id", "image", ROW_ADDRESS)
        assert scan_of(uri, ImageDecode()).select(["id"]).read_names == ("id",)

    @pytest.mark.parametrize("in_order", [None, RowPermutation(DenseRows(3))])
    def test_is_delivered_to_those_who_asked(self, uri, in_order):
        lance.write_dataset(numbered_images(3), uri)
        assert read(scan_of(uri, ImageDecode()), 3, in_order).column_names == ["id", "image"]
        asked = read(scan_of(uri, ImageDecode(), meta=[ROW_ADDRESS]), 3, in_order)
        assert asked[ROW_ADDRESS].to_pylist() == [0, 1, 2]

    @pytest.mark.parametrize("columns", [None, ["image"], {"image": "image"}])
    @pytest.mark.parametrize("in_order", [None, RowPermutation(DenseRows(3))])
    def test_names_the_damaged_row(self, uri, columns, in_order):
        lance.write_dataset(numbered_images(3, damaged=[2]), uri, max_rows_per_file=2)
        scan = scan_of(uri, ImageDecode(), columns)
        with pytest.raises(TensorConversionError, match=r"'image', row address 4294967296 \(fragment 1, row 0\)"):
            read(scan, 3, in_order)

    def test_names_the_damaged_row_under_a_filter_and_a_search(self, uri):
        lance.write_dataset(numbered_images(5, damaged=[3]), uri)
        for scan in (
            scan_of(uri, ImageDecode(), filter="id > 2"),
            scan_of(uri, ImageDecode(), options={"limit": 4, "offset": 1}),
        ):
            with pytest.raises(TensorConversionError, match=r"fragment 0, row 3"):
                read(scan, 5)


class TestSize:
    def test_is_that_of_the_decoded_images_where_it_is_fixed(self, uri):
        lance.write_dataset(numbered_images(10), uri)
        assert row_bytes(scan_of(uri, ImageDecode(size=(100, 50)))) == 8 + 100 * 50 * 3
        assert row_bytes(scan_of(uri, ImageDecode(size=(100, 50), mode="L"), ["image"])) == 100 * 50

    def test_is_sampled_from_the_headers_where_images_have_their_own(self, uri):
        lance.write_dataset(numbered_images(30, size=(40, 60)), uri)
        assert row_bytes(scan_of(uri, ImageDecode())) == 8 + 40 * 60 * 3
        assert row_bytes(scan_of(uri, ImageDecode(mode="RGBA"), ["image"])) == 40 * 60 * 4

    def test_survives_images_that_have_no_header(self, uri):
        lance.write_dataset(numbered_images(4, damaged=[0, 1, 2, 3]), uri)
        assert row_bytes(scan_of(uri, ImageDecode(on_error="null"), ["image"])) == 1

    def test_of_encoded_images_is_what_it_was(self, uri):
        lance.write_dataset(numbered_images(10, size=(400, 600)), uri)
        assert row_bytes(scan_of(uri)) < 400 * 600
        assert row_bytes(scan_of(uri, ImageDecode(size=(1, 1))).select(["id"])) == 8


class TestColumns:
    def test_that_are_decoded_are_no_longer_what_lance_could_filter(self, uri):
        lance.write_dataset(numbered_images(3), uri)
        assert scan_of(uri).delivers_stored(["id", "image"])
        assert not scan_of(uri, ImageDecode()).delivers_stored(["id", "image"])
        assert scan_of(uri, ImageDecode()).delivers_stored(["id"])

    def test_that_are_not_read_cannot_be_decoded(self, uri):
        lance.write_dataset(numbered_images(3), uri)
        with pytest.raises(UnknownColumnError, match="no column 'image'"):
            scan_of(uri, ImageDecode(), ["id"])

    @pytest.mark.parametrize("in_order", [None, RowPermutation(DenseRows(2))])
    @pytest.mark.parametrize("version", ["2.0", "2.1"])
    def test_of_blobs(self, uri, in_order, version):
        field = pa.field("image", pa.large_binary(), metadata={"lance-encoding:blob": "true"})
        table = pa.table([[encoded(*SIZE, (i, 0, 0)) for i in range(2)]], schema=pa.schema([field]))
        lance.write_dataset(table, uri, data_storage_version=version)
        assert reds(read(scan_of(uri, ImageDecode(size=SIZE)), 2, in_order)) == [0, 1]

    def test_of_several_tables_follow_the_policy_where_one_has_none(self, tmp_path):
        uris = [str(tmp_path / name) for name in ("a.lance", "b.lance")]
        lance.write_dataset(images(encoded(*SIZE)), uris[0])
        lance.write_dataset(pa.table({"id": [7]}), uris[1])
        scan = build_scan([TableRef.of(uri).pin() for uri in uris], None, None, [], {})
        filled = scan.decoding({"image": ImageDecode(size=SIZE, on_error="fill", fill=9)})
        plan = ReadPlan(filled, filled.schema(), 1.0)
        (table,) = plan.read(FragmentRange(1, None, 0, 1))
        assert reds(table) == [9]
        raising = scan.decoding({"image": ImageDecode()})
        with pytest.raises(TensorConversionError, match="there are no bytes"):
            list(replace(plan, scan=raising, schema=raising.schema()).read(FragmentRange(1, None, 0, 1)))
