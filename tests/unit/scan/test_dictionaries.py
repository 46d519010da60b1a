from __future__ import annotations

import pickle
from collections.abc import Sequence

import lance
import pyarrow as pa
import pytest

from ray_lance import Permutation, TableRef
from ray_lance.errors import InvalidArgumentError, TensorConversionError, UnknownColumnError
from ray_lance.scan.dictionaries import categories_of
from ray_lance.scan.pushdown import build_scan
from ray_lance.scan.scan import Scan
from ray_lance.torch import LanceIterableDataset, LanceMapDataset

WORDS = pa.dictionary(pa.int16(), pa.string())
BATCHES = [["cat", "dog"], ["dog", "cat"], ["emu", "cat"]]


def encoded(words: Sequence[str | None]) -> pa.Array:
    return pa.array(words).dictionary_encode()


def append(uri: str, **columns: pa.Array) -> None:
    lance.write_dataset(pa.table(columns), uri, mode="append")


def scan(*uris: str, columns: object = None, filter: str | None = None) -> Scan:
    return build_scan([TableRef.of(uri).pin() for uri in uris], columns, filter, [], {})


@pytest.fixture
def animals(uri: str) -> str:
    for words in BATCHES:
        append(uri, c=encoded(words), n=pa.array([0, 1]))
    return uri


class TestCategoriesOf:
    def test_are_those_of_all_fragments_in_order_and_appended_ones_come_last(self, animals: str) -> None:
        assert categories_of(scan(animals)) == {"c": ["cat", "dog", "emu"]}
        append(animals, c=encoded(["ant", "emu"]), n=pa.array([0, 1]))
        assert categories_of(scan(animals)) == {"c": ["cat", "dog", "emu", "ant"]}

    def test_neither_filters_nor_deletions_change_a_code(self, animals: str) -> None:
        before = categories_of(scan(animals))
        assert categories_of(scan(animals, filter="c = 'emu'")) == before
        lance.dataset(animals).delete("c = 'dog'")
        assert categories_of(scan(animals)) == before

    def test_values_that_no_row_has_are_listed(self, uri: str) -> None:
        append(uri, c=pa.DictionaryArray.from_arrays(pa.array([2, 0]), pa.array(["low", "middle", "high"])))
        assert categories_of(scan(uri))["c"] == ["low", "middle", "high"]

    def test_of_columns_that_are_read_under_the_names_that_are_delivered(self, uri: str) -> None:
        structs = pa.array([{"c": "b", "n": 1}, {"c": "a", "n": 2}], pa.struct([("c", WORDS), ("n", pa.int64())]))
        append(uri, s=structs, l=pa.array([["y"], ["x"]], pa.list_(WORDS)), k=pa.array([30, 10]).dictionary_encode())

        assert categories_of(scan(uri)) == {"s.c": ["b", "a"], "l": ["y", "x"], "k": [30, 10]}
        assert categories_of(scan(uri, columns=["s.c"])) == {"s.c": ["b", "a"]}
        assert categories_of(scan(uri, columns=["s.n"])) == {}
        assert categories_of(scan(uri, columns={"kind": "k"})) == {"kind": [30, 10]}

    def test_of_several_tables_and_of_none_with_rows(self, animals: str, tmp_path) -> None:
        other, empty = str(tmp_path / "other.lance"), str(tmp_path / "empty.lance")
        append(other, n=pa.array([1]), k=encoded(["z"]))
        lance.write_dataset(lance.dataset(animals).schema.empty_table(), empty)
        assert categories_of(scan(other, animals)) == {"k": ["z"], "c": ["cat", "dog", "emu"]}
        assert categories_of(scan(empty)) == {"c": []}


class TestTorchDatasets:
    def test_batches_hold_what_categories_mean(self, animals: str) -> None:
        assert [batch["c"] for batch in LanceIterableDataset(animals, batch_size=2)] == BATCHES
        assert LanceMapDataset(animals)[2]["c"] == "dog"
        assert Permutation(animals).fetch([4, 2])["c"] == ["emu", "dog"]
        assert Permutation(animals).fetch([4, 2], format="numpy")["c"].tolist() == ["emu", "dog"]

    def test_codes_are_of_one_dictionary(self, animals: str) -> None:
        dataset = LanceIterableDataset(animals, batch_size=2, categories="codes")
        assert [batch["c"].tolist() for batch in dataset] == [[0, 1], [1, 0], [2, 0]]
        rows = LanceMapDataset(animals, columns=["c"], categories="codes")
        assert [int(rows[index]["c"]) for index in range(6)] == [0, 1, 1, 0, 2, 0]
        assert dataset.categories == rows.categories == Permutation(animals).categories == {"c": ["cat", "dog", "emu"]}
        shuffled = LanceIterableDataset(animals, batch_size=6, shuffle=1, categories="codes")
        words = LanceIterableDataset(animals, batch_size=6, shuffle=1)
        for codes, expected in zip(shuffled, words, strict=True):
            assert [shuffled.categories["c"][code] for code in codes["c"]] == expected["c"]

    def test_given_categories_are_taken_for_columns_of_any_type(self, animals: str) -> None:
        dataset = LanceIterableDataset(animals, batch_size=2, categories={"c": ["emu", "cat", "dog"], "n": [1, 0]})
        assert [batch["c"].tolist() for batch in dataset] == [[1, 2], [2, 1], [0, 1]]
        assert [batch["n"].tolist() for batch in dataset] == [[1, 0]] * 3
        numbers = LanceIterableDataset(animals, batch_size=2, columns=["n"], categories={"n": [1, 0]})
        assert [batch["n"].tolist() for batch in numbers] == [[1, 0]] * 3

    def test_codes_travel_with_the_dataset(self, animals: str, monkeypatch) -> None:
        sent = pickle.dumps(LanceMapDataset(animals, categories="codes"))
        monkeypatch.setattr("ray_lance.scan.stored_rows.categories_of", None)  # nobody looks for them again
        assert int(pickle.loads(sent)[4]["c"]) == 2

    def test_what_is_refused(self, animals: str) -> None:
        with pytest.raises(InvalidArgumentError, match="categories='code' must be"):
            LanceMapDataset(animals, categories="code")
        with pytest.raises(InvalidArgumentError, match=r"format='numpy'.*categories"):
            LanceMapDataset(animals, categories="codes", format="numpy")
        with pytest.raises(UnknownColumnError, match="categories: there is no column 'd'"):
            LanceMapDataset(animals, categories={"d": ["x"]})
        with pytest.raises(TensorConversionError, match="column 'c' holds 'emu'"):
            list(LanceIterableDataset(animals, batch_size=2, categories={"c": ["cat", "dog"]}))
