"""Kinds of checks of how a call's tensors lie in memory; checks.py has those of shapes and contents."""

from collections.abc import Sequence

from torch import Tensor

from ptrtensor._torch.memory import is_dense, storage_key
from ptrtensor.worker.checks import Check, Given, optional, tensor
from ptrtensor.worker.outputs import repeats


def unrepeated(name: str) -> Check:
    """No two elements share a place."""

    def check(given: Given) -> None:
        if repeats(tensor(given, name)):
            raise ValueError(f"elements of {name} share memory: make a copy first")

    return check


def contiguous(*names: str) -> Check:
    """The kernel counts on the elements one after the other."""

    def check(given: Given) -> None:
        for name in names:
            value = optional(given, name)
            if value is not None and not value.is_contiguous():
                raise ValueError(f"{name} must be contiguous")

    return check


def dense(*names: str) -> Check:
    """Each element has a place of its own, and there are no gaps."""

    def check(given: Given) -> None:
        for name in names:
            value = optional(given, name)
            if value is not None and not is_dense(value):
                raise ValueError(f"{name} must be laid out without gaps")

    return check


def typed(other: str, *names: str) -> Check:
    """The same dtype as that one."""

    def check(given: Given) -> None:
        for name in names:
            value = optional(given, name)
            if value is not None and value.dtype != tensor(given, other).dtype:
                raise ValueError(f"{name} is of {value.dtype}, {other} of {tensor(given, other).dtype}")

    return check


def apart(written: Sequence[str]) -> Check:
    """What is written to shares no memory with another argument, and none between its own elements."""

    def check(given: Given) -> None:
        seen: dict[int, str] = {}
        for name, value in given.items():
            for item in value if isinstance(value, list | tuple) else [value]:
                if not isinstance(item, Tensor):
                    continue
                key = storage_key(item)
                if key in seen and (name in written or seen[key] in written):
                    raise ValueError(f"{name} and {seen[key]} share memory")
                seen[key] = name
        for name in written:
            value = given.get(name)
            if isinstance(value, Tensor) and repeats(value):
                raise ValueError(f"elements of {name} share memory")

    return check
