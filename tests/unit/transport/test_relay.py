"""Relays: what this machine's sides say arrives whole over connections that break, and whoever must wait waits."""

import contextlib
import random
import select
import socket
import ssl
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any, Final

import pytest
from certificates import odd_identity, trusting

from ptrtensor.errors import ProtocolError
from ptrtensor.transport import resumable
from ptrtensor.transport.relay import CHUNK_BYTES, Connected, Relay
from ptrtensor.transport.resumable import (
    HEADER,
    KEPT_BYTES,
    OFFSET,
    PING,
    PONG,
    Data,
    End,
    Kind,
    Link,
    Ping,
    end,
    framed,
)
from ptrtensor.transport.tls import Credentials, context

DEADLINE: Final = 20.0
"""After so many seconds a test gives up what should happen at once."""

NEVER: Final = 3600.0

pytestmark = pytest.mark.timeout(240)

Pair = tuple[socket.socket, socket.socket]


def pair() -> Pair:
    mine, theirs = socket.socketpair()
    mine.settimeout(DEADLINE)
    return mine, theirs


def some_bytes(size: int, seed: int) -> bytes:
    return random.Random(seed).randbytes(size)


def read_exactly(sock: socket.socket, count: int) -> bytes:
    data = bytearray()
    while len(data) < count:
        more = sock.recv(min(count - len(data), 65536))
        assert more, f"closed after {len(data)} of {count} bytes"
        data += more
    return bytes(data)


def read_rest(sock: socket.socket) -> bytes:
    """Everything until the other end closes."""
    data = bytearray()
    while more := sock.recv(65536):
        data += more
    return bytes(data)


class Side:
    """A relay with a thread of its own, and `app`: what this machine's side has of its socket."""

    def __init__(self, keep_alive_seconds: float = NEVER, why: Callable[[], str] = str) -> None:
        self.app, local = pair()
        self.relay = Relay(local, keep_alive_seconds, why)
        self._thread = ThreadPoolExecutor(1)

    def run(self, remote: Connected, received: int = 0) -> "Future[bool]":
        def run() -> bool:
            with contextlib.closing(remote):
                return self.relay.run(remote, received)

        return self._thread.submit(run)

    def close(self) -> None:
        self.app.close()
        self.relay.stop()
        self._thread.shutdown()
        self.relay.close()


@contextlib.contextmanager
def side(keep_alive_seconds: float = NEVER, why: Callable[[], str] = str) -> Iterator[Side]:
    made = Side(keep_alive_seconds, why)
    try:
        yield made
    finally:
        made.close()


@contextlib.contextmanager
def played(one: Side, received: int = 0) -> Iterator[tuple[socket.socket, "Future[bool]"]]:
    """A relay runs over a connection whose other end the test plays."""
    peer, remote = pair()
    with peer:
        yield peer, one.run(remote, received)


class Peer:
    """The other end of a connection, read frame by frame."""

    def __init__(self, sock: socket.socket) -> None:
        self.link = Link()
        self.data = bytearray()
        self.pings = 0
        self.reason: str | None = None
        self._sock = sock

    def read(self) -> bool:
        """Take in what comes next; whether the connection goes on."""
        part = self._sock.recv(65536)
        for event in self.link.receive(memoryview(part)):
            match event:
                case Data(view):
                    self.data += view
                case Ping():
                    self.pings += 1
                case End(reason):
                    self.reason = reason
        return bool(part)

    def read_until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            assert self.read(), "the relay closed the connection"

    def send(self, data: bytes) -> None:
        self._sock.sendall(b"".join(self.link.send(memoryview(data))))


def received_frame(count: int) -> bytes:
    return HEADER.pack(Kind.RECEIVED, OFFSET.size) + OFFSET.pack(count)


def data_frame(chunk: bytes) -> bytes:
    return b"".join(framed(memoryview(chunk)))


# --- two relays, back to back


def carry(one: socket.socket, other: socket.socket, limit: int) -> None:
    """Between two relays: carry bytes both ways until one way has had `limit`, then cut both."""
    left = {one: limit, other: limit}
    across = {one: other, other: one}
    with one, other, contextlib.suppress(OSError):
        while all(left.values()):
            readable, _, _ = select.select([one, other], [], [], DEADLINE)
            for sock in readable:
                data = sock.recv(min(65536, left[sock]))
                if not data:
                    return
                left[sock] -= len(data)
                across[sock].sendall(data)


