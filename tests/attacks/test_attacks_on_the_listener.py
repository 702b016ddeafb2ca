"""What a hostile or broken client can send to a worker's port: it is told why, and the others are served on."""

import contextlib
import os
import resource
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest
import torch
from hostile import HELLO, Client, Listener, listening
from wire_samples import META, command, drop, frame, header, raw_frame

import ptrtensor as pt
from ptrtensor.version import __version__
from ptrtensor.wire.instruction import (
    Argument,
    ComputeDevice,
    Constant,
    Instruction,
    Items,
    NamedConstant,
    ObjectSlot,
)
from ptrtensor.wire.limits import (
    MAX_BATCH_BYTES,
    MAX_FAILURES,
    MAX_HELLO_BYTES,
    MAX_INSTRUCTIONS,
    MAX_MESSAGE_BYTES,
    MAX_RESULTS,
    PROTOCOL_VERSION,
)
from ptrtensor.wire.messages import (
    Acknowledged,
    Annotate,
    Batch,
    Bye,
    Configure,
    Counters,
    Describe,
    Done,
    Failed,
    Fetch,
    Found,
    Hello,
    Hide,
    Inventory,
    ManualSeed,
    Message,
    Missing,
    Put,
    ReadGenerator,
    Recover,
    Refused,
    Search,
    Settings,
    Statistics,
    Synchronize,
    Value,
    Welcome,
    WorkerMessage,
    WriteGenerator,
)
from ptrtensor.wire.metadata import TensorMeta

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def listener() -> Iterator[Listener]:
    with listening() as found:
        yield found


@pytest.fixture
def client(listener: Listener) -> Iterator[Client]:
    """A client in the worker's eyes; after the test the worker must still serve another one."""
    with contextlib.closing(Client(listener.port)) as found:
        yield found
        listener.check_it_still_serves()
    listener.check_it_still_serves()


@pytest.fixture
def greeted(client: Client) -> Client:
    client.greet()
    return client


# --- before the handshake

