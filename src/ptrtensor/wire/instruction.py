"""Instructions: an operation with the form of its arguments, defined once and then used by number [P5].

A command is the number, the fixed-width fields of each slot in the order of the arguments, a seed where the operation
draws random numbers, and the name of the first result; `layout` is its `struct` format.
"""

import struct
from collections.abc import Iterator
from typing import Annotated, Final, Literal

import msgspec

from ptrtensor.wire.limits import MAX_DIMENSIONS
from ptrtensor.wire.metadata import TensorMeta

DROP: Final = 0
"""The one command that is no instruction: the names that follow are forgotten [P5.6]."""

DROP_HEADER: Final = struct.Struct("<QQ")
NUMBER: Final = struct.Struct("<Q")

_encoder: Final = msgspec.msgpack.Encoder()


class ObjectSlot(msgspec.Struct, frozen=True, tag="o", array_like=True):
    """A tensor at the worker; the command carries its name."""


class ViewSlot(msgspec.Struct, frozen=True, tag="v", array_like=True):
    """A view of a tensor at the worker, which has no name of its own. The command carries the tensor's name, how many
    elements behind the tensor's beginning the view begins, its shape and its strides.
    """

    dimensions: Annotated[int, msgspec.Meta(ge=0, le=MAX_DIMENSIONS)]


class IntegerSlot(msgspec.Struct, frozen=True, tag="i", array_like=True):
    """A number that does not shape the result; the command carries it as 64 bits, signed."""


class FloatSlot(msgspec.Struct, frozen=True, tag="f", array_like=True):
    """A number that does not shape the result; the command carries it as an IEEE double."""


class Constant(msgspec.Struct, frozen=True, tag="c", array_like=True):
    """A value that is part of the instruction."""

    value: bool | int | float | str | None


class ComplexConstant(msgspec.Struct, frozen=True, tag="z", array_like=True):
    real: float
    imaginary: float


class NamedConstant(msgspec.Struct, frozen=True, tag="n", array_like=True):
    """A dtype, layout or memory format, by the name it has in torch."""

    kind: Literal["dtype", "layout", "memory_format"]
    name: str


class ComputeDevice(msgspec.Struct, frozen=True, tag="d", array_like=True):
    """The device on which this worker computes, whatever that is."""


Leaf = ObjectSlot | ViewSlot | IntegerSlot | FloatSlot | Constant | ComplexConstant | NamedConstant | ComputeDevice


class Items(msgspec.Struct, frozen=True, tag="l", array_like=True):
    """A list. No operation of torch nests them, so the type bounds the depth [P3.3]."""

    items: tuple[Leaf, ...]


Argument = Leaf | Items


def fields_of(leaf: Leaf) -> str:
    """The fields of a slot in a command, as `struct` names them; none of what is no slot."""
    match leaf:
        case ObjectSlot():
            return "Q"
        case ViewSlot(dimensions):
            return "Qq" + 2 * dimensions * "q"
        case IntegerSlot():
            return "q"
        case FloatSlot():
            return "d"
        case _:
            return ""


class Instruction(msgspec.Struct, frozen=True, array_like=True):
    """What a number stands for on this connection.

    `expected` is the caller's prediction of the fresh results in order, checked when the instruction first runs;
    None where only the worker can know.
    """

    number: int
    op: str
    positional: tuple[Argument, ...]
    keywords: dict[str, Argument]
    draws: bool
    expected: tuple[TensorMeta | None, ...] | None

    def leaves(self) -> Iterator[Leaf]:
        """Every leaf in the order of the command's fields."""
        for argument in (*self.positional, *self.keywords.values()):
            if isinstance(argument, Items):
                yield from argument.items
            else:
                yield argument


def encoded_size(instruction: Instruction) -> int:
    """The bytes that its definition takes in a message."""
    return len(_encoder.encode(instruction))


def layout(instruction: Instruction) -> struct.Struct:
    """The format of this instruction's commands [P5.2]."""
    slots = "".join(map(fields_of, instruction.leaves()))
    return struct.Struct("<Q" + slots + ("Q" if instruction.draws else "") + "Q")
