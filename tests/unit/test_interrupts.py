"""Interrupts are held back while a task is at work, and lost nowhere."""

from __future__ import annotations

import _thread
import signal
import threading

import pytest

from ray_lance.data.interrupts import interrupts_held


@pytest.fixture(autouse=True)
def handler():
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # it may be ignored, as by nohup
    yield
    signal.signal(signal.SIGINT, before)


def held_steps():
    with interrupts_held() as raise_pending:
        for step in range(3):
            yield step
            raise_pending()


def test_an_interrupt_is_raised_where_it_is_asked_for():
    reached = False
    with interrupts_held() as raise_pending:
        _thread.interrupt_main()
        reached = True
        with pytest.raises(KeyboardInterrupt):
            raise_pending()
        raise_pending()  # once only
    assert reached


def test_an_interrupt_between_holds_is_raised_at_once():
    with interrupts_held():
        pass
    with pytest.raises(KeyboardInterrupt):
        _thread.interrupt_main()


def test_an_interrupt_that_nobody_asked_for_does_not_reach_the_next_hold():
    with interrupts_held():
        _thread.interrupt_main()
    with interrupts_held() as raise_pending:
        raise_pending()


def test_generators_that_end_out_of_order_leave_no_hold_behind():
    outer, inner = held_steps(), held_steps()
    next(outer), next(inner)
    outer.close()
    _thread.interrupt_main()
    with pytest.raises(KeyboardInterrupt):
        next(inner)
    with pytest.raises(KeyboardInterrupt):
        _thread.interrupt_main()


def test_a_handler_that_was_set_since_is_called_between_holds():
    came = []
    with interrupts_held():
        pass
    signal.signal(signal.SIGINT, lambda *_: came.append(1))
    with interrupts_held():
        pass
    _thread.interrupt_main()
    assert came == [1]


def test_other_threads_hold_nothing():
    raised = []

    def hold():
        with interrupts_held() as raise_pending:
            raise_pending()
            raised.append(signal.getsignal(signal.SIGINT))

    before = signal.getsignal(signal.SIGINT)
    thread = threading.Thread(target=hold)
    thread.start()
    thread.join()
    assert raised == [before]