STRANGERS: list[tuple[str, bytes, str]] = [
    ("garbage", bytes(range(256)) * 4, "does not speak ptrtensor's protocol"),
    ("much garbage", b"x" * 4_000_000, "does not speak ptrtensor's protocol"),
    ("http", b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", "does not speak ptrtensor's protocol"),
    ("tls", bytes.fromhex("16030100f5010000f10303") + bytes(250), "does not speak ptrtensor's protocol"),
    ("pickle", b"\x80\x04\x95" + bytes(60), "does not speak ptrtensor's protocol"),
    ("header's version", header(60, 0, version=PROTOCOL_VERSION + 1), f"version {PROTOCOL_VERSION + 1} "),
    ("long hello", header(MAX_HELLO_BYTES + 1, 0), "bytes"),
    ("hello with a payload", frame(HELLO, b"x"), "bytes"),
    ("60 GiB with hello", header(60, 60 * 1024**3), "bytes"),
    ("welcome", frame(Welcome(1, "", "", "", "", "")), "none of the protocol's"),
    ("batch", frame(Batch(0, 0, [])), "instead of the handshake"),
    ("fetch", frame(Fetch(1, 2)), "instead of the handshake"),
    ("not MessagePack", raw_frame(b"\xc1" * 20), "none of the protocol's"),
    ("nested", raw_frame(b"\x91" * 4000 + b"\xc0"), "none of the protocol's"),
]


@pytest.mark.parametrize(("data", "reason"), [case[1:] for case in STRANGERS], ids=[case[0] for case in STRANGERS])
def test_a_stranger_is_told_why(client: Client, data: bytes, reason: str) -> None:
    client.raw(data)
    assert reason in client.refusal().reason


@pytest.mark.parametrize(
    ("hello", "reason"),
    [
        (Hello(PROTOCOL_VERSION + 1, "9.9", str(torch.__version__)), f"{PROTOCOL_VERSION + 1} (ptrtensor 9.9)"),
        (Hello(-1, "", str(torch.__version__)), "version"),
        (Hello(PROTOCOL_VERSION, __version__, "1.0.0"), "torch 1.0.0"[:5]),
        (Hello(PROTOCOL_VERSION, __version__, ""), "torch"),
        (Hello(PROTOCOL_VERSION, __version__, "." * 3000), "torch"),
    ],
    ids=["newer", "negative", "older torch", "no torch", "long torch"],
)
def test_another_version_is_told_so(client: Client, hello: Hello, reason: str) -> None:
    client.say(hello)
    message = client.hear()
    assert isinstance(message, Refused)
    assert message.version
    assert reason in message.reason
    assert client.hear() is None


def test_the_version_of_the_header_counts_as_one(client: Client) -> None:
    client.raw(header(60, 0, version=PROTOCOL_VERSION + 1))
    assert client.refusal().version


def test_a_token_does_not_open_a_worker_that_has_none(client: Client) -> None:
    client.say(Hello(PROTOCOL_VERSION, __version__, str(torch.__version__), "guess"))
    assert not client.refusal().version


@pytest.mark.parametrize("count", [0, 1, 15, 16, 17, 40])
def test_a_frame_that_is_cut_off(listener: Listener, client: Client, count: int) -> None:
    client.raw(frame(HELLO)[:count])
    client.socket.shutdown(socket.SHUT_WR)
    assert client.hear() is None


def test_a_client_that_says_nothing(listener: Listener) -> None:
    with contextlib.ExitStack() as stack:
        for _ in range(20):
            stack.enter_context(contextlib.closing(Client(listener.port)))
        listener.check_it_still_serves()
    listener.check_it_still_serves()


def test_a_client_that_stops_in_the_middle(listener: Listener) -> None:
    with contextlib.closing(Client(listener.port)) as client:
        client.greet()
        client.raw(frame(Put(1, META), bytes(24))[:-5])
        listener.check_it_still_serves()
    listener.check_it_still_serves()


def test_a_client_that_hangs_up_at_once(listener: Listener) -> None:
    for _ in range(20):
        client = Client(listener.port)
        client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.raw(frame(HELLO) + frame(Inventory(1)) * 10)
        client.close()
    listener.check_it_still_serves()


# --- after the handshake: what is not the protocol


def uint8(size: int) -> TensorMeta:
    return TensorMeta((size,), (1,), "uint8")


OFFENCES: list[tuple[str, bytes, str]] = [
    ("garbage", b"garbage! garbage! ", "first bytes"),
    ("long message", header(MAX_MESSAGE_BYTES + 1, 0), f"{MAX_MESSAGE_BYTES + 1} bytes"),
    ("longest message", header(2**32 - 1, 0), "4294967295 bytes"),
    ("longest payload", header(10, 2**64 - 1), "18446744073709551615 bytes"),
    ("long batch", raw_frame(frame(Batch(0, 0, []))[16:], payload_bytes=MAX_BATCH_BYTES + 1), "Batch"),
    ("60 GiB for 24 bytes", raw_frame(frame(Put(1, META))[16:], payload_bytes=60 * 1024**3), "of 24"),
    ("64 GiB and one", raw_frame(frame(Put(1, uint8(2**36 + 1)))[16:], payload_bytes=2**36 + 1), "bytes"),
    ("payload of a fetch", frame(Fetch(1, 2), b"x"), "Fetch"),
    ("a second hello", frame(HELLO), "twice"),
    ("unknown message", raw_frame(b"\x81\xa4type\xa4Exec"), "Exec"),
    ("a list of 4294967295", raw_frame(frame(Batch(0, 0, []))[16:-1] + b"\xdd\xff\xff\xff\xff"), "none of"),
    ("deeply nested", raw_frame(b"\x84" + frame(Fetch(1, 2))[17:] + b"\xa1x" + b"\x91" * 10**6), "none of"),
    ("negative stride", frame(Put(1, TensorMeta((2, 3), (3, -1), "float32")), bytes(24)), "negative"),
    ("negative size", frame(Put(1, TensorMeta((-2, -3), (3, 1), "float32")), bytes(24)), "negative"),
    ("dtype", frame(Put(1, TensorMeta((24,), (1,), "object")), bytes(24)), "dtype"),
    ("quantized dtype", frame(Put(1, TensorMeta((24,), (1,), "quint8")), bytes(24)), "dtype"),
    ("strides", frame(Put(1, TensorMeta((24,), (), "uint8")), bytes(24)), "strides"),
    ("65 dimensions", frame(Put(1, TensorMeta((1,) * 65, (1,) * 65, "uint8")), b"x"), "65"),
    ("default dtype of integers", frame(Configure(Settings("int64"))), "settings"),
    ("default dtype of complex", frame(Configure(Settings("complex64"))), "settings"),
    ("default dtype that is a class", frame(Configure(Settings("Tensor"))), "settings"),
    ("default dtype that is a function", frame(Configure(Settings("load"))), "settings"),
    ("default dtype of nobody", frame(Configure(Settings("x" * 10_000))), "settings"),
    ("matmul precision", frame(Configure(Settings(matmul_precision="exact"))), "settings"),
    ("generator's state of the wrong size", frame(WriteGenerator(uint8(3)), b"abc"), "generator"),
    ("generator's state of floats", frame(WriteGenerator(META), bytes(24)), "generator"),
    ("generator's state out of bounds", frame(WriteGenerator(TensorMeta((8,), (99,), "uint8")), bytes(8)), ""),
    (
        "generator's state of a large stride",
        frame(WriteGenerator(TensorMeta((8,), (2**64 - 1,), "uint8")), bytes(8)),
        "",
    ),
]


@pytest.mark.parametrize(("data", "reason"), [case[1:] for case in OFFENCES], ids=[case[0] for case in OFFENCES])
def test_a_client_that_breaks_a_rule_is_told_why(greeted: Client, data: bytes, reason: str) -> None:
    greeted.raw(data)
    greeted.say(Synchronize(1))
    assert reason in greeted.refusal().reason


def test_what_came_before_the_offence_is_answered(greeted: Client) -> None:
    greeted.raw(frame(Inventory(1)) + frame(Synchronize(2)) + b"x" * 16)
    assert greeted.hear() == Found(1, [])
    assert "first bytes" in greeted.refusal().reason


def test_announced_bytes_cost_the_worker_nothing(listener: Listener, greeted: Client) -> None:
    """A large tensor is announced and never sent; its memory is not touched."""
    before = listener.resident_bytes()
    size = 2 * 1024**3
    greeted.raw(raw_frame(frame(Put(1, uint8(size)))[16:], b"begin", payload_bytes=size))
    time.sleep(0.3)
    assert listener.resident_bytes() - before < 64 * 1024**2


# --- batches that are not what they say


def instruction(
    number: int,
    op: str,
    *positional: Argument,
    draws: bool = False,
    expected: tuple[TensorMeta | None, ...] | None = (META,),
    **keywords: Argument,
) -> Instruction:
    return Instruction(number, op, positional, keywords, draws, expected)


NEG = instruction(1, "aten::neg", ObjectSlot())

BATCHES: list[tuple[str, list[Instruction], int, int, bytes, str]] = [
    ("number never defined", [], 0, 1, command(7, 1, 2), "never defined"),
    ("huge number", [NEG], 0, 1, command(2**64 - 1, 1, 2), "never defined"),
    ("defining number 0", [instruction(0, "aten::neg", ObjectSlot())], 0, 0, b"", "out of range"),
    ("defining number -1", [instruction(-1, "aten::neg", ObjectSlot())], 0, 0, b"", "out of range"),
    ("defining too many", [instruction(MAX_INSTRUCTIONS + 1, "aten::neg")], 0, 0, b"", "out of range"),
    ("defining number 2**63", [instruction(2**63, "aten::neg")], 0, 0, b"", "out of range"),
    ("fewer commands than announced", [NEG], 0, 2, command(1, 1, 2), "announced 2"),
    ("more commands than announced", [NEG], 0, 1, command(1, 1, 2) * 2, "announced 1"),
    ("none announced", [NEG], 0, 0, command(1, 1, 2), "announced 0"),
    ("negative count", [NEG], 0, -1, b"", "announced"),
    ("a command that is cut off", [NEG], 0, 1, command(1, 1, 2)[:-1], "cannot be read"),
    ("half a number", [], 0, 1, b"\1\0\0", "cannot be read"),
    ("a drop that is cut off", [], 0, 1, drop(1, 2, count=3), "within a command"),
    ("a drop of 2**61", [], 0, 1, drop(1, count=2**61), "within a command"),
    ("a drop of 2**64-1", [], 0, 1, drop(1, count=2**64 - 1), "within a command"),
    ("a drop without a count", [], 0, 1, command(0), "cannot be read"),
    ("a sequence number from ahead", [NEG], 1, 1, command(1, 1, 2), "skipped"),
    ("a huge sequence number", [NEG], 2**63, 1, command(1, 1, 2), "skipped"),
    ("an operation of nobody's namespace", [instruction(1, "os::system", Constant("true"))], 0, 0, b"", "os::system"),
    ("prims", [instruction(1, "prims::neg", ObjectSlot())], 0, 0, b"", "prims::neg"),
    ("no namespace", [instruction(1, "neg", ObjectSlot())], 0, 0, b"", "neg"),
    ("no name", [instruction(1, "", ObjectSlot())], 0, 0, b"", "operations"),
    ("dtype of nobody", [instruction(1, "aten::neg", NamedConstant("dtype", "object"))], 0, 0, b"", "dtype"),
    (
        "memory format of nobody",
        [instruction(1, "aten::neg", NamedConstant("memory_format", "x"))],
        0,
        0,
        b"",
        "memory",
    ),
    (
        "dtype of nobody in a list",
        [instruction(1, "aten::neg", Items((ObjectSlot(), NamedConstant("dtype", "object"))))],
        0,
        1,
        command(1, 1, 2),
        "dtype",
    ),
    (
        "prediction of a negative size",
        [instruction(1, "aten::neg", expected=(TensorMeta((-1,), (1,), "int8"),))],
        0,
        0,
        b"",
        "negative",
    ),
    (
        "prediction of too many",
        [instruction(1, "aten::neg", expected=(None,) * (MAX_RESULTS + 1))],
        0,
        0,
        b"",
        "results",
    ),
]


@pytest.mark.parametrize(
    ("definitions", "first", "count", "commands", "reason"), [case[1:] for case in BATCHES], ids=[c[0] for c in BATCHES]
)
def test_a_batch_that_is_not_what_it_says(
    greeted: Client, definitions: list[Instruction], first: int, count: int, commands: bytes, reason: str
) -> None:
    greeted.say(Batch(first, count, definitions), commands)
    greeted.say(Synchronize(1))
    assert reason in greeted.refusal().reason


# --- what is the protocol, and fails: the session goes on

FAILING: list[tuple[str, Instruction, bytes, str]] = [
    ("ids of nobody", NEG, command(1, 2**63, 100), "ObjectNotFoundError"),
    ("largest id", NEG, command(1, 2**64 - 1, 100), "ObjectNotFoundError"),
    (
        "from_file",
        instruction(1, "aten::from_file", Constant("/etc/passwd"), Constant(False), Constant(6)),
        command(1, 100),
        "reaches beyond tensors",
    ),
    (
        "from_file's other form",
        instruction(1, "aten::from_file.out", Constant("/etc/passwd"), out=ObjectSlot()),
        command(1, 10, 100),
        "reaches beyond tensors",
    ),
    ("no such operation", instruction(1, "aten::no_such_operation"), command(1, 100), "no operation"),
    ("no such overload", instruction(1, "aten::add.NoSuch"), command(1, 100), "no operation"),
    ("a packet's attribute", instruction(1, "aten::add.__class__"), command(1, 100), "no operation"),
    ("a namespace's attribute", instruction(1, "aten::__class__.mro"), command(1, 100), "no operation"),
    ("a module's attribute", instruction(1, "aten::__init__.__globals__"), command(1, 100), "no operation"),
    ("a name with a zero byte", instruction(1, "aten::add\0.Tensor"), command(1, 100), "no operation"),
    ("a long name", instruction(1, "aten::" + "x" * 100_000), command(1, 100), "no operation"),
    ("too few arguments", instruction(1, "aten::mm", ObjectSlot()), command(1, 10, 100), "mm"),
    ("too many arguments", instruction(1, "aten::neg", ObjectSlot(), ObjectSlot()), command(1, 10, 10, 100), "neg"),
    ("unknown keyword", instruction(1, "aten::neg", ObjectSlot(), x=Constant(1)), command(1, 10, 100), "neg"),
    ("wrong kind", instruction(1, "aten::neg", Constant("text")), command(1, 100), "neg"),
    ("a device where a tensor belongs", instruction(1, "aten::neg", ComputeDevice()), command(1, 100), "neg"),
    ("a list where a tensor belongs", instruction(1, "aten::neg", Items((ObjectSlot(),))), command(1, 10, 100), "neg"),
    (
        "a seed nobody takes",
        instruction(1, "aten::neg", ObjectSlot(), draws=True, generator=Constant(1)),
        command(1, 10, 5, 100),
        "neg",
    ),
    ("wrong shapes", instruction(1, "aten::mm", ObjectSlot(), ObjectSlot()), command(1, 10, 10, 100), "mat1"),
    ("wrong prediction", instruction(1, "aten::t", ObjectSlot()), command(1, 10, 100), "predicted"),
    (
        "no prediction where there is a result",
        instruction(1, "aten::neg", ObjectSlot(), expected=()),
        command(1, 10, 100),
        "",
    ),
    ("more memory than there is", instruction(1, "aten::zeros", Items((Constant(2**50),))), command(1, 100), "memory"),
    (
        "sizes that overflow",
        instruction(1, "aten::zeros", Items((Constant(2**62), Constant(2**62)))),
        command(1, 100),
        "",
    ),
    (
        "a view past the end",
        instruction(1, "aten::as_strided", ObjectSlot(), Items((Constant(1000),)), Items((Constant(1),))),
        command(1, 10, 100),
        "out of bounds",
    ),
    (
        "a view from before the beginning",
        instruction(1, "aten::as_strided", ObjectSlot(), Items((Constant(1),)), Items((Constant(1),)), Constant(-100)),
        command(1, 10, 100),
        "",
    ),
    (
        "a layout of predicted strides that needs more memory than there is",
        instruction(1, "aten::neg", ObjectSlot(), expected=(TensorMeta((2, 3), (2**50, 1), "float32"),)),
        command(1, 10, 100),
        "",
    ),
]


@pytest.mark.parametrize(
    ("defined", "run", "reason"), [case[1:] for case in FAILING], ids=[case[0] for case in FAILING]
)
def test_a_command_that_fails_is_answered(greeted: Client, defined: Instruction, run: bytes, reason: str) -> None:
    greeted.say(Put(10, META), struct.pack("<6f", *range(6)))
    greeted.run(defined, run)
    if defined.expected:
        assert reason in greeted.failure(Fetch(1, 100))
        assert reason in greeted.failure(Fetch(2, 100))
    greeted.check_the_session_lives()
    value = greeted.answer(Fetch(3, 10))
    assert isinstance(value, Value)


@pytest.mark.parametrize("op", ["aten::no_such_operation", "aten::from_file", "aten::neg"])
def test_an_unpredicted_command_that_fails_says_so_when_asked(greeted: Client, op: str) -> None:
    greeted.run(instruction(1, op, Constant("/etc/passwd"), expected=None), command(1, 100))
    assert op in greeted.failure(Describe(1, 100)) or "arguments" in greeted.failure(Describe(1, 100))


def test_more_failures_than_one_message_holds(greeted: Client) -> None:
    """Their texts must not fill the worker's memory, nor an answer that its client may not take."""
    count = 2000
    long = instruction(1, "aten::" + "x" * 100_000)
    greeted.say(Batch(0, count, [long]), command(1, 8) * count)
    greeted.say(Synchronize(1))
    heard: list[WorkerMessage | None] = []
    while (message := greeted.hear()) != Done(1):
        heard.append(message)
    acknowledged = [message for message in heard if isinstance(message, Acknowledged)]
    assert acknowledged == heard
    assert [message.sequence for message in acknowledged] == [0] * (len(heard) - 2) + [count, count]
    assert all(len(message.failures) <= MAX_FAILURES for message in acknowledged)
    assert [failure.sequence for message in acknowledged for failure in message.failures] == [*range(count)]
    assert isinstance(greeted.answer(Fetch(2, 8)), Failed)


PUTS: list[tuple[str, TensorMeta, int]] = [
    ("overlapping", TensorMeta((4,), (0,), "float32"), 16),
    ("partly overlapping", TensorMeta((2, 3), (1, 1), "float32"), 24),
    ("with gaps", TensorMeta((2,), (100,), "float32"), 8),
    ("with a gap that overflows", TensorMeta((2,), (2**61,), "float32"), 8),
    ("with a gap beyond 63 bits", TensorMeta((2,), (2**64 - 1,), "float32"), 8),
    ("of sizes that overflow", TensorMeta((2**40, 2**40, 0), (1, 1, 1), "float32"), 0),
    ("of a size beyond 63 bits", TensorMeta((2**64 - 1, 0), (1, 1), "float32"), 0),
]


@pytest.mark.parametrize(("meta", "size"), [case[1:] for case in PUTS], ids=[case[0] for case in PUTS])
def test_a_tensor_that_is_not_laid_out_in_its_bytes(greeted: Client, meta: TensorMeta, size: int) -> None:
    """[P2.4]: the values fill the payload, each once. One that does not is refused or failed, and never read."""
    greeted.say(Put(5, meta), b"x" * size)
    greeted.say(Fetch(1, 5))
    message = greeted.hear()
    assert isinstance(message, Failed | Refused), message
    if isinstance(message, Failed):
        greeted.check_the_session_lives()


HARMLESS: list[tuple[str, list[tuple[Message, bytes]]]] = [
    ("dropping ids of nobody", [(Batch(0, 2, []), drop(5, 2**64 - 1) + drop())]),
    ("dropping an id twice", [(Put(5, META), bytes(24)), (Batch(0, 1, []), drop(5, 5))]),
    ("hiding and annotating ids of nobody", [(Hide(5), b""), (Annotate(6, ("#x",), ""), b""), (Hide(2**63), b"")]),
    ("putting twice under one id", [(Put(5, META), bytes(24)), (Put(5, uint8(1)), b"x")]),
    ("an empty batch", [(Batch(0, 0, []), b"")]),
    ("what has run already", [(Batch(0, 1, []), drop(5)), (Batch(0, 1, []), drop(5)), (Batch(0, 2, []), drop(5) * 2)]),
    ("largest seed", [(ManualSeed(2**64 - 1), b""), (ManualSeed(None), b"")]),
    ("smallest seed", [(ManualSeed(-(2**63)), b"")]),
    ("recovering nothing", [(Recover(1), b"")]),
    (
        "all flags",
        [(Configure(Settings("float64", True, True, False, "medium", False, False, True, False, False)), b"")],
    ),
]


@pytest.mark.parametrize("messages", [case[1] for case in HARMLESS], ids=[case[0] for case in HARMLESS])
def test_what_is_odd_but_harmless(listener: Listener, messages: list[tuple[Message, bytes]]) -> None:
    with contextlib.closing(Client(listener.port)) as client:
        client.greet()
        for message, payload in messages:
            client.say(message, payload)
        client.say(Statistics(77))
        answer = client.hear()
        while not isinstance(answer, Counters):
            assert answer is not None
            assert not isinstance(answer, Refused), answer
            answer = client.hear()
        assert answer.request == 77
    listener.check_it_still_serves()


@pytest.mark.parametrize(
    ("request_", "kind"),
    [
        (Fetch(1, 5), Missing),
        (Fetch(1, 2**64 - 1), Missing),
        (Describe(1, 5), Missing),
        (Search(1, ("#nobody",), 5), Found),
        (Inventory(2**64 - 1), Found),
        (Statistics(0), Counters),
        (Bye(1), Done),
    ],
    ids=str,
)
def test_requests_for_nothing(greeted: Client, request_: Message, kind: type) -> None:
    assert isinstance(greeted.answer(request_), kind)


@pytest.mark.parametrize(
    ("first", "then"),
    [
        (Search(1, (), 2**64 - 1), Inventory(2)),
        (Search(1, (), -5), Inventory(2)),
        (Put(-1, META), Inventory(2)),
        (Describe(1, -(2**63)), Inventory(2)),
        (Batch(-5, 1, []), Inventory(2)),
    ],
    ids=[
        "search to the end of the names",
        "search for negative names",
        "negative name",
        "smallest name",
        "negative sequence",
    ],
)
def test_names_that_are_none(greeted: Client, first: Message, then: Message) -> None:
    """They are answered or refused, never met with silence."""
    for name in (10, 11, 12):
        greeted.say(Put(name, META), bytes(24))
        greeted.say(Annotate(name, ("#x",), ""))
    greeted.say(first, drop(1) if isinstance(first, Batch) else bytes(24) if isinstance(first, Put) else b"")
    greeted.say(then)
    greeted.say(Synchronize(9))
    heard = [greeted.hear()]
    while heard[-1] is not None and heard[-1] != Done(9) and not isinstance(heard[-1], Refused):
        heard.append(greeted.hear())
    assert heard[-1] is not None, "the worker hung up without a word"


@pytest.mark.parametrize(
    ("op", "arguments"),
    [
        ("aten::_local_scalar_dense", (ObjectSlot(),)),
        ("aten::is_complex", (ObjectSlot(),)),
        ("aten::size", (ObjectSlot(),)),
        ("aten::device", (Constant("cpu"),)),
        ("aten::str", (Constant(1),)),
        ("aten::_get_tracing_state", ()),
    ],
    ids=str,
)
def test_an_operation_that_returns_something_else(greeted: Client, op: str, arguments: tuple[Argument, ...]) -> None:
    """A complex number, a list, a text: what cannot be carried is a failure of that command."""
    greeted.say(Put(10, TensorMeta((), (), "complex64")), bytes(8))
    objects = [10] * sum(isinstance(argument, ObjectSlot) for argument in arguments)
    greeted.run(instruction(1, op, *arguments, expected=None), command(1, *objects, 100))
    for request in (Describe(1, 100), Fetch(2, 100), Inventory(3), Statistics(4)):
        message = greeted.answer(request)
        assert not isinstance(message, Refused), message
    greeted.check_the_session_lives()


def test_sessions_share_no_names(listener: Listener, greeted: Client) -> None:
    greeted.say(Put(5, META), bytes(24))
    greeted.say(Annotate(5, ("#secret",), ""))
    with contextlib.closing(Client(listener.port)) as other:
        other.greet()
        assert other.answer(Fetch(1, 5)) == Missing(1, 5)
        assert other.answer(Inventory(2)) == Found(2, [])
        assert other.answer(Search(3, (), 100)) == Found(3, [])
        other.say(Batch(0, 1, []), drop(5))
        assert other.answer(Synchronize(4)) == Done(4)
    assert isinstance(greeted.answer(Fetch(4, 5)), Value)


def test_flags_and_generators_of_a_session_are_its_own(listener: Listener, greeted: Client) -> None:
    greeted.say(Configure(Settings("float64", deterministic=True)))
    greeted.say(ManualSeed(1))
    greeted.run(instruction(1, "aten::ones", Items((Constant(2),)), expected=None), command(1, 100))
    assert isinstance(greeted.answer(ReadGenerator(1)), Value)
    with contextlib.closing(Client(listener.port)) as other:
        other.greet()
        other.run(instruction(1, "aten::ones", Items((Constant(2),)), expected=None), command(1, 100))
        value = other.answer(Fetch(1, 100))
        assert isinstance(value, Value)
        assert value.meta is not None
        assert value.meta.dtype == "float32"
    value = greeted.answer(Fetch(2, 100))
    assert isinstance(value, Value)
    assert value.meta is not None
    assert value.meta.dtype == "float64"


def test_a_message_that_is_too_long_costs_its_sender_no_session(listener: Listener) -> None:
    with contextlib.closing(pt.RemoteWorker(f"127.0.0.1:{listener.port}")) as worker:
        pointer = pt.send(torch.ones(2), worker)
        with pytest.raises(pt.PtrTensorError, match="bytes"):
            pointer.describe("x" * (MAX_MESSAGE_BYTES + 1))
        assert pt.get(pointer).tolist() == [1.0, 1.0]
    listener.check_it_still_serves()


# --- clients that take no part


def test_a_client_that_stops_reading(listener: Listener) -> None:
    """The worker waits for it, with little of its answers in memory, and serves the others."""
    with contextlib.closing(Client(listener.port)) as client:
        client.greet()
        size = 4 * 1024**2
        client.say(Put(1, uint8(size)), bytes(size))
        assert client.answer(Synchronize(1)) == Done(1)
        before = listener.resident_bytes()
        client.socket.settimeout(0.5)
        with contextlib.suppress(TimeoutError):
            for number in range(200):
                client.raw(frame(Fetch(number, 1)))
        listener.check_it_still_serves()
        assert listener.resident_bytes() - before < 128 * 1024**2
    listener.check_it_still_serves()


def test_more_clients_than_the_worker_has_files_for() -> None:
    with listening() as listener:
        most = open_files(listener.process.pid) + 10
        resource.prlimit(listener.process.pid, resource.RLIMIT_NOFILE, (most, most))
        with contextlib.ExitStack() as stack:
            for _ in range(40):
                stack.enter_context(contextlib.closing(Client(listener.port)))
            time.sleep(0.5)
            assert listener.process.poll() is None, "the worker ended: " + listener.errors()
        deadline = time.monotonic() + 20
        while open_files(listener.process.pid) > most - 8 and time.monotonic() < deadline:
            time.sleep(0.05)
        listener.check_it_still_serves()


def open_files(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


# --- where it listens


def run_worker(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "ptrtensor.worker", *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.mark.parametrize("address", ["0.0.0.0:0", "[::]:0", "192.0.2.1:0"])
def test_it_does_not_listen_where_other_machines_are(address: str) -> None:
    done = run_worker("--listen", address)
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith("ptrtensor-worker: refusing to listen on")
    assert "loopback only (127.0.0.1 or ::1)" in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    "arguments",
    [
        ("--listen", "127.0.0.1:port"),
        ("--listen", "127.0.0.1"),
        ("--listen", "127.0.0.1:99999"),
        ("--listen", ":0"),
        ("--listen", "127.0.0.1:0", "--compute-device", "nonsense"),
        ("--listen", "127.0.0.1:0", "--compute-device", "meta"),
        ("--listen", "127.0.0.1:0", "--threads", "0"),
    ],
    ids=" ".join,
)
def test_wrong_options_are_explained_in_a_line(arguments: tuple[str, ...]) -> None:
    done = run_worker(*arguments)
    assert done.returncode in (1, 2)
    assert done.stderr.startswith("ptrtensor-worker: ")
    assert len(done.stderr.splitlines()) == 1


def test_an_address_that_is_taken(listener: Listener) -> None:
    done = run_worker("--listen", f"127.0.0.1:{listener.port}")
    assert done.returncode == 1
    assert "Address already in use" in done.stderr
    listener.check_it_still_serves()
