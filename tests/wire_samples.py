"""One of each message of the protocol, and frames made of them."""

import struct
from typing import Final, get_args

import msgspec

from ptrtensor.wire.connection import (
    HEADER,
    MAGIC,
    Allocate,
    Connection,
    allocate,
    client_connection,
    encode,
    worker_connection,
)
from ptrtensor.wire.instruction import (
    ComplexConstant,
    ComputeDevice,
    Constant,
    FloatSlot,
    Instruction,
    IntegerSlot,
    Items,
    NamedConstant,
    ObjectSlot,
    ViewSlot,
)
from ptrtensor.wire.limits import PROTOCOL_VERSION
from ptrtensor.wire.messages import (
    Acknowledged,
    Annotate,
    AskRelease,
    Batch,
    Bye,
    ClientMessage,
    CollectRelease,
    Configure,
    Counters,
    Denied,
    Describe,
    Described,
    Done,
    Entry,
    Extent,
    Failed,
    Failure,
    Fetch,
    Found,
    Hello,
    Hide,
    Inventory,
    Invitation,
    Invite,
    ListReleases,
    ManualSeed,
    Measure,
    Measured,
    Message,
    Missing,
    Put,
    ReadGenerator,
    Recover,
    Refused,
    Release,
    Releases,
    Seal,
    Sealed,
    Search,
    Settings,
    Statistics,
    Synchronize,
    Timing,
    Unseal,
    Value,
    Welcome,
    WorkerMessage,
    WriteGenerator,
)
from ptrtensor.wire.metadata import TensorMeta

Sample = tuple[Message, bytes]
"""A message and its payload, empty where it has none."""

META: Final = TensorMeta((2, 3), (3, 1), "float32")
SCALAR: Final = TensorMeta((), (), "int64")
FAILURE: Final = Failure(7, "aten::mm(float32[2, 3])", "RuntimeError: no", "Traceback ...\n")

HELLO: Final = Hello(PROTOCOL_VERSION, "0.1.0", "2.13.0", "t0ken")
WELCOME: Final = Welcome(PROTOCOL_VERSION, "0.1.0", "2.13.0", "bob", "epoch", "cpu")

EVERY_ARGUMENT: Final = Instruction(
    3,
    "aten::everything.overload",
    (
        ObjectSlot(),
        IntegerSlot(),
        FloatSlot(),
        Constant(None),
        Constant(True),
        Constant(-1),
        Constant(0.5),
        Constant("mean"),
        Items((ObjectSlot(), Constant(None), ObjectSlot(), ViewSlot(2))),
        Items(()),
    ),
    {
        "alpha": FloatSlot(),
        "beta": ComplexConstant(1.0, -2.0),
        "dtype": NamedConstant("dtype", "float32"),
        "device": ComputeDevice(),
        "dims": Items((Constant(0), Constant(-1))),
    },
    True,
    (META, None),
)

FROM_CLIENT: Final[list[Sample]] = [
    (HELLO, b""),
    (Batch(5, 1, [EVERY_ARGUMENT]), bytes(range(64))),
    (Put(1, META, host=True), bytes(range(24))),
    (Fetch(1, 2), b""),
    (Describe(2, 3), b""),
    (Hide(4), b""),
    (Annotate(5, ("#x", "ä"), "a description"), b""),
    (Search(3, ("#x",), 100), b""),
    (Inventory(4), b""),
    (Synchronize(5), b""),
    (Recover(6), b""),
    (Configure(Settings("float64", deterministic=True, matmul_precision="high")), b""),
    (ManualSeed(2**63), b""),
    (ReadGenerator(7), b""),
    (WriteGenerator(TensorMeta((16,), (1,), "uint8")), bytes(range(16))),
    (Statistics(8), b""),
    (Measure(8, True), b""),
    (AskRelease(15, 3, "the mean"), b""),
    (ListReleases(16), b""),
    (CollectRelease(17, "a1"), b""),
    (Invite(18), b""),
    (Seal(19, 3, b"letter", 24), b""),
    (Unseal(20, 4), b"box"),
    (Bye(9), b""),
]

FROM_WORKER: Final[list[Sample]] = [
    (WELCOME, b""),
    (Refused("no", version=True), b""),
    (Value(1, META), bytes(range(24))),
    (Described(2, [Extent(META, 4), None], [Extent(SCALAR, 0)]), b""),
    (Found(3, [Entry(1, Extent(META, 0), ("#x",), "a description")]), b""),
    (Failed(4, FAILURE), b""),
    (Missing(5, 6), b""),
    (Denied(5, "private"), b""),
    (Invitation(10, b"letter"), b""),
    (Sealed(11), b"box"),
    (Releases(6, [Release("a1", "approved", "the mean", "2026-11-23T09:00:00+00:00", "fine")]), b""),
    (Done(7), b""),
    (Acknowledged(8, [FAILURE]), b""),
    (Counters(9, 1, 2, 3, 4, 5), b""),
    (Measured(9, [Timing("aten::add.Tensor", 2, 0.25)]), b""),
]

FURTHER: Final[list[Sample]] = [
    (Value(1, scalar=True), b""),
    (Value(1, scalar=-(2**63)), b""),
    (Value(1, scalar=2.5), b""),
    (Value(1, TensorMeta((0, 4), (4, 1), "bool")), b""),
]
"""More of the worker's, for what a message may leave out."""


def types_of(samples: list[Sample]) -> set[type]:
    return {type(message) for message, _ in samples}


CLIENT_TYPES: Final[set[type]] = set(get_args(ClientMessage))
WORKER_TYPES: Final[set[type]] = set(get_args(WorkerMessage))


def frame(message: Message, payload: bytes = b"") -> bytes:
    """The bytes of one message."""
    return b"".join(encode(message, payload or None))


def header(message_bytes: int, payload_bytes: int, *, magic: bytes = MAGIC, version: int = PROTOCOL_VERSION) -> bytes:
    return HEADER.pack(magic, version, message_bytes, payload_bytes)


def raw_frame(body: bytes, payload: bytes = b"", *, payload_bytes: int | None = None) -> bytes:
    """A frame around any bytes, true to its own lengths unless told otherwise."""
    return header(len(body), len(payload) if payload_bytes is None else payload_bytes) + body + payload


def content(message: object) -> object:
    """What a message says, comparable: metadata compare by identity."""
    return msgspec.to_builtins(message)


def at_worker(allocate: Allocate = allocate) -> Connection[ClientMessage]:
    """A worker's end that has had its hello."""
    connection = worker_connection(allocate)
    connection.receive_data(frame(HELLO))
    connection.events.clear()
    return connection


def at_client() -> Connection[WorkerMessage]:
    """A client's end that has had its welcome."""
    connection = client_connection()
    connection.receive_data(frame(WELCOME))
    connection.events.clear()
    return connection


def command(number: int, *fields: int) -> bytes:
    """A command whose fields are all unsigned: names, a seed, the first result."""
    return struct.pack(f"<{1 + len(fields)}Q", number, *fields)


def drop(*names: int, count: int | None = None) -> bytes:
    return struct.pack(f"<{2 + len(names)}Q", 0, len(names) if count is None else count, *names)
