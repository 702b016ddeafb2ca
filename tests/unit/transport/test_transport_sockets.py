"""Sockets: what the system takes piece by piece, what ends, and what is said last."""

import contextlib
import errno
import gc
import socket
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest
from echoing import HELLO, EchoWorker, greet, meta_for, next_event, served, tcp_pair, unix_pair
from interrupting import interrupted
from wire_samples import WELCOME, frame, header

import ptrtensor
from ptrtensor.errors import IdentityError, ProtocolError, PtrTensorError, WorkerLostError
from ptrtensor.transport.addresses import format_address, is_loopback, parse_address
from ptrtensor.transport.serving import refuse, serve
from ptrtensor.transport.sockets import LONG_BYTES, Piece, SocketTransport, Stream, connect
from ptrtensor.wire.connection import Buffer
from ptrtensor.wire.messages import (
    Acknowledged,
    Batch,
    ClientMessage,
    Done,
    Fetch,
    Hide,
    Message,
    Missing,
    Put,
    Refused,
    Synchronize,
    Value,
    WorkerMessage,
)

Pair = Callable[[], tuple[socket.socket, socket.socket]]
PACKAGE = str(Path(ptrtensor.__file__).parent)

pytestmark = pytest.mark.timeout(240)


@pytest.fixture(params=[unix_pair, tcp_pair], ids=["unix", "tcp"])
def pair(request: pytest.FixtureRequest) -> Iterator[tuple[socket.socket, socket.socket]]:
    mine, theirs = request.param()
    with mine, theirs:
        yield mine, theirs


def read_all(sock: socket.socket) -> bytes:
    """Everything until the other end closes."""
    sock.settimeout(10)
    found = bytearray()
    while chunk := sock.recv(65536):
        found += chunk
    return bytes(found)


def completes(act: Callable[[], None], sock: socket.socket, seconds: float = 5) -> bool:
    """Whether `act` ends within seconds; run in a thread, since what is tested is that it does not hang."""
    thread = threading.Thread(target=act, daemon=True)
    thread.start()
    thread.join(seconds)
    if not thread.is_alive():
        return True
    with contextlib.suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)
    thread.join(5)
    return False


# --- writing


class Trickle:
    """A socket whose buffer takes a few bytes and is then full for once."""

    def __init__(self, size: int) -> None:
        self.taken = bytearray()
        self._size = size
        self._full = False

    def send(self, data: memoryview) -> int:
        self._full = not self._full
        if self._full:
            raise BlockingIOError(errno.EAGAIN, "full")
        self.taken += data[: self._size]
        return min(self._size, len(data))


def test_a_piece_knows_what_is_left() -> None:
    piece = Piece(bytearray(b"abcdef"))
    piece.counts.extend([1, 2])
    assert bytes(piece.rest()) == b"def"
    piece.counts.append(3)
    assert bytes(piece.rest()) == b""


@pytest.mark.parametrize("size", [1, 7, 10**6])
def test_writing_goes_on_where_the_system_stopped(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    mine, theirs = unix_pair()
    with mine, theirs:
        stream = Stream(mine)
        trickle = Trickle(size)
        monkeypatch.setattr(stream, "socket", trickle)
        stream.enqueue([b"head", bytearray(b"x" * 100), b"", memoryview(b"tail")])
        stream.enqueue([b"next"])
        rounds = 0
        while not stream.write():
            rounds += 1
            assert rounds < 1000
        assert bytes(trickle.taken) == b"head" + b"x" * 100 + b"tail" + b"next"
        assert stream.write()


def test_a_full_socket_is_no_error(pair: tuple[socket.socket, socket.socket]) -> None:
    mine, theirs = pair
    stream = Stream(mine)
    payload = bytes(range(256)) * (64 * 1024)
    stream.enqueue([b"head", payload])
    assert not stream.write()
    found = bytearray()
    while not stream.write():
        with contextlib.suppress(BlockingIOError):
            found += theirs.recv(100_000, socket.MSG_DONTWAIT)
    mine.shutdown(socket.SHUT_WR)
    found += read_all(theirs)
    assert found == b"head" + payload


def test_tiny_buffers_and_large_tensors_both_ways() -> None:
    mine, theirs = unix_pair()
    transport = SocketTransport(mine, "worker echo")
    worker = EchoWorker()
    with contextlib.closing(transport), served(theirs, worker):
        greet(transport)
        for sock in (mine, theirs):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2048)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        payload = bytes(range(256)) * 4096
        for number in range(3):
            transport.send(Put(number, meta_for(len(payload))), payload)
            transport.send(Fetch(number, number))
        for number in range(3):
            message, answer = next_event(transport)
            assert isinstance(message, Value)
            assert (message.request, answer) == (number, payload)


