"""Kinds of checks of a call's arguments, before a kernel that trusts them gets them [P5.5].

A check is given the arguments by name, those left out with their defaults, and raises `ValueError` where the kernel
would reach beside a tensor. What torch refuses by itself is left to torch.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ptrtensor._torch.operations import op_arguments, resolve_op

Given = Mapping[str, Any]

Check = Callable[[Given], None]

Size = Callable[[Given], int]
"""A bound that depends on the arguments."""

Shape = Callable[[Given], Sequence[int]]


def tensor(given: Given, name: str) -> Tensor:
    value = given.get(name)
    if not isinstance(value, Tensor):
        raise ValueError(f"{name} must be a tensor")
    return value


def optional(given: Given, name: str) -> Tensor | None:
    return None if given.get(name) is None else tensor(given, name)


# --- shapes


def shaped(name: str, shape: Shape) -> Check:
    """This argument, where there is one, has exactly that shape."""

    def check(given: Given) -> None:
        value, expected = optional(given, name), tuple(shape(given))
        if value is not None and tuple(value.shape) != expected:
            raise ValueError(f"{name} is of shape {list(value.shape)} where {list(expected)} belongs")

    return check


def like(other: str, *names: str) -> tuple[Check, ...]:
    """These have the shape of that one."""
    return tuple(shaped(name, lambda given: tensor(given, other).shape) for name in names)


def like_but_last(other: str, name: str, last: int) -> Check:
    """The same shape but for the last dimensions, of which there are as many."""

    def check(given: Given) -> None:
        one, two = tensor(given, name), tensor(given, other)
        if one.dim() != two.dim() or one.dim() < last or one.shape[: -last or None] != two.shape[: -last or None]:
            raise ValueError(f"{name} is of shape {list(one.shape)}, {other} of {list(two.shape)}")

    return check


def with_plane(name: str, last: int) -> Check:
    """The last dimensions are not empty."""

    def check(given: Given) -> None:
        if 0 in tensor(given, name).shape[-last:]:
            raise ValueError(f"{name} has no elements in its last {last} dimensions")

    return check


def per_channel(source: str, *names: str, dimension: int = 1) -> Check:
    """Each, where there is one, has one number for each channel."""

    def check(given: Given) -> None:
        whole = tensor(given, source)
        if whole.dim() <= dimension:
            raise ValueError(f"{source} has no channels")
        channels = whole.shape[dimension]
        for name in names:
            value = optional(given, name)
            if value is not None and (value.dim() > 1 or value.numel() != channels):
                raise ValueError(f"{name} is of shape {list(value.shape)} for {channels} channels")

    return check


def dimensions(name: str, least: int, most: int | None = None) -> Check:
    def check(given: Given) -> None:
        value = optional(given, name)
        if value is not None and not least <= value.dim() <= (least if most is None else most):
            raise ValueError(f"{name} has {value.dim()} dimensions")

    return check


def as_forward(forward: str, **results: int) -> Check:
    """These arguments have the shapes that the results of the forward operation have, given the arguments of the same
    names. It runs on tensors without values.
    """
    op = resolve_op(forward)
    assert op is not None
    names = [argument.name for argument in op_arguments(op)]
    missing = {argument.name: None for argument in op_arguments(op) if not argument.has_default_value()}

    def check(given: Given) -> None:
        inputs = missing | {name: without_values(given[name]) for name in names if name in given}
        made: Any = op(**inputs)
        for name, place in results.items():
            expected = made[place] if isinstance(made, tuple | list) else made
            value = tensor(given, name)
            if value.shape != expected.shape:
                raise ValueError(f"{name} is of shape {list(value.shape)} where {list(expected.shape)} belongs")

    return check


def without_values(value: Any) -> Any:
    if isinstance(value, Tensor):
        return torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device="meta")
    return [without_values(item) for item in value] if isinstance(value, list | tuple) else value


# --- contents


def within(name: str, below: Size, least: int = 0) -> Check:
    """All values of a tensor of integers, where there is one, are in range."""

    def check(given: Given) -> None:
        value = optional(given, name)
        if value is None or not value.numel():
            return
        if value.dtype.is_floating_point or value.dtype.is_complex:
            raise ValueError(f"{name} must be of integers")
        low, high = (int(end) for end in value.aminmax())
        limit = below(given)
        if low < least or high >= limit:
            raise ValueError(f"{name} has values from {low} to {high}, which must be from {least} to below {limit}")

    return check


def ascending(name: str, end: Size, *, from_zero: bool = True) -> Check:
    """Offsets: from 0 on, never falling, none beyond the end."""

    def check(given: Given) -> None:
        value = optional(given, name)
        if value is None or not value.numel():
            return
        if value.dim() != 1 or value.dtype not in (torch.int32, torch.int64):
            raise ValueError(f"{name} must be a list of integers")
        if from_zero and int(value[0]) or int(value[0]) < 0 or int(value[-1]) > end(given):
            raise ValueError(f"{name} must begin with 0 and end with at most {end(given)}")
        if bool((value[1:] < value[:-1]).any()):
            raise ValueError(f"{name} must not fall")

    return check


def of_length(name: str, length: Size) -> Check:
    """The argument, where there is one, has so many elements."""

    def check(given: Given) -> None:
        value = optional(given, name)
        if value is not None and value.numel() != length(given):
            raise ValueError(f"{name} has {value.numel()} elements where {length(given)} belong")

    return check


def numbers(name: str, least: int) -> Check:
    """There are so many elements at least."""

    def check(given: Given) -> None:
        if tensor(given, name).numel() < least:
            raise ValueError(f"{name} has no elements")

    return check


def bounded(name: str, most: int) -> Check:
    """A number, or each of a tensor: the kernel counts up to it."""

    def check(given: Given) -> None:
        value = given[name]
        largest = value.nan_to_num().max() if isinstance(value, Tensor) and value.numel() else value
        if not isinstance(value, Tensor) or value.numel():
            if largest > most:
                raise ValueError(f"{name} is more than {most}")

    return check


def up_to(name: str, most: Size) -> Check:
    """A number that counts something of which there are so many."""

    def check(given: Given) -> None:
        if not 0 <= given[name] <= most(given):
            raise ValueError(f"{name} is {given[name]}, which must be from 0 to {most(given)}")

    return check


def finite(*names: str) -> Check:
    """The kernel would not come to an end."""

    def check(given: Given) -> None:
        for name in names:
            value = optional(given, name)
            if value is not None and not bool(value.isfinite().all()):
                raise ValueError(f"{name} must be finite")

    return check


def count(name: str, *allowed: int) -> Check:
    """A list has so many elements."""

    def check(given: Given) -> None:
        value = given.get(name)
        if value is not None and len(value) not in allowed:
            raise ValueError(f"{name} has {len(value)} elements, which must be {' or '.join(map(str, allowed))}")

    return check
