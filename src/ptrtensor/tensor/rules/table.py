"""The table of rules, and what they are made of."""

from collections.abc import Callable, Sequence
from typing import Final

from torch._ops import OpOverload

from ptrtensor.tensor.cache import Extent
from ptrtensor.wire.metadata import TensorMeta, contiguous_stride, intern

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


def is_contiguous(meta: TensorMeta) -> bool:
    return meta.stride == contiguous_stride(meta.shape) and not (meta.conj or meta.neg)


def fresh(shape: Sequence[int], dtype: str) -> list[Extent]:
    sizes = tuple(shape)
    return [Extent(intern(sizes, contiguous_stride(sizes), dtype), 0)]


def fits(shape: Sequence[int], wanted: Sequence[int]) -> bool:
    """Whether it can be expanded to that."""
    pairs = zip(reversed(shape), reversed(wanted), strict=False)
    return len(shape) <= len(wanted) and all(size in (1, other) for size, other in pairs)


def place_of(dim: int, dimensions: int) -> int | None:
    """A dimension counted from the front; None where there is no such."""
    return dim % dimensions if dimensions and -dimensions <= dim < dimensions else None
