"""The link: any split of the bytes gives the same events, and a stream cut anywhere has each byte exactly once."""

import itertools
import random
import tracemalloc
from collections.abc import Iterable, Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ptrtensor.errors import ProtocolError, VersionMismatchError
from ptrtensor.transport import resumable
from ptrtensor.transport.resumable import (
    ACKNOWLEDGE_BYTES,
    CAREFUL_BYTES,
    HEADER,
    JOINED_BELOW_BYTES,
    KEPT_BYTES,
    LINK_VERSION,
    MAX_REASON_BYTES,
    NO_TOKEN,
    OFFSET,
    OPENING,
    PIECE_BYTES,
    PING,
    PONG,
    TOKEN_BYTES,
    Data,
    End,
    Event,
    Kind,
    Link,
    Opening,
    Ping,
    end,
    framed,
)

Seen = list[bytes | End | Ping]


def joined(frames: Iterable[memoryview]) -> bytes:
    return b"".join(frames)


def sent(link: Link, *chunks: bytes) -> bytes:
    """What goes over a connection when these chunks are sent."""
    return b"".join(joined(link.send(memoryview(chunk))) for chunk in chunks)


def data_frame(chunk: bytes) -> bytes:
    return joined(framed(memoryview(chunk)))


def received_frame(count: int) -> bytes:
    return HEADER.pack(Kind.RECEIVED, OFFSET.size) + OFFSET.pack(count)


def pieces(data: bytes, size: int) -> Iterator[bytes]:
    for start in range(0, len(data), size):
        yield data[start : start + size]


def together(events: Iterable[Event]) -> Seen:
    """Events, with data that follow each other as one."""
    found: Seen = []
    for event in events:
        if not isinstance(event, Data):
            found.append(event)
        elif found and isinstance(before := found[-1], bytes):
            found[-1] = before + bytes(event.view)
        else:
            found.append(bytes(event.view))
    return found


def seen(link: Link, parts: Iterable[bytes]) -> Seen:
    return together(itertools.chain.from_iterable(link.receive(memoryview(part)) for part in parts))


def stream(events: Seen) -> bytes:
    return b"".join(event for event in events if isinstance(event, bytes))


def link_that_sent(size: int) -> Link:
    link = Link()
    sent(link, bytes(size))
    return link


# --- any split


FRAMES: list[tuple[str, list[bytes], Seen]] = [
    ("data", [data_frame(b"abc")], [b"abc"]),
    ("one byte", [data_frame(b"a")], [b"a"]),
    ("two chunks", [data_frame(b"abc"), data_frame(b"defg")], [b"abcdefg"]),
    ("data of no bytes", [data_frame(b""), data_frame(b"ab"), data_frame(b"")], [b"ab"]),
    ("ping", [PING], [Ping()]),
    ("pings in a row", [PING, PING, PING], [Ping(), Ping(), Ping()]),
    ("pong", [PONG], []),
    ("received", [received_frame(7)], []),
    ("end", [end("enough")], [End("enough")]),
    ("end without a reason", [end("")], [End("")]),
    ("all kinds", [data_frame(b"ab"), PING, received_frame(9), PONG, data_frame(b"c"), end("é")], []),
    ("what looks like a frame", [data_frame(PING + end("no")), PING], [PING + end("no"), Ping()]),
]
FRAMES[10][2].extend([b"ab", Ping(), b"c", End("é")])


@pytest.mark.parametrize(("frames", "events"), [case[1:] for case in FRAMES], ids=[case[0] for case in FRAMES])
@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 6, 7, 13, 1000])
def test_pieces_of_any_size(frames: list[bytes], events: Seen, size: int) -> None:
    link = link_that_sent(20)
    assert seen(link, pieces(b"".join(frames), size)) == events
    assert link.received == len(stream(events))


@pytest.mark.parametrize(("frames", "events"), [case[1:] for case in FRAMES], ids=[case[0] for case in FRAMES])
def test_two_pieces_cut_anywhere(frames: list[bytes], events: Seen) -> None:
    data = b"".join(frames)
    for cut in range(len(data) + 1):
        assert seen(link_that_sent(20), [data[:cut], data[cut:]]) == events


