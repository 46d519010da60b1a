from __future__ import annotations

import pickle

import pyarrow as pa
import pytest
import torch

from ray_lance.backfill.udf import BATCH_FORMATS
from ray_lance.errors import InvalidArgumentError, TensorConversionError, UnknownColumnError
from ray_lance.tensors import to_tensors
from ray_lance.tensors.categories import Categories, CategoryUnion
from tests.unit.tensors.type_cases import plain

WORDS = pa.dictionary(pa.int8(), pa.string())


def encoded(*values: object) -> pa.DictionaryArray:
    return pa.array(values).dictionary_encode()


def one(column: pa.Array | pa.ChunkedArray, **options: object) -> torch.Tensor | list:
    return to_tensors(pa.table({"c": column}), **options)["c"]


class TestValues:
    def test_what_a_dictionary_encodes_does_not_show(self) -> None:
        assert one(encoded("cat", "dog")) == ["cat", "dog"]
        assert one(encoded("dog", "cat")) == ["dog", "cat"]
        assert one(pa.chunked_array([encoded("cat", "dog"), encoded("dog", None)])) == ["cat", "dog", "dog", None]

    @pytest.mark.parametrize(
        "values",
        [
            pa.array([300, -7, 300]),
            pa.array([0.5, 1.5, 0.5], pa.float32()),
            pa.array([1, 2, 1], pa.timestamp("s")),
            pa.array([b"a", b"", b"a"]),
            pa.array(["a", "b", "a"], pa.large_string()),
        ],
        ids=lambda values: str(values.type),
    )
    def test_they_are_converted_as_their_type_is(self, values: pa.Array) -> None:
        result = one(values.dictionary_encode())
        assert plain(result) == plain(one(values))
        assert getattr(result, "dtype", None) == getattr(one(values), "dtype", None)

    def test_nulls_are_those_of_the_values(self) -> None:
        numbers = pa.DictionaryArray.from_arrays(pa.array([0, 1, None]), pa.array([5, None]))
        with pytest.raises(TensorConversionError, match=r"column 'c' .*fill=\{'c': value\}"):
            one(numbers)
        assert plain(one(numbers, fill=-1)) == [5, -1, -1]
        words = pa.DictionaryArray.from_arrays(pa.array([0, 1, None]), pa.array(["a", None]))
        assert one(words, fill=0) == ["a", None, None]
        assert one(words, fill={"c": "?"}) == ["a", "?", "?"]

    def test_a_full_dictionary_of_8_bits(self) -> None:
        words = [f"{i}" for i in range(128)]
        codes = pa.array([127, None, 0], pa.int8())
        assert one(pa.DictionaryArray.from_arrays(codes, pa.array(words))) == ["127", None, "0"]

    def test_inside_structs_and_lists(self) -> None:
        table = pa.table(
            {
                "s": pa.array([{"c": "b"}, None], pa.struct([("c", WORDS)])),
                "l": pa.array([["b", "a"], []], pa.list_(WORDS)),
                "n": pa.array([[7, 8], [7]], pa.list_(pa.dictionary(pa.int8(), pa.int32()))),
            }
        )
        result = to_tensors(table, ragged="list")
        assert {name: plain(value) for name, value in result.items()} == {
            "s.c": ["b", None],
            "l": [["b", "a"], []],
            "n": [[7, 8], [7]],
        }

    def test_rows_of_a_dictionary_of_lists_are_objects_of_their_own(self) -> None:
        lists = pa.DictionaryArray.from_arrays(pa.array([0, 0]), pa.array([["a"]]))
        first, second = one(lists)
        assert (first, second) == (["a"], ["a"])
        assert first is not second


class TestArrays:
    @pytest.mark.parametrize("values", [["a", None, "b"], [1.5, None, 2.5]])
    def test_nulls_are_not_the_last_category(self, values: list) -> None:
        batch = BATCH_FORMATS["numpy"](pa.table({"c": pa.array(values).dictionary_encode(), "n": range(3)}))
        assert plain(batch["c"].tolist()) == plain(
            [float("nan") if v is None and values[0] == 1.5 else v for v in values]
        )


