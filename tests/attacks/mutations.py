"""Frames that are almost right: conversations of an honest client, and what a chance does to them."""

import random
import struct
from collections.abc import Callable
from typing import Any, Final

import msgspec
from hostile import HELLO
from wire_samples import command, drop, frame, header

from ptrtensor.wire.connection import HEADER
from ptrtensor.wire.instruction import (
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
from ptrtensor.wire.messages import (
    Annotate,
    AskRelease,
    Batch,
    Bye,
    CollectRelease,
    Configure,
    Describe,
    Fetch,
    Hide,
    Inventory,
    Invite,
    ListReleases,
    ManualSeed,
    Measure,
    Message,
    Put,
    ReadGenerator,
    Recover,
    Seal,
    Search,
    Settings,
    Statistics,
    Synchronize,
    Unseal,
)
from ptrtensor.wire.metadata import TensorMeta

EXTREMES: Final = (0, 1, -1, 2, 7, 8, 63, 64, 65, 255, 256, 2**16, 2**31 - 1, 2**31, 2**32, -(2**31), 2**53)
LARGEST: Final = (2**62, 2**63 - 1, 2**63, 2**64 - 1, -(2**63), -(2**63) + 1)
"""Where a number goes that is no size."""

SAFE: Final = (
    "aten::add.Tensor",
    "aten::add_.Tensor",
    "aten::mul.Tensor",
    "aten::mul.Scalar",
    "aten::neg",
    "aten::neg_",
    "aten::view",
    "aten::cat",
    "aten::stack",
    "aten::sum",
    "aten::sum.dim_IntList",
    "aten::mm",
    "aten::matmul",
    "aten::zeros",
    "aten::ones",
    "aten::full",
    "aten::t",
    "aten::detach",
    "aten::clone",
    "aten::relu",
    "aten::eq.Tensor",
    "aten::where.self",
    "aten::unbind.int",
    "aten::split.Tensor",
    "aten::nonzero",
    "aten::rand",
    "aten::copy_",
    "aten::zero_",
    "aten::expand",
    "aten::unsqueeze",
    "aten::select.int",
    "aten::transpose.int",
    "aten::from_file",
    "aten::no_such",
    "aten::",
    "torch_nn::linear",
    "os::system",
)
"""Operations that check what they are given; whether others do is another test's."""

BEGIN: Final = 5
"""Frames of a conversation that what comes later hangs on."""

META: Final = TensorMeta((2, 3), (3, 1), "float32")


def conversation() -> list[bytes]:
    """Frames of one session, of each kind of message. None hangs on how many commands came before."""
    add = Instruction(1, "aten::add.Tensor", (ObjectSlot(), ObjectSlot()), {"alpha": FloatSlot()}, False, (META,))
    total = Instruction(2, "aten::sum", (ObjectSlot(),), {"dtype": NamedConstant("dtype", "float64")}, False, None)
    noise = Instruction(
        3, "aten::rand", (Items((Constant(2), Constant(3))),), {"device": ComputeDevice()}, True, (META,)
    )
    part = Instruction(4, "aten::mul.Tensor", (ViewSlot(1), ObjectSlot()), {}, False, (None,))
    joined = Instruction(5, "aten::cat", (Items((ObjectSlot(), ObjectSlot())), Constant(0)), {}, False, (None,))
    turned = Instruction(6, "aten::mul.Scalar", (ObjectSlot(), ComplexConstant(0.0, 1.0)), {}, False, None)
    commands = [
        layout(add).pack(1, 10, 10, 1.0, 20),
        layout(total).pack(2, 20, 30),
        layout(noise).pack(3, 77, 40),
        layout(part).pack(4, 10, 1, 3, 1, 11, 50),
        layout(joined).pack(5, 10, 20, 60),
        layout(turned).pack(6, 10, 70),
        drop(50, 51),
    ]
    messages: list[tuple[Message, bytes]] = [
        (HELLO, b""),
        (Put(10, META), struct.pack("<6f", *range(6))),
        (Put(11, TensorMeta((3,), (1,), "float32"), host=True), bytes(12)),
        (Configure(Settings()), b""),
        (Batch(0, 7, [add, total, noise, part, joined, turned]), b"".join(commands)),
        (Fetch(1, 20), b""),
        (Fetch(2, 60, early=True), b""),
        (Describe(3, 30), b""),
        (Annotate(20, ("#x", "ä"), "a sum"), b""),
        (Search(4, ("#x",), 1000), b""),
        (Search(4, ("#secret",), 2000), b""),
        (Batch(0, 8, []), b"".join(commands) + command(1, 2000, 10, 0, 80)),
        (Fetch(5, 80), b""),
        (AskRelease(6, 80, "the sum"), b""),
        (ListReleases(7), b""),
        (CollectRelease(8, "a1"), b""),
        (Invite(8), b""),
        (Seal(8, 80, b"letter", 24), b""),
        (Unseal(8, 90), b"box"),
        (Hide(20), b""),
        (Inventory(9), b""),
        (ManualSeed(5), b""),
        (ReadGenerator(10), b""),
        (ManualSeed(None), b""),
        (Measure(11, True), b""),
        (Batch(0, 9, []), b"".join(commands) + command(1, 2000, 10, 0, 80) + command(2, 20, 31)),
        (Measure(12, False), b""),
        (Recover(13), b""),
        (Statistics(14), b""),
        (Synchronize(15), b""),
        (Bye(16), b""),
    ]
    return [frame(message, payload) for message, payload in messages]


class Mutator:
    """Chance with a seed."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.sequence = 0
        """Of the command that the session expects next."""
        self._ways: list[Callable[[bytes], bytes]] = [
            self.bytes_of,
            self.change_field,
            self.change_field,
            self.change_field,
            self.change_payload,
            self.any_instruction,
            self.any_instruction,
            self.any_instruction,
            self.any_instruction,
        ]

    def mutate(self, found: bytes) -> bytes:
        for _ in range(self.chance.choice((1, 1, 1, 1, 2))):
            found = self.chance.choice(self._ways)(found)
        return found

    # --- bytes

    def bytes_of(self, found: bytes) -> bytes:
        return self.chance.choice((self.flip, self.cut, self.double, self.swap_header))(found)

    def flip(self, found: bytes) -> bytes:
        data = bytearray(found)
        for _ in range(self.chance.choice((1, 1, 2, 8))):
            if data:
                data[self.chance.randrange(len(data))] ^= 1 << self.chance.randrange(8)
        return bytes(data)

    def cut(self, found: bytes) -> bytes:
        begin, end = sorted(self.chance.randrange(len(found) + 1) for _ in range(2))
        return found[:begin] + found[end:]

    def double(self, found: bytes) -> bytes:
        begin, end = sorted(self.chance.randrange(len(found) + 1) for _ in range(2))
        return found[:end] + found[begin:]

    def splice(self, found: bytes, other: bytes) -> bytes:
        return found[: self.chance.randrange(len(found) + 1)] + other[self.chance.randrange(len(other) + 1) :]

    def swap_header(self, found: bytes) -> bytes:
        message, payload = (self.number() % 2**32, self.number() % 2**64)
        return header(message, payload) + found[HEADER.size :]

    # --- what a frame says

    def number(self) -> int:
        return self.chance.choice(EXTREMES if self.chance.random() < 0.7 else LARGEST)

    def change_field(self, found: bytes) -> bytes:
        """Any value in the message becomes another one; its lengths stay true."""
        return reframed(found, lambda said, payload: (self.changed(said), payload))

    def change_payload(self, found: bytes) -> bytes:
        def change(said: Any, payload: bytes) -> tuple[Any, bytes]:
            data = bytearray(payload)
            if len(data) >= 8 and self.chance.random() < 0.7:
                struct.pack_into("<Q", data, 8 * self.chance.randrange(len(data) // 8), self.number() % 2**64)
                return said, bytes(data)
            return said, self.chance.choice((self.flip, self.cut, self.double))(payload)

        return reframed(found, change)

    def changed(self, said: Any) -> Any:
        if isinstance(said, dict) and said:
            name = self.chance.choice(list(said))
            if self.chance.random() < 0.05:
                return {key: value for key, value in said.items() if key != name}
            return {**said, name: self.changed(said[name])}
        if isinstance(said, list) and said and self.chance.random() < 0.9:
            place = self.chance.randrange(len(said))
            if self.chance.random() < 0.1:
                return said[:place] + said[place:] * self.chance.choice((0, 2, 100))
            return [*said[:place], self.changed(said[place]), *said[place + 1 :]]
        if self.chance.random() < 0.1:
            return self.value()
        match said:
            case bool():
                return not said
            case int():
                return self.chance.choice((self.number(), said + 1, said - 1, self.chance.randrange(100)))
            case float():
                return self.chance.choice((0.0, -1.0, 1e308, float("inf"), float("nan")))
            case str():
                return self.chance.choice((self.chance.choice(SAFE), self.text()))
            case _:
                return self.value()

    def text(self) -> str:
        return self.chance.choice(("", "#x", "#secret", "\0", "é" * 100, "float32", "object", "x" * 10_000))

    def value(self) -> Any:
        return self.chance.choice(
            (
                self.number(),
                self.number(),
                self.chance.choice(SAFE),
                self.text(),
                self.chance.choice((None, True, False, [], {}, [[]], b"bytes")),
                self.chance.choice((0.0, -0.0, 1e308, float("inf"), float("nan"))),
            )
        )

    # --- instructions that nobody would write

    def any_instruction(self, found: bytes) -> bytes:
        """A batch of its own: an operation with any arguments."""
        defined = Instruction(
            self.chance.choice((1, 2, 3, 4096, self.chance.randrange(1, 4097))),
            self.chance.choice(SAFE),
            tuple(self.argument() for _ in range(self.chance.randrange(4))),
            {
                self.chance.choice(("alpha", "device", "dim", "out", "generator")): self.argument()
                for _ in range(self.chance.choice((0, 0, 1)))
            },
            self.chance.random() < 0.2,
            self.chance.choice((None, (), (None,), (META,), (META, None))),
        )
        form = layout(defined)
        fields = [self.field(letter) for letter in expanded(form.format)[1:]]
        said = form.pack(defined.number, *fields)
        times = self.chance.choice((1, 1, 3))
        first = self.number() if self.chance.random() < 0.05 else self.sequence
        return frame(Batch(first, times, [defined]), said * times)

    def argument(self) -> Argument:
        if self.chance.random() < 0.2:
            return Items(tuple(self.leaf() for _ in range(self.chance.randrange(4))))
        return self.leaf()

    def leaf(self) -> Leaf:
        small = self.chance.choice((0, 1, 2, 3, -1, 4))
        leaves: tuple[Leaf, ...] = (
            ObjectSlot(),
            ObjectSlot(),
            ViewSlot(self.chance.choice((0, 1, 1, 2))),
            IntegerSlot(),
            FloatSlot(),
            Constant(small),
            Constant(self.chance.choice((None, True, 0.5, "mean", ""))),
            ComplexConstant(1.0, -1.0),
            NamedConstant("dtype", self.chance.choice(("float32", "int8", "complex64", "bool"))),
            ComputeDevice(),
        )
        return self.chance.choice(leaves)

    def field(self, letter: str) -> int | float:
        if letter == "d":
            return self.chance.choice((0.0, 1.5, 1e308, float("nan"), float("inf")))
        name = self.chance.choice((10, 10, 10, 11, 20, 30, 80, 2000, 100, 101, self.number()))
        return name % 2**64 if letter == "Q" else (name + 2**63) % 2**64 - 2**63


def expanded(form: str) -> str:
    """Of a layout each field's letter."""
    return form.removeprefix("<")


def reframed(found: bytes, change: Callable[[Any, bytes], tuple[Any, bytes]]) -> bytes:
    """The frame with another message and payload, if it is one."""
    try:
        _, _, size, _ = HEADER.unpack_from(found)
        said = msgspec.msgpack.decode(found[HEADER.size : HEADER.size + size])
        changed, payload = change(said, found[HEADER.size + size :])
        body = msgspec.msgpack.encode(changed)
    except (struct.error, msgspec.MsgspecError, ValueError, OverflowError, RecursionError):
        return found
    return header(len(body), len(payload)) + body + payload
