"""The signature of a call: what its result's metadata can depend on, and nothing else (D6).

A `Call` walks the arguments once, on every call, and has the key, the fields of the command and the pointers in the
order of the slots. `form` walks them in the same order, once for each new key, and returns the instruction's
arguments.
"""

import struct
from collections.abc import Sequence
from typing import Final

import torch
from torch import Tensor

from ptrtensor._torch.memory import meta_of, offset_of
from ptrtensor._torch.names import DTYPE_NAMES, LAYOUT_NAMES, MEMORY_FORMAT_NAMES
from ptrtensor._torch.randomness import draw_seed
from ptrtensor._torch.state import in_backward
from ptrtensor.client.reference import Reference
from ptrtensor.errors import SpentPointerError, UnsupportedOpError
from ptrtensor.tensor.base import Pointer
from ptrtensor.tensor.mismatch import foreign_device, local_tensor, two_workers
from ptrtensor.tensor.operation import Args, Kwargs, Operation
from ptrtensor.tensor.view import View
from ptrtensor.tensor.worker import Worker, devices
from ptrtensor.wire.instruction import (
    Argument,
    ComplexConstant,
    ComputeDevice,
    Constant,
    FloatSlot,
    IntegerSlot,
    Items,
    Leaf,
    NamedConstant,
    ObjectSlot,
    ViewSlot,
)
from ptrtensor.wire.limits import MAX_DIMENSIONS
from ptrtensor.wire.metadata import TensorMeta


class Marker:
    """An element of a key that equals nothing but itself: `1 == True == 1.0` must be three keys."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __repr__(self) -> str:
        return self.name


TRUE: Final = Marker("true")
FALSE: Final = Marker("false")
INTEGER: Final = Marker("integer")
FLOAT: Final = Marker("float")
LIST: Final = Marker("list")
OBJECT: Final = Marker("object")
LOCAL: Final = Marker("local")
GENERATOR: Final = Marker("generator")
DEVICE: Final = Marker("device")
VIEW_MARKERS: Final = [Marker(f"view of {dimensions} dimensions") for dimensions in range(MAX_DIMENSIONS + 1)]

MIN_FIELD: Final = -(2**63)
MAX_FIELD: Final = 2**63 - 1

_double: Final = struct.Struct("<d").pack


class Call:
    """One call as its signature sees it."""

    __slots__ = (
        "args",
        "fields",
        "generator",
        "key",
        "kwargs",
        "locals",
        "operation",
        "pointers",
        "references",
        "worker",
    )

    def __init__(self, operation: Operation, args: Args, kwargs: Kwargs, worker: Worker | None) -> None:
        self.operation = operation
        self.args = args
        self.kwargs = kwargs
        self.worker = worker
        self.key: list[object] = [operation.number]
        self.fields: list[int | float] = []
        self.pointers: list[Pointer | None] = []
        self.references: list[Reference] = []
        """Held until the command is posted, whatever another thread makes of the pointers meanwhile."""
        self.locals: list[tuple[int, Tensor]] = []
        self.generator: torch.Generator | None = None
        self._read(args)
        for name, value in kwargs.items():
            self.key.append(name)
            self._read((value,))
        if len(self.pointers) > 1:
            self._read_identities()
        if self.locals:
            self._check_locals()

    def _read(self, values: Sequence[object]) -> None:
        """One walk for all of them: a call for each would cost as much again."""
        key, fields = self.key, self.fields
        operation = self.operation
        for value in values:
            if isinstance(value, Pointer):
                if value._worker is not self.worker:
                    self._adopt(value)
                reference = value._reference
                if reference.spent is not None:
                    check_usable(value)
                key.append(value._meta)
                self.pointers.append(value)
                if isinstance(reference, View):
                    self._read_view(reference)
                else:
                    self.references.append(reference)
                    fields.append(reference.name)
                if operation.offset_matters:
                    key.append(offset_of(value))
            elif type(value) is int:
                if operation.numbers_are_fields and MIN_FIELD <= value <= MAX_FIELD:
                    key.append(INTEGER)
                    fields.append(value)
                else:
                    key.append(value)
            elif type(value) is float:
                if operation.numbers_are_fields:
                    key.append(FLOAT)
                    fields.append(value)
                else:
                    key.append(_double(value))
            elif value is True:
                key.append(TRUE)
            elif value is False:
                key.append(FALSE)
            elif value is None or type(value) is str:
                key.append(value)
            else:
                self._read_other(value)

    def _read_view(self, view: View) -> None:
        self.references.append(view.base)
        self.fields.append(view.base.name)
        if view.is_whole:
            return
        shape = view.meta.shape
        self.key.append(VIEW_MARKERS[len(shape)])
        self.fields += (view.offset, *shape, *view.meta.stride)

    def _read_other(self, value: object) -> None:
        key = self.key
        if isinstance(value, list | tuple):
            key.append((LIST, len(value)))
            self._read(value)
        elif isinstance(value, Tensor):
            self._read_local(value)
        elif isinstance(value, torch.dtype | torch.layout | torch.memory_format):
            key.append(value)
        elif isinstance(value, torch.device):
            if self.worker is None:
                self.worker = devices.worker(value)
            elif value != self.worker.device:
                raise foreign_device(self.operation, value, self.worker)
            key.append(DEVICE)
        elif isinstance(value, complex):
            key.append(struct.pack("<dd", value.real, value.imag))
        elif isinstance(value, torch.Generator):
            self.generator = value
            key.append(GENERATOR)
        else:
            raise UnsupportedOpError(
                f"{self.operation.op} was called with a {type(value).__name__}, which cannot be sent to a worker"
            )

    def _read_local(self, value: Tensor) -> None:
        self.key += (LOCAL, meta_of(value))
        self.locals.append((len(self.fields), value))
        self.fields.append(0)
        self.pointers.append(None)

    def _check_locals(self) -> None:
        """What CUDA lets mix: a number in a 0-dim tensor, and indices, from main memory; both only to be read (D3)."""
        operation = self.operation
        given = [*zip(operation.argument_names, self.args, strict=False), *self.kwargs.items()]
        for name, value in given:
            for item in value if isinstance(value, list | tuple) else (value,):
                if not isinstance(item, Tensor) or isinstance(item, Pointer):
                    continue
                is_number = item.device.type == "cpu" and item.dim() == 0
                is_index = item.device.type == "cpu" and name in operation.local_arguments
                if name in operation.written_names or not (is_number or is_index):
                    raise local_tensor(operation, self.args, self.kwargs, item)

    def _adopt(self, pointer: Pointer) -> None:
        if self.worker is not None:
            raise two_workers(self.operation, self.args, self.kwargs)
        self.worker = pointer._worker

    def _read_identities(self) -> None:
        """Which arguments are the same tensor is part of the key, if any are; local ones count as one."""
        if len({*map(id, self.pointers)}) != len(self.pointers):
            names = [*map(id, self.pointers)]
            self.key.append(tuple(map(names.index, names)))

    def shape(self) -> tuple[object, ...]:
        """The key without what only the results depend on: calls of one shape can share an instruction."""
        return tuple(OBJECT if type(part) is TensorMeta else part for part in self.key)

    def written_places(self) -> list[int]:
        """Which of `pointers` the operation writes to."""
        operation = self.operation
        places, place = [], 0
        given = [(position in operation.written_positions, value) for position, value in enumerate(self.args)]
        given += [(name in operation.written_names, value) for name, value in self.kwargs.items()]
        for written, value in given:
            for item in value if isinstance(value, list | tuple) else (value,):
                if isinstance(item, Tensor):
                    if written:
                        places.append(place)
                    place += 1
        return places

    def seed(self) -> int:
        """A seed for this command, from the generator that was given or the caller's default one."""
        assert self.worker is not None
        return 0 if self.worker.sequential and self.generator is None else draw_seed(self.generator)


