"""Views: another shape of the same memory."""

import math
from collections.abc import Sequence
from itertools import accumulate

import torch

from ptrtensor.tensor.base import Pointer
from ptrtensor.tensor.cache import Extent
from ptrtensor.tensor.rules.table import Sizes, fresh, is_contiguous, place_of, rule_for
from ptrtensor.wire.metadata import TensorMeta, contiguous_stride, intern

aten = torch.ops.aten


def view(pointer: Pointer, shape: Sequence[int], stride: Sequence[int], skipped: int = 0) -> Extent:
    """A part of a pointer's memory, `skipped` elements behind its beginning: these are relative views."""
    meta = pointer._meta
    return Extent(intern(tuple(shape), tuple(stride), meta.dtype, meta.conj, meta.neg), skipped)


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
    if not meta.shape:
        return [view(pointer, shape, stride)] if min(shape, default=0) >= 0 else None
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
    meta = pointer._meta
    shape = reshaped(meta, size)
    stride = None if shape is None else strides_of_view(meta, shape)
    return None if shape is None or stride is None else [view(pointer, shape, stride)]


@rule_for(aten._unsafe_view.default)
def unsafe_view(pointer: Pointer, size: Sequence[int]) -> list[Extent] | None:
    shape = reshaped(pointer._meta, size)
    return fresh(shape, pointer._meta.dtype) if shape is not None and is_contiguous(pointer._meta) else None


def reshaped(meta: TensorMeta, size: Sequence[int]) -> Sizes | None:
    """The shape that is asked for, of a tensor with elements."""
    known = math.prod(length for length in size if length != -1)
    unknown = [place for place, length in enumerate(size) if length == -1]
    if not meta.elements or known <= 0 or len(unknown) > 1:
        return None
    shape = list(size)
    for place in unknown:
        shape[place] = meta.elements // known
    return tuple(shape) if math.prod(shape) == meta.elements and min(shape, default=1) > 0 else None


def strides_of_view(meta: TensorMeta, shape: Sizes) -> Sizes | None:
    """The strides that show the same memory in another shape, if there are any: computeStride (TensorUtils.cpp)."""
    if meta.stride == contiguous_stride(meta.shape):
        return contiguous_stride(shape)
    strides, place = [1] * len(shape), len(shape) - 1
    chunk = filled = 1
    step = meta.stride[-1]
    for dim in reversed(range(len(meta.shape))):
        chunk *= meta.shape[dim]
        if dim and (meta.shape[dim - 1] == 1 or meta.stride[dim - 1] == chunk * step):
            continue  # the next dimension goes on where this one ends
        while place >= 0 and (filled < chunk or shape[place] == 1):
            strides[place] = filled * step
            filled *= shape[place]
            place -= 1
        if filled != chunk:
            return None
        chunk = filled = 1
        step = meta.stride[dim - 1]
    return tuple(strides) if place == -1 else None
