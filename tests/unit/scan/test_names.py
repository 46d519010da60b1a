"""Columns whose names are odd, reserved or paths: read as Lance reads them in this process."""

from __future__ import annotations

import lance
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from ray_lance.decode import ImageDecode
from ray_lance.errors import InvalidArgumentError, UnknownColumnError
from ray_lance.order import DenseRows, RowPermutation
from ray_lance.paths import find_name, find_path, format_path, parse_path
from ray_lance.permutation import Permutation
from ray_lance.scan.pushdown import build_scan
from ray_lance.scan.reader import PermutationPlan, ReadPlan
from ray_lance.scan.take import take_rows
from ray_lance.scan.tasks import FragmentRange, PermutationRange
from ray_lance.table import TableRef
from ray_lance.tensors import named_fill, to_tensors
from ray_lance.torch import LanceMapDataset
from tests.images import encoded

ODD = [
    "a b", " lead", 'a"b', "a'b", "b\\c", "[x]", "a[0]", "a(b)", "x-y", "a,b", "a;b", "a:b", "a/b", "a\nb", "%", "*",
    "é", "日本", "1a", "A", "a", "select", "order", "NULL", "true", "Case", "_fragid", "__ray_lance_job", "_distance",
    "_score", "__bsp_stub",
]  # fmt: skip
ROWS = 6


def odd_table() -> pa.Table:
    names = {name: pa.array([10 * number + row for row in range(ROWS)]) for number, name in enumerate(ODD)}
    inner = {"a.b": 1, "a": {"b": 2, "q.r": 3}, "x y": 4, "`z": 5, "A": 6, "_rowid": 7, "select": 8}
    rows = [{key: _shifted(value, row) for key, value in inner.items()} if row % 3 else None for row in range(ROWS)]
    return pa.table({"id": range(ROWS), **names, "meta": pa.array(rows)})


def _shifted(value, row):
    return {key: each + 10 * row for key, each in value.items()} if isinstance(value, dict) else value + 10 * row


PATHS = [
    "`id`", "meta", "`meta`", "meta.`a.b`", "`meta`.`a.b`", "meta.a", "meta.a.b", "meta.a.`b`", "meta.a.`q.r`",
    "meta.x y", "meta.`x y`", "meta.```z`", "meta.A", "meta._rowid", "meta.select", "meta.`select`", "`a b`", "`*`",
    "`_fragid`", "`日本`",
]  # fmt: skip


@pytest.fixture(scope="module")
def odd(tmp_path_factory) -> str:
    uri = str(tmp_path_factory.mktemp("odd") / "table.lance")
    lance.write_dataset(odd_table(), uri, max_rows_per_file=4)
    return uri


def scan_of(uri, columns=None, filter=None, meta=()):
    return build_scan([TableRef.of(uri).pin()], columns, filter, list(meta), {})


def scanned(scan) -> pa.Table:
    plan = ReadPlan(scan, scan.schema(), 8.0)
    return pa.concat_tables(plan.read(FragmentRange(0, None, 0, ROWS)))


def permuted(scan) -> pa.Table:
    plan = PermutationPlan(scan, RowPermutation(DenseRows(ROWS)).shuffle(3, 1, 1), scan.schema(), 8.0)
    table = pa.concat_tables(plan.read(PermutationRange(0, ROWS)))
    order = plan.order.rows()
    return table.take(pa.array(sorted(range(ROWS), key=lambda place: order[place])))


def taken_by_id(scan) -> pa.Table:
    return take_rows(scan, pc.cast(pa.array([0, 1, 2, 3, 1 << 32, 1 + (1 << 32)]), "uint64").to_numpy())


READERS = [scanned, permuted, taken_by_id]


class TestPaths:
    @pytest.mark.parametrize(
        ("text", "path"),
        [
            ("id", ("id",)),
            ("`id`", ("id",)),
            ("a.b", ("a", "b")),
            ("meta.`a.b`", ("meta", "a.b")),
            ("meta.x y", ("meta", "x y")),
            ("`a``b`.c", ("a`b", "c")),
            *((text, None) for text in ["", "a.", ".a", "a..b", "`a", "a`b", "``", "`a`b", "a.``"]),
        ],
    )
    def test_are_parsed_as_lance_does(self, text, path):
        assert parse_path(text) == path
        assert path is None or parse_path(format_path(path)) == path

    def test_of_a_schema_are_exact_names_first(self):
        schema = pa.schema([("`a`", pa.int8()), ("a", pa.struct([("b.c", pa.int8())])), ("x.y", pa.int8())])
        assert find_path(schema, "`a`") == ("`a`",)
        assert find_path(schema, "x.y") == ("x.y",)
        assert find_path(schema, "a.`b.c`") == ("a", "b.c")
        assert [find_path(schema, text) for text in ("a.b", "a.b.c", "A", "x", "", "a.`b.c`.d")] == [None] * 6

    def test_written_otherwise_are_the_same_column(self):
        assert find_name(["id", "meta.`a.b`"], "`meta`.`a.b`") == "meta.`a.b`"
        assert find_name(["id", "`id`"], "`id`") == "`id`"
        assert find_name(["ID", "meta.a"], "id") is None


