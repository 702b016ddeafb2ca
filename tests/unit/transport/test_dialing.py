"""Dialing a worker, with a small TLS server in its place: each way in which that fails is told apart."""

import contextlib
import shutil
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import pytest
from certificates import DAY, odd_identity, trusting

from ptrtensor.errors import IdentityError, ProtocolError, VersionMismatchError, WorkerLostError
from ptrtensor.owner import keys
from ptrtensor.transport import dialing
from ptrtensor.transport.dialing import Dialer, RefusedError, read_exactly
from ptrtensor.transport.resumable import (
    HEADER,
    LINK_VERSION,
    MAX_REASON_BYTES,
    NO_TOKEN,
    OPENING,
    TOKEN_BYTES,
    Kind,
    Opening,
    end,
)
from ptrtensor.transport.tls import Credentials, context

DEADLINE: Final = 20.0
TOKEN: Final = bytes(range(TOKEN_BYTES))

Answer = Callable[[socket.socket], None]


@contextlib.contextmanager
def listening(answer: Answer) -> Iterator[int]:
    """A port where one connection is answered, and closed after it."""

    def serve() -> None:
        with contextlib.suppress(OSError):
            sock, _ = listener.accept()
            with sock, contextlib.suppress(OSError):
                sock.settimeout(DEADLINE)
                answer(sock)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            thread.join(DEADLINE)
            assert not thread.is_alive()


def over_tls(credentials: Credentials, answer: Answer) -> Answer:
    """With the handshake of a worker first; `answer` has read the client's opening then, unless it hung up.

    Where the handshake fails, the connection stays open until the client has closed it.
    """

    def serve(sock: socket.socket) -> None:
        with sock.dup() as same:
            try:
                secure = context(credentials, server=True).wrap_socket(sock, server_side=True)
            except ssl.SSLError:
                same.settimeout(DEADLINE)
                while same.recv(4096):
                    pass
                return
        with secure:
            read_exactly(secure, OPENING.size)
            answer(secure)

    return serve


def say(data: bytes) -> Answer:
    def answer(sock: socket.socket) -> None:
        sock.sendall(data)
        while sock.recv(4096):
            pass

    return answer


WELCOME: Final = say(Opening(TOKEN, 7).encode())


def dial(
    port: int, credentials: Credentials, *, worker: str = "bob", named: bool = True, seconds: float = DEADLINE
) -> Opening:
    """What the worker said."""
    sock, opening = Dialer("127.0.0.1", port, credentials, worker, named, seconds).dial(NO_TOKEN, 0)
    sock.close()
    return opening


@pytest.fixture
def bob(tmp_path: Path) -> Credentials:
    """A worker's, who trusts Alice."""
    return Credentials(keys.new_identity("bob", tmp_path), tmp_path / "bob-trusts")


@pytest.fixture
def alice(tmp_path: Path, bob: Credentials) -> Credentials:
    """A client's, who trusts Bob."""
    identity = keys.new_identity("alice", tmp_path)
    trusting(bob.trust, identity)
    return Credentials(identity, trusting(tmp_path / "alice-trusts", bob.identity))


def test_a_worker_says_how_far_it_got(bob: Credentials, alice: Credentials) -> None:
    heard: list[bytes] = []

    def serve(sock: socket.socket) -> None:
        with context(bob, server=True).wrap_socket(sock, server_side=True) as secure:
            heard.append(read_exactly(secure, OPENING.size))
            secure.sendall(Opening(TOKEN, 7).encode()[:5])
            secure.sendall(Opening(TOKEN, 7).encode()[5:] + b"and more")
            secure.recv(1)

    with listening(serve) as port:
        sock, opening = Dialer("127.0.0.1", port, alice, "bob", True, DEADLINE).dial(TOKEN, 5)
        with sock:
            assert opening == Opening(TOKEN, 7)
            assert read_exactly(sock, 8) == b"and more"
    assert heard == [Opening(TOKEN, 5).encode()]


# --- whom one may meet there


def test_the_only_worker_that_is_trusted_may_be_called_anything(bob: Credentials, alice: Credentials) -> None:
    for named in (True, False):
        with listening(over_tls(bob, WELCOME)) as port:
            assert dial(port, alice, worker="whatever", named=named) == Opening(TOKEN, 7)