def converse(limits: list[int], sizes: tuple[int, int]) -> int:
    """Two sides send each other so many bytes over connections that are cut; how many connections broke."""
    data = some_bytes(sizes[0], 1), some_bytes(sizes[1], 2)
    broken = 0
    with contextlib.ExitStack() as stack:
        sides = stack.enter_context(side(why=lambda: "that was all")), stack.enter_context(side())
        links = [one.relay.link for one in sides]
        pool = stack.enter_context(ThreadPoolExecutor(6))
        for one, mine in zip(sides, data, strict=True):
            pool.submit(one.app.sendall, mine)
        got = [pool.submit(read_exactly, one.app, sizes[1 - place]) for place, one in enumerate(sides)]
        for limit in [*limits, 10**12]:
            (near, left), (right, far) = pair(), pair()
            carried = pool.submit(carry, left, right, limit)
            counts = links[0].received, links[1].received
            running = sides[0].run(near, counts[1]), sides[1].run(far, counts[0])
            steps: list[Future[Any]] = [carried, *got]
            while not carried.done() and not all(one.done() for one in got):
                awaited = [step for step in steps if not step.done()]
                assert wait(awaited, DEADLINE, FIRST_COMPLETED).done, "nothing moves any more"
            if carried.done():
                for future in running:
                    assert isinstance(future.exception(DEADLINE), OSError)
                broken += 1
                continue
            assert [one.result() for one in got] == [data[1], data[0]]
            sides[0].app.close()
            assert running[0].result(DEADLINE) and running[1].result(DEADLINE)
            assert sides[0].relay.ended is None and sides[1].relay.ended == "that was all"
            carried.result(DEADLINE)
            return broken
    raise AssertionError("the last connection was cut too")


@pytest.mark.parametrize("sizes", [(1, 1), (100, 0), (3_000_000, 2_000_000), (0, 5_000_000)])
def test_what_is_sent_arrives(sizes: tuple[int, int]) -> None:
    assert converse([], sizes) == 0


def test_connections_cut_at_each_of_the_first_bytes() -> None:
    """A frame's header, its body and the next header."""
    assert converse(list(range(1, 60)), (100_000, 100_000)) == 59


def test_connections_cut_anywhere() -> None:
    places = random.Random(3)
    limits = [places.choice([100, 10_000, 200_000, 600_000]) + places.randrange(100) for _ in range(25)]
    assert converse(limits, (4_000_000, 3_000_000)) >= 10


def test_connections_cut_while_one_side_only_listens() -> None:
    assert (
        converse([1, 7, 70_000, CHUNK_BYTES, CHUNK_BYTES + 5, CHUNK_BYTES + 6, 2 * CHUNK_BYTES], (0, 12_000_000)) == 7
    )


def test_over_tls(tmp_path: Path) -> None:
    bob, alice = odd_identity(tmp_path / "bob"), odd_identity(tmp_path / "alice")
    trusted = trusting(tmp_path / "trusted", bob, alice)
    plain = pair()
    sizes = 3_000_000, 2_000_000
    with ThreadPoolExecutor(6) as pool, side() as one, side() as other:
        server = pool.submit(context(Credentials(bob, trusted), server=True).wrap_socket, plain[0], server_side=True)
        client = context(Credentials(alice, trusted), server=False).wrap_socket(plain[1])
        running = one.run(client), other.run(server.result(DEADLINE))
        pool.submit(one.app.sendall, some_bytes(sizes[0], 1))
        pool.submit(other.app.sendall, some_bytes(sizes[1], 2))
        here = pool.submit(read_exactly, one.app, sizes[1])
        assert read_exactly(other.app, sizes[0]) == some_bytes(sizes[0], 1)
        assert here.result(DEADLINE) == some_bytes(sizes[1], 2)
        other.app.close()
        assert running[0].result(DEADLINE) and running[1].result(DEADLINE)
        assert one.relay.ended == ""


