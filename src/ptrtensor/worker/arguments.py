"""The arguments of an instruction: the constants in place, and where the fields of a command belong."""

from collections.abc import Callable, Container, Sequence
from typing import Any, Final

import torch

from ptrtensor._torch.names import DTYPES, LAYOUTS, MEMORY_FORMATS
from ptrtensor.errors import ProtocolError
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
    fields_of,
)
from ptrtensor.worker.store import Value

Fields = tuple[Any, ...]
"""As `struct` unpacks them: floats where the layout says so, else integers."""

Objects = dict[int, Value]

Filled = tuple[Sequence[object], dict[str, object]]
"""By position and by name."""

Gather = Callable[[Fields, Objects], Filled]
"""The call's arguments. `KeyError` where a name is not among the objects."""

Getter = Callable[[Fields, Objects], Any]
"""One of them."""

SLOTS: Final = (ObjectSlot, ViewSlot, IntegerSlot, FloatSlot)

NAMED: Final[dict[str, dict[str, object]]] = {
    "dtype": dict(DTYPES),
    "layout": dict(LAYOUTS),
    "memory_format": dict(MEMORY_FORMATS),
}


class Arguments:
    """`fill` makes the arguments of a call from the fields of a command and the objects that they name."""

    def __init__(
        self, instruction: Instruction, device: torch.device, names: Sequence[str], written: Container[str]
    ) -> None:
        """`names` are those of the operation's arguments, in order; `written` those of what it writes to."""
        self._device = device
        self._positional: list[object] = []
        self._keywords: dict[str, object] = {}
        self._objects: list[tuple[int, int]] = []
        self._numbers: list[tuple[int, int]] = []
        self._others: list[tuple[int | str, Getter]] = []
        """Slots that are views, lists or named."""
        self.object_fields: list[int] = []
        self.written_fields: list[int] = []
        self.fields: dict[str, int] = {}
        """The first field of each argument."""
        field = 1
        for position, argument in enumerate(instruction.positional):
            name = names[position] if position < len(names) else ""
            self.fields[name] = field
            field = self._bind(position, argument, field, name in written)
        for name, argument in instruction.keywords.items():
            self.fields[name] = field
            field = self._bind(name, argument, field, name in written)
        self.fill = self._gather()

    def _bind(self, place: int | str, argument: Argument, field: int, written: bool) -> int:
        """Put a constant in place, or note which fields belong here; returns the number of the next field."""
        value: object = None
        end = field
        if isinstance(argument, Items):
            getters = []
            for leaf in argument.items:
                getters.append(self._getter(leaf, end))
                end = self._note(leaf, end, written)
            if end > field:
                self._others.append((place, list_of(argument, getters, field, end)))
            else:
                value = [constant(leaf, self._device) for leaf in argument.items]
        else:
            end = self._note(argument, field, written)
            if not isinstance(argument, SLOTS):
                value = constant(argument, self._device)
            elif isinstance(place, str) or isinstance(argument, ViewSlot):
                self._others.append((place, self._getter(argument, field)))
            elif isinstance(argument, ObjectSlot):
                self._objects.append((place, field))
            else:
                self._numbers.append((place, field))
        if isinstance(place, str):
            self._keywords[place] = value
        else:
            self._positional.append(value)
        return end

    def _note(self, leaf: Leaf, field: int, written: bool) -> int:
        """Remember the names of objects; returns the number of the next field."""
        if isinstance(leaf, ObjectSlot | ViewSlot):
            self.object_fields.append(field)
            if written:
                self.written_fields.append(field)
        return field + len(fields_of(leaf))

    def _getter(self, leaf: Leaf, field: int) -> Getter:
        match leaf:
            case ObjectSlot():
                return lambda fields, objects: objects[fields[field]]
            case ViewSlot(dimensions):
                return view_of(field, dimensions)
            case IntegerSlot() | FloatSlot():
                return lambda fields, objects: fields[field]
            case _:
                value = constant(leaf, self._device)
                return lambda fields, objects: value

    def _gather(self) -> Gather:
        """How to get the call's arguments; in few steps where the slots come first, as they mostly do."""
        slots = [place for place, _ in (*self._objects, *self._numbers)]
        count = len(slots)
        if self._others or sorted(slots) != list(range(count)):
            return self._arguments
        objects_first = [place for place, _ in self._objects] == list(range(len(self._objects)))
        gather = GATHERS.get((len(self._objects), bool(self._numbers))) if objects_first else None
        if gather is None:
            return self._arguments
        return gather(1 + count, tuple(self._positional[count:]), self._keywords)

    def _arguments(self, fields: Fields, objects: Objects) -> Filled:
        args = self._positional.copy()
        for position, field in self._objects:
            args[position] = objects[fields[field]]
        for position, field in self._numbers:
            args[position] = fields[field]
        kwargs = self._keywords
        for place, get in self._others:
            if isinstance(place, int):
                args[place] = get(fields, objects)
            else:
                if kwargs is self._keywords:
                    kwargs = kwargs.copy()
                kwargs[place] = get(fields, objects)
        return args, kwargs


def constant(leaf: Leaf, device: torch.device) -> object:
    """The value of what is no slot.

    :raises ProtocolError: it is one, or names what torch does not have.
    """
    match leaf:
        case Constant(value):
            return value
        case ComplexConstant(real, imaginary):
            return complex(real, imaginary)
        case ComputeDevice():
            return device
        case NamedConstant(kind, name):
            table = NAMED[kind]
            if name not in table:
                raise ProtocolError(f"the peer names a {kind} that torch does not have: {name[:40]!r}")
            return table[name]
        case _:
            raise ProtocolError(f"a slot stands where a constant belongs: {leaf}")


GATHERS: Final[dict[tuple[int, bool], Callable[[int, tuple[object, ...], dict[str, object]], Gather]]] = {
    (1, False): lambda end, rest, named: lambda fields, objects: ((objects[fields[1]], *rest), named),
    (1, True): lambda end, rest, named: lambda fields, objects: ((objects[fields[1]], *fields[2:end], *rest), named),
    (2, False): lambda end, rest, named: (
        lambda fields, objects: (
            (objects[fields[1]], objects[fields[2]], *rest),
            named,
        )
    ),
    (3, False): lambda end, rest, named: (
        lambda fields, objects: (
            (objects[fields[1]], objects[fields[2]], objects[fields[3]], *rest),
            named,
        )
    ),
}
"""By the number of objects and whether numbers follow them, up to field `end`."""


def list_of(items: Items, getters: list[Getter], first: int, end: int) -> Getter:
    """How to get a list with slots in it, whose fields are from `first` to before `end`."""
    kinds = set(map(type, items.items))
    if kinds == {ObjectSlot}:
        return lambda fields, objects: [objects[name] for name in fields[first:end]]
    if kinds <= {IntegerSlot, FloatSlot}:
        return lambda fields, objects: [*fields[first:end]]
    return lambda fields, objects: [get(fields, objects) for get in getters]


def view_of(field: int, dimensions: int) -> Getter:
    """How to get a view whose fields begin at `field` [P5.9]; torch refuses what reaches beyond the storage."""
    shape = field + 2
    stride = shape + dimensions
    end = stride + dimensions

    def get(fields: Fields, objects: Objects) -> Any:
        base: Any = objects[fields[field]]
        return base.as_strided(fields[shape:stride], fields[stride:end], base.storage_offset() + fields[field + 1])

    return get