def test_two_threads_one_sends_and_one_waits(pair: tuple[socket.socket, socket.socket]) -> None:
    mine, theirs = pair
    transport = SocketTransport(mine, "worker echo")
    received: list[object] = []
    payload = bytes(2**24)

    def send() -> None:
        with contextlib.suppress(WorkerLostError):
            for number in range(5):
                transport.send(Put(1, meta_for(len(payload))), payload)
                transport.send(Fetch(number, 1))

    def receive() -> None:
        with contextlib.suppress(WorkerLostError):
            while len(received) < 5:
                received.append(next_event(transport)[0])

    with contextlib.closing(transport), served(theirs, EchoWorker()):
        greet(transport)
        receiver = threading.Thread(target=receive, daemon=True)
        receiver.start()
        time.sleep(0.1)  # it waits by now, with nothing on its way
        sent = completes(send, mine, 20)
        receiver.join(20)
        assert sent, "the one that waits keeps the one that sends from sending"
    assert [message.request for message in received if isinstance(message, Value)] == list(range(5))


def test_small_messages_leave_at_once() -> None:
    mine, theirs = tcp_pair()
    with mine, theirs:
        Stream(mine)
        assert mine.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        assert not mine.getblocking()


# --- the end


def test_the_worker_s_end_between_messages(pair: tuple[socket.socket, socket.socket]) -> None:
    mine, theirs = pair
    transport = SocketTransport(mine, "worker echo")
    theirs.close()
    with pytest.raises(WorkerLostError, match=r"worker echo is lost \(the worker ended\).* send the data anew"):
        transport.wait()
    transport.close()


def test_the_worker_s_end_in_the_middle_of_a_message(pair: tuple[socket.socket, socket.socket]) -> None:
    mine, theirs = pair
    transport = SocketTransport(mine, "worker echo")
    theirs.sendall(header(100, 0) + b"x")
    theirs.close()
    with pytest.raises(WorkerLostError, match="in the middle of a message"):
        transport.wait()
    transport.close()


def test_poll_finds_the_end_and_says_nothing(pair: tuple[socket.socket, socket.socket]) -> None:
    mine, theirs = pair
    transport = SocketTransport(mine, "worker echo")
    with served(theirs, EchoWorker()):
        greet(transport)
    transport.poll()
    with pytest.raises(WorkerLostError, match="worker echo"):
        transport.send(Hide(1))
    with pytest.raises(WorkerLostError, match="worker echo"):
        transport.wait()
    transport.close()


def test_a_worker_that_breaks_the_protocol(pair: tuple[socket.socket, socket.socket]) -> None:
    mine, theirs = pair
    transport = SocketTransport(mine, "worker echo")
    theirs.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
    for _ in range(2):
        with pytest.raises(ProtocolError):
            transport.wait()
    transport.close()


def test_a_refusal_comes_before_the_loss(pair: tuple[socket.socket, socket.socket]) -> None:
    mine, theirs = pair
    transport = SocketTransport(mine, "worker echo")
    theirs.sendall(frame(Refused("because")))
    theirs.close()
    assert next_event(transport)[0] == Refused("because")
    with pytest.raises(WorkerLostError):
        transport.wait()
    transport.close()


def test_a_refusal_is_delivered_although_sending_fails_first(pair: tuple[socket.socket, socket.socket]) -> None:
    mine, theirs = pair
    transport = SocketTransport(mine, "worker echo")
    theirs.sendall(frame(Refused("because")))
    theirs.close()
    with contextlib.suppress(WorkerLostError):
        for _ in range(20):
            transport.send(Put(1, meta_for(2**20)), bytes(2**20))
            time.sleep(0.01)
    transport.wait()
    assert [event.message for event in transport.events] == [Refused("because")]
    transport.close()


@pytest.mark.parametrize("size", [100, 8 * 2**20])
def test_a_worker_that_refuses_is_heard_whatever_else_was_sent(
    pair: tuple[socket.socket, socket.socket], size: int
) -> None:
    mine, theirs = pair

    def refusing() -> None:
        with theirs, contextlib.suppress(OSError):
            try:
                serve(theirs, EchoWorker())
            except ProtocolError as error:
                refuse(theirs, Refused(str(error)))

    thread = threading.Thread(target=refusing)
    thread.start()
    stream = Stream(mine)
    with contextlib.suppress(OSError):
        stream.enqueue([b"x" * size])
        while not stream.write():
            stream.wait(readable=False, writable=True)
    thread.join(20)
    assert not thread.is_alive()
    transport = SocketTransport(mine, "worker echo")
    message, _ = next_event(transport)
    assert isinstance(message, Refused)
    assert "wrong first bytes" in message.reason
    transport.close()


