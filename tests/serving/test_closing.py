"""A server that was stopped has nothing left to do: who was there or on the way in is gone, and written down."""

import contextlib
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hospital import Hospital, open_hospital
from waiting import eventually

import ptrtensor as pt
from ptrtensor.errors import AuditError
from ptrtensor.owner import session_process
from ptrtensor.owner.audit import Audit, records
from ptrtensor.owner.hosted_session import Patience
from ptrtensor.owner.session_process import Pool, SessionProcess

SOON = 40.0
PATIENCE = Patience(lease=120.0, keep_alive=120.0, handshake=120.0, stopped=120.0)


@contextlib.contextmanager
def hospital_with_log(folder: Path) -> Iterator[Hospital]:
    with (
        contextlib.closing(Audit(folder / "audit.jsonl")) as audit,
        open_hospital(folder, patience=PATIENCE, audit=audit) as hospital,
    ):
        yield hospital


def stop(hospital: Hospital) -> float:
    """How long it took."""
    began = time.monotonic()
    hospital.server.stop("the owner goes home")
    return time.monotonic() - began


def events(folder: Path) -> list[object]:
    return [record["event"] for record in records(folder / "audit.jsonl")]


def test_those_who_have_not_said_who_they_are_are_turned_away(tmp_path: Path) -> None:
    with hospital_with_log(tmp_path) as hospital, contextlib.ExitStack() as stack:
        silent, slow = (
            stack.enter_context(socket.create_connection(("127.0.0.1", hospital.port), timeout=SOON)) for _ in range(2)
        )
        slow.sendall(b"\x16\x03\x01\x02\x00\x01\x00")
        while len(hospital.server._newcomers._guards) < 2:
            time.sleep(0.01)
        assert stop(hospital) < SOON
        assert not hospital.server._newcomers._guards
        assert not any(helper.is_alive() for helper in hospital.server._helpers)
        assert events(tmp_path) == ["server started", *["connection refused"] * 2, "server stopped"]
        for sock in (silent, slow):
            with contextlib.suppress(ConnectionError):
                while sock.recv(4096):  # an alert may come first
                    pass


@contextlib.contextmanager
def connecting(hospital: Hospital) -> Iterator["Future[pt.RemoteWorker]"]:
    with ThreadPoolExecutor(1) as pool:
        yield pool.submit(hospital.connect)


def test_a_session_whose_process_is_still_starting_never_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def launch(options: Sequence[str], passed: tuple[int, ...], *rest: object) -> "subprocess.Popen[bytes]":
        command = [sys.executable, "-S", "-c", "import time; time.sleep(600)"]
        return subprocess.Popen(command, pass_fds=passed, stdout=subprocess.PIPE)

    monkeypatch.setattr(session_process, "launch", launch)
    with hospital_with_log(tmp_path) as hospital, connecting(hospital) as connected:
        assert eventually(lambda: [one.process for one in hospital.server._sessions._beginning] not in ([], [None]))
        assert stop(hospital) < SOON
        with pytest.raises(pt.WorkerLostError, match="refused: the owner goes home"):
            connected.result(SOON)
        assert not hospital.server._sessions._beginning and not hospital.server._newcomers._guards
        assert events(tmp_path) == ["server started", "session refused", "server stopped"]


def test_nor_does_one_whose_process_has_just_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assigned, stopping = threading.Event(), threading.Event()
    assign, close_pool = SessionProcess.assign, Pool.close

    def held_up(process: SessionProcess, *given: Any) -> socket.socket:
        local = assign(process, *given)
        assigned.set()
        assert stopping.wait(SOON)
        return local

    def close(pool: Pool) -> None:
        stopping.set()
        close_pool(pool)

    monkeypatch.setattr(SessionProcess, "assign", held_up)
    monkeypatch.setattr(Pool, "close", close)
    with hospital_with_log(tmp_path) as hospital, connecting(hospital) as connected:
        assert assigned.wait(SOON)
        assert stop(hospital) < SOON
        with pytest.raises(pt.WorkerLostError, match="refused: the owner goes home"):
            connected.result(SOON)
        assert not hospital.server.sessions
        assert events(tmp_path) == ["server started", "session refused", "server stopped"]


@pytest.mark.skipif(sys.platform == "win32", reason="Windows stops no processes")
def test_a_session_whose_process_hangs_ends_before_the_server(tmp_path: Path) -> None:
    with hospital_with_log(tmp_path) as hospital:
        bob = hospital.connect()
        (session,) = hospital.server.sessions
        os.kill(session.process.number, signal.SIGSTOP)
        assert stop(hospital) < SOON
        assert events(tmp_path) == ["server started", "session began", "session ended", "server stopped"]
        bob.close()


def test_what_comes_too_late_is_written_nowhere(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Nor does it pass for a log that cannot be written."""
    with hospital_with_log(tmp_path) as hospital:
        pass
    before = events(tmp_path)
    with caplog.at_level(logging.WARNING, "ptrtensor.serve"):
        hospital.server._journal.try_to_record("session ended")
        with pytest.raises(AuditError, match="is closed, and says nothing of this: released"):
            hospital.server._journal.write_down("released")
    assert [record.levelname for record in caplog.records] == ["WARNING"] * 2
    assert hospital.server.broken is None and events(tmp_path) == before
