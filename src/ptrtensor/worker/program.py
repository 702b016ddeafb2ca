"""A program: an instruction bound to its operation, ready to run with the fields of a command."""

import copy
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

import torch
from torch import Tensor

from ptrtensor._torch.names import DTYPES, LAYOUTS, MEMORY_FORMATS
from ptrtensor.errors import ProtocolError, UnsupportedOpError
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
    layout,
)
from ptrtensor.wire.metadata import TensorMeta
from ptrtensor.worker.forms import misfit
from ptrtensor.worker.operations import Operation, drawing, operation
from ptrtensor.worker.store import Labels, Value
from ptrtensor.worker.uninitialised import clearing

Fields = tuple[Any, ...]
"""As `struct` unpacks them: floats where the layout says so, else integers."""

Objects = dict[int, Value]

Arguments = tuple[Sequence[object], dict[str, object]]

Gather = Callable[[Fields, Objects], Arguments]
"""The call's arguments. `KeyError` where a name is not among the objects."""

Getter = Callable[[Fields, Objects], Any]
"""One of them."""

SLOTS: Final = (ObjectSlot, ViewSlot, IntegerSlot, FloatSlot)

NAMED: Final[dict[str, dict[str, object]]] = {
    "dtype": dict(DTYPES),
    "layout": dict(LAYOUTS),
    "memory_format": dict(MEMORY_FORMATS),
}


