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


CHECKS: Final[dict[str, Check]] = {
    **{f"aten::{name}": is_empty for name in ("max", "min", "median", "nanmedian", "mode")},
    **{f"aten::{name}": cannot_fill for name in ("index_put", "index_put_", "_index_put_impl_")},
    **{f"aten::{name}": is_unlike_target for name in ("index_add", "index_add_")},
    "aten::multinomial": asks_for_more,
    "aten::bucketize": has_dimensions,
}
