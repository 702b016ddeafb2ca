"""Ctrl-C in the middle of a batch of a worker in this process: no command is lost in silence, and none runs twice."""

import struct
from pathlib import Path

import torch
from interrupting import interrupted
from wire_samples import command

import ptrtensor
from ptrtensor.wire.instruction import Instruction, ObjectSlot
from ptrtensor.wire.messages import Batch, Failed, Fetch, Put, Value
from ptrtensor.wire.metadata import TensorMeta
from ptrtensor.worker.identity import Identity
from ptrtensor.worker.session import Session

WORKER = str(Path(ptrtensor.__file__).parent / "worker")
META = TensorMeta((2,), (1,), "float32")
ADD_IN_PLACE = Instruction(1, "aten::add_.Tensor", (ObjectSlot(), ObjectSlot()), {}, False, ())
ADD = Instruction(2, "aten::add.Tensor", (ObjectSlot(), ObjectSlot()), {}, False, (META,))
BATCH = Batch(0, 4, [ADD_IN_PLACE, ADD])
COMMANDS = command(1, 1, 2, 10) + command(2, 1, 2, 10) + command(1, 1, 2, 11) + command(1, 10, 1, 11)
EXPECTED = {1: 3.0, 10: 6.0}


def fresh_session() -> Session:
    session = Session(Identity("bob", "0", str(torch.__version__)))
    for name in (1, 2):
        session.handle(Put(name, META), memoryview(bytearray(struct.pack("<2f", 1, 1))))
    return session


def test_what_an_interruption_leaves_is_right_or_poisoned() -> None:
    """After it the client sends the batch again [P7.2]."""
    wrong: list[str] = []
    at = 0
    happened = True
    while happened:
        at += 1
        session = fresh_session()
        happened = interrupted(lambda session=session: session.handle(BATCH, memoryview(COMMANDS)), at, WORKER)  # type: ignore[misc]
        session.handle(BATCH, memoryview(COMMANDS))
        for name, value in EXPECTED.items():
            [(reply, payload)] = session.handle(Fetch(1, name), memoryview(b""))
            if isinstance(reply, Value) and payload is not None:
                found = struct.unpack("<2f", payload)
                if found != (value, value):
                    wrong.append(f"place {at}: {name} is {found[0]}, not {value}")
            elif not isinstance(reply, Failed):
                wrong.append(f"place {at}: {name} is met with {type(reply).__name__}")
    assert at > 50
    assert not wrong
