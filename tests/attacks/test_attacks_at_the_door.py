"""Who is not let in to `ptrtensor serve`, whatever he shows or says: the others are served, and a line tells of him."""

import contextlib
import errno
import logging
import os
import shutil
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from certificates import DAY, odd_identity
from hostile import HELLO
from intruding import Besieged, LinkWay, besieged, descriptors, no_leaks, plain, secure
from waiting import eventually
from wire_samples import frame

import ptrtensor as pt
from ptrtensor.errors import ProtocolError, PtrTensorError
from ptrtensor.owner import session_process, sessions, status
from ptrtensor.owner.hosted_session import Patience
from ptrtensor.owner.server import MAX_HANDSHAKES
from ptrtensor.owner.session_process import SessionProcess
from ptrtensor.owner.sessions import Limits
from ptrtensor.transport.dialing import read_exactly
from ptrtensor.transport.resumable import HEADER as LINK_HEADER
from ptrtensor.transport.resumable import NO_TOKEN, OPENING, STATUS, Kind, Opening, end

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def hospital(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Besieged]:
    with besieged(tmp_path_factory.mktemp("door"), patience=Patience(lease=20, keep_alive=5, handshake=3)) as opened:
        yield opened
        opened.check_it_lets_in()


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(status, "RATE_SECONDS", 0.0)


@pytest.fixture
def attacked(hospital: Besieged) -> Iterator[Besieged]:
    """After the attack the others are served, and nothing of it is left."""
    hospital.check_it_serves()
    hospital.server.refusals.tell()
    hospital.news()
    with no_leaks():
        yield hospital
    hospital.check_it_serves()


# --- certificates


def unknown(folder: Path) -> Path:
    return folder / "eve"


def made_odd(name: str, begins: timedelta = -DAY, ends: timedelta = DAY, issuer: str = "") -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        directory = folder / f"odd{begins}{ends}{issuer}" / name
        if not directory.exists():
            odd_identity(directory, begins=begins, ends=ends, issuer=folder / issuer if issuer else None)
        return directory

    return make


def trusted_expired(begins: timedelta, ends: timedelta) -> Callable[[Path], Path]:
    """Its certificate is on the list; but not today."""

    def make(folder: Path) -> Path:
        name = f"old{begins.days}"
        if not (folder / name).exists():
            odd_identity(folder / name, begins=begins, ends=ends)
            shutil.copy(folder / name / f"{name}.pem", folder / "trusted")
        return folder / name

    return make


CERTIFICATES: list[tuple[str, Callable[[Path], Path]]] = [
    ("unknown", unknown),
    ("self-made with a trusted name", made_odd("alice")),
    ("signed by a client", made_odd("alice", issuer="alice")),
    ("signed by the worker", made_odd("mallory", issuer="bob")),
    ("with the worker's name", made_odd("bob")),
    ("expired", trusted_expired(-10 * DAY, -DAY)),
    ("not valid yet", trusted_expired(DAY, 10 * DAY)),
]


@pytest.mark.parametrize("make", [case[1] for case in CERTIFICATES], ids=[case[0] for case in CERTIFICATES])
def test_a_certificate_that_does_not_count(attacked: Besieged, make: Callable[[Path], Path]) -> None:
    identity = make(attacked.folder)
    with pytest.raises((ssl.SSLError, ConnectionError)):
        LinkWay(attacked, identity)
    told = attacked.wait_for("connection refused")
    assert "certificate" in str(told["reason"]) and str(told["from"]).startswith("127.0.0.1:")


def test_a_certificate_without_its_key(attacked: Besieged, tmp_path: Path) -> None:
    """TLS refuses already to load such a pair; so the handshake is begun with the key of another name."""
    stolen = tmp_path / "alice"
    stolen.mkdir()
    (stolen / "alice.pem").write_bytes((attacked.folder / "alice" / "alice.pem").read_bytes())
    (stolen / "alice.key").write_bytes((attacked.folder / "eve" / "eve.key").read_bytes())
    (stolen / "alice.key").chmod(0o600)
    with pytest.raises(pt.IdentityError, match="cannot be used"):
        secure(attacked, stolen)


