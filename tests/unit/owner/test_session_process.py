"""The process of a session, by what it says on its control channel: one that breaks the rules is shut out."""

import logging
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager

import msgspec
import pytest

from ptrtensor.owner.session_process import SessionProcess
from ptrtensor.wire.control import (
    Answer,
    Assign,
    Consumption,
    Denial,
    Listing,
    Question,
    Ready,
    Reported,
    Sealing,
    Unsealing,
    Verdict,
)
from ptrtensor.worker.channel import LENGTH

SCRIPT = """
import socket, sys, time
control = socket.socket(fileno=int(sys.argv[1]))
control.sendall(bytes.fromhex(sys.argv[2]))
while sys.argv[6] == "slow":
    control.sendall(bytes(1))
    time.sleep(0.05)
received = b""
while more := control.recv(65536):
    received += more
    if received.count(b"Verdict") == int(sys.argv[4]):
        control.sendall(bytes.fromhex(sys.argv[3]))
control.sendall(bytes.fromhex(sys.argv[5]))
"""
ASSIGN = Assign("bob", "epoch", "alice", ())
SECONDS = 20.0


def frame(message: object) -> bytes:
    body = msgspec.msgpack.encode(message)
    return LENGTH.pack(len(body)) + body


Make = Callable[..., SessionProcess]
Turn = AbstractContextManager[object]


@pytest.fixture
def turn() -> Turn:
    return threading.RLock()


@pytest.fixture
def make(monkeypatch: pytest.MonkeyPatch, turn: Turn) -> Iterator[Make]:
    """Starts a process that says these things."""
    made: list[SessionProcess] = []

    def started(first: bytes, later: bytes = b"", after: int = 1, last: bytes = b"", pace: str = "") -> SessionProcess:
        def launch(options: Sequence[str], passed: tuple[int, ...], *rest: object) -> "subprocess.Popen[bytes]":
            said = first.hex(), later.hex(), str(after), last.hex(), pace
            command = [sys.executable, "-S", "-c", SCRIPT, str(passed[0]), *said]
            return subprocess.Popen(command, pass_fds=passed, stdout=subprocess.PIPE)

        monkeypatch.setattr("ptrtensor.owner.session_process.launch", launch)
        made.append(SessionProcess("cpu", None, turn))
        return made[-1]

    yield started
    for process in made:
        process.kill()


def ends(process: SessionProcess) -> bool:
    """Whether it saw the end of its channel."""
    deadline = time.monotonic() + SECONDS
    while not process.has_ended and time.monotonic() < deadline:
        time.sleep(0.02)
    return process.has_ended


def test_questions_are_answered_in_order(make: Make) -> None:
    asked: list[Question] = []

    def answer(question: Question) -> Answer | None:
        asked.append(question)
        return Verdict("no") if isinstance(question, Listing) else None

    process = make(frame(Ready()) + frame(Denial("x", ("a",), 2)) + frame(Listing()), frame(Reported(1, 2, 3, 4)))
    process.assign(ASSIGN, answer).close()
    assert process.report() == Reported(1, 2, 3, 4)
    assert asked == [Denial("x", ("a",), 2), Listing()]
    assert process.end() == ""


@pytest.mark.parametrize(
    "said",
    [
        LENGTH.pack(3) + b"\xc1\xc1\xc1",
        LENGTH.pack(0),
        frame({"type": "Nonsense"}),
        frame(Assign("bob", "epoch", "alice", ())),
        frame({"type": "Denial", "what": "x", "labels": 7, "count": 1}),
        frame({"type": "Consumption", "operations": 2**64 - 1, "seconds": "many"}),
        LENGTH.pack(8) + b"\x81\xa4type\xa2\xff\xff",
    ],
)
def test_what_is_no_message_ends_the_session(make: Make, said: bytes, caplog: pytest.LogCaptureFixture) -> None:
    process = make(frame(Ready()) + said)
    with caplog.at_level(logging.ERROR, "ptrtensor.serve"):
        process.assign(ASSIGN, lambda question: None).close()
        assert ends(process)
    assert process.report() is None
    process.end()
    (record,) = caplog.records
    assert record.message == "a session's process was shut out"


def test_nor_does_an_error_of_the_server_leave_it_waiting_for_an_answer(
    make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    def answer(question: Question) -> Answer | None:
        raise ZeroDivisionError("broken")

    process = make(frame(Ready()) + frame(Listing()))
    with caplog.at_level(logging.ERROR, "ptrtensor.serve"):
        process.assign(ASSIGN, answer).close()
        assert ends(process)
    process.end()
    assert "ZeroDivisionError: broken" in caplog.text


def test_one_that_says_nothing_has_no_report(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ptrtensor.owner.session_process.REPORT_SECONDS", 0.1)
    process = make(frame(Ready()))
    process.assign(ASSIGN, lambda question: None).close()
    assert process.report() is None


def test_what_it_says_at_its_end_is_heard_and_what_it_computed_is_known(make: Make) -> None:
    asked: list[Question] = []
    process = make(frame(Ready()) + frame(Listing()), last=frame(Consumption(3, 0.5)) + frame(Denial("x", (), 1)))

    def answer(question: Question) -> Answer | None:
        asked.append(question)
        return Verdict()

    process.assign(ASSIGN, answer).close()
    assert process.end() == ""
    assert asked == [Listing(), Consumption(3, 0.5), Denial("x", (), 1)]
    assert process.seconds == process.seconds >= 0


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells of other processes")
def test_what_a_process_that_was_killed_computed_is_known() -> None:
    process = SessionProcess("cpu", 1, threading.RLock())
    process.assign(ASSIGN, lambda question: None).close()
    deadline = time.monotonic() + SECONDS
    assert process.seconds > 0.1, "to import torch is a part of it"
    process.end_at_once()
    before = process.seconds
    assert "killed by signal 9" in process.end() and process.seconds == before > 0.1
    assert time.monotonic() < deadline


def test_large_ones_come_one_after_the_other(make: Make) -> None:
    """Of several processes, and whether it is the question that is large or the answer."""
    inside, most = [0], [0]

    def answer(question: Question) -> Answer | None:
        if not isinstance(question, Sealing):
            return None
        inside[0] += 1
        most[0] = max(most[0], inside[0])
        time.sleep(0.05)
        inside[0] -= 1
        return Verdict()

    sealing = frame(Sealing(1, (), b"", 2**29, None, b"", ""))
    processes = [make(frame(Ready()) + frame(Listing()) + sealing * 3) for _ in range(3)]
    for process in processes:
        process.assign(ASSIGN, answer).close()
    for process in processes:
        assert process.end() == ""
    assert most == [1]


@pytest.mark.parametrize("pace", ["", "slow"], ids=["stands still", "a byte now and then"])
def test_one_that_is_slow_does_not_hold_up_the_others(
    make: Make, turn: Turn, monkeypatch: pytest.MonkeyPatch, pace: str
) -> None:
    monkeypatch.setattr("ptrtensor.owner.session_process.TURN_SECONDS", 0.2)
    large = Unsealing(bytes(2**21))
    still, other = (
        make(frame(Ready()) + frame(large)[:1000], pace=pace),
        make(frame(Ready()) + frame(Listing()) + frame(Listing())),
    )
    asked: list[Question] = []
    still.assign(ASSIGN, lambda question: None).close()
    time.sleep(0.1)
    other.assign(ASSIGN, asked.append).close()
    assert ends(still)
    with turn:
        assert other.end() == "" and len(asked) == 2