# --- the end


def test_the_peer_hears_why_this_side_ended() -> None:
    with side(why=lambda: "no memory left") as one, played(one) as (sock, running):
        one.app.sendall(b"last words")
        one.app.close()
        peer = Peer(sock)
        while peer.read():
            pass
        assert (bytes(peer.data), peer.reason) == (b"last words", "no memory left")
        assert running.result(DEADLINE)
        assert one.relay.ended is None


def test_what_came_before_the_end_is_delivered_to_who_reads_late() -> None:
    data = some_bytes(3_000_000, 1)
    with side() as one, played(one) as (sock, running):
        with ThreadPoolExecutor(1) as pool:
            sending = pool.submit(sock.sendall, data_frame(data) + end("stopped"))
            assert not wait([sending], 0.1).done, "nobody has read yet"
            assert read_exactly(one.app, len(data)) == data
            sending.result(DEADLINE)
        assert running.result(DEADLINE)
        assert one.relay.ended == "stopped"
        one.relay.close()
        assert one.app.recv(1) == b""


def test_an_end_that_came_is_heard_though_the_peer_takes_nothing_any_more() -> None:
    """It said why and hung up while this side still had something to say: to connect again would be in vain."""
    with side() as one:
        one.app.sendall(b"more")
        peer, remote = pair()
        peer.sendall(data_frame(b"answer") + end("the worker was stopped"))
        peer.close()
        assert one.run(remote).result(DEADLINE)
        assert one.relay.ended == "the worker was stopped"
        assert one.app.recv(100) == b"answer"


def test_who_left_is_told_nothing_and_the_end_goes_out_on_the_next_connection() -> None:
    """The connection broke before the peer heard that this side had left."""
    with side(why=lambda: "bye") as one:
        with played(one) as (sock, running):
            one.app.sendall(b"abc")
            assert read_exactly(sock, HEADER.size + 3) == data_frame(b"abc")
        assert isinstance(running.exception(DEADLINE), OSError)
        one.app.close()
        with played(one, 2) as (sock, running):
            assert read_rest(sock) == data_frame(b"c") + end("bye")
            assert running.result(DEADLINE)


def test_stop_ends_the_session_with_a_reason() -> None:
    with side(why=lambda: "the worker was stopped") as one, played(one) as (sock, running):
        one.relay.stop()
        assert running.result(DEADLINE)
        assert read_rest(sock) == end("the worker was stopped")


def test_stop_before_there_is_a_connection() -> None:
    with side(why=lambda: "stopped") as one:
        one.relay.stop()
        with played(one) as (sock, running):
            assert running.result(DEADLINE)
            assert read_rest(sock) == end("stopped")


@contextlib.contextmanager
def flooded(sock: socket.socket, frames: bytes) -> Iterator[None]:
    """The peer sends these on and on, faster than they can be read."""
    over = threading.Event()

    def flood() -> None:
        with contextlib.suppress(OSError):
            while not over.is_set():
                sock.sendall(frames)

    with ThreadPoolExecutor(1) as pool:
        sending = pool.submit(flood)
        try:
            yield
        finally:
            over.set()
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
            sending.result(DEADLINE)


@pytest.mark.parametrize("frame", [PING, data_frame(b""), received_frame(0)], ids=["ping", "data", "received"])
def test_a_peer_that_sends_on_and_on_does_not_keep_it_from_the_rest(frame: bytes) -> None:
    """It can be stopped, for one."""
    with side(why=lambda: "enough") as one, played(one) as (sock, running):
        with flooded(sock, frame * 50_000):
            peer = Peer(sock)
            assert not wait([running], 0.1).done
            one.relay.stop()
            peer.read_until(lambda: peer.reason == "enough")
            assert running.result(DEADLINE)


def test_a_peer_that_never_takes_the_end_is_given_up() -> None:
    """Though it goes on giving signs of life."""
    with side(keep_alive_seconds=0.2) as one, played(one) as (sock, running):
        one.app.settimeout(0.1)
        with contextlib.suppress(TimeoutError):
            while True:
                one.app.send(bytes(CHUNK_BYTES))
        one.relay.stop()
        while not running.done():
            with contextlib.suppress(OSError):
                sock.sendall(PONG)
            wait([running], 0.05)
        assert isinstance(running.exception(DEADLINE), TimeoutError)