frames_of_any_kind = st.lists(
    st.one_of(
        st.binary(max_size=40).map(lambda chunk: (data_frame(chunk), chunk)),
        st.just((PING, Ping())),
        st.just((PONG, b"")),
        st.integers(0, 20).map(lambda count: (received_frame(count), b"")),
        st.text("aé\U0001f600", max_size=10).map(lambda reason: (end(reason), End(reason))),
    ),
    max_size=12,
)


@given(frames=frames_of_any_kind, cuts=st.lists(st.integers(0, 600)))
def test_any_frames_in_any_pieces(frames: list[tuple[bytes, bytes | End | Ping]], cuts: list[int]) -> None:
    data = b"".join(frame for frame, _ in frames)
    places = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    wanted: Seen = []
    for _, event in frames:
        if event == b"":
            continue
        if isinstance(event, bytes) and wanted and isinstance(before := wanted[-1], bytes):
            wanted[-1] = before + event
        else:
            wanted.append(event)
    assert seen(link_that_sent(20), (data[begin:stop] for begin, stop in itertools.pairwise(places))) == wanted


def test_data_are_not_copied_on_arrival() -> None:
    buffer = bytearray(data_frame(b"abc"))
    (event,) = Link().receive(memoryview(buffer))
    buffer[-1:] = b"X"
    assert isinstance(event, Data) and bytes(event.view) == b"abX"


def test_what_came_before_an_offence_is_delivered() -> None:
    link = Link()
    events = link.receive(memoryview(data_frame(b"ab") + PING + HEADER.pack(77, 0)))
    assert isinstance(next(events), Data)
    assert next(events) == Ping()
    with pytest.raises(ProtocolError):
        next(events)
    assert link.received == 2


# --- offences


OFFENCES: list[tuple[str, bytes, str]] = [
    ("kind 0", HEADER.pack(0, 0), "unknown kind, 0"),
    ("kind 6", HEADER.pack(6, 1), "unknown kind, 6"),
    ("kind 255", HEADER.pack(255, 2**32 - 1), "unknown kind, 255"),
    ("http", b"GET / HTTP/1.1\r\n", "unknown kind, 71"),
    ("data too long", HEADER.pack(Kind.DATA, KEPT_BYTES + 1), f"DATA frame of {KEPT_BYTES + 1} bytes"),
    ("longest data", HEADER.pack(Kind.DATA, 2**32 - 1), "DATA frame of 4294967295 bytes"),
    ("received too short", HEADER.pack(Kind.RECEIVED, 7) + bytes(7), "RECEIVED frame of 7 bytes"),
    ("received too long", HEADER.pack(Kind.RECEIVED, 9) + bytes(9), "RECEIVED frame of 9 bytes"),
    ("received without a count", HEADER.pack(Kind.RECEIVED, 0), "RECEIVED frame of 0 bytes"),
    ("ping with a body", HEADER.pack(Kind.PING, 1) + b"x", "PING frame of 1 bytes"),
    ("pong with a body", HEADER.pack(Kind.PONG, 1) + b"x", "PONG frame of 1 bytes"),
    ("reason too long", HEADER.pack(Kind.END, MAX_REASON_BYTES + 1), f"END frame of {MAX_REASON_BYTES + 1} bytes"),
    ("received what was not sent", received_frame(21), "received 21 bytes of 20"),
    ("received far more", received_frame(2**64 - 1), "received 18446744073709551615 bytes of 20"),
]


@pytest.mark.parametrize(("data", "message"), [case[1:] for case in OFFENCES], ids=[case[0] for case in OFFENCES])
@pytest.mark.parametrize("size", [1, 3, 1000])
def test_an_offence_is_named(data: bytes, message: str, size: int) -> None:
    with pytest.raises(ProtocolError, match=message):
        seen(link_that_sent(20), pieces(data, size))


