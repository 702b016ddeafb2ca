"""Calls of operations that no sample reaches: the arguments of a sibling, or whatever fits the schema."""

import random
import re
from typing import Any

import torch
from calls import Call
from torch import Tensor

from ptrtensor._torch.operations import op_arguments, resolve_op, writes

SHAPES = ((2, 3), (3,), (2, 3, 4), (2, 3, 4, 4), (3, 3), (1, 2, 3, 4, 5), (), (4, 4), (1, 3, 6, 6))

INTEGERS = re.compile(r"ind|idx|offset|length|target|count|size|rows|cols|cu_seq|labels|bins")

WORDS = ("mean", "sum", "none", "linear", "reflect", "tanh", "floor", "amax", "left", "ij")


def siblings(op: str) -> list[str]:
    """Beginnings of names under which the same arguments may have been seen."""
    base = op.partition(".")[0]
    namespace, _, plain = base.partition("::")
    stems = {plain, plain.rstrip("_"), plain.strip("_"), re.sub(r"_(copy|out|functional|forward|jvp)$", "", plain)}
    stems |= {stem.removesuffix("_copy").rstrip("_") for stem in list(stems)}
    return [f"{namespace}::{prefix}{stem}{suffix}" for stem in stems for prefix in ("", "_") for suffix in ("", "_")]


def borrowed(op: str, calls: dict[str, list[Call]]) -> list[Call]:
    """Calls with the arguments of siblings; what it writes to beyond theirs is empty."""
    resolved = resolve_op(op)
    assert resolved is not None
    stems = set(siblings(op))
    found = []
    for donor in [name for name in calls if name.partition(".")[0] in stems]:
        for call in calls[donor]:
            arguments = adapted(op, call)
            if arguments is not None:
                found.append(Call(op, arguments))
    return found[:6]


def adapted(op: str, donor: Call) -> dict[str, Any] | None:
    resolved = resolve_op(op)
    assert resolved is not None
    arguments: dict[str, Any] = {}
    first = next(donor.tensors(), torch.zeros(1))
    lists = [value for value in donor.arguments.values() if isinstance(value, list)]
    for argument in op_arguments(resolved):
        kind = str(argument.real_type)
        if argument.name in donor.arguments:
            arguments[argument.name] = donor.arguments[argument.name]
        elif writes(argument) and "List" not in kind:
            arguments[argument.name] = torch.empty(0, dtype=first.dtype)
        elif writes(argument):
            count = len(lists[0]) if lists else 2
            arguments[argument.name] = [torch.empty(0, dtype=first.dtype) for _ in range(count)]
        elif not argument.has_default_value():
            return None
    return arguments


def invented(op: str, seed: int) -> Call:
    """A call with whatever has the right types."""
    resolved = resolve_op(op)
    assert resolved is not None
    source = random.Random(f"{op} {seed}")
    shape = source.choice(SHAPES)
    arguments = {}
    for argument in op_arguments(resolved):
        if argument.has_default_value() and source.random() < 0.6:
            continue
        arguments[argument.name] = value_of(str(argument.real_type), argument.name, shape, source)
    return Call(op, arguments)


def value_of(kind: str, name: str, shape: tuple[int, ...], source: random.Random) -> Any:
    if kind.startswith("Optional["):
        return None if source.random() < 0.5 else value_of(kind[9:-1], name, shape, source)
    if kind.startswith("List["):
        inner = kind[5:-1]
        count = len(shape) if inner in ("int", "SymInt") and source.random() < 0.6 else source.randint(1, 3)
        return [value_of(inner, name, shape, source) for _ in range(count)]
    match kind:
        case "Tensor":
            return tensor_of(name, source.choice(SHAPES) if source.random() < 0.25 else shape, source)
        case "int" | "SymInt":
            return source.choice((0, 1, 1, 2, 3))
        case "float" | "Scalar" | "number" | "complex":
            return source.choice((0.5, 1.0, 2, 1))
        case "bool":
            return source.random() < 0.5
        case "str" | "Dimname":
            return source.choice(WORDS)
        case "ScalarType":
            return source.choice((torch.float32, torch.int64, torch.float64))
        case "Device":
            return torch.device("cpu")
        case "Layout":
            return torch.strided
        case "MemoryFormat":
            return torch.contiguous_format
        case _:
            return None


def tensor_of(name: str, shape: tuple[int, ...], source: random.Random) -> Tensor:
    generator = torch.Generator().manual_seed(source.getrandbits(32))
    if INTEGERS.search(name) and source.random() < 0.8:
        dtype = source.choice((torch.int64, torch.int64, torch.int32))
        return torch.randint(0, 3, shape, dtype=dtype, generator=generator)
    if "mask" in name and source.random() < 0.7:
        return torch.rand(shape, generator=generator) < 0.5
    return torch.rand(shape, generator=generator)