def test_where_several_are_trusted_the_worker_has_the_name_that_was_asked_for(
    bob: Credentials, alice: Credentials, tmp_path: Path
) -> None:
    """Else any of them could take the place of another."""
    keys.trust(keys.new_identity("carol", tmp_path) / "carol.pem", alice.trust)
    for worker in ("bob", "bob/2"):
        with listening(over_tls(bob, WELCOME)) as port:
            assert dial(port, alice, worker=worker) == Opening(TOKEN, 7)
    for worker, named in (("carol", True), ("bob2", True), ("carol/bob", True), ("bob", False)):
        with listening(over_tls(bob, WELCOME)) as port, pytest.raises(IdentityError, match="is 'bob'"):
            dial(port, alice, worker=worker, named=named)


@pytest.fixture
def of_an_authority(tmp_path: Path, alice: Credentials) -> Credentials:
    """A worker's, whom Alice trusts for the sake of an authority."""
    authority = keys.new_identity("clinic", tmp_path, is_authority=True)
    (alice.trust / "bob.pem").unlink()
    keys.trust(authority / "clinic.pem", alice.trust, authority=True)
    worker = keys.new_identity("ward3", tmp_path, authority=authority)
    return Credentials(worker, trusting(tmp_path / "ward3-trusts", alice.identity))


def test_a_worker_of_an_authority_has_the_name_that_was_asked_for(
    of_an_authority: Credentials, alice: Credentials
) -> None:
    with listening(over_tls(of_an_authority, WELCOME)) as port:
        assert dial(port, alice, worker="ward3") == Opening(TOKEN, 7)


@pytest.mark.parametrize(
    ("worker", "named", "message"),
    [
        ("bob", True, "is 'ward3', .*: you asked for 'bob'"),
        ("ward", True, "you asked for 'ward'"),
        ("ward3", False, "ask for it by name: id='ward3'"),
        ("127.0.0.1:80", False, "ask for it by name: id='ward3'"),
    ],
)
def test_another_worker_of_an_authority(
    of_an_authority: Credentials, alice: Credentials, worker: str, named: bool, message: str
) -> None:
    heard: list[bytes] = []

    def serve(sock: socket.socket) -> None:
        with context(of_an_authority, server=True).wrap_socket(sock, server_side=True) as secure:
            heard.append(secure.recv(4096))

    with listening(serve) as port, pytest.raises(IdentityError, match=message):
        dial(port, alice, worker=worker, named=named)
    assert b"".join(heard) == b"", "it was told something"


def test_a_worker_that_is_not_trusted(bob: Credentials, alice: Credentials, tmp_path: Path) -> None:
    (alice.trust / "bob.pem").unlink()
    keys.trust(keys.new_identity("carol", tmp_path) / "carol.pem", alice.trust)
    with (
        listening(over_tls(bob, WELCOME)) as port,
        pytest.raises(
            IdentityError, match=rf"{alice.trust} does not hold \(.*\).*keys trust FILE --trust {alice.trust}"
        ),
    ):
        dial(port, alice)


def test_a_worker_that_another_one_vouches_for(bob: Credentials, alice: Credentials, tmp_path: Path) -> None:
    """Bob is trusted and no authority; that Carol has his signature is no fault of her certificate's age or form."""
    carol = Credentials(odd_identity(tmp_path / "carol", issuer=bob.identity), bob.trust)
    with (
        listening(over_tls(carol, WELCOME)) as port,
        pytest.raises(IdentityError, match=f"shows a certificate that {alice.trust} does not hold"),
    ):
        dial(port, alice, worker="carol")


def test_a_worker_that_does_not_trust_this_side(bob: Credentials, alice: Credentials, tmp_path: Path) -> None:
    (bob.trust / "alice.pem").unlink()
    keys.trust(keys.new_identity("carol", tmp_path) / "carol.pem", bob.trust)
    with (
        listening(over_tls(bob, WELCOME)) as port,
        pytest.raises(IdentityError, match=f"does not accept this side's certificate .* {alice.certificate}"),
    ):
        dial(port, alice)


