"""Mistakes in shapes that torch's rules for fakes let pass, though no value hangs on them.

What is suspected here is tried on zeros, and torch's own word is taken for it. So a check may suspect too much, but
not where an error on zeros would be no error on other values.
"""

from collections.abc import Callable, Sequence
from typing import Final

import torch
from torch import Tensor

from ptrtensor.tensor.operation import Args, Kwargs, Operation
from ptrtensor.tensor.rules.table import fits

Check = Callable[..., bool]


def is_suspect(operation: Operation, args: Args, kwargs: Kwargs) -> bool:
    """Whether torch may refuse the shapes of these arguments."""
    check = CHECKS.get(operation.packet)
    if check is None and operation.is_in_place and operation.numbers_are_fields:
        check = grows
    return check is not None and check(*args, **kwargs)


def is_empty(value: Tensor, *rest: object, **others: object) -> bool:
    return value.numel() == 0


def has_an_empty(*args: object, **kwargs: object) -> bool:
    return any(isinstance(value, Tensor) and value.numel() == 0 for value in (*args, *kwargs.values()))


def asks_for_more(weights: Tensor, samples: int, replacement: bool = False, **others: object) -> bool:
    return not replacement and weights.dim() > 0 and samples > weights.shape[-1]


def is_unlike_target(target: Tensor, dim: int, index: Tensor, source: Tensor, *rest: object, **others: object) -> bool:
    """Apart from the one dimension."""
    shapes = [[*tensor.shape] for tensor in (target, source)]
    for shape in shapes:
        shape[dim : dim + 1 or None] = []
    return shapes[0] != shapes[1]


def has_dimensions(value: object, boundaries: object, **others: object) -> bool:
    return isinstance(boundaries, Tensor) and boundaries.dim() != 1


def cannot_fill(
    target: Tensor, indices: Sequence[Tensor | None], values: Tensor, *rest: object, **others: object
) -> bool:
    """Whether the values have another shape than what the indices choose; what a mask chooses hangs on its values."""
    given = {place: index for place, index in enumerate(indices) if index is not None}
    if any(index.dtype in (torch.bool, torch.uint8) for index in given.values()):
        return has_another_mask(target, indices)
    try:
        chosen: list[int] = [*torch.broadcast_shapes(*(index.shape for index in given.values()))]
    except RuntimeError:
        return True
    left = [size for place, size in enumerate(target.shape) if place not in given]
    first, last = min(given, default=0), max(given, default=0)
    before = first if last - first < len(given) else 0  # indices that are not side by side: their shape comes first
    shape = [*left[:before], *chosen, *left[before:]]
    return not fits(values.shape, shape)


def has_another_mask(target: Tensor, indices: Sequence[Tensor | None]) -> bool:
    """Whether a mask has another shape than what it is to choose from."""
    place = 0
    for index in indices:
        if index is None or index.dtype not in (torch.bool, torch.uint8):
            place += 1
            continue
        if index.shape != target.shape[place : place + index.dim()]:
            return True
        place += index.dim()
    return False


def grows(target: Tensor, *others: object, **named: object) -> bool:
    """Whether others have more than what is written to."""
    given = (value for value in (*others, *named.values()) if isinstance(value, Tensor))
    return not all(fits(value.shape, target.shape) for value in given)


def cannot_add(bias: Tensor, left: Tensor, right: Tensor, *rest: object, **others: object) -> bool:
    """To the product of two matrices, or of one and a vector."""
    return not fits(bias.shape, (*left.shape[:1], *right.shape[1:]))


def cannot_add_in_place(target: Tensor, left: Tensor, right: Tensor, *rest: object, **others: object) -> bool:
    return target.shape != (*left.shape[:1], *right.shape[1:])


def is_no_vector(value: Tensor, dim: int, index: Tensor, *rest: object, **others: object) -> bool:
    """Of indices; a tensor without dimensions takes one."""
    return index.dim() > 1 or has_no_dimension(value, dim) or (value.dim() == 0 and index.numel() != 1)


