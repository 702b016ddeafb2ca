"""Products of matrices."""

import torch

from ptrtensor.tensor.base import Pointer
from ptrtensor.tensor.cache import Extent
from ptrtensor.tensor.rules.table import FLOATS, Sizes, fits, fresh, rule_for

aten = torch.ops.aten


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
    can_add = fits(bias._meta.shape, product[0].meta.shape)
    return product if can_add and {type(alpha), type(beta)} <= {int, float} else None
