"""The flusher: looks after the end of a batch, keeps out of a streaming caller's way, survives everything."""

import threading
import time

import pytest
from interrupting import interrupted

from ptrtensor.client.flusher import Flusher

DELAY = 0.002
WAIT_SECONDS = 20.0


class Counting:
    """Counts flushes; `progress` stands still unless the test moves it."""

    def __init__(self) -> None:
        self.flushed = threading.Semaphore(0)
        self.threads: set[int] = set()
        self.progress = 0

    def flush(self) -> None:
        self.threads.add(threading.get_ident())
        self.flushed.release()

    def flusher(self, delay: float = DELAY) -> Flusher:
        return Flusher(self.flush, lambda: self.progress, delay)

    def flushes(self) -> bool:
        return self.flushed.acquire(timeout=WAIT_SECONDS)


def test_it_flushes_after_being_woken_in_a_thread_of_its_own() -> None:
    counting = Counting()
    flusher = counting.flusher()
    flusher.wake()
    assert counting.flushes()
    flusher.wake()
    assert counting.flushes()
    flusher.stop()
    assert len(counting.threads) == 1 and threading.get_ident() not in counting.threads


def test_stop_ends_the_thread_and_may_come_twice_or_before_everything() -> None:
    counting = Counting()
    flusher = counting.flusher(delay=3600)
    flusher.stop()
    flusher = counting.flusher(delay=3600)
    flusher.wake()
    begin = time.monotonic()
    flusher.stop()
    flusher.stop()
    assert time.monotonic() - begin < 4
    assert flusher._thread is None or not flusher._thread.is_alive()


def test_waking_from_several_threads_starts_one() -> None:
    for _ in range(20):
        counting = Counting()
        flusher = counting.flusher()
        threads = [threading.Thread(target=flusher.wake) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert counting.flushes()
        flusher.stop()
        assert len(counting.threads) == 1


def test_it_survives_whatever_a_flush_meets() -> None:
    counting = Counting()

    def fail() -> None:
        counting.flush()
        raise ZeroDivisionError

    flusher = Flusher(fail, lambda: counting.progress, DELAY)
    for _ in range(2):
        flusher.wake()
        assert counting.flushes()
    assert flusher._thread.is_alive()
    flusher.stop()


@pytest.mark.parametrize("within", ["ptrtensor/client/flusher", "threading.py"])
def test_an_interrupted_wake_is_made_good_by_the_next_one(within: str) -> None:
    """Ctrl-C must not leave the end of every later batch lying, nor a lock that nobody gives back."""
    at, again = 0, True
    lost: list[int] = []
    while again and len(lost) < 3:
        at += 1
        counting = Counting()
        flusher = counting.flusher()
        again = interrupted(flusher.wake, at, within)
        threading.Thread(target=flusher.wake, daemon=True).start()
        if counting.flushed.acquire(timeout=2):
            flusher.stop()
        else:
            lost.append(at)
    assert not lost, "interrupted at these places, it never flushes again"
