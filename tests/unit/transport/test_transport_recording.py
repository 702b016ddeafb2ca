"""The log of a recording transport."""

import struct

import pytest
from echoing import EchoWorker, greet, meta_for, next_event
from wire_samples import drop

from ptrtensor.transport.inprocess import InProcessTransport
from ptrtensor.transport.recording import RecordingTransport
from ptrtensor.wire.instruction import Constant, FloatSlot, Instruction, IntegerSlot, Items, ObjectSlot
from ptrtensor.wire.messages import Batch, Fetch, Hide, Missing, Put

ADD = Instruction(1, "aten::add.Tensor", (ObjectSlot(), ObjectSlot()), {"alpha": IntegerSlot()}, False, (None,))
MUL = Instruction(2, "aten::mul.Scalar", (ObjectSlot(), FloatSlot()), {}, False, (None,))
CAT = Instruction(3, "aten::cat", (Items((ObjectSlot(), ObjectSlot())), Constant(1)), {}, False, (None,))
BERNOULLI = Instruction(4, "aten::bernoulli", (ObjectSlot(),), {}, True, (None,))


@pytest.fixture
def transport() -> RecordingTransport:
    transport = RecordingTransport(InProcessTransport(EchoWorker().handle))
    greet(transport)
    transport.log()
    return transport


def pack(format: str, *fields: int | float) -> bytes:
    return struct.pack(f"<{format}", *fields)


@pytest.mark.parametrize(
    ("definition", "command", "line"),
    [
        (ADD, pack("QQQqQ", 1, 10, 11, -1, 12), "$12 = aten::add.Tensor($10, $11, -1)"),
        (MUL, pack("QQdQ", 2, 10, 0.5, 11), "$11 = aten::mul.Scalar($10, 0.5)"),
        (CAT, pack("QQQQ", 3, 10, 11, 12), "$12 = aten::cat($10, $11)"),
        (BERNOULLI, pack("QQQQ", 4, 10, 77, 11), "$11 = aten::bernoulli($10)"),
        (None, drop(10, 11), "drop $10 $11"),
        (None, drop(), "drop"),
    ],
    ids=["integer", "float", "list", "seed", "drop", "drop nothing"],
)
def test_a_command_is_a_line(
    transport: RecordingTransport, definition: Instruction | None, command: bytes, line: str
) -> None:
    transport.send(Batch(0, 1, [] if definition is None else [definition]), command)
    assert transport.log().rstrip() == line


def test_messages_and_commands_stand_in_their_order(transport: RecordingTransport) -> None:
    transport.send(Put(10, meta_for(4)), b"abcd")
    transport.send(Batch(0, 2, [MUL]), memoryview(pack("QQdQ", 2, 10, 2.0, 11) + drop(10)).toreadonly())
    transport.send(Batch(2, 1, []), bytearray(pack("QQdQ", 2, 11, 3.0, 12)))
    transport.send(Hide(12))
    transport.send(Batch(3, 0, []))
    assert transport.log().splitlines() == [
        "Put",
        "$11 = aten::mul.Scalar($10, 2.0)",
        "drop $10",
        "$12 = aten::mul.Scalar($11, 3.0)",
        "Hide",
    ]
    assert transport.log() == ""


def test_a_number_is_what_it_was_defined_as_last(transport: RecordingTransport) -> None:
    transport.send(Batch(0, 1, [MUL]), pack("QQdQ", 2, 1, 2.0, 3))
    again = Instruction(2, "aten::neg", (ObjectSlot(),), {}, False, (None,))
    transport.send(Batch(1, 1, [again]), pack("QQQ", 2, 3, 4))
    assert transport.log() == "$3 = aten::mul.Scalar($1, 2.0)\n$4 = aten::neg($3)"


def test_everything_goes_through(transport: RecordingTransport) -> None:
    transport.send(Fetch(1, 2))
    assert transport.messages[-1] == Fetch(1, 2)
    transport.poll()
    assert next_event(transport)[0] == Missing(1, 2)