class TestCodes:
    def test_they_are_of_one_dictionary_over_the_whole_table(self) -> None:
        column = pa.chunked_array([encoded("cat", "dog"), encoded("emu", "dog", None)])
        result = one(column, categories="codes", fill=-1)
        assert (result.dtype, plain(result)) == (torch.int64, [0, 1, 2, 1, -1])
        assert Categories.of_table(pa.table({"c": column})) == {"c": ["cat", "dog", "emu"]}

    def test_given_categories_give_every_batch_the_same_codes(self) -> None:
        categories = {"c": ["dog", "emu", "cat"]}
        for column in (encoded("cat", "dog"), pa.array(["cat", "dog"]), pa.array(["cat", "dog"], pa.large_string())):
            assert plain(one(column, categories=categories)) == [2, 0]

    def test_of_numbers_whatever_their_width(self) -> None:
        for dtype in (pa.int64(), pa.int16()):
            assert plain(one(pa.array([30, 10], dtype).dictionary_encode(), categories={"c": [10, 20, 30]})) == [2, 0]

    def test_inside_structs_and_lists(self) -> None:
        table = pa.table(
            {
                "s": pa.array([{"c": "b"}, {"c": "a"}], pa.struct([("c", WORDS)])),
                "l": pa.array([["b", "a"], []], pa.list_(WORDS)),
            }
        )
        result = to_tensors(table, categories={"s.c": ["a", "b"], "l": ["a", "b"]}, ragged="list")
        assert {name: plain(value) for name, value in result.items()} == {"s.c": [1, 0], "l": [[1, 0], []]}

    def test_columns_without_given_categories_stay_values(self) -> None:
        table = pa.table({"c": encoded("a"), "d": encoded("b")})
        assert {name: plain(value) for name, value in to_tensors(table, categories={"d": ["b"]}).items()} == {
            "c": ["a"],
            "d": [0],
        }

    def test_categories_of_a_dataset_must_cover_each_column(self) -> None:
        complete = Categories({"d": ["b"]}, is_complete=True)
        with pytest.raises(TensorConversionError, match=r"column 'c' has no categories.*\['d'\]"):
            to_tensors(pa.table({"c": encoded("a")}), categories=complete)
        assert to_tensors(pa.table({"n": [1]}), categories=complete)["n"].tolist() == [1]

    def test_a_value_that_is_no_category_is_refused(self) -> None:
        with pytest.raises(TensorConversionError, match="column 'c' holds 'emu', which is none of its categories"):
            one(encoded("cat", "emu"), categories={"c": ["cat"]})
        unused = pa.DictionaryArray.from_arrays(pa.array([0, None]), pa.array(["cat", "emu"]))
        assert plain(one(unused, categories={"c": ["cat"]}, fill=9)) == [0, 9]

    def test_nulls_need_a_fill(self) -> None:
        with pytest.raises(TensorConversionError, match=r"fill=\{'c': value\}"):
            one(encoded("a", None), categories="codes")

    def test_what_is_refused(self) -> None:
        with pytest.raises(InvalidArgumentError, match="categories='code' must be"):
            one(encoded("a"), categories="code")
        with pytest.raises(InvalidArgumentError, match=r"categories\['c'\]"):
            one(encoded("a"), categories={"c": ["a", None]})
        with pytest.raises(InvalidArgumentError, match=r"categories\['c'\]"):
            one(encoded("a"), categories={"c": ["a", "a"]})
        with pytest.raises(InvalidArgumentError, match=r"categories\['c'\]"):
            one(encoded("a"), categories={"c": 3})
        with pytest.raises(UnknownColumnError, match="categories: there is no column 'd'"):
            one(encoded("a"), categories={"d": ["a"]})
        with pytest.raises(TensorConversionError, match=r"column 'c'.*cannot be compared"):
            one(encoded("a"), categories={"c": [1]})
        structs = pa.DictionaryArray.from_arrays(pa.array([0]), pa.array([{"a": 1}]))
        with pytest.raises(TensorConversionError, match=r"column 'c'.*cannot be compared"):
            one(structs, categories="codes")


class TestCategories:
    def test_they_come_in_the_order_of_the_dictionaries_also_if_no_row_has_them(self) -> None:
        unused = pa.DictionaryArray.from_arrays(pa.array([2, 2]), pa.array(["b", "a", "c"]))
        union = CategoryUnion()
        for column in (unused, unused, encoded("d", "a"), unused):
            union.add(pa.record_batch({"c": column}))
        assert union.categories()["c"] == ["b", "a", "c", "d"]

    def test_a_value_listed_twice_has_one_code(self) -> None:
        twice = pa.DictionaryArray.from_arrays(pa.array([0, 1, 2, 3], pa.int8()), pa.array(["a", "a", None, "b"]))
        assert Categories.of_table(pa.table({"c": twice}))["c"] == ["a", "b"]
        assert plain(one(twice, categories="codes", fill=-1)) == [0, 0, -1, 1]

    def test_they_travel_and_compare(self) -> None:
        categories = Categories({"c": ["a", "b"]}, is_complete=True)
        again = pickle.loads(pickle.dumps(categories))
        assert again == categories == {"c": ["a", "b"]}
        assert again.is_complete
        assert repr(again) == "Categories({'c': ['a', 'b']})"
