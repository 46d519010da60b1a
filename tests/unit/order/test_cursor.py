from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ray_lance.errors import CursorMismatchError, InvalidArgumentError
from ray_lance.order.cursor import Cursor
from ray_lance.order.permutation import RowPermutation
from ray_lance.order.rows import DenseRows, ExplicitRows
from tests.laws import check_refusal

ORDER = RowPermutation(DenseRows(100)).shuffle(1, 2, 8)


@given(epoch=st.integers(0, 2**62), rows=st.integers(0, 2**62), lanes=st.integers(1, 2**20), seed=st.integers())
def test_survives_json(epoch, rows, lanes, seed):
    cursor = Cursor.of(RowPermutation(DenseRows(10)).shuffle(seed, 2, 4).epoch(epoch), lanes, rows)
    assert Cursor.from_json(json.loads(json.dumps(cursor.to_json()))) == cursor


def test_law_7_a_cursor_of_another_order_is_refused():
    foreign = {
        "dataset": RowPermutation(DenseRows(101)).shuffle(1, 2, 8),
        "filter": RowPermutation(ExplicitRows(np.arange(100))).shuffle(1, 2, 8),
        "seed": RowPermutation(DenseRows(100)).shuffle(2, 2, 8),
        "clump": RowPermutation(DenseRows(100)).shuffle(1, 4, 8),
        "window": RowPermutation(DenseRows(100)).shuffle(1, 2, 10),
        "no shuffle": RowPermutation(DenseRows(100)),
        "slice": ORDER[:50],
        "split": ORDER.split({"train": 0.9}, 0)["train"],
    }
    cursors = {name: Cursor.of(order, 4, 8).to_json() for name, order in foreign.items()}
    cursors["lanes"] = Cursor.of(ORDER, 8, 8).to_json()
    check_refusal(
        lambda state: Cursor.from_json(state).check(ORDER.fingerprint, 4, ORDER.describe()),
        cursors,
        Cursor.of(ORDER, 4, 8).to_json(),
    )


def test_a_refusal_names_what_differs_and_nothing_else():
    other = RowPermutation(DenseRows(100)).shuffle(5, 2, 8)
    with pytest.raises(CursorMismatchError) as refusal:
        Cursor.of(other, 4).check(ORDER.fingerprint, 4, ORDER.describe())
    message = str(refusal.value)
    assert "shuffle.seed: cursor 5, here 1" in message
    assert "clump" not in message
    assert "lanes:" not in message


def test_the_epoch_is_not_part_of_the_order():
    Cursor.of(ORDER.epoch(4), 4).check(ORDER.fingerprint, 4)


def test_moves_on_within_an_epoch_and_to_the_next():
    cursor = Cursor.at_start("abc", lanes=2)
    assert (cursor.advance(64).rows, cursor.advance(64).epoch) == (64, 0)
    assert (cursor.advance(64).next_epoch().rows, cursor.next_epoch().epoch) == (0, 1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rows": None}, "rows=None must be an integer"),
        ({"rows": -1}, "rows=-1 must be at least 0"),
        ({"rows": 1.0}, "rows=1.0 must be an integer"),
        ({"epoch": "0"}, "epoch='0' must be an integer"),
        ({"epoch": True}, "epoch=True must be an integer"),
        ({"lanes": 0}, "lanes=0 must be at least 1"),
        ({"fingerprint": ""}, "fingerprint='' must be"),
        ({"order": [1]}, "order=.* must be a mapping"),
        ({"version": 99}, r"state\['version'\]=99 is not the version"),
        ({"global_batch": 0}, "global_batch=0 must be at least 1"),
        ({"extra": 1}, r"unknown keys \['extra'\]"),
    ],
)
def test_refuses_json_that_is_not_a_cursor(change, message):
    with pytest.raises(InvalidArgumentError, match=message):
        Cursor.from_json({**Cursor.of(ORDER, 4).to_json(), **change})


@pytest.mark.parametrize("state", [{}, {"epoch": 1}, None, [1, 2]])
def test_refuses_what_is_no_cursor_at_all(state):
    with pytest.raises(InvalidArgumentError, match=r"missing keys|must be the dict"):
        Cursor.from_json(state)


class TestGlobalBatch:
    def test_is_part_of_the_state_where_it_is_known(self):
        cursor = replace(Cursor.of(ORDER, 4, 8), global_batch=16)
        assert cursor.to_json()["global_batch"] == 16
        assert Cursor.from_json(json.loads(json.dumps(cursor.to_json()))) == cursor
        assert "global_batch" not in Cursor.of(ORDER, 4).to_json()

    def test_of_another_size_is_refused_with_both_sides_and_the_way_out(self):
        cursor = replace(Cursor.of(ORDER, 4, 8), global_batch=16)
        with pytest.raises(CursorMismatchError, match=r"cursor 16, here 32.*state\['global_batch'\] = 32"):
            cursor.check(ORDER.fingerprint, 4, global_batch=32)
        Cursor.from_json({**cursor.to_json(), "global_batch": 32}).check(ORDER.fingerprint, 4, global_batch=32)

    def test_that_is_not_known_is_not_compared(self):
        Cursor.of(ORDER, 4, 8).check(ORDER.fingerprint, 4, global_batch=32)
        replace(Cursor.of(ORDER, 4, 8), global_batch=16).check(ORDER.fingerprint, 4)