def test_nor_is_it_waited_for_when_there_is_no_time() -> None:
    with side() as one, played(one) as (_, running):
        one.app.settimeout(0.1)
        with contextlib.suppress(TimeoutError):
            while True:
                one.app.send(bytes(CHUNK_BYTES))
        one.relay.stop()
        assert not wait([running], 0.2).done
        one.relay.give_up()
        assert isinstance(running.exception(DEADLINE), ConnectionAbortedError)


def test_stop_is_heard_by_a_peer_that_has_acknowledged_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resumable, "KEPT_BYTES", 1000)
    with side(why=lambda: "stopped") as one, played(one) as (sock, running):
        one.app.sendall(bytes(1000))
        peer = Peer(sock)
        peer.read_until(lambda: len(peer.data) == 1000)
        assert not one.relay.link.has_room
        one.relay.stop()
        assert running.result(5.0), "waits for room before it says that it stops"
        while peer.read():
            pass
        assert peer.reason == "stopped"


def test_what_comes_for_a_side_that_has_left_is_dropped() -> None:
    with side() as one, played(one) as (sock, running):
        one.app.close()
        with contextlib.suppress(OSError):
            sock.sendall(data_frame(bytes(1000)))
        assert running.result(DEADLINE)


def test_close_tells_this_side() -> None:
    with side() as one:
        one.relay.close()
        assert one.app.recv(1) == b""
        one.relay.interrupt()
        one.relay.stop()


# --- connections that break


@pytest.mark.parametrize("said", [b"", b"\x01", data_frame(b"abc"), data_frame(b"abc")[:-1], PING])
def test_a_peer_that_hangs_up_breaks_the_connection(said: bytes) -> None:
    with side() as one:
        with played(one) as (sock, running):
            sock.sendall(said)
        assert isinstance(running.exception(DEADLINE), OSError)
        assert one.relay.ended is None
        rest = data_frame(b"abc")[HEADER.size + one.relay.link.received :]
        with played(one) as (sock, running):
            sock.sendall((data_frame(rest) if rest else b"") + end("done"))
            assert running.result(DEADLINE)
        assert one.app.recv(100) == b"abc"


@pytest.mark.parametrize(
    ("said", "message"),
    [
        (HEADER.pack(9, 0), "unknown kind"),
        (received_frame(1), "received 1 bytes of 0"),
        (b"HTTP/1.1 200 OK\r\n", "unknown kind"),
    ],
)
def test_a_peer_that_breaks_a_rule(said: bytes, message: str) -> None:
    with side() as one, played(one) as (sock, running):
        sock.sendall(said)
        with pytest.raises(ProtocolError, match=message):
            running.result(DEADLINE)


def test_a_peer_that_cannot_have_so_much() -> None:
    with side() as one, played(one, 1) as (_, running), pytest.raises(ProtocolError, match="possible are 0 to 0"):
        running.result(DEADLINE)


def test_another_connection_takes_its_place_and_nothing_is_lost() -> None:
    with side() as one:
        with played(one) as (sock, running):
            one.app.sendall(b"abcdef")
            sock.sendall(data_frame(b"123456")[: HEADER.size + 2])
            assert read_exactly(sock, HEADER.size + 6) == data_frame(b"abcdef")
            assert read_exactly(one.app, 2) == b"12"
            one.relay.interrupt()
            assert isinstance(running.exception(DEADLINE), ConnectionAbortedError)
        one.relay.rearm()
        with played(one, 4) as (sock, running):
            assert one.relay.link.received == 2
            sock.sendall(data_frame(b"3456") + PING)
            assert read_exactly(sock, HEADER.size + 2) == data_frame(b"ef")
            assert read_exactly(one.app, 4) == b"3456"
            one.app.close()
            assert running.result(DEADLINE)


