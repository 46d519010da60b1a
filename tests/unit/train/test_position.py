"""Passes over a shard: which epoch each one reads, and what the state says between them."""

from __future__ import annotations

import pickle

import pytest

from ray_lance.errors import InvalidArgumentError
from ray_lance.order import Cursor
from ray_lance.train.position import ShardPosition


@pytest.fixture
def position():
    return ShardPosition(Cursor.at_start("abc", lanes=2))


def at(position):
    return position.cursor.epoch, position.cursor.rows


def begin(position, *returned):
    one = position.begin()
    for rows in returned:
        one.returned(rows)
    return one


def test_each_pass_is_the_next_epoch_whether_the_one_before_ended_or_not(position):
    assert begin(position, 8, 16).start.epoch == 0
    begin(position, 8).ended()
    assert at(position) == (2, 0)
    assert [begin(position).start.epoch, begin(position).start.epoch] == [2, 3]


def test_of_two_live_passes_the_state_is_that_of_the_one_that_began_last(position):
    first, second = begin(position, 8), begin(position)
    assert (at(position), position.origin.epoch) == ((1, 0), 1)
    first.returned(16)
    first.ended()
    assert (at(position), position.origin.epoch) == ((1, 0), 1)
    second.returned(8)
    assert (at(position), position.origin.epoch) == ((1, 8), 1)


@pytest.mark.parametrize("epochs", [[], [3], [3, 3]])
def test_a_loaded_cursor_is_continued_by_one_pass(position, epochs):
    position.load(Cursor(3, 8, 2, "abc"), is_end=False)
    for epoch in epochs:
        position.set_epoch(epoch)
    assert (begin(position).start.rows, begin(position).start.rows) == (8, 0)


def test_nothing_left_after_a_loaded_cursor_means_the_next_epoch(position):
    position.load(Cursor(3, 96, 2, "abc"), is_end=True)
    assert at(position) == (4, 0)
    assert begin(position).start.epoch == 4


@pytest.mark.parametrize(("epoch", "rows"), [(3, 96), (4, 0), (0, 0)])
def test_a_loop_that_sets_each_epoch_reads_nothing_twice_after_the_end_of_one(position, epoch, rows):
    position.load(Cursor(3, 96, 2, "abc"), is_end=True)
    position.set_epoch(epoch)
    start = begin(position).start
    assert (start.epoch, start.rows) == (epoch, rows)


def test_another_epoch_in_between_lets_go_of_the_loaded_cursor(position):
    position.load(Cursor(3, 8, 2, "abc"), is_end=False)
    position.set_epoch(4)
    position.set_epoch(3)
    assert at(position) == (3, 0)


@pytest.mark.parametrize("move", [lambda it: it.set_epoch(5), lambda it: it.load(Cursor(5, 0, 2, "abc"), is_end=False)])
def test_passes_from_before_a_jump_no_longer_move_the_state(position, move):
    before = begin(position, 8)
    move(position)
    before.returned(16)
    before.ended()
    assert at(position) == (5, 0)
    assert begin(position).start.epoch == 5


def test_the_origin_stays_when_the_pass_has_ended(position):
    begin(position, 8).ended()
    assert (at(position), position.origin.epoch) == ((1, 0), 0)


def test_a_copy_in_another_process_stands_where_it_was_taken(position):
    begin(position, 8)
    copy = pickle.loads(pickle.dumps(position))
    assert at(copy) == (0, 8)
    assert begin(copy).start.epoch == 1


@pytest.mark.parametrize("epoch", [-1, 1.5, None, "1"])
def test_an_epoch_is_a_whole_number(position, epoch):
    with pytest.raises(InvalidArgumentError, match="epoch="):
        position.set_epoch(epoch)
