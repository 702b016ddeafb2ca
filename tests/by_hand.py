"""A client written by hand: messages and commands put together value by value, to see what a session does with each."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor
from torch._ops import OpOverload

from ptrtensor._torch.memory import bytes_of, dense, meta_of, tensor_of
from ptrtensor._torch.names import DTYPE_NAMES
from ptrtensor._torch.operations import op_name
from ptrtensor.version import __version__
from ptrtensor.wire import messages
from ptrtensor.wire.connection import Buffer
from ptrtensor.wire.instruction import (
    DROP,
    DROP_HEADER,
    NUMBER,
    Argument,
    ComplexConstant,
    ComputeDevice,
    Constant,
    FloatSlot,
    Instruction,
    IntegerSlot,
    Items,
    Leaf,
    NamedConstant,
    ObjectSlot,
    ViewSlot,
    layout,
)
from ptrtensor.wire.messages import Acknowledged, ClientMessage, Failure, WorkerMessage
from ptrtensor.wire.metadata import TensorMeta
from ptrtensor.worker.identity import Identity
from ptrtensor.worker.session import Session

aten = torch.ops.aten
M = TypeVar("M", bound=WorkerMessage)

NOTHING = memoryview(b"")


@dataclass(frozen=True)
class At:
    """The object of that name, as an argument."""

    name: int


@dataclass(frozen=True)
class Part:
    """A view of the object of that name, as an argument."""

    name: int
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]


@dataclass(frozen=True)
class Field:
    """A number that travels in the command, not in the instruction."""

    value: int | float


class Deviceless:
    """Stands for the worker's own device among arguments."""


def session() -> Session:
    return Session(Identity("bob", __version__, str(torch.__version__)))


class ByHand:
    """Sends one message at a time to a session of its own; keeps what the worker acknowledged."""

    def __init__(self, to: Session | None = None) -> None:
        self.session = session() if to is None else to
        self.store = self.session.store
        self.sequence = 0
        self.failures: list[Failure] = []
        self._names = itertools.count(1)
        self._numbers = itertools.count(1)
        self._requests = itertools.count(1)

    # --- messages

    def handle(self, message: ClientMessage, payload: Buffer = NOTHING) -> list[WorkerMessage]:
        replies = [reply for reply, _ in self.session.handle(message, memoryview(payload))]
        for reply in replies:
            if isinstance(reply, Acknowledged):
                self.failures += reply.failures
        return replies

    def ask(self, make: type[ClientMessage], kind: type[M], *fields: object) -> M:
        """Send a request; its one answer besides acknowledgements, which must be of that kind."""
        request = next(self._requests)
        replies = self.handle(make(request, *fields))  # type: ignore[arg-type]
        (answer,) = (reply for reply in replies if not isinstance(reply, Acknowledged))
        assert isinstance(answer, kind), answer
        assert getattr(answer, "request", None) == request
        return answer

    def put(self, tensor: Tensor) -> int:
        name = next(self._names)
        plain = dense(tensor)
        self.handle(messages.Put(name, meta_of(plain)), bytearray(bytes_of(plain)))
        return name

    def fetch(self, name: int) -> Tensor:
        ((reply, payload),) = self.session.handle(messages.Fetch(0, name), NOTHING)
        assert isinstance(reply, messages.Value) and reply.meta is not None and payload is not None, reply
        return tensor_of(reply.meta, memoryview(bytearray(payload)))

    # --- commands

    def run(
        self,
        op: OpOverload[..., object] | str,
        *args: object,
        expect: Sequence[Tensor | TensorMeta | None] | None = (),
        seed: int | None = None,
        **kwargs: object,
    ) -> int:
        """Run one operation; the name of its first result. `expect`: tensors with the metadata that is predicted."""
        name = next(self._names)
        for _ in range(max(len(expect or ()), 8) - 1):
            next(self._names)
        self.post([self.command(self.define(op, *args, expect=expect, draws=seed is not None, **kwargs), name, seed)])
        return name

    def define(
        self,
        op: OpOverload[..., object] | str,
        *args: object,
        expect: Sequence[Tensor | TensorMeta | None] | None = (),
        draws: bool = False,
        **kwargs: object,
    ) -> tuple[Instruction, list[int | float]]:
        """An instruction for these arguments, and the fields of a command that calls it with them."""
        instruction = Instruction(
            next(self._numbers),
            op if isinstance(op, str) else op_name(op),
            tuple(argument(value) for value in args),
            {name: argument(value) for name, value in kwargs.items()},
            draws,
            None if expect is None else tuple(meta_of(e) if isinstance(e, Tensor) else e for e in expect),
        )
        return instruction, [field for value in (*args, *kwargs.values()) for field in fields(value)]

    def command(
        self, defined: tuple[Instruction, list[int | float]], name: int, seed: int | None = None
    ) -> tuple[Instruction | None, bytes]:
        instruction, given = defined
        seeds = [] if seed is None else [seed]
        return instruction, layout(instruction).pack(instruction.number, *given, *seeds, name)

    def post(
        self, commands: Sequence[tuple[Instruction | None, bytes]], first: int | None = None
    ) -> list[WorkerMessage]:
        """Send a batch; `first` is given to send one again, or to skip some."""
        definitions = [instruction for instruction, _ in commands if instruction is not None]
        begin = self.sequence if first is None else first
        batch = messages.Batch(begin, len(commands), definitions)
        replies = self.handle(batch, b"".join(command for _, command in commands))
        self.sequence = max(self.sequence, begin + len(commands))
        return replies

    def drop(self, *names: int) -> None:
        self.post([(None, DROP_HEADER.pack(DROP, len(names)) + b"".join(map(NUMBER.pack, names)))])

    # --- what is here

    def why(self, name: int) -> str:
        """Why an object has no value."""
        return self.store.poisoned[name].failure.error

    def state(self, *names: int) -> str:
        """`o` for an object, `x` for a poisoned name, `-` for an unknown one; never two of them."""
        assert not self.store.objects.keys() & self.store.poisoned.keys()
        return "".join(
            "o" if name in self.store.objects else "x" if name in self.store.poisoned else "-" for name in names
        )


def argument(value: object) -> Argument:
    if isinstance(value, list):
        return Items(tuple(leaf(item) for item in value))
    return leaf(value)


def leaf(value: object) -> Leaf:
    match value:
        case At():
            return ObjectSlot()
        case Part():
            return ViewSlot(len(value.shape))
        case Field(float()):
            return FloatSlot()
        case Field():
            return IntegerSlot()
        case bool() | int() | float() | str() | None:
            return Constant(value)
        case complex():
            return ComplexConstant(value.real, value.imag)
        case torch.dtype():
            return NamedConstant("dtype", DTYPE_NAMES[value])
        case Deviceless():
            return ComputeDevice()
        case NamedConstant():
            return value
        case _:
            raise AssertionError(f"no argument of a command: {value!r}")


def fields(value: object) -> list[int | float]:
    match value:
        case list():
            return [field for item in value for field in fields(item)]
        case At(name):
            return [name]
        case Part(name, offset, shape, stride):
            return [name, offset, *shape, *stride]
        case Field(number):
            return [number]
        case _:
            return []