def test_nobody_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(WorkerLostError, match=f"--listen 127.0.0.1:{port}"):
        connect("127.0.0.1", port, "worker nobody")


@pytest.mark.parametrize(
    "host",
    ["hospital.example", "192.0.2.1", "2001:db8::1", "0.0.0.0", "::", "localhost.example", "127.0.0.1.example", "127.1"]
    + ["x" * 100, "", "LOCALHOST\0", "\ud800"],
)
def test_nobody_connects_to_another_machine_without_an_identity(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor looks its name up."""
    for call in ("create_connection", "getaddrinfo", "socket"):
        monkeypatch.setattr(socket, call, lambda *arguments, **named: pytest.fail("it tried to connect"))
    with pytest.raises(IdentityError, match="neither encrypted nor authenticated. Give both: identity= .* and trust="):
        connect(host, 80, "worker nobody")


# --- addresses


@pytest.mark.parametrize("host", ["localhost", "LocalHost", "127.0.0.1", "127.8.9.10", "::1"])
def test_this_machine_by_whatever_name(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize(
    ("address", "parsed"),
    [
        ("127.0.0.1:7700", ("127.0.0.1", 7700)),
        ("localhost:1", ("localhost", 1)),
        ("[::1]:65535", ("::1", 65535)),
        ("[fe80::1%lo]:80", ("fe80::1%lo", 80)),
    ],
)
def test_an_address_and_its_text(address: str, parsed: tuple[str, int]) -> None:
    assert parse_address(address) == parsed
    assert format_address(*parsed) == address


@pytest.mark.parametrize(
    "address",
    [
        *("", ":", "127.0.0.1", "7700", "localhost:", ":7700", "[]:7700", "[::1]", "::1:7700", "[127.0.0.1]:7700"),
        *("127.0.0.1:http", "127.0.0.1:-1", "127.0.0.1:²", "127.0.0.1:٣", "127.0.0.1:+1", "127.0.0.1: 1", "a b:1"),
        *("127.0.0.1:65536", "127.0.0.1:" + "9" * 5000, "127.0.0.1:1\n", 7700, None, b"127.0.0.1:7700", ("::1", 1)),
    ],
)
def test_what_is_no_address(address: object) -> None:
    with pytest.raises(PtrTensorError, match=r"HOST:PORT, for instance 127\.0\.0\.1:7700 or \[::1\]:7700"):
        parse_address(address)


def test_port_0_is_for_those_who_listen() -> None:
    assert parse_address("[::1]:0", lowest_port=0) == ("::1", 0)
    with pytest.raises(PtrTensorError, match="from 1 to 65535"):
        parse_address("[::1]:0")


# --- a worker's end


def test_serving_ends_when_the_client_leaves(pair: tuple[socket.socket, socket.socket]) -> None:
    mine, theirs = pair
    mine.sendall(frame(HELLO) + frame(Fetch(1, 2)) + frame(Fetch(2, 3))[:20])
    mine.shutdown(socket.SHUT_WR)
    worker = EchoWorker()
    worker.serve(theirs)
    assert worker.error is None
    assert worker.messages == [HELLO, Fetch(1, 2)]


def test_what_came_before_an_offence_is_answered(pair: tuple[socket.socket, socket.socket]) -> None:
    mine, theirs = pair
    mine.sendall(frame(HELLO) + frame(Synchronize(5)) + b"x" * 16)
    worker = EchoWorker()
    with pytest.raises(ProtocolError, match="wrong first bytes"):
        serve(theirs, worker)
    theirs.close()
    transport = SocketTransport(mine, "worker echo")
    answers = [next_event(transport)[0] for _ in range(3)]
    assert answers[1:] == [Acknowledged(0, []), Done(5)]
    transport.close()


def test_a_client_that_does_not_read_makes_the_worker_wait(pair: tuple[socket.socket, socket.socket]) -> None:
    """The answers of such a client must not fill the worker's memory."""
    mine, theirs = pair
    worker = EchoWorker()
    with served(theirs, worker):
        mine.sendall(frame(HELLO) + frame(Put(1, meta_for(2**20)), bytes(2**20)))
        for number in range(50):
            mine.sendall(frame(Fetch(number, 1)))
        deadline = time.monotonic() + 10
        while len(worker.messages) < 3 and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(0.2)
        assert 3 <= len(worker.messages) < 20
    assert worker.error is None or isinstance(worker.error, OSError)


# --- Ctrl-C


def once(events: list[Message]) -> list[Message]:
    """Without those that came twice in a row."""
    return [event for place, event in enumerate(events) if place == 0 or event is not events[place - 1]]


def test_no_interruption_of_wait_loses_a_message_or_hangs() -> None:
    data = frame(Done(1)) + frame(Value(2, meta_for(100_000)), bytes(100_000)) + frame(Done(3))
    at = 0
    happened = True
    while happened:
        at += 1
        mine, theirs = unix_pair()
        with mine, theirs:
            transport = SocketTransport(mine, "worker echo")
            theirs.sendall(frame(WELCOME))
            next_event(transport)
            theirs.sendall(data)
            taken: list[Message] = []

            def take(transport: SocketTransport = transport, taken: list[Message] = taken) -> None:
                while len(once(taken)) < 3:
                    transport.wait()
                    taken.append(transport.events[0].message)
                    transport.events.popleft()

            happened = interrupted(take, at, PACKAGE)
            assert completes(take, mine), f"waits forever after an interruption at place {at}"
            assert [getattr(message, "request", None) for message in once(taken)] == [1, 2, 3], f"place {at}"
            transport.close()
    assert at > 30


@pytest.mark.parametrize("method", ["send", "poll"])
def test_no_interruption_of_send_and_poll_breaks_the_connection(method: str) -> None:
    at = 0
    happened = True
    while happened:
        at += 1
        mine, theirs = unix_pair()
        worker = EchoWorker()
        transport = SocketTransport(mine, "worker echo")
        with contextlib.closing(transport), served(theirs, worker):
            greet(transport)
            mine.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)

            def act(transport: SocketTransport = transport) -> None:
                if method == "send":
                    transport.send(Put(1, meta_for(50_000)), bytes(50_000))
                    transport.send(Fetch(1, 1))
                else:
                    transport.send(Synchronize(1))
                    for _ in range(3):
                        transport.poll()

            def finish(transport: SocketTransport = transport) -> None:
                transport.send(Synchronize(99))
                while next_event(transport)[0] != Done(99):
                    pass

            happened = interrupted(act, at, PACKAGE)
            assert completes(finish, mine), f"hangs after an interruption at place {at}"
            assert worker.error is None, f"place {at}"
    assert at > 30