def check_usable(pointer: Pointer) -> None:
    """Refuse a spent pointer, except to a graph that was recorded before it was spent (D4)."""
    spent = pointer._reference.spent
    if spent is not None and not in_backward():
        raise SpentPointerError(spent)


def form(call: Call) -> tuple[tuple[Argument, ...], dict[str, Argument]]:
    """The arguments of the instruction for calls of this signature, slots in the order of the fields."""
    names = call.operation.argument_names
    positional = tuple(argument(call.operation, value) for value in call.args)
    keywords = {
        name: argument(call.operation, value)
        for name, value in call.kwargs.items()
        if name in names and name != "generator"  # the worker's own, seeded by the command
    }
    return positional, keywords


def argument(operation: Operation, value: object) -> Argument:
    if isinstance(value, list | tuple):
        return Items(tuple(leaf(operation, item) for item in value))
    return leaf(operation, value)


def leaf(operation: Operation, value: object) -> Leaf:
    match value:
        case Pointer() if isinstance(value._reference, View) and not value._reference.is_whole:
            return ViewSlot(value.dim())
        case Tensor():
            return ObjectSlot()
        case bool():
            return Constant(value)
        case int() if operation.numbers_are_fields and MIN_FIELD <= value <= MAX_FIELD:
            return IntegerSlot()
        case float() if operation.numbers_are_fields:
            return FloatSlot()
        case None | int() | float() | str():
            return Constant(value)
        case complex():
            return ComplexConstant(value.real, value.imag)
        case torch.dtype() if value in DTYPE_NAMES:
            return NamedConstant("dtype", DTYPE_NAMES[value])
        case torch.layout() if value in LAYOUT_NAMES:
            return NamedConstant("layout", LAYOUT_NAMES[value])
        case torch.memory_format():
            return NamedConstant("memory_format", MEMORY_FORMAT_NAMES[value])
        case torch.device():
            return ComputeDevice()
        case torch.Generator():
            return Constant(None)
        case _:
            raise UnsupportedOpError(
                f"{operation.op} was called with {value!r}, which cannot be sent to a worker: "
                "pointers are of strided layout, and of the dtypes that such tensors have; quantized ones are not"
            )
