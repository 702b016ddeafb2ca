"""Trials: operations on zeros, in this process, where torch's rules for fakes say less than its kernels.

The rules let pass dtypes that the kernels refuse, and do not always say which dtype comes of several.
"""

import re
from collections.abc import Iterable, Iterator
from typing import Final

import torch
from torch import Tensor

from ptrtensor.tensor.base import Pointer
from ptrtensor.tensor.cache import Extent
from ptrtensor.tensor.operation import Args, Kwargs, Operation

TRIED_ELEMENTS: Final = 1 << 26
"""Arguments of so many elements are made of zeros to hear torch's own error; such zeros take no memory as yet."""

LINEAR_ELEMENTS: Final = 1 << 18
"""So many where only dtypes are in question, and no more than a look at each element is to be expected."""

OTHER_ELEMENTS: Final = 1 << 14
"""The same where it may be a product of matrices, or their decomposition."""

OF_DTYPES: Final = re.compile(
    "dtype|[Dd]ata ?type|scalar type|same type|result type|implemented for|precision|[Bb]ool|floating|only supports|"
    "long tensor|long, int"
)
"""Torch's words for dtypes that an operation does not take. What else it says of zeros may hang on their values."""

Dtypes = tuple[object, ...]
"""What the dtypes of a call's results can depend on."""


def dtypes_of(args: Iterable[object], kwargs: dict[str, object]) -> Dtypes:
    return (*map(dtype_of, args), *((name, dtype_of(value)) for name, value in kwargs.items()))


def dtype_of(value: object) -> object:
    if isinstance(value, list | tuple):
        return frozenset(map(dtype_of, value))
    if isinstance(value, torch.dtype):
        return value
    return value.dtype if isinstance(value, Tensor) else type(value)


def is_mixed(operation: Operation, dtypes: Dtypes) -> bool:
    """Whether several floating dtypes are given where they need not promote as in arithmetic."""
    return not operation.numbers_are_fields and sum(dtype.is_floating_point for dtype in given(dtypes)) > 1


def given(dtypes: Dtypes) -> set[torch.dtype]:
    return {dtype for dtype in dtypes if isinstance(dtype, torch.dtype)}


def is_small(operation: Operation, dtypes: Dtypes, elements: int) -> bool:
    """Whether so many elements are worth a trial of their dtypes."""
    if is_mixed(operation, dtypes):
        return elements <= TRIED_ELEMENTS
    found = given(dtypes)
    is_linear = operation.numbers_are_fields or len(found) > 1 or not any(dtype.is_floating_point for dtype in found)
    return elements <= (LINEAR_ELEMENTS if is_linear else OTHER_ELEMENTS)


def is_of_dtypes(error: Exception) -> bool:
    return OF_DTYPES.search(str(error)) is not None


def is_expanded(operation: Operation, args: tuple[object, ...]) -> bool:
    """Whether a pointwise operation is given an expanded tensor: fakes order the strides of its result otherwise."""
    return operation.numbers_are_fields and any(
        stride == 0 and size > 1
        for value in args
        if isinstance(value, Pointer)
        for size, stride in zip(value._meta.shape, value._meta.stride, strict=True)
    )


def computes_nothing(args: Args, kwargs: Kwargs, results: Iterable[Extent | None]) -> bool:
    """Whether an argument or a result has no elements: no kernel may have looked at the dtypes then."""
    made = (extent.meta.elements for extent in results if extent is not None)
    return 0 in (*counts(args), *counts(kwargs.values()), *made)


def elements(values: Iterable[object]) -> int:
    return sum(counts(values))


def counts(values: Iterable[object]) -> Iterator[int]:
    """The elements of each tensor."""
    for value in values:
        if isinstance(value, list | tuple):
            yield from counts(value)
        elif isinstance(value, Tensor):
            yield value.numel()