# --- what is not TLS, or not the link


def anonymous(version: ssl.TLSVersion) -> ssl.SSLContext:
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    made.check_hostname = False
    made.verify_mode = ssl.CERT_NONE
    made.maximum_version = version
    return made


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3], ids=["TLS 1.2", "TLS 1.3"])
def test_a_client_without_a_certificate(attacked: Besieged, version: ssl.TLSVersion) -> None:
    with plain(attacked) as sock, pytest.raises((ssl.SSLError, ConnectionError)):
        with anonymous(version).wrap_socket(sock) as connection:
            connection.sendall(Opening(NO_TOKEN, 0).encode())
            read_exactly(connection, 1)
    attacked.wait_for("connection refused")


@pytest.mark.parametrize(
    "said",
    [
        b"",
        b"\0",
        b"GET / HTTP/1.1\r\nHost: bob\r\n\r\n",
        b"SSH-2.0-OpenSSH_9.6\r\n",
        frame(HELLO),
        Opening(NO_TOKEN, 0).encode(),
        Opening(STATUS, 0).encode(),
        b"\x16\x03\x01\xff\xff" + b"a" * 70_000,
        b"\x16\x03\x03\x40\x00" + b"\x01\xff\xff\xff" * 5000,
        b"\x15\x03\x03\x00\x02\x02\x28" * 50,
        b"\x14\x03\x03\x00\x01\x01" * 5000,
        os.urandom(100_000),
    ],
    ids=[
        "nothing",
        "zero",
        "http",
        "ssh",
        "hello",
        "opening",
        "status",
        "long",
        "client hello",
        "alerts",
        "ccs",
        "any",
    ],
)
def test_whoever_does_not_speak_tls(attacked: Besieged, said: bytes) -> None:
    with plain(attacked) as sock, contextlib.suppress(ConnectionError):
        sock.sendall(said)
        sock.shutdown(socket.SHUT_WR)
        while sock.recv(4096):
            pass
    attacked.wait_for("connection refused")


@pytest.mark.parametrize(
    ("opening", "reason"),
    [
        (b"GET / HTTP/1.1\r\n" * 3, "GET / HT"),
        (b"\x1b]0;owned\x07" * 8, "\\x1b"),
        (frame(HELLO) + bytes(44), "does not speak"),
        (b"ptl\x02" + bytes(40), "version 2 of the link"),
        (b"ptl\xff" + bytes(40), "version 255 of the link"),
        (b"ptl\x01", "closed the connection"),
        (b"", "closed the connection"),
    ],
    ids=["http", "escapes", "hello", "newer", "newest", "half", "nothing"],
)
def test_a_trusted_client_that_does_not_speak_the_link(attacked: Besieged, opening: bytes, reason: str) -> None:
    with secure(attacked, attacked.folder / "alice") as connection:
        connection.sendall(opening)
        with contextlib.suppress(OSError):
            connection.shutdown(socket.SHUT_WR)
        with contextlib.suppress(ConnectionError, ssl.SSLError):
            while connection.recv(4096):
                pass
    assert reason in str(attacked.wait_for("connection refused")["reason"])


# --- tokens


def asked(hospital: Besieged, who: str, opening: Opening) -> str:
    """Why such an opening is refused."""
    with secure(hospital, hospital.folder / who) as connection:
        connection.sendall(opening.encode())
        assert Opening.decode(read_exactly(connection, OPENING.size)) == Opening(NO_TOKEN, 0)
        kind, size = LINK_HEADER.unpack(read_exactly(connection, LINK_HEADER.size))
        assert kind == Kind.END
        return read_exactly(connection, size).decode()


@pytest.mark.parametrize(
    ("token", "reason"),
    [
        (b"\1" * 32, "no such session"),
        (b"\xff" * 32, "no such session"),
        (STATUS[:-1] + b"x", "no such session"),
        (STATUS, "asks how it is, and nobody else"),
    ],
    ids=["guessed", "largest", "almost status", "status"],
)
@pytest.mark.parametrize("received", [0, 2**64 - 1])
def test_a_token_that_is_nobodys(attacked: Besieged, token: bytes, reason: str, received: int) -> None:
    assert reason in asked(attacked, "alice", Opening(token, received))
    assert reason in str(attacked.wait_for("session refused", client="alice")["reason"])


