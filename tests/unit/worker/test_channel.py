"""Channels: messages arrive whole and in order, each with the socket that was sent along."""

import os
import socket
import threading
import time
import tracemalloc
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Final

import msgspec
import pytest

from ptrtensor.errors import ProtocolError
from ptrtensor.wire.control import Assign, FromServer, FromSession, Publication, Ready, Report, Reported, Unsealing
from ptrtensor.wire.metadata import intern
from ptrtensor.worker.channel import LENGTH, MOST_BYTES, Channel, from_server, from_session

DEADLINE: Final = 20.0

ASSIGN = Assign(
    "bob",
    "epoch",
    "alice",
    (
        Publication("x", ("#x",), "x.npy: float32[2, 3]", True, "/data/x.npy", 128, intern((2, 3), (3, 1), "float32")),
        Publication("y/ü", (), "", False, "/data/y", 2**40, intern((), (), "bool")),
    ),
)
REPORTED = Reported(1, 2, 3, 2**40)

Pair = tuple[Channel[FromSession], Channel[FromServer]]


@pytest.fixture
def pair() -> Iterator[Pair]:
    """The server's end and the session's."""
    server, session = socket.socketpair()
    server.settimeout(DEADLINE)
    session.settimeout(DEADLINE)
    with server, session:
        yield Channel(server, from_session), Channel(session, from_server)


def plain(message: FromServer | FromSession) -> object:
    """To compare by content: metadata are compared by identity."""
    return type(message).__name__, msgspec.to_builtins(message)


def test_messages_arrive_in_order(pair: Pair) -> None:
    server, session = pair
    for sent in (ASSIGN, Report(), ASSIGN):
        server.send(sent)
    for sent in (ASSIGN, Report(), ASSIGN):
        message, passed = session.receive()
        assert plain(message) == plain(sent) and passed is None
    for answer in (Ready(), REPORTED):
        session.send(answer)
    assert [server.receive() for _ in range(2)] == [(Ready(), None), (REPORTED, None)]


def test_a_socket_comes_with_its_message(pair: Pair) -> None:
    server, session = pair
    ours, theirs = socket.socketpair()
    with ours:
        server.send(Report())
        server.send(ASSIGN, theirs)
        theirs.close()
        server.send(Report())
        assert session.receive()[1] is None
        message, passed = session.receive()
        assert isinstance(message, Assign) and passed is not None
        with passed:
            assert passed.family == socket.AF_UNIX and passed.type == socket.SOCK_STREAM
            passed.sendall(b"hello")
            assert ours.recv(100) == b"hello"
        assert ours.recv(1) == b"", "somebody still has the socket"
        assert session.receive() == (Report(), None)


def test_each_of_several_sockets_comes_with_its_own_message(pair: Pair) -> None:
    server, session = pair
    ends = [socket.socketpair() for _ in range(5)]
    for number, (_, theirs) in enumerate(ends):
        with theirs:
            server.send(Assign(f"worker{number}", "", "", ()), theirs)
    for number, (ours, _) in enumerate(ends):
        message, passed = session.receive()
        assert isinstance(message, Assign) and message.worker == f"worker{number}"
        assert passed is not None
        with ours, passed:
            ours.sendall(b"x")
            assert passed.recv(1) == b"x"


@pytest.mark.parametrize("with_socket", [False, True])
def test_a_message_larger_than_what_the_system_takes_at_once(pair: Pair, with_socket: bool) -> None:
    server, session = pair
    large = Assign("bob", "", "x" * 5_000_000, ASSIGN.publications)
    ours, theirs = socket.socketpair()
    with ours, theirs, ThreadPoolExecutor(1) as pool:
        sending = pool.submit(server.send, large, theirs if with_socket else None)
        message, passed = session.receive()
        sending.result(DEADLINE)
    assert plain(message) == plain(large)
    assert (passed is not None) == with_socket
    if passed is not None:
        passed.close()


