"""The connection: any split of the bytes gives the same events, and a peer that breaks a rule ends it."""

import os
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Self

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from wire_samples import (
    EVERY_ARGUMENT,
    FROM_CLIENT,
    FROM_WORKER,
    FURTHER,
    HELLO,
    META,
    WELCOME,
    Sample,
    at_client,
    at_worker,
    content,
    frame,
    header,
    raw_frame,
)

from ptrtensor.errors import (
    MessageTooLargeError,
    ProtocolError,
    PtrTensorError,
    UnsupportedOpError,
    VersionMismatchError,
)
from ptrtensor.wire import connection as connection_module
from ptrtensor.wire.connection import (
    JOINED_BELOW_BYTES,
    STAGING_BYTES,
    Connection,
    client_connection,
    encode,
    worker_connection,
)
from ptrtensor.wire.limits import (
    MAX_BATCH_BYTES,
    MAX_HELLO_BYTES,
    MAX_MESSAGE_BYTES,
    MAX_PAYLOAD_BYTES,
    MAX_SEALED_BYTES,
    PROTOCOL_VERSION,
)
from ptrtensor.wire.messages import (
    Acknowledged,
    Annotate,
    Batch,
    ClientMessage,
    Done,
    Failure,
    Fetch,
    Hello,
    Message,
    Put,
    Refused,
    Synchronize,
    Unseal,
    Value,
    WorkerMessage,
)
from ptrtensor.wire.metadata import TensorMeta

Either = Connection[ClientMessage] | Connection[WorkerMessage]
Seen = list[tuple[object, bytes]]

LATER_FROM_CLIENT = [sample for sample in FROM_CLIENT if sample[0] is not HELLO]
LATER_FROM_WORKER = [sample for sample in FROM_WORKER if sample[0] is not WELCOME] + FURTHER
LATER = [(at_worker, sample) for sample in LATER_FROM_CLIENT] + [(at_client, sample) for sample in LATER_FROM_WORKER]


def name_of(value: object) -> str:
    return type(value[0]).__name__ if isinstance(value, tuple) else getattr(value, "__name__", "")


def seen(connection: Either) -> Seen:
    """What arrived since the last call."""
    found: Seen = []
    while (event := connection.next_event()) is not None:
        found.append((content(event.message), bytes(event.payload)))
    return found


def said(samples: list[Sample]) -> Seen:
    return [(content(message), payload) for message, payload in samples]


def feed(connection: Either, data: bytes, size: int) -> None:
    for start in range(0, len(data), size):
        connection.receive_data(data[start : start + size])


# --- any split


@pytest.mark.parametrize(("end", "sample"), LATER, ids=name_of)
def test_byte_by_byte(end: Callable[[], Either], sample: Sample) -> None:
    data = frame(*sample)
    connection = end()
    for byte in range(len(data) - 1):
        connection.receive_data(data[byte : byte + 1])
        assert connection.next_event() is None
        assert connection.cut
    connection.receive_data(data[-1:])
    assert seen(connection) == said([sample])
    assert not connection.cut


@pytest.mark.parametrize("sample", [FROM_CLIENT[0], FROM_WORKER[0]], ids=name_of)
def test_the_handshake_byte_by_byte(sample: Sample) -> None:
    connection: Either = worker_connection() if sample[0] is HELLO else client_connection()
    feed(connection, frame(*sample), 1)
    assert seen(connection) == said([sample])


@pytest.mark.parametrize(("end", "sample"), LATER, ids=name_of)
def test_with_the_beginning_of_the_next_message(end: Callable[[], Either], sample: Sample) -> None:
    data = frame(*sample)
    for trailing in (1, 15, 16, len(data) - 1):
        connection = end()
        connection.receive_data(data + data[:trailing])
        assert seen(connection) == said([sample])
        assert connection.cut
        connection.receive_data(data[trailing:])
        assert seen(connection) == said([sample])
        assert not connection.cut