@pytest.mark.parametrize("who", ["alice", "bob"])
def test_a_stolen_token(attacked: Besieged, who: str) -> None:
    """Also the worker's own identity, which may ask how it is, takes no session over."""
    token = attacked.session_of("carol").token
    reason = asked(attacked, who, Opening(token, 0))
    assert "no such session" in reason or "nor can it have a session" in reason
    attacked.wait_for("session refused", client=who)


def test_the_workers_own_identity_gets_no_session(attacked: Besieged) -> None:
    assert "nor can it have a session" in asked(attacked, "bob", Opening(NO_TOKEN, 0))


# --- those who take their time


def begin_tls(hospital: Besieged) -> socket.socket:
    sock = plain(hospital)
    sock.sendall(b"\x16\x03\x01\x02\x00\x01\x00")
    return sock


def begin_opening(hospital: Besieged) -> socket.socket:
    connection = secure(hospital, hospital.folder / "alice")
    connection.sendall(b"ptl")
    return connection


@pytest.mark.parametrize("begin", [begin_tls, begin_opening])
def test_more_who_take_their_time_than_the_server_bears(
    tmp_path: Path, begin: Callable[[Besieged], socket.socket]
) -> None:
    """They say a byte now and then. Once their time is over the next are served, and those after them."""
    with besieged(tmp_path, patience=Patience(lease=5, keep_alive=5, handshake=1.0), ahead=0) as hospital, no_leaks():
        before = threading.active_count(), descriptors()
        slow: list[socket.socket] = []
        with contextlib.ExitStack() as stack:
            for _ in range(MAX_HANDSHAKES if begin is begin_opening else 2 * MAX_HANDSHAKES + 10):
                slow.append(stack.enter_context(begin(hospital)))
            for _ in range(5):
                for sock in slow:
                    with contextlib.suppress(OSError):
                        sock.send(b"\0")
                time.sleep(0.02)
            assert threading.active_count() <= before[0] + 2 * MAX_HANDSHAKES + 4
            assert descriptors() - len(slow) <= before[1] + 4 * MAX_HANDSHAKES
            started = time.monotonic()
            with pytest.raises((ssl.SSLError, ConnectionError)):
                LinkWay(hospital, hospital.folder / "eve")  # a stranger, whose refusal shows that it is his turn
            assert time.monotonic() - started < 20
            assert asked(hospital, "carol", Opening(b"\1" * 32, 0))
            assert eventually(lambda: hospital.server.refusals.count >= MAX_HANDSHAKES)


# --- how much of this is written down


def test_strangers_do_not_fill_the_disk(attacked: Besieged) -> None:
    """One who knocks on and on is told of at his first, second, fourth, ... time."""
    before = attacked.server.refusals.count
    for _ in range(40):
        with plain(attacked) as sock, contextlib.suppress(ConnectionError):
            sock.sendall(b"GET / HTTP/1.1\r\n\r\n")
            while sock.recv(4096):
                pass
    assert eventually(lambda: attacked.server.refusals.count >= before + 40)
    attacked.server.refusals.tell()
    told = [record for record in attacked.news() if record["event"] == "connection refused"]
    assert sum(int(str(record["count"])) for record in told) == 40
    assert len(told) <= 7


def test_nor_do_trusted_clients(attacked: Besieged) -> None:
    before = attacked.server.refusals.count
    for number in range(20):
        asked(attacked, "alice", Opening(bytes([number]) * 31 + b"x", 0))
        with secure(attacked, attacked.folder / "alice") as connection:
            connection.sendall(os.urandom(44))
            with contextlib.suppress(OSError):
                while connection.recv(4096):
                    pass
    assert eventually(lambda: attacked.server.refusals.count >= before + 40)
    attacked.server.refusals.tell()
    told = [record for record in attacked.news() if str(record["event"]).endswith("refused")]
    assert sum(int(str(record["count"])) for record in told) == 40
    assert len(told) <= 14