class TestReading:
    @pytest.mark.parametrize("read", READERS)
    def test_everything(self, odd, read):
        assert read(scan_of(odd)).to_pylist() == lance.dataset(odd).to_table().to_pylist()

    @pytest.mark.parametrize("read", READERS)
    @pytest.mark.parametrize("name", ODD)
    def test_an_odd_name(self, odd, read, name):
        assert read(scan_of(odd, [name])).to_pydict() == {name: odd_table()[name].to_pylist()}
        assert read(scan_of(odd, [name, "id"])).column_names == [name, "id"]

    @pytest.mark.parametrize("read", READERS)
    @pytest.mark.parametrize("path", PATHS)
    def test_a_path(self, odd, read, path):
        expected = lance.dataset(odd).scanner(columns=[path]).to_table()

        assert read(scan_of(odd, [path])).to_pydict() == expected.to_pydict()
        assert read(scan_of(odd, ["id", path, "*"])).to_pydict()[path] == expected.to_pydict()[path]
        assert scan_of(odd, [path]).schema() == expected.schema

    @pytest.mark.parametrize("name", [name for name in ODD if name != "*"])
    def test_filters(self, odd, name):
        value = odd_table()[name][3].as_py()
        for filter in (f"`{name}` = {value}", pc.field(name) == value):
            scan = scan_of(odd, ["id"], filter)
            assert scanned(scan).to_pydict() == {"id": [3]}

    def test_filters_by_a_path(self, odd):
        assert scanned(scan_of(odd, ["id"], "meta.`a.b` = 41")).to_pydict() == {"id": [4]}
        assert Permutation(odd, "meta.a.`q.r` > 20").fetch(0, ["meta.a.`q.r`"])["meta.a.`q.r`"].tolist() == [23]

    @pytest.mark.parametrize(
        "path", ["meta.`a.b", "meta.b", "meta.a.q.r", "`a.b`", "id.x", "Meta", "ID", "meta.`a.b`.c", ""]
    )
    def test_what_is_not_there_is_refused(self, odd, path):
        with pytest.raises(UnknownColumnError, match="columns: there is no column"):
            scan_of(odd, [path])

    def test_a_split_by_a_path(self, odd):
        by_path, by_name = (Permutation(odd).split({"a": 0.5, "b": 0.5}, by=by) for by in ("`id`", "id"))
        assert [len(part) for part in by_path.values()] == [len(part) for part in by_name.values()]
        assert sum(len(part) for part in Permutation(odd).split({"a": 0.5, "b": 0.5}, by="meta.`a.b`").values()) == ROWS


class TestSelecting:
    @pytest.mark.parametrize("read", READERS)
    @pytest.mark.parametrize("path", PATHS)
    def test_paths_of_what_is_delivered(self, odd, read, path):
        expected = lance.dataset(odd).scanner(columns=[path]).to_table().to_pydict()
        assert read(scan_of(odd).select([path])).to_pydict() == expected

    def test_paths_inside_of_paths(self, odd):
        scan = scan_of(odd, ["meta.a", "`id`"]).select(["meta.`a`.`q.r`", "id"])
        assert scanned(scan).to_pydict()["meta.`a`.`q.r`"] == [None, 13, 23, None, 43, 53]

    @pytest.mark.parametrize("path", ["A", "meta.A", "meta", "meta.a.nothing", "`id"])
    def test_what_is_not_delivered_is_refused(self, odd, path):
        with pytest.raises(UnknownColumnError, match="select_columns: there is no column"):
            scan_of(odd, ["id", "meta.a"]).select([path])


class TestKeys:
    """What is said of columns by name may be said of paths."""

    @pytest.mark.parametrize("key", ["`n`", "n"])
    @pytest.mark.parametrize("column", ["`n`", "n"])
    def test_of_fill(self, uri, key, column):
        lance.write_dataset(pa.table({"n": [1, None]}), uri)
        for dataset in (LanceMapDataset(uri, columns=[column], fill={key: 7}),):
            assert dataset[1] == {column: 7}

    @pytest.mark.parametrize("key", ["meta.`a.b`", "`meta`.`a.b`", "meta.a.b"])
    def test_of_fill_for_a_leaf(self, key):
        table = pa.table({"meta": [{"a.b": None, "c": 1}, {"a.b": 2, "c": None}]})
        assert to_tensors(table, fill={key: 5, "meta.c": 6})["meta.a.b"].tolist() == [5, 2]
        assert named_fill({key: 5, "x": 1}, table.schema, is_part=True) == {"meta.a.b": 5}

    def test_of_fill_that_name_one_column_twice_are_refused(self):
        with pytest.raises(InvalidArgumentError, match="names column 'n' twice"):
            to_tensors(pa.table({"n": [1]}), fill={"n": 1, "`n`": 2})

    @pytest.mark.parametrize("key", ["meta.`a.jpg`", "`meta`.`a.jpg`"])
    @pytest.mark.parametrize("read", [scanned, permuted])
    def test_of_decode(self, uri, read, key):
        meta = pa.array([{"a.jpg": image} for image in [encoded(3, 5)] * ROWS])
        lance.write_dataset(pa.table({"meta": meta}), uri)
        scan = scan_of(uri, ["meta.`a.jpg`"]).decoding({key: ImageDecode(size=(4, 6))})
        assert read(scan.select(["`meta`.`a.jpg`"])).schema.field(0).type.shape == [4, 6, 3]
        assert LanceMapDataset(uri, columns=["meta.`a.jpg`"], decode={key: "image"})[0]["meta.`a.jpg`"].shape[2] == 3


