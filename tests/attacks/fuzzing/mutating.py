"""Hostile variants of a call: numbers out of range, and tensors of the wrong size, kind or content."""

import contextlib
import random
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from calls import Call
from torch import Tensor

FAR = (2**31, 2**40, 2**62, -(2**62), 2**31 - 1, -(2**31) - 1, -(2**31), -(2**63))

FLOATS = (float("nan"), float("inf"), -float("inf"), 0.0, -1.0, 1e30, -1e30, 2.0, 1e-15, 1e-320)

DTYPES = (torch.int64, torch.int32, torch.float32, torch.float64, torch.bool, torch.bfloat16, torch.complex64)

ATTRIBUTES = (torch.dtype, torch.layout, torch.memory_format, torch.device)

COMBINED = 40


class Mutation(NamedTuple):
    argument: str
    what: str
    call: Call


def mutations(call: Call) -> Iterator[Mutation]:
    """All of them in an order that is always the same; those with two changes last."""
    single = list(single_mutations(call))
    yield Mutation("", "as it is", call)
    yield from single
    source = random.Random(call.op)
    for _ in range(COMBINED if single else 0):
        first, second = source.choice(single), source.choice(single)
        if first.argument == second.argument:
            continue
        value = second.call.arguments[second.argument]
        both = Call(call.op, first.call.arguments | {second.argument: value})
        yield Mutation(f"{first.argument}+{second.argument}", f"{first.what}; {second.argument}: {second.what}", both)


def single_mutations(call: Call) -> Iterator[Mutation]:
    sizes = {2, 3}
    for tensor in call.tensors():
        sizes |= {*tensor.shape, tensor.numel()}
    near = sorted({*sizes, *(size + 1 for size in sizes)})
    integers = (-1, -2, 0, 1, *near[:10], *FAR)
    tensors = list(call.tensors())
    for name, value in call.arguments.items():
        for what, changed in while_it_works(variants(value, integers, tensors)):
            yield Mutation(name, what, Call(call.op, call.arguments | {name: changed}))


def while_it_works(given: Iterator[tuple[str, Any]]) -> Iterator[tuple[str, Any]]:
    """Some dtypes have few operations, and their variants end early."""
    with contextlib.suppress(RuntimeError):
        yield from given


def variants(value: Any, integers: tuple[int, ...], tensors: list[Tensor]) -> Iterator[tuple[str, Any]]:
    match value:
        case Tensor():
            yield from tensor_variants(value, integers, tensors)
            yield "none", None
        case bool():
            yield "negated", not value
        case int():
            yield from ((f"= {number}", number) for number in integers if number != value)
        case float():
            yield from ((f"= {number}", number) for number in FLOATS)
        case str():
            yield "another word", "sum" if value != "sum" else "mean"
            yield "no word", ""
        case list():
            yield from list_variants(value, integers, tensors)
        case None:
            yield "= 0", 0
            yield "= -1", -1
            yield "= 2**40", 2**40
            yield "a tensor", torch.zeros(1)
            yield "indices", torch.tensor([7])
        case _ if isinstance(value, ATTRIBUTES):
            yield "none", None
            if isinstance(value, torch.dtype):
                yield from ((f"= {dtype}", dtype) for dtype in DTYPES)


def list_variants(value: list[Any], integers: tuple[int, ...], tensors: list[Tensor]) -> Iterator[tuple[str, Any]]:
    yield "empty", []
    if not value:
        yield "one 0", [0]
        return
    yield "one less", value[:-1]
    yield "one more", [*value, value[-1]]
    yield "many", value * 40
    if all(type(item) is int for item in value):
        for number in integers:
            yield f"all {number}", [number] * len(value)
    for place in range(min(len(value), 3)):
        for what, changed in variants(value[place], integers, tensors):
            yield f"[{place}] {what}", [*value[:place], changed, *value[place + 1 :]]


def tensor_variants(value: Tensor, integers: tuple[int, ...], tensors: list[Tensor]) -> Iterator[tuple[str, Tensor]]:
    yield from while_it_works(content_variants(value, integers))
    yield from while_it_works(shape_variants(value))
    for dtype in DTYPES:
        if dtype != value.dtype:
            yield f"as {dtype}", value.to(dtype)
    for place, other in enumerate(tensors[:6]):
        if other is not value:
            yield f"tensor {place}", other


def content_variants(value: Tensor, integers: tuple[int, ...]) -> Iterator[tuple[str, Tensor]]:
    if not value.numel():
        return
    if value.dtype.is_floating_point or value.dtype.is_complex:
        contents: tuple[int | float, ...] = FLOATS
    elif value.dtype is torch.bool:
        contents = (0, 1)
    else:
        contents = integers
    for number in contents:
        if fits(number, value.dtype):
            yield f"full of {number}", torch.full_like(value, number)
            if value.numel() > 1:
                for place in (0, -1):
                    changed = value.clone(memory_format=torch.contiguous_format)
                    changed.view(-1)[place] = number
                    yield f"element {place} = {number}", changed


def fits(number: int | float, dtype: torch.dtype) -> bool:
    if dtype.is_floating_point or dtype.is_complex or dtype is torch.bool:
        return True
    return torch.iinfo(dtype).min <= number <= torch.iinfo(dtype).max


def shape_variants(value: Tensor) -> Iterator[tuple[str, Tensor]]:
    yield "empty", value.new_empty((0,))
    yield "of no dimension", value.new_ones(())
    yield "one element", value.new_ones((1,))
    yield "of 1s", value.new_ones((1,) * value.dim())
    yield "one dimension more", value.unsqueeze(0)
    yield "one dimension behind", value.unsqueeze(-1)
    if value.dim():
        yield "flat", value.reshape(-1)
        yield "repeated", value.unsqueeze(0).expand(3, *value.shape)
        yield "first of it", value.select(0, 0) if value.shape[0] else value.squeeze(0)
        yield "stretched", value.new_ones(()).expand(value.shape)
    if value.dim() > 1:
        yield "transposed", value.transpose(0, -1)
    for dimension in {0, 1, value.dim() - 1} & set(range(value.dim())):
        size = value.shape[dimension]
        for other in {0, 1, size - 1, size + 1, 2 * size} - {size, -1}:
            shape = [*value.shape]
            shape[dimension] = other
            resized = value.new_ones(shape)
            kept = min(size, other)
            resized.narrow(dimension, 0, kept).copy_(value.narrow(dimension, 0, kept))
            yield f"size {other} in dimension {dimension}", resized
