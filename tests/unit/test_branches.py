"""References to branches: however a branch is named, it is the one that Lance opens."""

from __future__ import annotations

import pickle

import lance
import numpy as np
import pyarrow as pa
import pytest

from ray_lance import Permutation, blob
from ray_lance.errors import DatasetNotFoundError, InvalidArgumentError
from ray_lance.handles import handles
from ray_lance.io_uring import uring_uri
from ray_lance.table import TableRef
from ray_lance.torch import LanceIterableDataset, LanceMapDataset
from ray_lance.uris import below_tree, location_of, roots_above
from ray_lance.versions import branch_of
from tests.branches import BRANCHES, WAYS, branched, open_branch, rows_of
from tests.datasets import sample_table
from tests.writes import write_tables

IS_NAMED_AS_LANCE_ALLOWS = ("a/b/c", "tree/x", "x/tree/y", "ü", "-x", "A_b-c.1", "data", "dev/tree/dev")


@pytest.fixture
def table(uri):
    return branched(uri)


@pytest.mark.parametrize("name", BRANCHES)
@pytest.mark.parametrize("way", WAYS)
class TestABranch:
    def test_has_the_rows_that_lance_reads(self, table, way, name):
        pinned = TableRef.of(WAYS[way](table, name)).pin()

        assert pinned.uri == f"{table}/tree/{name}"
        assert pinned.version == open_branch(table, name).version
        assert pinned.open().to_table() == rows_of(table, name)
        assert pinned.open_for_takes().take([0, 7]) == rows_of(table, name).take([0, 7])

    def test_is_found_again_by_another_process(self, table, way, name):
        pinned = TableRef.of(WAYS[way](table, name)).pin()
        sent = pickle.loads(pickle.dumps((pinned, pinned.without_manifest())))
        handles.after_fork()  # as a new process would be: nothing is open

        assert [ref.open().to_table() for ref in sent] == [rows_of(table, name)] * 2

    def test_stays_the_branch_at_its_latest_version(self, table, way, name):
        ref = TableRef.of(WAYS[way](table, name))
        latest = [ref.latest(), ref.pin().latest(), ref.pin().without_manifest().latest()]
        lance.write_dataset(sample_table(1, start=200), open_branch(table, name), mode="append")

        assert [each.open().to_table() for each in latest] == [rows_of(table, name)] * 3

    def test_gives_permutations_that_are_the_same_however_it_is_named(self, table, way, name, tmp_path):
        permutation = Permutation(WAYS[way](table, name)).shuffle(7)
        permutation.save(str(tmp_path / "saved"))
        others = [
            Permutation(f"{table}/tree/{name}").shuffle(7),
            pickle.loads(pickle.dumps(permutation)),
            Permutation.load(str(tmp_path / "saved")),
        ]

        assert [each.fingerprint for each in others] == [permutation.fingerprint] * 3
        rows = rows_of(table, name).take(permutation.rows())
        for each in (permutation, *others):
            assert each.fetch(range(len(each)), format="arrow") == rows


