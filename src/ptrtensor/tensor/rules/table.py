"""The table of rules, and what they are made of."""

from collections.abc import Callable, Sequence
from typing import Final

from torch._ops import OpOverload

from ptrtensor.tensor.cache import Extent
from ptrtensor.wire.metadata import TensorMeta, intern

Rule = Callable[..., list[Extent] | None]
Sizes = tuple[int, ...]

FLOATS: Final = frozenset({"float16", "bfloat16", "float32", "float64"})

rules: Final[dict[OpOverload[..., object], Rule]] = {}


def rule_for(*ops: OpOverload[..., object]) -> Callable[[Rule], Rule]:
    """Enter a rule for these operations."""

    def enter(rule: Rule) -> Rule:
        rules.update(dict.fromkeys(ops, rule))
        return rule

    return enter


def contiguous(shape: Sequence[int]) -> Sizes:
    """The strides of a tensor without gaps, in elements, as torch counts them for empty ones too."""
    strides = [1] * len(shape)
    for place in range(len(shape) - 2, -1, -1):
        strides[place] = strides[place + 1] * max(shape[place + 1], 1)
    return tuple(strides)


def is_contiguous(meta: TensorMeta) -> bool:
    return meta.stride == contiguous(meta.shape) and not (meta.conj or meta.neg)


def fresh(shape: Sequence[int], dtype: str) -> list[Extent]:
    return [Extent(intern(tuple(shape), contiguous(shape), dtype), 0)]


def place_of(dim: int, dimensions: int) -> int | None:
    """A dimension counted from the front; None where there is no such."""
    return dim % dimensions if dimensions and -dimensions <= dim < dimensions else None