class Program:
    """The arguments are kept with the constants in place; a command fills in the rest.

    An operation that is refused has a program too, which fails whenever it is run: that is an error of those who
    depend on its result, not of the whole session.
    """

    def __init__(self, instruction: Instruction, device: torch.device, *, clears: bool = False) -> None:
        """`clears`: memory that torch hands out as it was is filled with zeros."""
        self.instruction = instruction
        self.layout: struct.Struct = layout(instruction)
        self.checked = instruction.expected is None
        self.restrides = False
        self.settled: int | None = None
        """Once checked: whether it makes one result or none, so that nothing of it need be looked at any more."""
        self.device = device
        self.is_refused = False
        """Whether it fails whatever it is given."""
        self.clears = clears
        try:
            op = drawing(instruction.op) if instruction.draws else operation(instruction.op)
            if op.draws and not instruction.draws:  # the generator of the process would tell who drew before
                raise UnsupportedOpError(f"{instruction.op} draws random numbers, and no seed comes with it")
            self._refuse_misfits(instruction, op)
            if clears:
                op = replace(op, kernel=clearing(instruction.op, op.kernel))
        except UnsupportedOpError as error:
            op = Operation(refusing(error))
            self.is_refused = True
        self.kernel = op.kernel
        self.takes_generator = instruction.draws and "generator" in op.names
        self.generator_position = op.names.index("generator") if self.takes_generator else -1
        self.stores = op.stores
        self.lists = op.lists
        self.makes_views = op.makes_views
        self.shares = op.shares
        self._twins: dict[Labels, Program] = {}

        self._positional: list[object] = []
        self._keywords: dict[str, object] = {}
        self._objects: list[tuple[int, int]] = []
        self._numbers: list[tuple[int, int]] = []
        self._others: list[tuple[int | str, Getter]] = []
        """Slots that are views, lists or named."""
        self.object_fields: list[int] = []
        self.written_fields: list[int] = []
        fields: dict[str, int] = {}
        field = 1
        for position, argument in enumerate(instruction.positional):
            name = op.names[position] if position < len(op.names) else ""
            fields[name] = field
            field = self._bind(position, argument, field, name in op.written)
        for name, argument in instruction.keywords.items():
            fields[name] = field
            field = self._bind(name, argument, field, name in op.written)
        self.touched_fields = self.written_fields.copy()
        """What it writes to, also where its schema does not say so."""
        if op.hidden_writes and not is_evaluating(instruction, op):
            self.touched_fields += [fields[name] for name in op.hidden_writes if fields.get(name) in self.object_fields]
        self.arguments = self._gather()

    @property
    def prediction(self) -> TensorMeta | None:
        """What its first result will be, so far as its caller knows."""
        return next((meta for meta in self.instruction.expected or () if meta is not None), None)

    def _refuse_misfits(self, instruction: Instruction, op: Operation) -> None:
        """:raises UnsupportedOpError: an argument is nothing that torch itself would take in its place."""
        for name, argument in (*zip(op.names, instruction.positional, strict=False), *instruction.keywords.items()):
            is_list = isinstance(argument, Items)
            forms = [self._form(leaf) for leaf in (argument.items if isinstance(argument, Items) else [argument])]
            if misfit(op.kinds.get(name, ""), forms if is_list else forms[0]):
                raise UnsupportedOpError(f"{instruction.op} takes no such {name}")

    def _form(self, leaf: Leaf) -> object:
        """A constant; a number or something else in the place of a slot."""
        if isinstance(leaf, SLOTS):
            return 0 if isinstance(leaf, IntegerSlot | FloatSlot) else ...
        return self._constant(leaf)

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
                value = [self._constant(leaf) for leaf in argument.items]
        else:
            end = self._note(argument, field, written)
            if not isinstance(argument, SLOTS):
                value = self._constant(argument)
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
                value = self._constant(leaf)
                return lambda fields, objects: value

    def _constant(self, leaf: Leaf) -> object:
        match leaf:
            case Constant(value):
                return value
            case ComplexConstant(real, imaginary):
                return complex(real, imaginary)
            case ComputeDevice():
                return self.device
            case NamedConstant(kind, name):
                table = NAMED[kind]
                if name not in table:
                    raise ProtocolError(f"the peer names a {kind} that torch does not have: {name[:40]!r}")
                return table[name]
            case _:
                raise ProtocolError(f"a slot stands where a constant belongs: {leaf}")

    def twin(self, labels: Labels) -> "Program":
        """The same for private data alone: what is learned of a run depends on values, and shows in later runs."""
        found = self._twins.get(labels)
        if found is None:
            found = self._twins[labels] = Program(self.instruction, self.device, clears=self.clears)
        return found

    def refused(self, reason: str) -> "Program":
        """The same, which fails whenever it is run."""
        found = copy.copy(self)
        found.kernel = refusing(UnsupportedOpError(reason))
        return found

    def settle(self) -> None:
        """Its results were found to be what the caller predicted; they will be again [P5.4]."""
        self.checked = True
        fresh = sum(self.stores)
        if not (self.restrides or any(self.lists) or self.instruction.draws) and fresh <= 1:
            self.settled = fresh

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

    def _arguments(self, fields: Fields, objects: Objects) -> Arguments:
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

    def results(self, returned: Any) -> list[Value | None]:
        """The fresh results in the order of their names: what is written to is the caller's already [P5.2].

        Torch does not say what a kernel returns; the executor looks at each.
        """
        if len(self.stores) == 1:
            if not self.stores[0]:
                return []
            return list(returned) if self.lists[0] else [returned]
        fresh: list[Value | None] = []
        if isinstance(returned, tuple):
            for stored, is_list, value in zip(self.stores, self.lists, returned, strict=True):
                if stored:
                    fresh += value if is_list else [value]
        return fresh

    def describe(self, args: Sequence[object], kwargs: Mapping[str, object]) -> str:
        """The operation with the shapes of its arguments, for an error."""
        shown = [describe(argument) for argument in args]
        shown += [f"{name}={describe(argument)}" for name, argument in kwargs.items()]
        return f"{self.instruction.op}({', '.join(shown)})"


def is_evaluating(instruction: Instruction, op: Operation) -> bool:
    """Whether it says that it does not train, and so updates no statistics."""
    named = dict(zip(op.names, instruction.positional, strict=False)) | instruction.keywords
    return any(named.get(name) == Constant(False) for name in ("training", "train"))


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


def refusing(error: UnsupportedOpError) -> Callable[..., object]:
    """A kernel that only fails."""

    def kernel(*args: object, **kwargs: object) -> object:
        raise UnsupportedOpError(str(error))  # a new one: an exception keeps the frames it was raised through

    return kernel


def describe(value: object) -> str:
    if isinstance(value, Tensor):
        return f"{str(value.dtype).removeprefix('torch.')}[{', '.join(map(str, value.shape))}]"
    if isinstance(value, list):
        shown = ", ".join(describe(item) for item in value[:4])
        return f"[{shown}{', ...' if len(value) > 4 else ''}]"
    return str(value)
