"""A session's process that somebody stopped computes nothing, and says nothing: its client does not wait for ever."""

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from hospital import Hospital, open_hospital

import ptrtensor as pt
from ptrtensor.owner.hosted_session import Patience

MEBI = 1024 * 1024


@pytest.fixture(scope="module")
def hospital(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hospital]:
    with open_hospital(tmp_path_factory.mktemp("keys"), ahead=2, patience=Patience(stopped=2.0)) as opened:
        yield opened


@contextlib.contextmanager
def stopped(hospital: Hospital, answer_seconds: float | None) -> Iterator[tuple[pt.PointerTensor, int]]:
    """A pointer at a worker whose process stands still by now, and that process."""
    before = hospital.server.sessions
    with contextlib.closing(hospital.connect(id="still", answer_seconds=answer_seconds)) as bob:
        there = pt.send(torch.ones(2), bob)
        bob.synchronize()
        (session,) = [session for session in hospital.server.sessions if session not in before]
        os.kill(session.process.number, signal.SIGSTOP)
        try:
            yield there, session.process.number
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.kill(session.process.number, signal.SIGCONT)


@pytest.mark.parametrize(
    ("act", "how"),
    [
        pytest.param(lambda there: there.cpu(), "said nothing for 0.5 s", id="a value is asked for"),
        pytest.param(lambda there: pt.send(torch.zeros(24 * MEBI), there.location), "took nothing", id="an upload"),
    ],
)
def test_patience_ends_where_it_was_limited(
    hospital: Hospital, act: Callable[[pt.PointerTensor], object], how: str
) -> None:
    """The link has its signs of life all the while: they are the server's."""
    with stopped(hospital, answer_seconds=0.5) as (there, _):
        began = time.monotonic()
        with pytest.raises(pt.WorkerLostError, match=how):
            act(there)
        assert time.monotonic() - began < 20


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells of other processes")
def test_the_server_ends_one_that_stays_stopped(hospital: Hospital) -> None:
    """Also where the client would wait for ever."""
    with stopped(hospital, answer_seconds=None) as (there, number):
        began = time.monotonic()
        with pytest.raises(pt.WorkerLostError, match="was stopped for 2 s: what it held is gone"):
            there.cpu()
        assert 1.5 < time.monotonic() - began < 20
    while any(session.process.number == number for session in hospital.server.sessions):
        time.sleep(0.02)
    with pytest.raises(ProcessLookupError):
        os.kill(number, 0)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells of other processes")
def test_one_that_goes_on_in_time_lost_nothing(tmp_path: Path) -> None:
    with open_hospital(tmp_path, patience=Patience(stopped=30.0)) as hospital:
        with stopped(hospital, answer_seconds=None) as (there, number):
            threading.Timer(1.0, os.kill, (number, signal.SIGCONT)).start()
            assert there.tolist() == [1, 1]