@pytest.mark.parametrize("early", [True, False])
def test_a_value_overtakes_the_rest_of_a_batch(pair: tuple[socket.socket, socket.socket], early: bool) -> None:
    mine, theirs = pair
    looked = threading.Event()

    class Pausing(EchoWorker):
        def handle(self, message: ClientMessage, payload: memoryview) -> Iterable[tuple[WorkerMessage, Buffer | None]]:
            if isinstance(message, Batch):
                mine.sendall(frame(Fetch(5, 1, early)) + frame(Fetch(6, 2, early)))
                time.sleep(0.001)
                self.look()
                self.look()  # so soon after the other it does nothing
                looked.set()
            return super().handle(message, payload)

    mine.sendall(frame(HELLO) + frame(Put(1, meta_for(3)), b"abc") + frame(Batch(0, 1, [])))
    with served(theirs, Pausing()):
        transport = SocketTransport(mine, "worker echo")
        answers = [next_event(transport)[0] for _ in range(4)]
        assert looked.wait(5)
        transport.close()
    order = [Value, Acknowledged, Missing] if early else [Acknowledged, Value, Missing]
    assert [type(answer) for answer in answers[1:]] == order


def test_progress_is_told_of_what_is_long_and_its_end(pair: tuple[socket.socket, socket.socket]) -> None:
    mine, theirs = pair
    sent: list[tuple[int, int]] = []
    received: list[tuple[int, int]] = []
    size = 2 * LONG_BYTES
    with served(theirs, EchoWorker()):
        transport = SocketTransport(
            mine,
            "worker echo",
            lambda done, total: sent.append((done, total)),
            lambda done, total: received.append((done, total)),
        )
        greet(transport)
        assert sent == [] and set(received) <= {(0, 0)}
        received.clear()
        transport.send(Put(1, meta_for(size)), bytes(size))
        transport.send(Fetch(1, 1))
        assert len(next_event(transport)[1]) == size
        transport.close()
    total = sent[-1][1]
    assert size < total < size + 1000 and sent[-1] == (total, total) and sent == sorted(sent)
    assert received[-1] == (0, 0) and received[:-1] == sorted(received[:-1])
    assert {total for _, total in received[:-1]} == {size}


def test_what_a_client_leaves_is_freed_when_it_leaves(pair: tuple[socket.socket, socket.socket]) -> None:
    mine, theirs = pair
    mine.close()
    worker = EchoWorker()
    left = weakref.ref(worker)
    gc.disable()
    try:
        with theirs:
            serve(theirs, worker)
        del worker
        assert left() is None
    finally:
        gc.enable()
