"""Instructions: the layout of their commands [P5.2]."""

import struct

import msgspec
import pytest
from wire_samples import EVERY_ARGUMENT, content

from ptrtensor.wire.instruction import (
    Argument,
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
    layout,
)


def instruction(*positional: Argument, draws: bool = False, **keywords: Argument) -> Instruction:
    return Instruction(1, "aten::op", positional, keywords, draws, ())


@pytest.mark.parametrize(
    ("defined", "format"),
    [
        (instruction(), "<QQ"),
        (instruction(draws=True), "<QQQ"),
        (instruction(ObjectSlot()), "<QQQ"),
        (instruction(ViewSlot(0)), "<QQqQ"),
        (instruction(ViewSlot(2), ObjectSlot()), "<QQqqqqqQQ"),
        (instruction(IntegerSlot()), "<QqQ"),
        (instruction(FloatSlot()), "<QdQ"),
        (instruction(FloatSlot(), draws=True), "<QdQQ"),
        (instruction(Constant(1)), "<QQ"),
        (instruction(Constant(None)), "<QQ"),
        (instruction(ComplexConstant(1, 2)), "<QQ"),
        (instruction(NamedConstant("dtype", "int8")), "<QQ"),
        (instruction(ComputeDevice()), "<QQ"),
        (instruction(Items(())), "<QQ"),
        (instruction(Items((Constant(1), Constant(2)))), "<QQ"),
        (instruction(Items((ObjectSlot(), ObjectSlot())), FloatSlot()), "<QQQdQ"),
        (instruction(Items((IntegerSlot(), Constant(1), FloatSlot()))), "<QqdQ"),
        (instruction(ObjectSlot(), out=ObjectSlot(), alpha=IntegerSlot()), "<QQQqQ"),
        (instruction(FloatSlot(), alpha=IntegerSlot(), tensors=Items((ObjectSlot(),)), draws=True), "<QdqQQQ"),
        (EVERY_ARGUMENT, "<QQqdQQQqqqqqdQQ"),
    ],
)
def test_layout(defined: Instruction, format: str) -> None:
    assert layout(defined).format == format


def test_fields_stand_in_the_order_of_the_arguments_without_padding() -> None:
    defined = instruction(
        IntegerSlot(), Items((ObjectSlot(), Constant(5), ObjectSlot())), value=FloatSlot(), draws=True
    )
    command = layout(defined).pack(1, -2, 10, 11, 0.5, 2**64 - 1, 12)
    number, integer, first, second, value, seed, result = struct.unpack("<QqQQdQQ", command)
    assert (number, integer, first, second, value, seed, result) == (1, -2, 10, 11, 0.5, 2**64 - 1, 12)
    assert len(command) == 7 * 8


def test_leaves_stand_in_the_order_of_the_arguments() -> None:
    defined = instruction(ObjectSlot(), Items((IntegerSlot(), Constant("x"))), later=FloatSlot(), last=Items(()))
    assert list(defined.leaves()) == [ObjectSlot(), IntegerSlot(), Constant("x"), FloatSlot()]


def test_every_kind_of_argument_survives_the_wire() -> None:
    decoded = msgspec.msgpack.decode(msgspec.msgpack.encode(EVERY_ARGUMENT), type=Instruction)
    assert content(decoded) == content(EVERY_ARGUMENT)
    assert layout(decoded).format == layout(EVERY_ARGUMENT).format


@pytest.mark.parametrize("value", [True, 1, 1.0, False, 0, 0.0, -0.0, float("inf"), 2**63, "1", None])
def test_constants_keep_their_type(value: bool | int | float | str | None) -> None:
    decoded = msgspec.msgpack.decode(msgspec.msgpack.encode(Constant(value)), type=Constant)
    assert type(decoded.value) is type(value)
    assert repr(decoded.value) == repr(value)


def test_keywords_keep_their_order() -> None:
    defined = instruction(b=FloatSlot(), a=IntegerSlot())
    decoded = msgspec.msgpack.decode(msgspec.msgpack.encode(defined), type=Instruction)
    assert list(decoded.keywords) == ["b", "a"]
    assert layout(decoded).format == "<QdqQ"