def test_the_largest_frames_are_taken() -> None:
    reason = "x" * MAX_REASON_BYTES
    assert seen(Link(), [end(reason)]) == [End(reason)]
    link = Link()
    assert seen(link, [HEADER.pack(Kind.DATA, KEPT_BYTES), b"ab"]) == [b"ab"]
    assert seen(link, [bytes(KEPT_BYTES - 2), PING])[-1] == Ping()
    assert link.received == KEPT_BYTES


# --- what is kept


def test_chunks_are_kept_until_the_peer_has_them() -> None:
    link = Link()
    sent(link, b"abc", b"defg", b"hi")
    assert link.kept == 9
    for received, kept in [(2, 9), (3, 6), (6, 6), (7, 2), (7, 2), (9, 0)]:
        assert seen(link, [received_frame(received)]) == []
        assert link.kept == kept, f"after {received} bytes were acknowledged"
    assert joined(link.resume(9)) == b""


def test_an_acknowledgement_that_came_late_changes_nothing() -> None:
    link = Link()
    sent(link, b"abc", b"def")
    seen(link, [received_frame(6), received_frame(3), received_frame(0)])
    assert link.kept == 0


def test_there_is_room_until_so_much_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resumable, "KEPT_BYTES", 10)
    link = Link()
    room = [link.has_room]
    for size in (5, 4, 1):
        sent(link, bytes(size))
        room.append(link.has_room)
    assert room == [True, True, True, False]
    room = []
    for received in (4, 5):  # the first does not free a chunk
        seen(link, [received_frame(received)])
        room.append(link.has_room)
    assert room == [False, True]
    sent(link, bytes(5))
    full = not link.has_room
    assert joined(link.resume(10)) == data_frame(bytes(5))
    assert full and link.has_room, "the peer of a new connection had more than it had acknowledged"


