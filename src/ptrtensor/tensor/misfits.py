"""Mistakes in shapes that torch's rules for fakes let pass, though no value hangs on them.

What is suspected here is tried on zeros, and torch's own word is taken for it. So a check may suspect too much, but
not where an error on zeros would be no error on other values.
"""

from collections.abc import Callable, Sequence
from typing import Final

import torch
from torch import Tensor

from ptrtensor.tensor.operation import Args, Kwargs, Operation

Check = Callable[..., bool]


def is_suspect(operation: Operation, args: Args, kwargs: Kwargs) -> bool:
    """Whether torch may refuse the shapes of these arguments."""
    check = CHECKS.get(operation.packet)
    if check is None and operation.is_in_place and operation.numbers_are_fields:
        check = grows
    return check is not None and check(*args, **kwargs)


def fits(shape: Sequence[int], wanted: Sequence[int]) -> bool:
    """Whether it can be expanded to that."""
    pairs = zip(reversed(shape), reversed(wanted), strict=False)
    return len(shape) <= len(wanted) and all(size in (1, other) for size, other in pairs)


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


def cannot_fill(target: Tensor, indices: Sequence[Tensor | None], values: Tensor, *rest: object) -> bool:
    """Whether the values have another shape than what the indices choose; what a mask chooses hangs on its values."""
    given = {place: index for place, index in enumerate(indices) if index is not None}
    if any(index.dtype in (torch.bool, torch.uint8) for index in given.values()):
        return has_another_mask(target, indices)
    chosen: list[int] = [*torch.broadcast_shapes(*(index.shape for index in given.values()))]
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


def cannot_add(bias: Tensor, left: Tensor, right: Tensor, **others: object) -> bool:
    """To the product of two matrices."""
    return not fits(bias.shape, (*left.shape[:-1], *right.shape[-1:]))


def cannot_add_in_place(target: Tensor, left: Tensor, right: Tensor, **others: object) -> bool:
    return target.shape != (*left.shape[:-1], *right.shape[-1:])


def has_no_dimension(value: Tensor, dim: int = -1, *rest: object, **others: object) -> bool:
    dimensions = max(value.dim(), 1)
    return not -dimensions <= dim < dimensions


def are_other_channels(
    value: Tensor, weight: Tensor | None, bias: Tensor | None, samples: int, channels: int, *rest: object
) -> bool:
    return any(given is not None and tuple(given.shape) != (channels,) for given in (weight, bias))


def is_unfit_transposed(
    value: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    transposed: bool,
    output_padding: Sequence[int],
    groups: int,
) -> bool:
    """Whether a transposed convolution has nothing to give, or is padded by more than its steps."""
    if not transposed:
        return False
    each = zip(value.shape[2:], weight.shape[2:], stride, padding, dilation, output_padding, strict=False)
    return any(
        (size - 1) * step - 2 * pad + gap * (width - 1) + more < 0 or more >= max(step, gap)
        for size, width, step, pad, gap, more in each
    )


def always(*args: object, **kwargs: object) -> bool:
    return True


LINEAR: Final = """
    addmv addmv_ binary_cross_entropy diagonal_scatter index_reduce index_reduce_ index_select nll_loss2d_forward
    pixel_unshuffle put put_ select_scatter slice_scatter soft_margin_loss
"""
"""A look at each element, so that it is not worth a check before."""

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
    "aten::addmm": cannot_add,
    "aten::addmm_": cannot_add_in_place,
    "aten::masked_scatter_": lambda target, mask, *rest: not fits(mask.shape, target.shape),
    "aten::binary_cross_entropy_with_logits": grows,
    "aten::native_group_norm": are_other_channels,
    "aten::convolution": lambda *args: has_an_empty(*args) or is_unfit_transposed(*args),
    "aten::multinomial": asks_for_more,
    "aten::bucketize": has_dimensions,
}