def test_a_worker_that_does_not_trust_this_side_and_hangs_up_at_once(
    bob: Credentials, alice: Credentials, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it said arrived, though the opening can no longer be sent."""
    (bob.trust / "alice.pem").unlink()
    keys.trust(keys.new_identity("carol", tmp_path) / "carol.pem", bob.trust)
    gone = threading.Event()

    def serve(sock: socket.socket) -> None:
        try:
            context(bob, server=True).wrap_socket(sock, server_side=True)
        finally:
            sock.close()
            gone.set()

    check_name = Dialer._check_name

    def check_late(dialer: Dialer, sock: ssl.SSLSocket) -> None:
        assert gone.wait(DEADLINE)
        check_name(dialer, sock)

    monkeypatch.setattr(Dialer, "_check_name", check_late)
    with listening(serve) as port, pytest.raises(IdentityError, match="does not accept this side's certificate"):
        dial(port, alice)


@pytest.mark.parametrize(("begins", "ends", "message"), [(-2, -1, "expired"), (1, 2, "not yet valid")])
def test_a_worker_whose_certificate_is_not_valid_now(
    alice: Credentials, tmp_path: Path, begins: int, ends: int, message: str
) -> None:
    odd = odd_identity(tmp_path / "odd", begins=begins * DAY, ends=ends * DAY)
    shutil.copy(odd / "odd.pem", alice.trust)
    worker = Credentials(odd, trusting(tmp_path / "odd-trusts", alice.identity))
    with (
        listening(over_tls(worker, WELCOME)) as port,
        pytest.raises(IdentityError, match=rf"not valid \(.*{message}.*\): its owner must make another"),
    ):
        dial(port, alice)


def test_an_own_certificate_that_has_expired(bob: Credentials, tmp_path: Path) -> None:
    odd = odd_identity(tmp_path / "odd", begins=-2 * DAY, ends=-DAY)
    trusting(bob.trust, odd)
    mine = Credentials(odd, trusting(tmp_path / "odd-trusts", bob.identity))
    with (
        listening(over_tls(bob, WELCOME)) as port,
        pytest.raises(
            IdentityError,
            match=r"does not accept this side's certificate .*odd\.pem: it expired\. Make another identity",
        ),
    ):
        dial(port, mine)


def test_a_worker_without_a_name(alice: Credentials, tmp_path: Path) -> None:
    odd = odd_identity(tmp_path / "odd", names=())
    trusted = trusting(tmp_path / "trusted", odd)
    worker = Credentials(odd, trusting(tmp_path / "odd-trusts", alice.identity))
    with listening(over_tls(worker, WELCOME)) as port, pytest.raises(IdentityError, match="0 names instead of one"):
        dial(port, Credentials(alice.identity, trusted))


def test_an_identity_that_cannot_be_used_reaches_nobody(alice: Credentials) -> None:
    alice.key.write_text("")
    with pytest.raises(IdentityError, match="cannot be used"):
        dial(1, alice)


# --- what may be said there


def test_a_refusal_has_its_reason(bob: Credentials, alice: Credentials) -> None:
    with (
        listening(over_tls(bob, say(Opening(NO_TOKEN, 0).encode() + end("too many sessions")))) as port,
        pytest.raises(RefusedError, match=f"worker bob at 127.0.0.1:{port} refused: too many sessions"),
    ):
        dial(port, alice)


@pytest.mark.parametrize(
    "said", [HEADER.pack(Kind.PING, 0), HEADER.pack(Kind.END, MAX_REASON_BYTES + 1), HEADER.pack(99, 5) + b"abcde"]
)
def test_a_refusal_without_a_reason(bob: Credentials, alice: Credentials, said: bytes) -> None:
    with (
        listening(over_tls(bob, say(Opening(NO_TOKEN, 0).encode() + said))) as port,
        pytest.raises(RefusedError, match="it gave no reason"),
    ):
        dial(port, alice)


def test_another_version_of_the_link(bob: Credentials, alice: Credentials) -> None:
    data = bytearray(Opening(TOKEN, 0).encode())
    data[3] = LINK_VERSION + 1
    with (
        listening(over_tls(bob, say(bytes(data)))) as port,
        pytest.raises(VersionMismatchError, match=f"version {LINK_VERSION + 1}"),
    ):
        dial(port, alice)


def test_something_else_over_tls(bob: Credentials, alice: Credentials) -> None:
    with (
        listening(over_tls(bob, say(b"HTTP/1.1 400 Bad Request\r\n".ljust(100)))) as port,
        pytest.raises(ProtocolError, match="does not speak ptrtensor's link protocol: it began with b'HTTP/1.1'"),
    ):
        dial(port, alice)


@pytest.mark.parametrize("said", [b"", b"ptl", Opening(TOKEN, 7).encode()[:-1], Opening(NO_TOKEN, 0).encode()])
def test_a_worker_that_hangs_up(bob: Credentials, alice: Credentials, said: bytes) -> None:
    with (
        listening(over_tls(bob, lambda sock: sock.sendall(said))) as port,
        pytest.raises(ConnectionResetError, match="closed the connection"),
    ):
        dial(port, alice)


# --- who else may listen there


def echo(sock: socket.socket) -> None:
    while data := sock.recv(4096):
        sock.sendall(data)


@pytest.mark.parametrize(
    "answer",
    [
        say(b"HTTP/1.1 400 Bad Request\r\n\r\n"),
        say(b"SSH-2.0-OpenSSH_9.6\r\n"),
        say(b"220 mail.example.org ESMTP\r\n"),
        say(Opening(TOKEN, 7).encode()),
        say(bytes(100)),
        say(b"\xff" * 100),
        echo,
    ],
    ids=["http", "ssh", "smtp", "the link without tls", "zeros", "ones", "echo"],
)
def test_what_does_not_speak_tls(alice: Credentials, answer: Answer) -> None:
    with listening(answer) as port, pytest.raises(ProtocolError, match=r"does not speak TLS 1.3 .*is it a worker\?"):
        dial(port, alice)


def test_what_speaks_an_older_tls(bob: Credentials, alice: Credentials) -> None:
    def serve(sock: socket.socket) -> None:
        old = context(bob, server=True)
        old.minimum_version = old.maximum_version = ssl.TLSVersion.TLSv1_2
        old.wrap_socket(sock, server_side=True).close()

    with listening(serve) as port, pytest.raises(ProtocolError, match=r"does not speak TLS 1.3 .*is it a worker\?"):
        dial(port, alice)


def test_what_hangs_up_in_the_handshake(alice: Credentials) -> None:
    with listening(lambda sock: None) as port, pytest.raises(OSError):
        dial(port, alice)


def keep_quiet(sock: socket.socket) -> None:
    while sock.recv(4096):
        pass


def test_what_is_silent_in_the_handshake_is_waited_for_only_so_long(alice: Credentials) -> None:
    with listening(keep_quiet) as port, pytest.raises(TimeoutError):
        dial(port, alice, seconds=0.2)


def test_what_is_silent_after_the_handshake_is_waited_for_only_so_long(bob: Credentials, alice: Credentials) -> None:
    with listening(over_tls(bob, keep_quiet)) as port, pytest.raises(TimeoutError):
        Dialer("127.0.0.1", port, alice, "bob", True, 2.0).dial(TOKEN, 0)


def test_a_new_session_may_take_as_long_as_a_process_takes_to_start(
    bob: Credentials, alice: Credentials, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dialing, "START_SECONDS", 0.2)
    with listening(over_tls(bob, keep_quiet)) as port, pytest.raises(TimeoutError):
        dial(port, alice, seconds=3 * DEADLINE)


def test_nobody_listens(alice: Credentials) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(WorkerLostError, match=f"worker bob at 127.0.0.1:{port} cannot be reached .*is it serving"):
        dial(port, alice)


def test_a_name_without_an_address(alice: Credentials, monkeypatch: pytest.MonkeyPatch) -> None:
    def look_up(*_: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    with pytest.raises(WorkerLostError, match="the name 'bob.example.org' has no address .Name or service not known"):
        Dialer("bob.example.org", 7700, alice, "bob", True, DEADLINE).dial(NO_TOKEN, 0)


@pytest.mark.parametrize("host", ["x" * 100, "a..b"], ids=["long", "empty label"])
def test_a_name_that_cannot_have_an_address(alice: Credentials, host: str) -> None:
    with pytest.raises(WorkerLostError, match=f"worker bob at {host}:7700"):
        Dialer(host, 7700, alice, "bob", True, DEADLINE).dial(NO_TOKEN, 0)
