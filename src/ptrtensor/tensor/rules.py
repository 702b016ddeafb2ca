"""Closed forms: what hot operations return, computed instead of inferred, so that a new size costs no inference (D6).

A rule gets the arguments as they were given and returns the fresh results, or None where the general way must decide:
for what it does not know, and for what torch refuses. The tests hold every rule against fakes.
"""

import math
from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Final

import torch
from torch._ops import OpOverload

from ptrtensor._torch import offset_of
from ptrtensor.tensor.base import Pointer
from ptrtensor.tensor.cache import Extent
from ptrtensor.tensor.operation import Operation
from ptrtensor.tensor.signature import Args, Kwargs
from ptrtensor.wire.metadata import TensorMeta, intern

Rule = Callable[..., list[Extent] | None]
Sizes = tuple[int, ...]

NUMBERS: Final = frozenset({"alpha", "beta", "value"})
"""Keyword arguments that change values only."""

FLOATS: Final = frozenset({"float16", "bfloat16", "float32", "float64"})

aten = torch.ops.aten
rules: Final[dict[OpOverload[..., object], Rule]] = {}


def closed_form(operation: Operation, args: Args, kwargs: Kwargs) -> list[Extent] | None:
    """The fresh results by a rule; None where there is none for such a call."""
    rule = rules.get(operation.op)
    return None if rule is None or kwargs.keys() - NUMBERS else rule(*args, **kwargs)


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


def view(pointer: Pointer, shape: Sequence[int], stride: Sequence[int], skipped: int = 0) -> Extent:
    """A part of a pointer's memory, `skipped` elements behind its beginning."""
    meta = pointer._meta
    part = intern(tuple(shape), tuple(stride), meta.dtype, meta.conj, meta.neg)
    return Extent(part, offset_of(pointer) + skipped)


def place_of(dim: int, dimensions: int) -> int | None:
    """A dimension counted from the front; None where there is no such."""
    return dim % dimensions if dimensions and -dimensions <= dim < dimensions else None


# --- views


@rule_for(aten.select.int)
def select(pointer: Pointer, dim: int, index: int) -> list[Extent] | None:
    shape, stride = pointer._meta.shape, pointer._meta.stride
    place = place_of(dim, len(shape))
    if place is None or not -shape[place] <= index < shape[place]:
        return None
    skipped = index % shape[place] * stride[place]
    return [view(pointer, shape[:place] + shape[place + 1 :], stride[:place] + stride[place + 1 :], skipped)]


@rule_for(aten.unbind.int)
def unbind(pointer: Pointer, dim: int = 0) -> list[Extent] | None:
    place = place_of(dim, pointer.dim())
    if place is None:
        return None
    selected = [select(pointer, place, index) for index in range(pointer._meta.shape[place])]
    return [extent for extents in selected if extents is not None for extent in extents]


def narrowed(pointer: Pointer, place: int, start: int, length: int, step: int = 1) -> Extent:
    shape, stride = list(pointer._meta.shape), list(pointer._meta.stride)
    skipped = start * stride[place]
    shape[place], stride[place] = length, stride[place] * step
    return view(pointer, shape, stride, skipped)


