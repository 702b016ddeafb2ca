"""Kinds of checks of how a call's tensors lie in memory; checks.py has those of shapes and contents."""

from collections.abc import Sequence

from torch import Tensor

from ptrtensor._torch.memory import is_dense, meta_of, offset_of, storage_key
from ptrtensor.worker.checks import Check, Given, optional, tensor


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


def apart_from(result: str, *names: str) -> Check:
    """What is written to, where it is given, is none of these, nor lies where they lie: the kernel may give it another
    shape first, or use what it has looked at before after it wrote there.
    """

    def check(given: Given) -> None:
        for value in tensors(given.get(result)):
            for name in names:
                if any(value is other or overlap(value, other) for other in tensors(given.get(name))):
                    raise ValueError(f"{result} and {name} share memory: write to another tensor")

    return check


def tensors(value: object) -> list[Tensor]:
    """Those that an argument consists of."""
    return [item for item in (value if isinstance(value, list | tuple) else [value]) if isinstance(item, Tensor)]


def overlap(one: Tensor, other: Tensor) -> bool:
    """Whether the stretches of memory that they span have bytes in common, gaps among them."""
    if storage_key(one) != storage_key(other):
        return False
    first, second = stretch(one), stretch(other)
    return max(first.start, second.start) < min(first.stop, second.stop)


def stretch(value: Tensor) -> range:
    """The bytes of its storage from its first element to its last."""
    begin = offset_of(value) * value.itemsize
    return range(begin, begin + meta_of(value).extent)


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


def repeats(value: Tensor) -> bool:
    return any(stride == 0 and size > 1 for size, stride in zip(value.shape, value.stride(), strict=True))