class TestAStoredFragid:
    @pytest.fixture
    def table(self, uri) -> str:
        lance.write_dataset(pa.table({"_fragid": [7, 8, 9, 7, 8, 9], "x": range(ROWS)}), uri, max_rows_per_file=4)
        return uri

    @pytest.mark.parametrize("read", READERS)
    @pytest.mark.parametrize("meta", [(), ("_rowid",), ("_rowaddr",), ("_rowid", "_rowaddr")])
    @pytest.mark.parametrize("columns", [None, ["_fragid"], ["x", "_fragid"], {"_fragid": "_fragid", "y": "x + 1"}])
    def test_is_read_as_stored(self, table, read, meta, columns):
        found = read(scan_of(table, columns, meta=meta))
        assert found["_fragid"].to_pylist() == [7, 8, 9, 7, 8, 9]
        for name in meta:
            assert found[name].to_pylist() == [0, 1, 2, 3, 1 << 32, 1 + (1 << 32)]

    def test_is_fetched_as_stored(self, table):
        assert Permutation(table).shuffle(1).fetch(range(ROWS))["_fragid"].sort().values.tolist() == [7, 7, 8, 8, 9, 9]
        assert LanceMapDataset(table)[4]["_fragid"] == 8

    @pytest.mark.parametrize("read", READERS)
    def test_gives_way_to_the_fragments_number_where_that_alone_is_asked_for(self, table, read):
        found = read(scan_of(table, ["x"], meta=("_rowaddr", "_fragid")))
        assert found["_fragid"].to_pylist() == [0, 0, 0, 0, 1, 1]

    def test_beside_the_fragments_number_is_refused(self, table):
        with pytest.raises(InvalidArgumentError, match="with_metadata=True adds the number of the fragment"):
            scan_of(table, meta=("_rowaddr", "_fragid"))

    def test_takes_no_filter_of_the_fragments_number(self, table):
        assert scan_of(table).delivers_stored(["_fragid"])
        assert not scan_of(table, ["x"], meta=("_rowaddr", "_fragid")).delivers_stored(["_fragid"])

    def test_an_expression_may_have_that_name(self, odd):
        assert scanned(scan_of(odd, {"_fragid": "id * 2"})).to_pydict() == {"_fragid": [0, 2, 4, 6, 8, 10]}


class TestNamesThatLanceCannotRead:
    @pytest.mark.parametrize(
        "name", ["_rowid", "_rowaddr", "_rowoffset", "_row_created_at_version", "_row_last_updated_at_version"]
    )
    @pytest.mark.parametrize("columns", [None, ["x"]])
    def test_of_lances_own_are_refused_with_the_way_out(self, uri, name, columns):
        lance.write_dataset(pa.table({"k": [5, 6], "x": [1, 2]}), uri).alter_columns({"path": "k", "name": name})

        with pytest.raises(InvalidArgumentError, match=f"column '{name}'.*Rename it") as caught:
            scan_of(uri, columns)

        eval(str(caught.value).rpartition("data: ")[2], {"lance": lance, "uri": uri})
        assert scan_of(uri).schema().names == ["renamed", "x"]

    @pytest.mark.parametrize("name", ["a`b", "`ab`"])
    def test_with_backticks_can_be_left_out_or_renamed(self, uri, name):
        lance.write_dataset(pa.table({name: [5, 6], "x": [1, 2]}), uri)
        assert Permutation(uri, "x > 1").shuffle(1).fetch([0], ["x"])["x"].tolist() == [2]

        with pytest.raises(InvalidArgumentError, match="whose name holds a backtick") as caught:
            scan_of(uri)

        eval(str(caught.value).rpartition("data: ")[2], {"lance": lance, "uri": uri})
        assert Permutation(uri).fetch([0])["renamed"].tolist() == [5]

    def test_that_are_empty_can_be_left_out(self, uri):
        lance.write_dataset(pa.table({"": [5, 6], "x": [1, 2]}), uri)
        assert Permutation(uri).fetch([0], ["x"])["x"].tolist() == [1]
        with pytest.raises(InvalidArgumentError, match="whose name is empty: leave it out with columns"):
            scan_of(uri)

    @pytest.mark.parametrize("name", ["_rowid", "_rowaddr"])
    def test_are_refused_for_expressions(self, odd, name):
        with pytest.raises(InvalidArgumentError, match="give the expression another name"):
            scan_of(odd, {name: "id + 1"})
        assert scan_of(odd, {name: name}).schema().names == [name]