@rule_for(aten.slice.Tensor)
def slice_(
    pointer: Pointer, dim: int = 0, start: int | None = None, end: int | None = None, step: int = 1
) -> list[Extent] | None:
    place = place_of(dim, pointer.dim())
    if place is None or step <= 0:
        return None
    first, last, _ = slice(start, end).indices(pointer._meta.shape[place])
    length = max(0, -((first - last) // step))
    return [narrowed(pointer, place, first, length, step)]


@rule_for(aten.split_with_sizes.default)
def split_with_sizes(pointer: Pointer, sizes: Sequence[int], dim: int = 0) -> list[Extent] | None:
    place = place_of(dim, pointer.dim())
    if place is None or min(sizes, default=0) < 0 or sum(sizes) != pointer._meta.shape[place]:
        return None
    starts = accumulate(sizes, initial=0)
    return [narrowed(pointer, place, start, length) for start, length in zip(starts, sizes, strict=False)]


@rule_for(aten.split.Tensor)
def split(pointer: Pointer, size: int, dim: int = 0) -> list[Extent] | None:
    place = place_of(dim, pointer.dim())
    if place is None or size <= 0:
        return None
    length = pointer._meta.shape[place]
    starts = range(0, max(length, 1), size)
    return [narrowed(pointer, place, start, min(size, length - start)) for start in starts]


@rule_for(aten.permute.default)
def permute(pointer: Pointer, dims: Sequence[int]) -> list[Extent] | None:
    meta = pointer._meta
    places = [place_of(dim, len(meta.shape)) for dim in dims]
    order = [place for place in places if place is not None]
    if None in places or sorted(order) != list(range(len(meta.shape))):
        return None
    return [view(pointer, [meta.shape[place] for place in order], [meta.stride[place] for place in order])]


@rule_for(aten.transpose.int)
def transpose(pointer: Pointer, first: int, second: int) -> list[Extent] | None:
    one, other = place_of(first, pointer.dim()), place_of(second, pointer.dim())
    if one is None or other is None:
        return None
    order = list(range(pointer.dim()))
    order[one], order[other] = other, one
    return permute(pointer, order)


@rule_for(aten.t.default)
def t(pointer: Pointer) -> list[Extent] | None:
    return permute(pointer, range(pointer.dim())[::-1]) if pointer.dim() <= 2 else None


@rule_for(aten.unsqueeze.default)
def unsqueeze(pointer: Pointer, dim: int) -> list[Extent] | None:
    shape, stride = pointer._meta.shape, pointer._meta.stride
    place = place_of(dim, len(shape) + 1)
    if place is None:
        return None
    added = shape[place] * stride[place] if place < len(shape) else 1
    return [view(pointer, (*shape[:place], 1, *shape[place:]), (*stride[:place], added, *stride[place:]))]


@rule_for(aten.squeeze.dim)
def squeeze(pointer: Pointer, dim: int) -> list[Extent] | None:
    shape, stride = pointer._meta.shape, pointer._meta.stride
    place = place_of(dim, len(shape))
    if place is None or shape[place] != 1:
        return None
    return [view(pointer, shape[:place] + shape[place + 1 :], stride[:place] + stride[place + 1 :])]


@rule_for(aten.expand.default)
def expand(pointer: Pointer, size: Sequence[int]) -> list[Extent] | None:
    """As inferExpandGeometry (ExpandUtils.cpp)."""
    meta = pointer._meta
    added = len(size) - len(meta.shape)
    if added < 0:
        return None
    shape, stride = list(size), [0] * len(size)
    for place in reversed(range(len(size))):
        if place >= added:
            old, step = meta.shape[place - added], meta.stride[place - added]
        else:
            old, step = 1, shape[place + 1] * stride[place + 1] if place + 1 < len(size) else 1
        if shape[place] == -1:
            if place < added:
                return None
            shape[place] = old
        if shape[place] != old and (old != 1 or shape[place] < 0):
            return None
        stride[place] = step if shape[place] == old else 0
    return [view(pointer, shape, stride)]


@rule_for(aten.view.default)
def view_(pointer: Pointer, size: Sequence[int]) -> list[Extent] | None:
    shape = reshaped(pointer._meta, size)
    return None if shape is None else [view(pointer, shape, contiguous(shape))]


@rule_for(aten._unsafe_view.default)
def unsafe_view(pointer: Pointer, size: Sequence[int]) -> list[Extent] | None:
    shape = reshaped(pointer._meta, size)
    return fresh(shape, pointer._meta.dtype) if shape is not None and is_contiguous(pointer._meta) else None


def reshaped(meta: TensorMeta, size: Sequence[int]) -> Sizes | None:
    """The shape that is asked for, of a tensor without gaps and with elements."""
    known = math.prod(length for length in size if length != -1)
    unknown = [place for place, length in enumerate(size) if length == -1]
    if meta.stride != contiguous(meta.shape) or not meta.elements or known <= 0 or len(unknown) > 1:
        return None
    shape = list(size)
    for place in unknown:
        shape[place] = meta.elements // known
    return tuple(shape) if math.prod(shape) == meta.elements and min(shape, default=1) > 0 else None


# --- arithmetic on tensors without gaps


def same(*values: object) -> TensorMeta | None:
    """The one metadata of all pointers among the arguments, where they are floating, without gaps, and not mixed."""
    metas = {value._meta for value in values if isinstance(value, Pointer)}
    others = all(type(value) in (int, float, bool) for value in values if not isinstance(value, Pointer))
    if len(metas) != 1 or not others:
        return None
    (meta,) = metas
    return meta if meta.dtype in FLOATS and is_contiguous(meta) else None


@rule_for(
    *(getattr(aten, name).default for name in "neg abs exp log sqrt rsqrt sin cos tanh sigmoid relu silu erf".split()),
    *(getattr(aten, name).Tensor for name in "add sub mul div".split()),
    *(getattr(aten, name).Scalar for name in "add sub mul div".split()),
    aten.pow.Tensor_Scalar,
    aten.maximum.default,
    aten.minimum.default,
    aten.threshold_backward.default,
    aten.tanh_backward.default,
    aten.sigmoid_backward.default,
    aten.silu_backward.default,
)
def pointwise(*values: object, alpha: float = 1) -> list[Extent] | None:
    meta = same(*values)
    return None if meta is None or type(alpha) not in (int, float) else [Extent(meta, 0)]


@rule_for(
    *(getattr(aten, name).Tensor for name in "add_ sub_ mul_ div_".split()),
    *(getattr(aten, name).Scalar for name in "add_ sub_ mul_ div_".split()),
    aten.relu_.default,
    aten.sqrt_.default,
    aten.addcmul_.default,
    aten.addcdiv_.default,
    aten.zero_.default,
    aten.fill_.Scalar,
)
def pointwise_in_place(*values: object, alpha: float = 1, value: float = 1) -> list[Extent] | None:
    meta = same(*values)
    return None if meta is None or not {type(alpha), type(value)} <= {int, float} else []


@rule_for(aten.addcmul.default, aten.addcdiv.default)
def pointwise_of_three(*values: object, value: float = 1) -> list[Extent] | None:
    meta = same(*values)
    return None if meta is None or type(value) not in (int, float) else [Extent(meta, 0)]


@rule_for(aten.clone.default)
def clone(pointer: Pointer) -> list[Extent] | None:
    return [Extent(pointer._meta, 0)] if is_contiguous(pointer._meta) else None


@rule_for(aten._softmax.default, aten._log_softmax.default)
def softmax(pointer: Pointer, dim: int, half_to_float: bool) -> list[Extent] | None:
    known = same(pointer) is not None and place_of(dim, pointer.dim()) is not None and not half_to_float
    return [Extent(pointer._meta, 0)] if known else None


@rule_for(aten.sum.dim_IntList, aten.mean.dim)
def reduction(pointer: Pointer, dims: Sequence[int] | None, keepdim: bool = False) -> list[Extent] | None:
    meta = same(pointer)
    if meta is None or not dims:
        return None
    places = {place_of(dim, len(meta.shape)) for dim in dims}
    if None in places or len(places) != len(dims):
        return None
    kept = [1 if place in places else size for place, size in enumerate(meta.shape)]
    return fresh(kept if keepdim else [size for place, size in enumerate(kept) if place not in places], meta.dtype)


@rule_for(aten.sum.default, aten.mean.default)
def whole_reduction(pointer: Pointer) -> list[Extent] | None:
    meta = same(pointer)
    return None if meta is None else fresh((), meta.dtype)


# --- products of matrices


def matrices(*values: object, dimensions: int) -> list[Sizes] | None:
    """Their shapes, where all have so many dimensions and one floating dtype."""
    given = [value._meta for value in values if isinstance(value, Pointer)]
    if len(given) != len(values) or len({meta.dtype for meta in given}) != 1 or given[0].dtype not in FLOATS:
        return None
    shapes = [meta.shape for meta in given]
    return shapes if all(len(shape) == dimensions for shape in shapes) else None


@rule_for(aten.mm.default)
def mm(left: Pointer, right: Pointer) -> list[Extent] | None:
    shapes = matrices(left, right, dimensions=2)
    if shapes is None or shapes[0][1] != shapes[1][0]:
        return None
    return fresh((shapes[0][0], shapes[1][1]), left._meta.dtype)


@rule_for(aten.bmm.default)
def bmm(left: Pointer, right: Pointer) -> list[Extent] | None:
    shapes = matrices(left, right, dimensions=3)
    if shapes is None or shapes[0][0] != shapes[1][0] or shapes[0][2] != shapes[1][1]:
        return None
    return fresh((*shapes[0][:2], shapes[1][2]), left._meta.dtype)


@rule_for(aten.addmm.default)
def addmm(bias: Pointer, left: Pointer, right: Pointer, *, beta: float = 1, alpha: float = 1) -> list[Extent] | None:
    product = mm(left, right)
    if product is None or not isinstance(bias, Pointer) or bias._meta.dtype != left._meta.dtype:
        return None
    shape = product[0].meta.shape
    added = (1,) * (2 - bias.dim()) + bias._meta.shape
    fits = len(added) == 2 and all(size in (1, length) for size, length in zip(added, shape, strict=True))
    return product if fits and {type(alpha), type(beta)} <= {int, float} else None
