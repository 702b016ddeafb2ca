"""Frames of chance, with seeds: each is answered or refused, by a `ProtocolError` and nothing else.

The suite tries a few; PTRTENSOR_FUZZ_FRAMES=100000 (`make fuzz-frames`) as many as that.
"""

import contextlib
import os
import ssl
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
import torch
from by_hand import At, ByHand
from hypothesis import given, settings
from hypothesis import strategies as st
from intruding import Besieged, Intruder, LinkWay, besieged, no_leaks, secure
from mutations import BEGIN, Mutator, conversation
from wire_samples import frame

from ptrtensor._torch.memory import allocate, meta_of
from ptrtensor.errors import MessageTooLargeError, ProtocolError
from ptrtensor.owner import status
from ptrtensor.owner.hosted_session import Patience
from ptrtensor.owner.sessions import Limits
from ptrtensor.transport.resumable import HEADER, NO_TOKEN, PING, PONG, Link, Opening, end, framed
from ptrtensor.transport.serving import encoded
from ptrtensor.version import __version__
from ptrtensor.wire.connection import worker_connection
from ptrtensor.wire.control import Publication, Quota
from ptrtensor.wire.messages import Done, Refused, Synchronize, WorkerMessage
from ptrtensor.worker.identity import Identity
from ptrtensor.worker.session import Session

FRAMES: Final = int(os.environ.get("PTRTENSOR_FUZZ_FRAMES", "4000"))
PARTS: Final = 4
"""Tests of their own, so that they run beside each other and a seed that fails is soon found."""

pytestmark = pytest.mark.timeout(3600 if FRAMES > 10_000 else 300)

SECRET: Final = torch.full((2, 3), 7.25)
LARGEST_PAYLOAD: Final = 64 * 1024 * 1024


def reserve(size: int) -> memoryview:
    """As a session under a limit of memory reserves it."""
    if size > LARGEST_PAYLOAD:
        raise MessageTooLargeError(f"there is no memory for a payload of {size} bytes")
    return allocate(size)


class Target:
    """A session with private data, and the connection to it; one that was refused is taken the place of."""

    def __init__(self) -> None:
        self.connection = worker_connection(reserve)
        identity = Identity("bob", __version__, str(torch.__version__))
        self.session = Session(identity, quota=Quota(objects=500))
        self.refused = False
        self.session.publish(Publication("secret", ("#secret",), "", True, "", 0, meta_of(SECRET)), SECRET)

    def take(self, data: bytes) -> list[WorkerMessage]:
        """What the client is told. Only a rule that was broken ends the session."""
        told: list[WorkerMessage] = []
        try:
            try:
                self.connection.receive_data(data)
            finally:
                while (event := self.connection.next_event()) is not None:
                    for reply, payload in self.session.handle(event.message, event.payload):
                        told.append(reply)
                        said = b"".join(encoded(reply, payload))
                        assert SECRET.numpy().tobytes() not in said and b"7.25" not in said
                        self.refused |= isinstance(reply, Refused)
        except ProtocolError:
            self.refused = True
        return told


@pytest.mark.parametrize("part", range(PARTS))
def test_frames_to_a_session(part: int) -> None:
    """Of whole conversations some frames are changed. A session beside it goes on computing."""
    honest = ByHand()
    x = honest.put(torch.arange(6.0))
    frames, mutator, seen = conversation(), Mutator(part), 0
    target, refusals, replies, operations = Target(), 0, 0, 0
    while seen < FRAMES * 8 // 10 // PARTS:
        rest = mutator.chance.sample(frames[BEGIN:], 12)
        for place, said in enumerate(frames[:BEGIN] + rest):
            mutator.sequence = target.session.count(0).commands
            if mutator.chance.random() < (0.02 if place < BEGIN else 0.4):
                said = mutator.mutate(said)
                if mutator.chance.random() < 0.1:
                    said = mutator.splice(said, mutator.chance.choice(frames))
                seen += 1
            replies += len(target.take(said))
            if target.refused:
                refusals += 1
                break
        operations += target.session.count(0).operations
        target = Target()
        if seen % 50 == 0:
            doubled = honest.run("aten::add.Tensor", At(x), At(x), expect=[torch.zeros(6)])
            assert honest.fetch(doubled).tolist() == [0, 2, 4, 6, 8, 10]
            honest.drop(doubled)
    assert min(refusals, replies, operations) > seen // 10, "the mutations do neither harm nor good"


CONVERSATION: Final = conversation()

EDITS: Final = st.lists(st.tuples(st.integers(0, 400), st.integers(0, 8), st.binary(max_size=8)), max_size=4)
"""From a place on, so many bytes are taken out and these put in."""


