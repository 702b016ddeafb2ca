"""How a worker is: what its sessions say, and what is said of one that gives no answer."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import cast

import msgspec
import pytest
from desk import ALICE

from ptrtensor.owner import status as module
from ptrtensor.owner.hosted_session import HostedSession
from ptrtensor.owner.status import SessionStatus, Status, encode, status_of
from ptrtensor.transport.resumable import OPENING, STATUS, Opening
from ptrtensor.wire.control import Reported


class Process:
    """Gives these reports, one after the other; None: none."""

    def __init__(self, *reports: Reported | None, seconds: float = 0.0) -> None:
        self._reports: Iterator[Reported | None] = iter(reports)
        self._seconds = seconds

    def report(self) -> Reported | None:
        time.sleep(self._seconds)
        return next(self._reports)


@dataclass
class Session:
    process: Process
    number: str = "1f"
    peer = ALICE

    def __post_init__(self) -> None:
        self.began = time.monotonic()


def status(*processes: Process) -> Status:
    sessions = cast(list[HostedSession], [Session(process, str(number)) for number, process in enumerate(processes)])
    return status_of("bob", time.time() - 60, 3, sessions)


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RATE_SECONDS", 0.05)


def test_without_sessions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RATE_SECONDS", 60.0)
    began = time.monotonic()
    found = status()
    assert (found.worker, found.publications, found.sessions) == ("bob", 3, [])
    assert 60 <= found.seconds < 90 and found.torch and found.ptrtensor
    assert time.monotonic() - began < 30, "there is nothing to wait for"


def test_operations_a_second() -> None:
    (session,) = status(Process(Reported(5, 10, 1, 8), Reported(50, 60, 2, 16))).sessions
    assert (session.number, session.client, session.answers) == ("0", "alice", True)
    assert (session.operations, session.objects, session.object_bytes) == (60, 2, 16)
    assert 0 < session.operations_per_second <= 50 / 0.05


@pytest.mark.parametrize("reports", [(None, None), (Reported(1, 1, 1, 1), None), (None, Reported(1, 1, 1, 1))])
def test_one_that_gives_no_answer(reports: tuple[Reported | None, ...]) -> None:
    first, second = status(Process(*reports), Process(*[Reported(1, 1, 1, 1)] * 2)).sessions
    assert not first.answers and (first.operations, first.objects) == (0, 0)
    assert second.answers and second.operations_per_second == 0


def test_those_who_are_slow_are_waited_for_at_the_same_time() -> None:
    began = time.monotonic()
    status(*(Process(None, None, seconds=0.5) for _ in range(40)))
    assert time.monotonic() - began < 40 * 0.5


def test_it_travels_behind_an_opening() -> None:
    said = Status("bob\x1b", "1", "2", 1.5, 3, [SessionStatus("1f", "alice", 2.0, True, 4, 5.0, 6, 7)])
    data = encode(said)
    opening = Opening.decode(data[: OPENING.size])
    assert opening.token == STATUS and opening.received == len(data) - OPENING.size
    assert msgspec.json.decode(data[OPENING.size :], type=Status) == said
