"""Mixture: columns, proportions and bad arguments; the laws of an order, through the iterable dataset."""

from __future__ import annotations

import itertools
import json
import pickle

import lance
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ray_lance import (
    DatasetNotFoundError,
    InvalidArgumentError,
    Mixture,
    Permutation,
    SchemaMismatchError,
    UnknownColumnError,
)
from ray_lance.torch import LanceIterableDataset, LanceMapDataset
from tests.datasets import sample_table, write_fragments
from tests.examples import examples
from tests.laws import (
    Run,
    check_coverage,
    check_elasticity,
    check_equal_steps,
    check_one_order,
    check_refusal,
    check_resume,
    check_undisturbed,
    sequence,
)

GLOBAL_BATCH = 12
WORLD_SIZES = [1, 2, 3, 4]
WEIGHTS = {"web": 0.6, "code": 0.3, "math": 0.1}


@pytest.fixture(scope="module")
def tables(tmp_path_factory) -> dict[str, str]:
    """Three tables whose ids begin at 0, 1000 and 2000; columns differ, and "code" has deleted rows."""
    folder = tmp_path_factory.mktemp("mixture")
    uris = {name: str(folder / f"{name}.lance") for name in WEIGHTS}
    lance.write_dataset(sample_table(90), uris["web"], max_rows_per_file=40)
    lance.write_dataset(sample_table(60, 1000).drop_columns("vec"), uris["code"], max_rows_per_file=25)
    lance.dataset(uris["code"]).delete("id % 9 = 1")
    ids = pa.array(np.arange(2000, 2020), pa.int32())
    lance.write_dataset(pa.table({"id": ids, "proof": pa.array([f"p{i}" for i in range(20)])}), uris["math"])
    return uris


@pytest.fixture
def sources(tables) -> dict[str, Permutation]:
    """One shuffled in clumps, one in scan order under a filter, one a part of a split."""
    return {
        "web": Permutation(tables["web"]).shuffle(1, 4, 16),
        "code": Permutation(tables["code"], filter="label != 7"),
        "math": Permutation(tables["math"]).split({"train": 0.8}, seed=3)["train"].shuffle(2, 1, 1),
    }


@pytest.fixture
def mixture(sources) -> Mixture:
    return Mixture(sources, weights=WEIGHTS, epoch_size=130)


def ids_of(mixture: Mixture) -> list[int]:
    return mixture.fetch(range(len(mixture)), columns=["id"], format="python_col")["id"]