@pytest.mark.parametrize(
    ("end", "samples"), [(at_worker, LATER_FROM_CLIENT), (at_client, LATER_FROM_WORKER)], ids=["worker", "client"]
)
@pytest.mark.parametrize("size", [2, 3, 7, 16, 17, 100, 1000, 10**6])
def test_several_in_a_chunk(end: Callable[[], Either], samples: list[Sample], size: int) -> None:
    connection = end()
    feed(connection, b"".join(frame(*sample) for sample in samples), size)
    assert seen(connection) == said(samples)


def test_a_payload_split_at_every_byte() -> None:
    samples: list[Sample] = [(Put(1, META), bytes(range(24))), (Fetch(1, 1), b"")]
    data = b"".join(frame(*sample) for sample in samples)
    for cut in range(1, len(data)):
        connection = at_worker()
        connection.receive_data(data[:cut])
        connection.receive_data(data[cut:])
        assert seen(connection) == said(samples)


@pytest.mark.parametrize("size", [STAGING_BYTES - 100, STAGING_BYTES, STAGING_BYTES + 1, 2 * 1024 * 1024 + 3])
@pytest.mark.parametrize("chunk", [1000, 65536, 10**8])
def test_a_payload_larger_than_the_staging_buffer(size: int, chunk: int) -> None:
    payload = os.urandom(1024) * (size // 1024) + b"x" * (size % 1024)
    samples: list[Sample] = [(Put(1, TensorMeta((size,), (1,), "uint8")), payload), (Fetch(1, 1), b"")]
    connection = at_worker()
    feed(connection, b"".join(frame(*sample) for sample in samples), chunk)
    assert seen(connection) == said(samples)


@pytest.mark.parametrize("chunk", [1000, 10**8])
def test_a_message_larger_than_the_staging_buffer(chunk: int) -> None:
    samples: list[Sample] = [
        (Annotate(1, (), "x" * (3 * STAGING_BYTES)), b""),
        (Annotate(2, (), "y" * (STAGING_BYTES // 3)), b""),
    ] * 2
    connection = at_worker()
    feed(connection, b"".join(frame(*sample) for sample in samples), chunk)
    assert seen(connection) == said(samples)


def test_a_payload_goes_straight_to_where_it_stays() -> None:
    connection = at_worker()
    size = 100_000
    data = frame(Put(1, TensorMeta((size,), (1,), "uint8")), bytes(size))
    connection.receive_data(data[: len(data) - size + 10])
    target = connection.buffer()
    assert len(target) == size - 10
    target[:] = b"z" * len(target)
    connection.arrived.append(len(target))
    connection.advance()
    event = connection.next_event()
    assert event is not None
    assert bytes(event.payload) == bytes(10) + b"z" * (size - 10)
    target[-1] = 0
    assert event.payload[-1] == 0


def test_payloads_belong_to_their_receiver() -> None:
    connection = at_worker()
    data = frame(Put(1, META), bytes(range(24)))
    connection.receive_data(data * 2)
    first, second = connection.events
    first.payload[:] = bytes(24)
    assert bytes(second.payload) == bytes(range(24))
    feed(connection, data * 100, 10_000)
    assert bytes(first.payload) == bytes(24)


def test_the_buffer_is_never_empty() -> None:
    connection = worker_connection()
    data = frame(HELLO) + b"".join(frame(*sample) for sample in LATER_FROM_CLIENT) * 300
    for start in range(0, len(data), 4096):
        assert len(connection.buffer()) > 0
        connection.receive_data(data[start : start + 4096])
    assert len(connection.buffer()) > 0


def test_advance_without_news_changes_nothing() -> None:
    connection = at_worker()
    connection.advance()
    connection.receive_data(frame(Fetch(1, 2))[:20])
    connection.advance()
    connection.advance()
    assert connection.next_event() is None
    connection.receive_data(frame(Fetch(1, 2))[20:])
    connection.advance()
    assert seen(connection) == said([(Fetch(1, 2), b"")])


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_encode_does_not_copy_a_large_payload(kind: Callable[[bytes], bytes | bytearray | memoryview]) -> None:
    payload = kind(bytes(JOINED_BELOW_BYTES))
    head, tail = encode(Put(1, TensorMeta((JOINED_BELOW_BYTES,), (1,), "uint8")), payload)
    assert tail is payload
    assert bytes(head)[:4] == b"pt" + struct.pack("<H", PROTOCOL_VERSION)


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_a_small_payload_goes_out_in_one_piece(kind: Callable[[bytes], bytes | bytearray | memoryview]) -> None:
    (frame,) = encode(Put(1, TensorMeta((2,), (1,), "uint8")), kind(b"12"))
    assert frame[:4] == b"pt" + struct.pack("<H", PROTOCOL_VERSION)
    assert frame[-2:] == b"12"


@pytest.mark.parametrize("message", [Annotate(1, (), "x" * MAX_MESSAGE_BYTES), Hello(1, "", "", "x" * MAX_HELLO_BYTES)])
def test_what_the_peer_would_refuse_is_not_sent(message: Message) -> None:
    """A long message is its sender's error, and costs no session."""
    with pytest.raises(PtrTensorError, match="bytes"):
        encode(message)


class Long(bytes):
    """Says that it is so long."""

    def __new__(cls, size: int) -> Self:
        return super().__new__(cls, 1)

    def __init__(self, size: int) -> None:
        self._size = size

    def __len__(self) -> int:
        return self._size


@pytest.mark.parametrize(
    ("message", "size"),
    [(Batch(0, 0, []), MAX_BATCH_BYTES), (Unseal(1, 1), MAX_SEALED_BYTES), (Put(1, META), MAX_PAYLOAD_BYTES)],
)
def test_a_payload_that_the_peer_would_refuse_is_not_sent(message: Message, size: int) -> None:
    encode(message, Long(size))
    with pytest.raises(UnsupportedOpError, match=f"{type(message).__name__} with {size + 1} bytes"):
        encode(message, Long(size + 1))


# --- the handshake [P1]


@pytest.mark.parametrize("sample", [sample for sample in LATER_FROM_CLIENT if not sample[1]], ids=name_of)
def test_nothing_comes_before_hello(sample: Sample) -> None:
    connection = worker_connection()
    with pytest.raises(ProtocolError, match=type(sample[0]).__name__):
        connection.receive_data(frame(*sample))
    assert connection.next_event() is None


@pytest.mark.parametrize(
    "sample",
    [sample for sample in LATER_FROM_WORKER if not sample[1] and not isinstance(sample[0], Refused)],
    ids=name_of,
)
def test_nothing_comes_before_welcome(sample: Sample) -> None:
    connection = client_connection()
    with pytest.raises(ProtocolError, match=type(sample[0]).__name__):
        connection.receive_data(frame(*sample))
    assert connection.next_event() is None


def test_a_refusal_may_come_instead_of_a_welcome_and_later() -> None:
    for connection in (client_connection(), at_client()):
        connection.receive_data(frame(Refused("no")))
        assert seen(connection) == said([(Refused("no"), b"")])


@pytest.mark.parametrize(("end", "again"), [(at_worker, HELLO), (at_client, WELCOME)], ids=["worker", "client"])
def test_the_handshake_comes_once(end: Callable[[], Either], again: Message) -> None:
    connection = end()
    with pytest.raises(ProtocolError, match="twice"):
        connection.receive_data(frame(again))
    for _ in range(2):
        with pytest.raises(ProtocolError):
            connection.receive_data(frame(again))


@pytest.mark.parametrize(
    ("end", "sample"),
    [(at_worker, sample) for sample in FROM_WORKER] + [(at_client, sample) for sample in FROM_CLIENT],
    ids=name_of,
)
def test_the_other_side_s_messages_are_refused(end: Callable[[], Either], sample: Sample) -> None:
    with pytest.raises(ProtocolError):
        end().receive_data(frame(*sample))


# --- offences [P2], [P3]


def deep(depth: int) -> bytes:
    """A message with an unknown field of nested lists."""
    return b"\x84" + frame(Fetch(1, 2))[17:] + b"\xa1x" + b"\x91" * depth + b"\xc0"


OFFENCES: list[tuple[str, bytes, type[ProtocolError]]] = [
    ("magic", header(1, 0, magic=b"PT"), ProtocolError),
    ("http", b"GET / HTTP/1.1\r\nHost: worker\r\n\r\n", ProtocolError),
    ("tls", bytes.fromhex("16030100f5010000f10303") + bytes(20), ProtocolError),
    ("zeros", bytes(64), ProtocolError),
    ("version 0", header(1, 0, version=0), VersionMismatchError),
    ("next version", header(1, 0, version=PROTOCOL_VERSION + 1), VersionMismatchError),
    ("long message", header(MAX_MESSAGE_BYTES + 1, 0), MessageTooLargeError),
    ("longest message", header(2**32 - 1, 0), MessageTooLargeError),
    ("long payload", header(1, MAX_PAYLOAD_BYTES + 1), MessageTooLargeError),
    ("longest payload", header(1, 2**64 - 1), MessageTooLargeError),
    ("long batch", raw_frame(frame(Batch(0, 0, []))[16:], payload_bytes=MAX_BATCH_BYTES + 1), MessageTooLargeError),
    ("60 GiB for 24 bytes", raw_frame(frame(Put(1, META))[16:], payload_bytes=60 * 1024**3), ProtocolError),
    ("60 GiB for a fetch", raw_frame(frame(Fetch(1, 2))[16:], payload_bytes=60 * 1024**3), ProtocolError),
    ("a byte too many", frame(Put(1, META), bytes(25)), ProtocolError),
    ("a byte too few", frame(Put(1, META), bytes(23)), ProtocolError),
    ("no payload", frame(Put(1, META)), ProtocolError),
    ("payload of nothing", frame(Put(1, TensorMeta((0,), (1,), "int8")), b"x"), ProtocolError),
    ("payload of a fetch", frame(Fetch(1, 2), b"x"), ProtocolError),
    ("dtype", frame(Put(1, TensorMeta((2,), (1,), "float31")), bytes(8)), ProtocolError),
    ("negative size", frame(Put(1, TensorMeta((-2, -3), (1, 1), "float32")), bytes(24)), ProtocolError),
    ("negative stride", frame(Put(1, TensorMeta((2, 3), (3, -1), "float32")), bytes(24)), ProtocolError),
    ("strides", frame(Put(1, TensorMeta((2, 3), (3,), "float32")), bytes(24)), ProtocolError),
    ("empty message", raw_frame(b""), ProtocolError),
    ("unknown tag", raw_frame(b"\x81\xa4type\xa7Nothing"), ProtocolError),
    ("no tag", raw_frame(b"\x81\xa1x\xa1y"), ProtocolError),
    ("a list", raw_frame(b"\x93\x01\x02\x03"), ProtocolError),
    ("two messages in one", raw_frame(frame(Fetch(1, 2))[16:] * 2), ProtocolError),
    ("a cut message", raw_frame(frame(Fetch(1, 2))[16:-1]), ProtocolError),
    ("not text", raw_frame(frame(Annotate(1, (), "??"))[16:].replace(b"??", b"\xff\xfe")), ProtocolError),
    ("deep", raw_frame(deep(100_000)), ProtocolError),
    ("a list of 4294967295", raw_frame(frame(Batch(0, 0, []))[16:-1] + b"\xdd\xff\xff\xff\xff"), ProtocolError),
    ("a text of 4 GiB", raw_frame(frame(Annotate(1, (), ""))[16:-1] + b"\xdb\xff\xff\xff\xff"), ProtocolError),
    ("names beyond 64 bits", raw_frame(frame(Fetch(1, 2))[16:-1] + b"\xc7\x09\x01" + bytes(9)), ProtocolError),
]


@pytest.fixture(params=["at once", "by bytes"])
def feeding(request: pytest.FixtureRequest) -> int:
    return 10**9 if request.param == "at once" else 1


@pytest.mark.parametrize(("data", "kind"), [case[1:] for case in OFFENCES], ids=[case[0] for case in OFFENCES])
def test_an_offence_ends_the_connection(data: bytes, kind: type[ProtocolError], feeding: int) -> None:
    def reserve(size: int) -> memoryview:
        raise AssertionError(f"{size} bytes were reserved before the check")

    connection = at_worker(reserve)
    with pytest.raises(ProtocolError) as caught:
        feed(connection, data, max(feeding, len(data) // 500))
    assert type(caught.value) is kind
    assert len(str(caught.value)) < 1000
    assert not connection.events
    for _ in range(2):  # [P1.3]
        with pytest.raises(ProtocolError):
            connection.advance()
        with pytest.raises(ProtocolError):
            connection.receive_data(frame(Fetch(1, 2)))
    assert connection.next_event() is None


@pytest.mark.parametrize(
    "data",
    [
        header(MAX_HELLO_BYTES + 1, 0),
        header(10, 1),
        header(10, 60 * 1024**3),
    ],
    ids=["long hello", "payload", "60 GiB"],
)
def test_a_stranger_gets_little_memory(data: bytes) -> None:
    for connection in (worker_connection(), client_connection()):
        with pytest.raises(MessageTooLargeError):
            connection.receive_data(data)


@pytest.mark.parametrize("version", [0, PROTOCOL_VERSION + 1, 65535])
def test_a_version_is_refused_by_name(version: int) -> None:
    with pytest.raises(VersionMismatchError, match=f"version {version} .* this side {PROTOCOL_VERSION}"):
        worker_connection().receive_data(header(10, 0, version=version))


def test_what_came_before_the_offence_is_delivered() -> None:
    connection = at_worker()
    with pytest.raises(ProtocolError):
        connection.receive_data(frame(Fetch(1, 2)) + frame(Put(1, META), bytes(24)) + b"x" * 16)
    assert seen(connection) == said([(Fetch(1, 2), b""), (Put(1, META), bytes(24))])


def reserved() -> int:
    """The size of this process's address space."""
    return int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="measured through /proc")
@pytest.mark.parametrize(
    "data",
    [
        header(10, 2**63),
        header(2**32 - 1, 0),
        raw_frame(frame(Put(1, META))[16:], payload_bytes=60 * 1024**3),
        raw_frame(frame(Batch(0, 0, []))[16:], payload_bytes=60 * 1024**3),
        raw_frame(frame(Batch(0, 0, []))[16:-1] + b"\xdd\xff\xff\xff\xff"),
    ],
    ids=["payload", "message", "tensor", "batch", "list"],
)
def test_lengths_are_refused_before_memory_is_reserved(data: bytes) -> None:
    connection = at_worker()
    before = reserved()
    with pytest.raises(ProtocolError):
        connection.receive_data(data)
    assert reserved() - before < 64 * 1024**2


@pytest.mark.parametrize("size", [1, 100_000, 1_000_000])
def test_a_value_for_which_there_is_no_memory_is_passed_over(size: int) -> None:
    """And what comes behind it is read on."""

    def allocate(size: int) -> memoryview:
        raise MessageTooLargeError(f"no {size} bytes")

    connection = worker_connection(allocate)
    connection.receive_data(frame(HELLO))
    put = frame(Put(1, TensorMeta((size,), (1,), "int8")), bytes(size))
    connection.receive_data(put + frame(Fetch(1, 1)) + put[:-1])
    assert [(type(event.message), len(event.payload)) for event in connection.events][1:] == [(Put, 0), (Fetch, 0)]
    assert connection.partial == (size - 1, size)


def test_a_batch_for_which_there_is_no_memory_is_too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    def reserve(*arguments: object) -> None:
        raise MemoryError

    connection = at_worker()
    monkeypatch.setattr(connection_module, "bytearray", reserve, raising=False)
    size = 1024**2
    with pytest.raises(MessageTooLargeError, match=f"{size} bytes"):
        connection.receive_data(raw_frame(frame(Batch(0, 0, []))[16:], payload_bytes=size))


# --- properties

CALM = settings(deadline=None)
"""A busy machine is no bug."""


def text(size: int = 20) -> st.SearchStrategy[str]:
    return st.text(max_size=size)


integers = st.integers(-(2**63), 2**64 - 1)
names = st.integers(1, 2**63)


@st.composite
def tensors(draw: st.DrawFn) -> tuple[TensorMeta, bytes]:
    shape = tuple(draw(st.lists(st.integers(0, 4), max_size=3)))
    dtype, item = draw(st.sampled_from([("bool", 1), ("int16", 2), ("float32", 4), ("complex128", 16)]))
    meta = TensorMeta(shape, tuple(draw(st.integers(0, 2**62)) for _ in shape), dtype, draw(st.booleans()))
    size = meta.elements * item
    return meta, (draw(st.binary(min_size=1, max_size=1)) * size)


def client_messages() -> st.SearchStrategy[Sample]:
    plain: st.SearchStrategy[Message] = st.one_of(
        st.builds(Annotate, names, st.lists(text()).map(tuple), text(300)),
        st.builds(Fetch, names, names),
        st.builds(Synchronize, names),
        st.sampled_from([sample[0] for sample in LATER_FROM_CLIENT if not sample[1]]),
    )
    batches = st.tuples(
        st.builds(Batch, names, names, st.lists(st.just(EVERY_ARGUMENT), max_size=2)), st.binary(max_size=300)
    )
    puts = st.tuples(names, tensors()).map(lambda drawn: (Put(drawn[0], drawn[1][0]), drawn[1][1]))
    return st.one_of(plain.map(lambda message: (message, b"")), batches, puts)


def worker_messages() -> st.SearchStrategy[Sample]:
    failures = st.builds(Failure, names, text(), text(300), text(300))
    plain: st.SearchStrategy[Message] = st.one_of(
        st.builds(Done, names),
        st.builds(Acknowledged, names, st.lists(failures, max_size=3)),
        st.builds(Value, names, st.none(), st.one_of(st.booleans(), integers, st.floats(allow_nan=False))),
        st.sampled_from([sample[0] for sample in LATER_FROM_WORKER if not sample[1]]),
    )
    values = st.tuples(names, tensors()).map(lambda drawn: (Value(drawn[0], drawn[1][0]), drawn[1][1]))
    return st.one_of(plain.map(lambda message: (message, b"")), values)


def pieces(data: bytes, cuts: list[int]) -> Iterator[bytes]:
    places = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    for begin, end in zip(places, places[1:], strict=False):
        yield data[begin:end]


@CALM
@given(st.lists(client_messages(), min_size=1, max_size=6), st.lists(st.integers(0, 10_000), max_size=10))
def test_what_a_client_says_arrives_however_it_is_split(samples: list[Sample], cuts: list[int]) -> None:
    connection = at_worker()
    for piece in pieces(b"".join(frame(*sample) for sample in samples), cuts):
        connection.receive_data(piece)
    assert seen(connection) == said(samples)
    assert not connection.cut


@CALM
@given(st.lists(worker_messages(), min_size=1, max_size=6), st.lists(st.integers(0, 10_000), max_size=10))
def test_what_a_worker_says_arrives_however_it_is_split(samples: list[Sample], cuts: list[int]) -> None:
    connection = at_client()
    for piece in pieces(b"".join(frame(*sample) for sample in samples), cuts):
        connection.receive_data(piece)
    assert seen(connection) == said(samples)


def survive(connection: Either, data: bytes) -> None:
    """Only a ProtocolError may come of it."""
    try:
        connection.receive_data(data)
    except ProtocolError:
        with pytest.raises(ProtocolError):
            connection.advance()


ENDS: list[Callable[[], Either]] = [worker_connection, client_connection, at_worker, at_client]


@CALM
@given(st.sampled_from(ENDS), st.binary(max_size=400))
def test_random_bytes_raise_nothing_else(end: Callable[[], Either], data: bytes) -> None:
    survive(end(), data)


@CALM
@given(st.sampled_from(ENDS), st.binary(max_size=200), st.binary(max_size=50))
def test_random_messages_raise_nothing_else(end: Callable[[], Either], body: bytes, payload: bytes) -> None:
    survive(end(), raw_frame(body, payload))


@CALM
@given(
    st.sampled_from(LATER),
    st.lists(st.tuples(st.integers(16, 500), st.integers(0, 255)), min_size=1, max_size=4),
)
def test_spoiled_messages_raise_nothing_else(
    spoiled: tuple[Callable[[], Either], Sample], changes: list[tuple[int, int]]
) -> None:
    end, sample = spoiled
    data = bytearray(frame(*sample))
    for place, value in changes:
        data[16 + (place - 16) % (len(data) - 16)] = value
    survive(end(), bytes(data))