def test_a_message_that_comes_byte_by_byte(pair: Pair) -> None:
    server, session = pair
    body = msgspec.msgpack.encode(ASSIGN)
    with ThreadPoolExecutor(1) as pool:
        receiving = pool.submit(session.receive)
        for byte in LENGTH.pack(len(body)) + body:
            server.socket.sendall(bytes([byte]))
        assert plain(receiving.result(DEADLINE)[0]) == plain(ASSIGN)


def test_a_message_that_comes_byte_by_byte_for_too_long(pair: Pair) -> None:
    server, session = pair
    body = msgspec.msgpack.encode(ASSIGN)
    server.socket.sendall(LENGTH.pack(len(body)))
    with ThreadPoolExecutor(1) as pool:
        receiving = pool.submit(session.receive, 0.3)
        for byte in body[:-1]:
            if receiving.done():
                break
            server.socket.sendall(bytes([byte]))
            time.sleep(0.02)
        with pytest.raises(TimeoutError, match="does not send what it announced"):
            receiving.result(DEADLINE)


def test_a_message_that_comes_in_time(pair: Pair) -> None:
    server, session = pair
    server.send(ASSIGN)
    assert plain(session.receive(DEADLINE)[0]) == plain(ASSIGN)


def test_threads_that_send_at_once(pair: Pair) -> None:
    """Of messages long enough to be sent in pieces."""
    server, session = pair

    def send(letter: str) -> None:
        for _ in range(5):
            server.send(Assign(letter, "", letter * 300_000, ()))

    threads = [threading.Thread(target=send, args=(letter,)) for letter in "abcd"]
    for thread in threads:
        thread.start()
    count = dict.fromkeys("abcd", 0)
    for _ in range(20):
        message, _ = session.receive()
        assert isinstance(message, Assign) and message.client == message.worker * 300_000
        count[message.worker] += 1
    for thread in threads:
        thread.join(DEADLINE)
    assert set(count.values()) == {5}


@pytest.mark.parametrize("size", [0, 1, 3, 4, 5, 20])
def test_the_other_process_has_ended(pair: Pair, size: int) -> None:
    """Before a message, or in the middle of one."""
    server, session = pair
    body = msgspec.msgpack.encode(ASSIGN)
    server.socket.sendall((LENGTH.pack(len(body)) + body)[:size])
    server.close()
    with pytest.raises(EOFError, match="the other process has ended"):
        session.receive()


def test_to_send_to_a_process_that_has_ended(pair: Pair) -> None:
    server, session = pair
    session.close()
    ours, theirs = socket.socketpair()
    with ours, theirs:
        for passed in (None, theirs):
            with pytest.raises(OSError):
                server.send(Report(), passed)
        os.fstat(theirs.fileno())


@pytest.mark.parametrize("message", [Ready(), REPORTED])
def test_what_the_other_side_says_is_no_message_of_this_side(pair: Pair, message: FromSession) -> None:
    server, session = pair
    server.send(message)
    with pytest.raises(msgspec.ValidationError):
        session.receive()


def test_what_is_large_is_taken_as_it_comes_and_once(pair: Pair) -> None:
    """However many pieces it comes in."""
    server, session = pair
    size = 8 * 2**20
    value = os.urandom(size)
    with ThreadPoolExecutor(1) as thread:
        sent = thread.submit(session.send, Unsealing(value))
        assert server.announced() == server.announced() > size
        tracemalloc.start()
        try:
            message, _ = server.receive()
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        sent.result(DEADLINE)
    assert isinstance(message, Unsealing) and message.box == value
    assert peak < 1.2 * size


def test_what_is_longer_than_any_message_is_none(pair: Pair) -> None:
    server, session = pair
    session.socket.sendall(LENGTH.pack(MOST_BYTES + 1))
    with pytest.raises(ProtocolError, match="announces a message of 1073741825 bytes"):
        server.receive()
