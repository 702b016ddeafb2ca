"""A program: an instruction bound to its operation, ready to run with the fields of a command."""

import copy
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ptrtensor.errors import UnsupportedOpError
from ptrtensor.wire.instruction import (
    Constant,
    FloatSlot,
    Instruction,
    IntegerSlot,
    Items,
    Leaf,
    layout,
)
from ptrtensor.wire.metadata import TensorMeta
from ptrtensor.worker.arguments import SLOTS, Arguments, constant
from ptrtensor.worker.forms import misfit
from ptrtensor.worker.operations import Operation, drawing, operation
from ptrtensor.worker.store import Labels, Value
from ptrtensor.worker.uninitialised import clearing


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

        arguments = Arguments(instruction, device, op.names, op.written)
        self.arguments = arguments.fill
        self.object_fields = arguments.object_fields
        self.written_fields = arguments.written_fields
        self.touched_fields = self.written_fields.copy()
        """What it writes to, also where its schema does not say so."""
        if op.hidden_writes and not is_evaluating(instruction, op):
            fields = [arguments.fields.get(name) for name in op.hidden_writes]
            self.touched_fields += [field for field in fields if field in self.object_fields]

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
        return constant(leaf, self.device)

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
