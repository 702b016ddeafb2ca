"""Ctrl-C ends the wait for what must not be interrupted, and not the thing itself."""

import contextlib
import queue
import signal
import threading
import time
import weakref

import pytest
from collecting import collect
from interrupting import untraced

from ptrtensor.tensor.uninterrupted import uninterrupted


def strike(*_: object) -> None:
    raise KeyboardInterrupt


def test_results_and_errors_come_through() -> None:
    assert uninterrupted(lambda: 3) == 3
    assert uninterrupted(lambda: None) is None
    with pytest.raises(ZeroDivisionError):
        uninterrupted(lambda: 1 // 0)


class Given:
    """Something of the caller's."""


@pytest.mark.parametrize("fails", [False, True])
def test_its_thread_holds_nothing_that_was_given(fails: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where it has not ended yet: pointers would stay alive at random."""
    held_up = threading.Event()

    class Held(queue.SimpleQueue[None]):
        def put(self, item: None, block: bool = True, timeout: float | None = None) -> None:
            super().put(item)
            held_up.wait(10)

    monkeypatch.setattr(queue, "SimpleQueue", Held)
    given = Given()
    died = weakref.ref(given)

    def act(given: Given = given) -> Given:
        if fails:
            raise ZeroDivisionError
        return given

    try:
        with contextlib.suppress(ZeroDivisionError):
            uninterrupted(act)
        del given, act
        collect()
        assert died() is None
    finally:
        held_up.set()


def test_another_thread_runs_it_itself() -> None:
    ran_in: list[tuple[int, int]] = []

    def act() -> None:
        ran_in.append((uninterrupted(threading.get_ident), threading.get_ident()))

    thread = threading.Thread(target=act)
    thread.start()
    thread.join()
    ((inner, outer),) = ran_in
    assert inner == outer


def test_it_goes_on_to_its_end() -> None:
    done = threading.Event()

    def act() -> None:
        time.sleep(0.2)
        done.set()

    before = signal.signal(signal.SIGALRM, strike)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        with untraced(), pytest.raises(KeyboardInterrupt):
            uninterrupted(act)
    finally:
        signal.signal(signal.SIGALRM, before)
    assert done.wait(10)