def are_other_targets(value: Tensor, target: Tensor, *rest: object, **others: object) -> bool:
    """Than those of pictures: one for each place, whatever the number of classes."""
    return value.dim() != 4 or target.shape != (value.shape[0], *value.shape[2:])


def is_unlike_source(target: Tensor, index: Tensor, source: Tensor, *rest: object, **others: object) -> bool:
    return index.numel() != source.numel() or target.numel() == 0


def has_no_dimension(value: Tensor, dim: int = -1, *rest: object, **others: object) -> bool:
    dimensions = max(value.dim(), 1)
    return not -dimensions <= dim < dimensions


def are_other_channels(
    value: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    samples: int,
    channels: int,
    *rest: object,
    **others: object,
) -> bool:
    return any(given is not None and tuple(given.shape) != (channels,) for given in (weight, bias))


def is_unfit_convolution(
    value: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    transposed: bool,
    output_padding: Sequence[int],
    *rest: object,
    **others: object,
) -> bool:
    """Whether there is an empty kernel, or a transposed convolution has nothing to give, or is padded by more than its
    steps.
    """
    if not transposed or has_an_empty(value, weight):
        return has_an_empty(value, weight)
    each = zip(value.shape[2:], weight.shape[2:], stride, padding, dilation, output_padding, strict=False)
    return any(
        (size - 1) * step - 2 * pad + gap * (width - 1) + more < 0 or more >= max(step, gap)
        for size, width, step, pad, gap, more in each
    )


def always(*args: object, **kwargs: object) -> bool:
    return True


LINEAR: Final = "diagonal_scatter index_reduce index_reduce_ pixel_unshuffle select_scatter slice_scatter"
"""A look at each element, so that it is not worth a check before."""

GROWING: Final = """
    bernoulli_ copysign_ eq_ floor_divide_ gcd_ ge_ gt_ heaviside_ lcm_ le_ lt_ ne_
    binary_cross_entropy binary_cross_entropy_with_logits soft_margin_loss
"""
"""Of which the first argument has the shape of the result. What torch calls pointwise needs no entry in place."""

SPATIAL: Final = """
    _adaptive_avg_pool2d _adaptive_avg_pool3d grid_sampler_2d grid_sampler_3d upsample_linear1d upsample_nearest1d
    upsample_bilinear2d upsample_bicubic2d upsample_nearest2d upsample_trilinear3d upsample_nearest3d
"""
"""Of which torch takes an empty batch, and no empty picture."""

CHECKS: Final[dict[str, Check]] = {
    **{f"aten::{name}": is_empty for name in ("max", "min", "median", "nanmedian", "mode")},
    **{f"aten::{name}": cannot_fill for name in ("index_put", "index_put_", "_index_put_impl_")},
    **{f"aten::{name}": is_unlike_target for name in ("index_add", "index_add_")},
    **{f"aten::{name}": has_no_dimension for name in ("_softmax", "_log_softmax", "sort", "cummax", "cummin")},
    **{f"aten::{name}": always for name in LINEAR.split()},
    **{f"aten::{name}": has_an_empty for name in SPATIAL.split()},
    **{f"aten::{name}": grows for name in GROWING.split()},
    **{f"aten::{name}": cannot_add for name in ("addmm", "addmv")},
    **{f"aten::{name}": cannot_add_in_place for name in ("addmm_", "addmv_")},
    **{f"aten::{name}": is_unlike_source for name in ("put", "put_")},
    "aten::index_select": is_no_vector,
    "aten::masked_scatter_": lambda target, mask, *rest, **others: not fits(mask.shape, target.shape),
    "aten::nll_loss2d_forward": are_other_targets,
    "aten::native_group_norm": are_other_channels,
    "aten::convolution": is_unfit_convolution,
    "aten::multinomial": asks_for_more,
    "aten::bucketize": has_dimensions,
}