class TestBranches:
    def test_of_one_dataset_are_told_apart(self, table):
        fingerprints = {Permutation(table, version=(name, None)).fingerprint for name in ("main", *BRANCHES)}
        open_at_once = [TableRef.of(table, version=(name, 3)).pin() for name in BRANCHES]

        assert len(fingerprints) == 3
        assert [ref.open().count_rows() for ref in open_at_once] == [8, 9]

    @pytest.mark.parametrize("branch", [None, "main"])
    @pytest.mark.parametrize("uri_of", ["{}", "{}/tree/dev"])
    def test_include_main(self, table, branch, uri_of):
        pinned = TableRef.of(uri_of.format(table), version=(branch, None)).pin()

        assert (pinned.uri, pinned.version) == (table, 2)
        assert pinned.latest().pin() == pinned

    @pytest.mark.parametrize("name", IS_NAMED_AS_LANCE_ALLOWS)
    @pytest.mark.parametrize("folder", ["plain", "tree/dev", "a b%20#x"])
    def test_may_have_any_name_in_any_folder(self, tmp_path, folder, name):
        uri = f"{tmp_path}/{folder}"
        main = lance.write_dataset(sample_table(2), uri)
        main.create_branch("dev")
        lance.write_dataset(sample_table(1, start=5), main.create_branch(name), mode="append")

        assert TableRef.of(main).uri == uri
        for handle in (open_branch(uri, name), open_branch(f"{uri}/tree/dev", name)):
            assert location_of(handle) == f"{uri}/tree/{name}"
        assert location_of(open_branch(f"{uri}/tree/{name}", "main")) == uri
        assert TableRef.of(uri, version=(name, None)).open().to_table() == rows_of(uri, name)

    def test_are_read_by_the_torch_datasets(self, table):
        read = LanceIterableDataset(open_branch(table, "dev"), batch_size=4, columns=["id"], tail="uneven")
        ids = [number for batch in read for number in batch["id"].tolist()]

        assert ids == rows_of(table, "dev")["id"].to_pylist()
        assert LanceMapDataset(f"{table}/tree/dev")[7]["id"] == rows_of(table, "dev")["id"][7].as_py()

    def test_are_read_through_io_uring_as_any_dataset(self, table):
        pinned = TableRef.of(table, version=("team/x", None)).pin()
        ring = lance.LanceDataset(uring_uri(pinned.uri), pinned.version, serialized_manifest=pinned.manifest)

        assert ring.take([0, 8]) == rows_of(table, "team/x").take([0, 8])

    def test_of_a_table_of_a_namespace(self, tmp_path):
        uri = branched(str(tmp_path / "words.lance"))
        arguments = {"namespace_impl": "dir", "namespace_properties": {"root": str(tmp_path)}, "table_id": ("words",)}
        ref = TableRef(None, version=("dev", None), **arguments)

        recipe = pickle.loads(pickle.dumps(ref.pin().without_manifest()))
        assert recipe.version == ("dev", 3)
        for each in (ref, ref.pin(), recipe, ref.pin().latest(), ref.pin().at(3)):
            assert each.open().to_table() == rows_of(uri, "dev")

    def test_that_are_deleted_and_made_anew_are_others(self, table):
        permutation = pickle.dumps(Permutation(open_branch(table, "dev")))
        main = lance.dataset(table)
        main.tags.delete("tag-of-0")
        main.branches.delete("dev")
        lance.write_dataset(sample_table(1, start=300), main.create_branch("dev"), mode="append")

        with pytest.raises(InvalidArgumentError, match="another dataset"):
            pickle.loads(permutation).fetch([0])


class TestWhatIsRefused:
    @pytest.mark.parametrize(
        "version",
        [("dev",), ("dev", 1, 2), ("", 1), (1, "dev"), ("dev", True), ("dev", 1.0), ["dev", 1], "", 2.0],
    )
    def test_versions_of_other_forms(self, uri, version):
        with pytest.raises(InvalidArgumentError, match=r"version=.* must be a version number .* \(\"dev\", None\)"):
            TableRef.of(uri, version=version)

    @pytest.mark.parametrize("version", [0, -1, ("dev", 0)])
    def test_numbers_below_1(self, uri, version):
        with pytest.raises(InvalidArgumentError, match=r"version=.* must be at least 1"):
            TableRef.of(uri, version=version)

    @pytest.mark.parametrize("version", [("team/x", None), ("dev", 2), ("main", None), (None, 3), 2])
    def test_a_version_that_contradicts_a_handle(self, table, version):
        with pytest.raises(InvalidArgumentError, match=r"contradicts the source, which stands at version 3 .*'dev'"):
            TableRef.of(open_branch(table, "dev"), version=version)

    @pytest.mark.parametrize("version", [("dev", None), ("dev", 3), 3, np.int64(3), ("dev", np.uint8(3))])
    def test_no_version_that_agrees_with_a_handle(self, table, version):
        assert TableRef.of(open_branch(table, "dev"), version=version).number == 3

    @pytest.mark.parametrize("version", [("nope", None), ("nope", 1)])
    def test_a_branch_that_is_not_there(self, table, version):
        with pytest.raises(DatasetNotFoundError, match=r"no such branch, it has \['dev', 'team/x'\]; make it with"):
            TableRef.of(table, version=version).pin()

    def test_a_uri_of_a_branch_that_is_not_there(self, table):
        with pytest.raises(DatasetNotFoundError, match=r"no such branch, it has \['dev', 'team/x'\]; make it with"):
            TableRef.of(f"{table}/tree/nope").pin()

    @pytest.mark.parametrize("version", [("dev", 99), ("dev", 1)])
    def test_a_version_that_the_branch_has_not(self, table, version):
        with pytest.raises(DatasetNotFoundError, match=r"no such version or tag \(versions kept: 2 to 3\)"):
            TableRef.of(table, version=version).pin()

    def test_a_name_that_no_branch_can_have(self, table):
        with pytest.raises(InvalidArgumentError, match=r"version=\('a..b', None\): Ref is invalid"):
            TableRef.of(table, version=("a..b", None)).pin()


