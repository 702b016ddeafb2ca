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
    return check is not None and check(*args, **kwargs)


def is_empty(value: Tensor, *rest: object, **others: object) -> bool:
    return value.numel() == 0


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
        return False
    chosen: list[int] = [*torch.broadcast_shapes(*(index.shape for index in given.values()))]
    left = [size for place, size in enumerate(target.shape) if place not in given]
    first, last = min(given, default=0), max(given, default=0)
    before = first if last - first < len(given) else 0  # indices that are not side by side: their shape comes first
    shape = [*left[:before], *chosen, *left[before:]]
    fits = zip(reversed(values.shape), reversed(shape), strict=False)
    return values.dim() > len(shape) or any(size not in (1, wanted) for size, wanted in fits)


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


CHECKS: Final[dict[str, Check]] = {
    **{f"aten::{name}": is_empty for name in ("max", "min", "median", "nanmedian", "mode")},
    **{f"aten::{name}": cannot_fill for name in ("index_put", "index_put_", "_index_put_impl_")},
    **{f"aten::{name}": is_unlike_target for name in ("index_add", "index_add_")},
    **{
        f"aten::{name}": has_no_dimension
        for name in ("_softmax", "_log_softmax", "sort", "index_select", "index_reduce", "cummax", "cummin")
    },
    **{
        f"aten::{name}": always
        for name in ("select_scatter", "slice_scatter", "diagonal_scatter", "pixel_unshuffle")  # a copy at most
    },
    "aten::native_group_norm": are_other_channels,
    "aten::convolution": is_unfit_transposed,
    "aten::multinomial": asks_for_more,
    "aten::bucketize": has_dimensions,
}