@settings(max_examples=max(100, FRAMES // 100), deadline=None, derandomize=True)
@given(st.lists(st.tuples(st.integers(BEGIN, len(CONVERSATION) - 1), EDITS), min_size=1, max_size=4))
def test_frames_that_hypothesis_finds(changed: list[tuple[int, list[tuple[int, int, bytes]]]]) -> None:
    """Behind a beginning that is in order, and each frame changed by itself."""
    target = Target()
    for said in CONVERSATION[:BEGIN]:
        target.take(said)
    for place, edits in changed:
        said = CONVERSATION[place]
        for begin, count, bytes_ in edits:
            said = said[:begin] + bytes_ + said[begin + count :]
        if target.refused:
            break
        target.take(said)


def link_stream(mutator: Mutator) -> bytes:
    """Frames of the link, most of them in order."""
    chance, found = mutator.chance, b""
    for _ in range(chance.randrange(1, 8)):
        found += chance.choice(
            (
                PING,
                PONG,
                b"".join(framed(memoryview(chance.randbytes(chance.choice((0, 1, 40, 300)))))),
                HEADER.pack(2, 8) + struct.pack("<Q", mutator.number() % 2**64),
                end(chance.choice(("", "why", "é" * 50))),
                HEADER.pack(chance.randrange(256), mutator.number() % 2**32),
            )
        )
    return found


def test_frames_to_a_link() -> None:
    mutator, taken, refusals = Mutator(17), 0, 0
    for _ in range(FRAMES * 15 // 100):
        link = Link()
        link.send(memoryview(bytes(100)))
        data = mutator.flip(link_stream(mutator)) if mutator.chance.random() < 0.5 else link_stream(mutator)
        try:
            size = mutator.chance.choice((1, 5, 7, 1000))
            for begin in range(0, len(data), size):
                for _ in link.receive(memoryview(data[begin : begin + size])):
                    taken += 1
            list(link.resume(mutator.chance.choice((0, 50, 100, 101, 2**64 - 1))))
        except ProtocolError:
            refusals += 1
        assert 0 <= link.kept <= 100 and link.received <= len(data)
    assert taken and refusals


@pytest.mark.parametrize("count", [FRAMES // 10])
def test_openings(count: int) -> None:
    mutator = Mutator(23)
    opening = Opening(NO_TOKEN, 0).encode()
    for _ in range(count):
        data = mutator.chance.choice((mutator.flip, mutator.double))(opening)[: len(opening)].ljust(len(opening), b"\0")
        with contextlib.suppress(ProtocolError):
            Opening.decode(data)


# --- over a real server


@pytest.fixture(scope="module")
def hospital(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Besieged]:
    with besieged(
        tmp_path_factory.mktemp("fuzzed"),
        limits=Limits(memory=400 * 1024 * 1024, objects=5000),
        patience=Patience(lease=5, keep_alive=60, handshake=2),
        policy='[[rule]]\nclients = ["alice"]\nread = "ask"\n',
    ) as opened:
        yield opened
        opened.check_it_lets_in()


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(status, "RATE_SECONDS", 0.0)


def test_frames_to_the_server(hospital: Besieged) -> None:
    """A session that was refused is begun anew, a few times."""
    mutator, frames, seen = Mutator(29), conversation(), 0
    hospital.check_it_serves()
    with no_leaks():
        for _ in range(max(3, FRAMES // 2000)):
            with contextlib.closing(Intruder(hospital)) as intruder:
                intruder.greet()
                while seen < FRAMES:
                    said = mutator.mutate(mutator.chance.choice(frames[1:-1]))
                    intruder.raw(said)
                    seen += 1
                    if seen % 20 == 0:
                        intruder.raw(frame(Synchronize(seen)))
                    if mutator.chance.random() < 0.2 or seen % 20 == 0:
                        intruder.socket.connection.settimeout(0.05)
                        try:
                            if intruder.hear() is None:
                                break
                        except TimeoutError:
                            pass
                        except (ProtocolError, ssl.SSLError):
                            break
                        finally:
                            intruder.socket.connection.settimeout(30)
            hospital.check_it_serves()
        hospital.wait_until_left("alice")
    assert [record for record in hospital.news() if record["event"] == "session ended"]


def test_bytes_to_the_servers_door(hospital: Besieged, tmp_path: Path) -> None:
    mutator = Mutator(31)
    opening = Opening(b"\1" * 32, 5).encode()
    hospital.check_it_serves()
    with no_leaks():
        for _ in range(max(30, FRAMES // 50)):
            with secure(hospital, hospital.folder / "alice") as connection, contextlib.suppress(OSError):
                connection.sendall(b"ptl\1" + mutator.flip(opening)[4:] + link_stream(mutator))
                connection.settimeout(5)
                while connection.recv(4096):
                    pass
    hospital.check_it_serves()


def test_a_link_that_is_opened_again_and_again(hospital: Besieged) -> None:
    """With what a chance says that it received, and half frames before."""
    mutator = Mutator(37)
    with no_leaks(), contextlib.closing(Intruder(hospital)) as intruder:
        intruder.greet()
        way = intruder.socket
        for _ in range(20):
            way.frames(link_stream(mutator)[: mutator.chance.randrange(4)])
            with contextlib.suppress(OSError, ProtocolError):
                again = LinkWay(hospital, hospital.folder / "alice", way.token, way.link)
                way.close()
                way = intruder.socket = again
        assert intruder.answer(Synchronize(5)) == Done(5)
    hospital.check_it_serves()