class TestShallowClones:
    def test_are_read_like_any_dataset(self, table, tmp_path):
        for number, reference in enumerate([2, ("dev", None), "tag-of-1"]):
            clone = lance.dataset(table).shallow_clone(str(tmp_path / f"clone-{number}"), reference)
            for source in (clone, clone.uri):
                permutation = Permutation(source)
                everything = permutation.fetch(range(len(permutation)), format="arrow")
                assert everything == clone.to_table()
                assert pickle.loads(pickle.dumps(permutation)) == permutation

    def test_with_storage_options_of_their_own_bases_are_opened_with_these(self, table, tmp_path):
        lance.dataset(table).shallow_clone(str(tmp_path / "clone"), 2)
        handle = lance.dataset(str(tmp_path / "clone"), base_store_params={table: {"aws_region": "nowhere"}})

        assert TableRef.of(handle).open()._base_store_params == {table: {"aws_region": "nowhere"}}


@pytest.mark.parametrize(
    ("uri", "roots"),
    [
        ("/a/b", []),
        ("/tree/x", []),
        ("s3://tree/x", []),
        ("s3://b/t/tree/dev", [("s3://b/t", "dev")]),
        ("s3://b/t/tree/a/tree/b?x=/tree/1", [("s3://b/t/tree/a?x=/tree/1", "b"), ("s3://b/t?x=/tree/1", "a/tree/b")]),
        ("/a?b/tree/c", [("/a?b", "c")]),
    ],
)
def test_a_uri_below_a_folder_named_tree_may_be_a_branch(uri, roots):
    assert roots_above(uri) == roots


@pytest.mark.parametrize(
    ("uri", "path"), [("/a/b", "."), ("/a/tree/dev", "tree/dev"), ("s3://b/tree/a/tree/b", "tree/a/tree/b")]
)
def test_a_folder_with_the_same_end_passes_for_the_branch(uri, path):
    assert below_tree(uri) == path


def test_the_branch_is_read_from_a_manifest_of_any_length(tmp_path):
    uri = str(tmp_path / "many")
    lance.write_dataset(pa.table({"a": range(200)}), uri, max_rows_per_file=1)
    branch = lance.dataset(uri).create_branch("b" * 200)

    assert branch_of(lance.dataset(uri)._ds.serialized_manifest()) is None
    assert branch_of(branch._ds.serialized_manifest()) == "b" * 200


@pytest.mark.parametrize("stable", [False, True])
@pytest.mark.parametrize("version", [1, 2])
def test_blobs_of_a_branch_are_read_where_its_origin_has_them(tmp_path, version, stable):
    uri, clone = str(tmp_path / "blobs"), str(tmp_path / "clone")
    schema = pa.schema([("id", pa.int64()), blob("My blob", version=version)])
    rows = pa.table({"id": range(6), "My blob": pa.array([b"z" * n if n else None for n in range(6)])})
    options = {"data_storage_version": "2.1" if version == 1 else "2.2", "enable_stable_row_ids": stable}
    write_tables(uri, [rows], schema=schema, **options)
    main = lance.dataset(uri)
    main.delete("id = 2")
    main.create_branch("dev")
    main.shallow_clone(clone, main.version)
    write_tables(f"{uri}/tree/dev", [rows], mode="append")

    for source, positions in ((f"{uri}/tree/dev", [9, 4, 0, 3]), (clone, [4, 4, 1, 0])):
        for permutation in (Permutation(source), Permutation(source, "id >= 0")):
            taken = permutation.fetch(positions, ["My blob", "id"], format="python")
            assert [len(row["My blob"] or b"") for row in taken] == [row["id"] for row in taken]