def test_an_acknowledgement_is_due_now_and_then() -> None:
    peer, link = Link(), Link()
    sent(peer, *[bytes(ACKNOWLEDGE_BYTES // 2)] * 5)
    seen(link, [data_frame(bytes(ACKNOWLEDGE_BYTES - 1))])
    assert link.acknowledge() == b""
    seen(link, [data_frame(b"x")])
    due = link.acknowledge()
    assert due == received_frame(ACKNOWLEDGE_BYTES)
    assert link.acknowledge() == b"", "it was said"
    seen(peer, [due])
    assert peer.kept == 3 * (ACKNOWLEDGE_BYTES // 2)
    seen(link, [data_frame(bytes(ACKNOWLEDGE_BYTES))])
    assert link.acknowledge() == received_frame(2 * ACKNOWLEDGE_BYTES)


def test_what_the_opening_said_is_not_acknowledged_again() -> None:
    link = Link()
    seen(link, [data_frame(bytes(ACKNOWLEDGE_BYTES))])
    assert not joined(link.resume(0))
    assert link.acknowledge() == b""
    seen(link, [data_frame(bytes(ACKNOWLEDGE_BYTES))])
    assert link.acknowledge() == received_frame(2 * ACKNOWLEDGE_BYTES)


def test_a_large_chunk_is_not_copied_and_a_small_one_goes_out_in_one_piece() -> None:
    large = memoryview(bytearray(JOINED_BELOW_BYTES))
    link = Link()
    header, body = link.send(large)
    assert body is large and bytes(header) == HEADER.pack(Kind.DATA, len(large))
    (whole,) = link.send(large[1:])
    assert len(whole) == HEADER.size + len(large) - 1


@pytest.mark.parametrize("received", [0, 1, 700, 5000, 100_000, 190_001])
def test_what_is_sent_again_comes_in_small_pieces_first(received: int) -> None:
    """So that a way on which every connection breaks early gets on, and another does not wait for long."""
    data = bytes(place % 251 for place in range(200_000))
    link, peer = Link(), Link()
    sent(link, data[:700], data[700:5000], data[5000:])
    frames = list(link.resume(received))
    peer.received = received
    assert stream(seen(peer, map(bytes, frames))) == data[received:]
    lengths = [len(frame) - HEADER.size for frame in frames if len(frame) > HEADER.size]
    small = list(itertools.takewhile(lambda length: length <= PIECE_BYTES, lengths))
    assert sum(small) >= min(CAREFUL_BYTES, len(data) - received)
    assert len(frames) - len(small) <= 3, "the rest is cut up too"


def test_many_small_chunks_take_little_more_memory_than_their_bytes() -> None:
    """A peer that asks for a little again and again, and never says that it has it."""
    link, data = Link(), random.Random(0).randbytes(3_000_000)
    tracemalloc.start()
    try:
        for place in range(0, len(data), 30):
            link.send(memoryview(data[place : place + 30]))
        assert tracemalloc.get_traced_memory()[0] < 2 * len(data)
    finally:
        tracemalloc.stop()
    peer = Link()
    peer.received = 1000
    assert stream(seen(peer, map(bytes, link.resume(1000)))) == data[1000:]
    assert seen(link, [received_frame(2_000_000)]) == []
    assert len(data) - 2_000_000 <= link.kept < len(data) - 2_000_000 + 2 * JOINED_BELOW_BYTES


def test_large_chunks_among_small_ones_stay_as_they_are_and_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resumable, "MANY_CHUNKS", 10)
    monkeypatch.setattr(resumable, "JOINED_BELOW_BYTES", 8)
    chance, link = random.Random(1), Link()
    chunks = [chance.randbytes(chance.choice([1, 2, 7, 8, 9, 20])) for _ in range(500)]
    sent(link, *chunks)
    for received in (0, 1, 500, 1000, link.kept):
        peer = Link()
        peer.received = received
        assert stream(seen(peer, map(bytes, link.resume(received)))) == b"".join(chunks)[received:]


# --- cut and resumed


CHUNKS = [b"a", b"bcdefg", b"", b"hijklmnopqrstuvw", b"xyz"]
WHOLE = b"".join(CHUNKS)


def test_a_stream_cut_at_every_byte_has_each_byte_once() -> None:
    wire = sent(Link(), *CHUNKS)
    for cut in range(len(wire) + 1):
        sender, receiver = Link(), Link()
        sent(sender, *CHUNKS)
        got = stream(seen(receiver, [wire[:cut]]))
        rest = joined(sender.resume(receiver.received))
        assert not joined(receiver.resume(0))
        got += stream(seen(receiver, [rest, PING]))
        assert got == WHOLE, f"cut at {cut}"
        assert receiver.received == len(WHOLE)


def test_a_stream_cut_at_every_two_bytes_has_each_byte_once() -> None:
    wire = sent(Link(), *CHUNKS)
    for first in range(0, len(wire) + 1, 2):
        for second in range(0, len(wire) + 1):
            sender, receiver = Link(), Link()
            sent(sender, *CHUNKS)
            got = stream(seen(receiver, [wire[:first]]))
            for stop in (second, None):
                again = joined(sender.resume(receiver.received))
                assert not joined(receiver.resume(0))
                got += stream(seen(receiver, [again[:stop]]))
            assert got == WHOLE, f"cut at {first} and {second}"


@pytest.mark.parametrize("frame", [PING, PONG, received_frame(3), end("enough"), data_frame(b"abc")])
def test_half_a_frame_of_the_connection_before_is_forgotten(frame: bytes) -> None:
    for cut in range(len(frame)):
        link = link_that_sent(20)
        got = stream(seen(link, [frame[:cut]]))
        joined(link.resume(0))
        assert seen(link, [data_frame(b"next"), PING, end("over")]) == [b"next", Ping(), End("over")]
        assert link.received == len(got) + 4


@settings(deadline=None)
@given(
    chunks=st.tuples(*[st.lists(st.binary(min_size=1, max_size=30), max_size=8)] * 2),
    cuts=st.lists(st.tuples(st.integers(0, 150), st.integers(0, 150), st.integers(0, 3)), max_size=8),
    size=st.integers(1, 40),
)
def test_both_ways_over_connections_that_break(
    chunks: tuple[list[bytes], list[bytes]], cuts: list[tuple[int, int, int]], size: int
) -> None:
    """Each connection carries what is kept, a few more chunks and acknowledgements, up to where it is cut."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(resumable, "ACKNOWLEDGE_BYTES", 8)
        ends = Link(), Link()
        left = [list(chunks[0]), list(chunks[1])]
        got = [b"", b""]
        last = (10**6, 10**6, max(map(len, chunks)))
        for *stops, count in [*cuts, last]:
            said = ends[0].received, ends[1].received
            wires = [joined(ends[side].resume(said[1 - side])) for side in (0, 1)]
            for side in (0, 1):
                wires[side] += sent(ends[side], *left[side][:count])
                del left[side][:count]
            for side in (0, 1):
                for part in pieces(wires[1 - side][: stops[side]], size):
                    got[side] += stream(seen(ends[side], [part]))
                    wires[side] += ends[side].acknowledge()
        assert got == [b"".join(chunks[1]), b"".join(chunks[0])]
        for side in (0, 1):
            joined(ends[side].resume(ends[1 - side].received))
            assert ends[side].kept == 0


@pytest.mark.parametrize(
    ("received", "possible"), [(10, "3 to 9"), (2**64 - 1, "3 to 9"), (2, "3 to 9"), (0, "3 to 9")]
)
def test_a_peer_that_cannot_be_where_it_says_is_refused(received: int, possible: str) -> None:
    link = Link()
    sent(link, b"abc", b"defghi")
    seen(link, [received_frame(3)])
    with pytest.raises(ProtocolError, match=f"received {received} bytes of the session, possible are {possible}"):
        link.resume(received)


def test_the_stream_goes_on_from_anywhere_that_is_still_kept() -> None:
    """Even from before what the peer had acknowledged: it is the sender who cannot go on from elsewhere."""
    for received in range(10):
        link = Link()
        sent(link, b"abcdefghi")
        seen(link, [received_frame(5)])
        assert joined(link.resume(received)) == (data_frame(b"abcdefghi"[received:]) if received < 9 else b"")


def test_a_new_session_begins_at_nothing() -> None:
    assert not joined(Link().resume(0))
    with pytest.raises(ProtocolError, match="received 1 bytes of the session, possible are 0 to 0"):
        Link().resume(1)


# --- openings and ends


def test_an_opening_says_the_session_and_how_far_it_got() -> None:
    opening = Opening(bytes(range(TOKEN_BYTES)), 2**64 - 1)
    data = opening.encode()
    assert len(data) == OPENING.size and Opening.decode(data) == opening
    assert Opening.decode(Opening(NO_TOKEN, 0).encode()) == Opening(NO_TOKEN, 0)


@pytest.mark.parametrize("data", [b"HTTP/1.1 200 OK\r\n", b"pt\x01\x00", b"", b"PTL\x01"])
def test_what_is_no_opening(data: bytes) -> None:
    with pytest.raises(ProtocolError, match="does not speak ptrtensor's link protocol") as caught:
        Opening.decode(data.ljust(OPENING.size, b"\0"))
    assert not isinstance(caught.value, VersionMismatchError)


@pytest.mark.parametrize("version", [0, LINK_VERSION + 1, 255])
def test_another_version_is_refused_by_name(version: int) -> None:
    data = bytearray(Opening(NO_TOKEN, 0).encode())
    data[3] = version
    with pytest.raises(VersionMismatchError, match=f"version {version} of the link protocol, this side {LINK_VERSION}"):
        Opening.decode(bytes(data))


@pytest.mark.parametrize("letter", ["x", "é", "\U0001f600"])
def test_a_reason_that_is_too_long_is_cut(letter: str) -> None:
    (event,) = seen(Link(), [end("a" + letter * 10_000)])
    assert isinstance(event, End)
    assert event.reason.rstrip("\ufffd") == "a" + letter * ((MAX_REASON_BYTES - 1) // len(letter.encode()))