class Executor:
    """Every rank as a fresh dataset; a cursor crosses only as JSON."""

    def __init__(self, source, **options):
        self.source, self.options = source, {"columns": ["id"], "prefetch": 1, **options}

    def __call__(self, world_size, cursor=None, steps=None):
        ranks = [self.rank(world_size, rank, cursor) for rank in range(world_size)]
        batches = [[batch["id"].numpy() for batch in itertools.islice(rank, steps)] for rank in ranks]
        states = [rank.state_dict() for rank in ranks]
        assert all(state == states[0] for state in states)
        return Run(batches, json.loads(json.dumps(states[0])))

    def rank(self, world_size, rank, cursor):
        options = {**self.options, "batch_size": GLOBAL_BATCH // world_size, "rank": rank, "world_size": world_size}
        dataset = LanceIterableDataset(self.source, **options)
        if cursor is not None:
            dataset.load_state_dict(cursor)
        return dataset


class TestLaws:
    def test_1_each_source_is_read_completely_before_it_comes_again(self, mixture, sources):
        numbers = np.concatenate([mixture.epoch(epoch).rows() for epoch in range(4)])
        ids = np.array([*itertools.chain(*(ids_of(mixture.epoch(epoch)) for epoch in range(4)))])
        assert len(ids) == len(numbers) == 4 * 130

        for name, start in zip(WEIGHTS, [0, 1000, 2000], strict=True):
            expected = sources[name].fetch(range(len(sources[name])), ["id"], "python_col")["id"]
            found = ids[(ids >= start) & (ids < start + 1000)]
            for first in range(0, len(found) - len(expected) + 1, len(expected)):
                check_coverage(found[first : first + len(expected)], expected)

    @pytest.mark.parametrize("stratified", [False, True])
    def test_2_global_batches_do_not_depend_on_the_world_size(self, sources, stratified):
        mixture = Mixture(sources, weights=WEIGHTS, stratified=stratified)
        execute = Executor(mixture, tail="pad", lanes=None if stratified else 4)
        check_elasticity(execute, WORLD_SIZES)
        check_equal_steps(execute(4))

    @settings(max_examples=examples(10), suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(
        legs=st.lists(st.tuples(st.sampled_from(WORLD_SIZES), st.integers(0, 5)), max_size=3),
        last=st.sampled_from(WORLD_SIZES),
        tail=st.sampled_from(["drop", "pad", "uneven"]),
        stratified=st.booleans(),
    )
    def test_3_any_chain_of_restarts_yields_exactly_the_rest(self, sources, legs, last, tail, stratified):
        mixture = Mixture(sources, weights=[(0, WEIGHTS), (50, [1, 1, 0])], epoch_size=130, stratified=stratified)
        check_resume(Executor(mixture, tail=tail, lanes=1 if stratified else 4), legs, last)

    def test_4_all_ways_of_reading_give_one_order(self, mixture):
        located, first = mixture.order.located(), [0, 1000, 2000]
        by_hand = [
            int(source.epoch(int(epoch)).fetch([position], ["id"], "python_col")["id"][0])
            for source, epoch, position in zip(
                [list(mixture.sources.values())[number] for number in located.sources],
                located.epochs,
                located.positions,
                strict=True,
            )
        ]
        by_position = LanceMapDataset(mixture, columns=["id"])
        check_one_order(
            {
                "by hand": by_hand,
                "fetch": ids_of(mixture),
                "iter_batches": itertools.chain(*(batch["id"] for batch in mixture.iter_batches(40, ["id"]))),
                "iterable": sequence(Executor(mixture.epoch(0), tail="uneven", lanes=1)(2)),
                "mapped": [row["id"] for row in by_position[0 : len(mixture)]],
                "slices": [*ids_of(mixture[:70]), *ids_of(mixture[70:])],
            }
        )
        assert [row // 1000 for row in by_hand] == [first[number] // 1000 for number in located.sources]

    def test_5_what_others_write_changes_nothing(self, tmp_path):
        uris = [str(tmp_path / name) for name in "ab"]
        for uri in uris:
            write_fragments(uri, [40, 20])
        mixture = Mixture({uri[-1]: Permutation(uri).shuffle(3) for uri in uris}, weights=[2, 1])

        def disturb():
            lance.write_dataset(sample_table(30, 100), uris[0], mode="append")
            lance.dataset(uris[1]).delete("id < 30")

        check_undisturbed(Executor(mixture), disturb)

    def test_7_a_state_of_another_mixture_is_refused(self, sources):
        def state(mixture, **options):
            return Executor(mixture, lanes=4, **options).rank(1, 0, None).state_dict()

        here = Executor(Mixture(sources, weights=WEIGHTS), lanes=4).rank(1, 0, None)
        foreign = {
            "weights": state(Mixture(sources, weights=[6, 3, 2])),
            "schedule": state(Mixture(sources, weights=[(0, WEIGHTS), (10_000, [1, 1, 1])])),
            "names": state(Mixture({**dict(zip("abc", sources.values(), strict=True))}, weights=[6, 3, 1])),
            "order of the sources": state(Mixture(dict(reversed(sources.items())), weights=WEIGHTS)),
            "shuffle": state(Mixture(sources, weights=WEIGHTS).shuffle(9)),
            "first epoch": state(Mixture({**sources, "web": sources["web"].epoch(1)}, weights=WEIGHTS)),
            "a source": state(sources["web"]),
        }
        check_refusal(here.load_state_dict, foreign, here.state_dict())


class TestColumns:
    def test_columns_that_a_source_lacks_are_null(self, mixture):
        table = mixture.fetch(range(40), format="arrow")

        assert table.column_names == ["id", "label", "vec", "text", "proof"]
        assert table.schema.field("id").type == pa.int64()
        for row in table.to_pylist():
            assert (row["vec"] is None) == (row["id"] >= 1000)
            assert (row["proof"] is None) == (row["id"] < 2000)

    def test_a_column_names_the_source_of_each_row(self, sources):
        mixture = Mixture(sources, source_column="source")
        table = mixture.fetch(range(50), ["source", "id"], "python_col")

        assert [*table] == ["source", "id"]
        assert table["source"] == [[*WEIGHTS][row // 1000] for row in table["id"]]
        codes = LanceIterableDataset(mixture, batch_size=50, columns=["source", "id"], categories="codes")
        batch = next(iter(codes))
        assert batch["source"].tolist() == [row // 1000 for row in batch["id"].tolist()]
        assert codes.categories["source"] == [*WEIGHTS]

    def test_only_the_columns_that_are_read_must_fit(self, tables, tmp_path):
        other = str(tmp_path / "other.lance")
        lance.write_dataset(pa.table({"id": [1, 2], "label": ["a", "b"]}), other)
        mixture = Mixture({"web": tables["web"], "other": other})

        assert len(mixture.fetch([0, 1], ["id"])["id"]) == 2
        with pytest.raises(SchemaMismatchError, match=r"'web' and 'other'.*label"):
            LanceIterableDataset(mixture, batch_size=2)

    def test_a_column_that_no_source_has_is_refused(self, mixture):
        with pytest.raises(UnknownColumnError, match="prof"):
            LanceIterableDataset(mixture, batch_size=2, columns=["id", "prof"])

    def test_sql_is_evaluated_on_each_source(self, mixture):
        assert mixture.fetch([0, 1], {"more": "id + 1"})["more"].tolist() == [row + 1 for row in ids_of(mixture)[:2]]


class TestProportions:
    def test_sizes_are_the_default(self, sources):
        mixture = Mixture(sources)

        assert mixture.counts() == {name: len(source) for name, source in sources.items()}
        assert len(mixture) == sum(map(len, sources.values()))

    def test_sources_are_repeated(self, sources):
        mixture = Mixture(sources, repeat={"math": 2.5})

        assert mixture.counts() == {"web": 90, "code": len(sources["code"]), "math": 40}

    def test_epochs_end_where_a_source_does_or_all_do(self, sources):
        first = Mixture(sources, weights=WEIGHTS)
        every = Mixture(sources, weights=WEIGHTS, stopping="all_exhausted")

        assert all(count <= len(sources[name]) for name, count in first.counts().items())
        assert any(count >= len(sources[name]) - 1 for name, count in first.counts().items())
        assert all(count >= len(sources[name]) for name, count in every.counts().items())

    def test_batches_have_their_shares(self, sources):
        mixture = Mixture(sources, weights=WEIGHTS, epoch_size=120, stratified=True, source_column="source")
        seen: list[str] = []
        for step, batch in enumerate(LanceIterableDataset(mixture, batch_size=10, columns=["source"]), start=1):
            seen += batch["source"]
            for name, weight in WEIGHTS.items():
                assert abs(seen.count(name) - 10 * step * weight) <= mixture.bound
            assert mixture.counts(10 * step) == {name: seen.count(name) for name in WEIGHTS}
        assert mixture.bound <= 1

    def test_parts_of_the_sources_are_mixed(self, sources):
        parts = Mixture(sources, weights=WEIGHTS).split({"train": 0.75, "val": 0.25}, seed=1)
        found = {name: {*ids_of(part)} for name, part in parts.items()}

        assert not found["train"] & found["val"]
        assert len(parts["train"]) > len(parts["val"]) > 0


def test_a_mixture_is_a_recipe(mixture):
    copy = pickle.loads(pickle.dumps(mixture.epoch(3)))

    assert copy == mixture.epoch(3) != mixture
    assert copy.fingerprint == mixture.fingerprint
    assert ids_of(copy) == ids_of(mixture.epoch(3))
    assert copy.fixed_epoch
    assert not mixture.fixed_epoch


def test_it_shows_its_shares(sources):
    shown = repr(Mixture(sources, weights=WEIGHTS, source_column="source", stratified=True))

    assert shown.startswith("Mixture(sources={'web': 0.6, 'code': 0.3, 'math': 0.1}, rows=1")
    assert shown.endswith("stratified=True, source_column='source')")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"weights": [0.5, 0.5]}, "each of the 3 sources"),
        ({"weights": "abc"}, "each of the 3 sources"),
        ({"weights": 1}, "each of the 3 sources"),
        ({"weights": {"web": 1, "code": 1}}, "they are of"),
        ({"weights": [1, 1, 0]}, "larger than 0: leave a source out"),
        ({"weights": [1, 1, -1]}, "larger than 0"),
        ({"weights": [1, 1, float("nan")]}, "finite"),
        ({"weights": [1, 1, True]}, "finite"),
        ({"weights": [(0, [1, 1, 1]), (9, [0, 0, 0])]}, "one of them must be larger"),
        ({"weights": [(5, [1, 1, 1])]}, "row 0"),
        ({"weights": [(0, [1, 1, 1])], "stopping": "first_exhausted"}, "weights that change"),
        ({"weights": [1, 1, 1], "repeat": {"web": 2}}, "give one of them"),
        ({"repeat": {"wbe": 2}}, "no sources"),
        ({"repeat": 2}, "must be a dict"),
        ({"repeat": {"web": 0}}, "larger than 0"),
        ({"repeat": {"web": 2}, "stopping": "all_exhausted"}, "repeat="),
        ({"stopping": "never"}, "stopping"),
        ({"epoch_size": 0}, "epoch_size"),
        ({"epoch_size": 10**6, "stopping": "first_exhausted"}, "is exhausted after"),
        ({"epoch_size": 10, "stopping": "all_exhausted"}, "leave one of them out"),
        ({"epoch_size": 2**62}, "2\\*\\*62"),
        ({"stratified": 3}, "stratified"),
        ({"source_column": ""}, "source_column"),
        ({"source_column": "id"}, "is a column of source 'web'"),
    ],
)
def test_bad_arguments_are_refused(sources, arguments, message):
    with pytest.raises(InvalidArgumentError, match=message):
        Mixture(sources, **arguments)


def test_bad_sources_are_refused(tables, mixture):
    for bad, message in [({}, "at least"), ([tables["web"]], "must be a dict"), ({3: tables["web"]}, "name")]:
        with pytest.raises(InvalidArgumentError, match=message):
            Mixture(bad)
    with pytest.raises(InvalidArgumentError, match="has no rows"):
        Mixture({"a": tables["web"], "b": Permutation(tables["web"], filter="id < 0")})
    with pytest.raises(InvalidArgumentError, match="is a mixture"):
        Mixture({"a": mixture})
    with pytest.raises(DatasetNotFoundError):
        Mixture({"a": tables["web"] + ".not"})


def test_other_lanes_than_one_are_refused_where_it_is_stratified(sources):
    mixture = Mixture(sources, stratified=True)

    assert Executor(mixture).rank(4, 1, None).state_dict()["lanes"] == 1
    with pytest.raises(InvalidArgumentError, match="lanes=4"):
        LanceIterableDataset(mixture, batch_size=4, lanes=4)


def test_a_slice_or_a_size_is_not_split(sources):
    for mixture in (Mixture(sources)[:20], Mixture(sources, epoch_size=20)):
        with pytest.raises(InvalidArgumentError, match="Split the sources"):
            mixture.split([0.5, 0.5])