@pytest.mark.parametrize("times", [1, 3, 200])
def test_an_interruption_counts_for_the_next_connection_until_rearmed(times: int) -> None:
    with side() as one:
        for _ in range(times):
            one.relay.interrupt()
        with played(one) as (_, running):
            assert isinstance(running.exception(DEADLINE), ConnectionAbortedError)
        for _ in range(times):
            one.relay.interrupt()
        one.relay.rearm()
        with played(one) as (sock, running):
            one.app.sendall(b"abc")
            assert read_exactly(sock, HEADER.size + 3) == data_frame(b"abc")
            sock.sendall(end(""))
            assert running.result(DEADLINE)


def test_an_interruption_never_waits() -> None:
    """Whoever interrupts accepts connections, and nobody need be running."""
    with side() as one:

        def interrupt() -> None:
            for _ in range(5000):
                one.relay.interrupt()

        thread = threading.Thread(target=interrupt, daemon=True)
        thread.start()
        thread.join(5)
        waits = thread.is_alive()
        while thread.is_alive():
            one.relay.rearm()
        assert not waits


# --- signs of life


def test_a_silent_peer_is_asked_and_then_given_up() -> None:
    with side(keep_alive_seconds=0.3) as one, played(one) as (sock, running):
        assert isinstance(running.exception(DEADLINE), TimeoutError)
        asked = read_rest(sock)
        assert asked and asked.replace(PING, b"") == b""


def test_a_peer_that_answers_is_kept() -> None:
    keep_alive = 0.3
    with side(keep_alive) as one, played(one) as (sock, running):
        peer = Peer(sock)
        answered = 0
        while answered < 5:  # more than three times `keep_alive`
            assert peer.read()
            sock.sendall((peer.pings - answered) * resumable.PONG)
            answered = peer.pings
        assert not running.done()
        sock.sendall(end(""))
        assert running.result(DEADLINE)


def test_a_ping_is_answered() -> None:
    with side() as one, played(one) as (sock, running):
        sock.sendall(PING + data_frame(b"ab") + PING)
        assert read_exactly(sock, 2 * len(resumable.PONG)) == 2 * resumable.PONG
        sock.sendall(end(""))
        assert running.result(DEADLINE)


def test_a_peer_is_not_given_up_while_this_side_is_the_one_that_does_not_read() -> None:
    """An operation may run for minutes while its session takes nothing; signs of life wait behind the data."""
    data = some_bytes(4_000_000, 1)
    with side(keep_alive_seconds=0.3) as one, played(one) as (sock, running), ThreadPoolExecutor(1) as pool:
        sending = pool.submit(sock.sendall, data_frame(data) + PING * 10 + end("done"))
        try:
            given_up = wait([running], 1.5).done
            assert not given_up, repr(running.exception())
            assert read_exactly(one.app, len(data)) == data
            assert running.result(DEADLINE)
        finally:
            sock.shutdown(socket.SHUT_RDWR)
            sending.exception(DEADLINE)


# --- who must wait


def test_a_side_that_does_not_read_makes_the_peer_wait() -> None:
    piece = data_frame(bytes(range(256)) * 256)
    count = 0
    with side() as one, played(one) as (sock, running):
        sock.settimeout(0.2)
        left = memoryview(b"")
        with contextlib.suppress(TimeoutError):
            while count < 1000:
                count, left = count + 1, memoryview(piece)
                while left:
                    left = left[sock.send(left) :]
        assert count < 100, "the relay took in 64 MB that nobody wanted"
        with ThreadPoolExecutor(1) as pool:
            sock.settimeout(DEADLINE)
            reading = pool.submit(read_exactly, one.app, count * 65536)
            sock.sendall(left)
            assert reading.result(DEADLINE) == bytes(range(256)) * 256 * count
        sock.sendall(end(""))
        assert running.result(DEADLINE)


def test_a_peer_that_does_not_read_makes_this_side_wait() -> None:
    data = some_bytes(16 * CHUNK_BYTES, 1)
    with side() as one, played(one) as (sock, running):
        one.app.settimeout(0.2)
        count = 0
        with contextlib.suppress(TimeoutError):
            while count < len(data):
                count += one.app.send(memoryview(data)[count : count + 65536])
        assert count < len(data) // 2
        with ThreadPoolExecutor(1) as pool:
            one.app.settimeout(DEADLINE)
            sending = pool.submit(one.app.sendall, memoryview(data)[count:])
            peer = Peer(sock)
            peer.read_until(lambda: len(peer.data) == len(data))
            sending.result(DEADLINE)
        assert peer.data == data
        sock.sendall(end(""))
        assert running.result(DEADLINE)