def test_nor_does_one_that_comes_back_to_its_session_again_and_again(
    attacked: Besieged, caplog: pytest.LogCaptureFixture
) -> None:
    before = attacked.server.resumptions.count
    with caplog.at_level(logging.INFO, "ptrtensor.serve"):
        way = LinkWay(attacked, attacked.folder / "alice")
        for _ in range(40):
            way.close()
            way = LinkWay(attacked, attacked.folder / "alice", way.token, way.link)
        assert eventually(lambda: attacked.server.resumptions.count >= before + 40)
        attacked.server.resumptions.tell()
    way.frames(end(""))
    attacked.wait_until_left("alice")
    way.close()
    told = [record for record in caplog.records if record.message == "session resumed"]
    assert sum(record.__dict__["count"] for record in told) == 40
    assert len(told) <= 7


# --- when the server is short of something


def test_no_thread_can_be_started(attacked: Besieged, monkeypatch: pytest.MonkeyPatch) -> None:
    start = threading.Thread.start
    left = [3]

    def failing(thread: threading.Thread) -> None:
        if left[0] and threading.current_thread().name != "MainThread":
            left[0] -= 1
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", failing)
    for _ in range(20):
        with pytest.raises((OSError, AssertionError)):
            asked(attacked, "alice", Opening(b"\1" * 32, 0))
            assert left[0], "served"
        if not left[0]:
            break
    assert not left[0]


@pytest.mark.parametrize(
    "error", [OSError(errno.EAGAIN, "no more processes"), MemoryError(), RuntimeError("no thread")]
)
def test_no_process_can_be_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def failing(*args: object) -> None:
        raise error

    with besieged(tmp_path, ahead=0) as hospital, no_leaks():
        monkeypatch.setattr(session_process, "launch", failing)
        assert asked(hospital, "alice", Opening(NO_TOKEN, 0))
        hospital.wait_for("session refused", client="alice")
        assert not hospital.server.sessions


def test_a_session_that_cannot_be_begun_leaves_no_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[SessionProcess] = []

    class Noted(SessionProcess):
        def __init__(
            self, compute_device: str, threads: int | None, turn: contextlib.AbstractContextManager[object]
        ) -> None:
            super().__init__(compute_device, threads, turn)
            started.append(self)

    def failing(*args: object) -> None:
        raise OSError(errno.EMFILE, "too many open files")

    monkeypatch.setattr(session_process, "SessionProcess", Noted)
    with besieged(tmp_path, ahead=0) as hospital, no_leaks():
        with monkeypatch.context() as patched:
            patched.setattr(sessions, "HostedSession", failing)
            assert asked(hospital, "alice", Opening(NO_TOKEN, 0))
        hospital.wait_for("session refused", client="alice")
        assert [process.has_ended for process in started] == [True]


def test_sessions_that_are_asked_for_at_the_same_time_are_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Starting the process of one takes seconds; meanwhile it counts already."""
    taken: list[float] = []

    def take() -> SessionProcess:
        taken.append(time.monotonic())
        time.sleep(0.5)
        raise PtrTensorError("this test starts none")

    with besieged(tmp_path, limits=Limits(sessions=3, sessions_of_one=2), ahead=0) as hospital, no_leaks():
        monkeypatch.setattr(hospital.server._pool, "take", take)
        with contextlib.ExitStack() as stack:
            opened = [stack.enter_context(secure(hospital, hospital.folder / "alice")) for _ in range(10)]
            opened += [stack.enter_context(secure(hospital, hospital.folder / "carol")) for _ in range(10)]
            for connection in opened:
                connection.sendall(Opening(NO_TOKEN, 0).encode())
            for connection in opened:
                assert read_exactly(connection, OPENING.size) == Opening(NO_TOKEN, 0).encode()
        assert len(taken) == 3


def test_an_opening_is_no_exception_for_whoever_reads_it() -> None:
    with pytest.raises(ProtocolError):
        Opening.decode(os.urandom(44))
