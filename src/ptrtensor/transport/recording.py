"""A transport that keeps what goes through it, for tests and for documentation."""

from collections import deque

from ptrtensor.transport.base import Transport
from ptrtensor.wire.connection import Buffer, Event
from ptrtensor.wire.instruction import (
    DROP,
    DROP_HEADER,
    NUMBER,
    Instruction,
    Leaf,
    ObjectSlot,
    ViewSlot,
    fields_of,
    layout,
)
from ptrtensor.wire.messages import Batch, ClientMessage, WorkerMessage


class RecordingTransport:
    """Another transport, with a log of its messages.

    Commands are written as `$3 = aten::add.Tensor($1, $2)`, or without a name where they have no results, so that a
    test can hold a whole stream against a text.
    """

    def __init__(self, inner: Transport) -> None:
        self.messages: list[ClientMessage] = []
        self._inner = inner
        self._instructions: dict[int, Instruction] = {}
        self._lines: list[str] = []

    @property
    def computes_on_sender(self) -> bool:
        return self._inner.computes_on_sender

    @property
    def events(self) -> deque[Event[WorkerMessage]]:
        return self._inner.events

    def log(self) -> str:
        """What was sent since the last call, a line for each command or message."""
        lines, self._lines = self._lines, []
        return "\n".join(lines)

    def send(self, message: ClientMessage, payload: Buffer | None = None, *, more: bool = False) -> None:
        self.messages.append(message)
        if isinstance(message, Batch):
            self._record(message, memoryview(payload or b""))
        else:
            self._lines.append(f"{type(message).__name__}")
        self._inner.send(message, payload, more=more)

    def wait(self, seconds: float | None = None) -> None:
        self._inner.wait(seconds)

    def poll(self) -> None:
        self._inner.poll()

    def close(self) -> None:
        self._inner.close()

    def abandon(self) -> None:
        self._inner.abandon()

    def _record(self, batch: Batch, commands: memoryview) -> None:
        for instruction in batch.definitions:
            self._instructions[instruction.number] = instruction
        offset = 0
        while offset < len(commands):
            (number,) = NUMBER.unpack_from(commands, offset)
            if number == DROP:
                _, count = DROP_HEADER.unpack_from(commands, offset)
                offset += DROP_HEADER.size
                names = commands[offset : offset + 8 * count].cast("Q")
                offset += 8 * count
                self._lines.append("drop " + " ".join(f"${name}" for name in names))
            else:
                instruction = self._instructions[number]
                form = layout(instruction)
                self._lines.append(written(instruction, form.unpack_from(commands, offset)))
                offset += form.size


def written(instruction: Instruction, fields: tuple[int | float, ...]) -> str:
    """One command as text; constants are left out."""
    shown, first = [], 1
    for leaf in instruction.leaves():
        last = first + len(fields_of(leaf))
        if last > first:
            shown.append(slot(leaf, fields[first:last]))
        first = last
    call = f"{instruction.op}({', '.join(shown)})"
    return call if instruction.expected == () else f"${fields[-1]} = {call}"


def slot(leaf: Leaf, fields: tuple[int | float, ...]) -> str:
    """What stands in one slot; of a view the tensor, where in it the view begins, its shape and its strides."""
    match leaf:
        case ObjectSlot():
            return f"${fields[0]}"
        case ViewSlot(dimensions):
            name, offset, *sizes = map(str, fields)
            return f"${name}[{offset}: {' '.join(sizes[:dimensions])} / {' '.join(sizes[dimensions:])}]"
        case _:
            return str(fields[0])
