"""Arithmetic and reductions on floating tensors without gaps."""

from collections.abc import Sequence

import torch

from ptrtensor.tensor.base import Pointer
from ptrtensor.tensor.cache import Extent
from ptrtensor.tensor.rules.table import FLOATS, fresh, is_contiguous, place_of, rule_for
from ptrtensor.wire.metadata import TensorMeta

aten = torch.ops.aten


def same(*values: object) -> TensorMeta | None:
    """The one metadata of all pointers among the arguments, where they are floating, without gaps, and not mixed."""
    metas = {value._meta for value in values if isinstance(value, Pointer)}
    others = all(type(value) in (int, float) for value in values if not isinstance(value, Pointer))
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


@rule_for(aten.cat.default)
def cat(pointers: Sequence[Pointer], dim: int = 0) -> list[Extent] | None:
    """Of up to three dimensions: with more there are two orders of memory, and torch chooses."""
    metas = [pointer._meta for pointer in pointers if isinstance(pointer, Pointer)]
    if not metas or len(metas) != len(pointers) or not all(map(is_contiguous, metas)):
        return None
    first = metas[0]
    place = place_of(dim, len(first.shape))
    others = {
        (meta.dtype, len(meta.shape), *meta.shape[:place], None, *meta.shape[(place or 0) + 1 :]) for meta in metas
    }
    if place is None or len(first.shape) > 3 or len(others) != 1 or first.dtype not in FLOATS:
        return None
    total = sum(meta.shape[place] for meta in metas)
    return fresh((*first.shape[:place], total, *first.shape[place + 1 :]), first.dtype)