def test_a_peer_that_does_not_acknowledge_makes_this_side_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    assert KEPT_BYTES >= 4 * CHUNK_BYTES
    monkeypatch.setattr(resumable, "KEPT_BYTES", CHUNK_BYTES)  # no less: so much may come in one frame
    data = some_bytes(16 * CHUNK_BYTES, 1)
    with side() as one, played(one) as (sock, running), ThreadPoolExecutor(1) as pool:
        pool.submit(one.app.sendall, data)
        peer = Peer(sock)
        rounds = 0
        while len(peer.data) < len(data):
            before = len(peer.data)
            sock.settimeout(0.1)
            with contextlib.suppress(TimeoutError):
                while peer.read():
                    pass
            assert len(peer.data) < before + 2 * CHUNK_BYTES
            sock.settimeout(DEADLINE)
            sock.sendall(received_frame(len(peer.data)))
            rounds += 1
        assert rounds >= 5 and peer.data == data
        sock.sendall(end(""))
        assert running.result(DEADLINE)


def test_what_arrives_is_acknowledged() -> None:
    data = some_bytes(5 * resumable.ACKNOWLEDGE_BYTES, 1)
    with side() as one, played(one) as (sock, running), ThreadPoolExecutor(2) as pool:
        peer = Peer(sock)
        reading = pool.submit(read_exactly, one.app, len(data))

        def send() -> None:
            for start in range(0, len(data), 65536):
                peer.send(data[start : start + 65536])

        pool.submit(send).result(DEADLINE)
        peer.read_until(lambda: peer.link.kept < resumable.ACKNOWLEDGE_BYTES)
        assert reading.result(DEADLINE) == data
        sock.sendall(end(""))
        assert running.result(DEADLINE)


class Flood:
    """A connection on which pings come and come, and whose peer reads nothing."""

    def __init__(self, readable: socket.socket) -> None:
        self._readable = readable
        self._calls = 0

    def setblocking(self, flag: bool) -> None:
        pass

    def fileno(self) -> int:
        return self._readable.fileno()

    def recv_into(self, buffer: memoryview) -> int:
        self._calls += 1
        if self._calls % 5 == 0:
            raise BlockingIOError
        if self._calls > 50:
            raise ConnectionResetError
        buffer[: 2000 * len(PING)] = PING * 2000
        return 2000 * len(PING)

    def send(self, data: memoryview) -> int:
        raise BlockingIOError


class Watched(Relay):
    """Knows how much waited to go out at most."""

    most = 0

    def _finished(self, outward: deque[memoryview]) -> bool:
        self.most = max(self.most, len(outward))
        return super()._finished(outward)


def test_pings_of_a_peer_that_reads_nothing_do_not_fill_the_memory() -> None:
    (app, local), (near, far) = pair(), pair()
    near.sendall(b"x")
    flood: Any = Flood(far)
    relay = Watched(local, NEVER)
    with app, near, far, ThreadPoolExecutor(1) as pool:
        running = pool.submit(relay.run, flood, 0)
        wait([running], 1.0)
        relay.interrupt()
        assert isinstance(running.exception(DEADLINE), ConnectionError)
        relay.close()
    assert 0 < relay.most <= 20_000


def test_a_context_of_tls_breaks_as_a_plain_connection_does(tmp_path: Path) -> None:
    bob = odd_identity(tmp_path / "bob")
    credentials = Credentials(bob, trusting(tmp_path / "trusted", bob))
    near, far = pair()
    with ThreadPoolExecutor(1) as pool, side() as one:
        server = pool.submit(context(credentials, server=True).wrap_socket, near, server_side=True)
        client = context(credentials, server=False).wrap_socket(far)
        running = one.run(client)
        raw = socket.socket(fileno=server.result(DEADLINE).detach())
        raw.sendall(b"this is no record of TLS")
        error = running.exception(DEADLINE)
        raw.close()
        assert isinstance(error, ssl.SSLError)
