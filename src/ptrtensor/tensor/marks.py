"""Lazy bits that torch set on a pointer by a back door: `torch.load`, and forward-mode differentiation for a tangent.

Both mark a tensor as conjugated or negated in C++, without an operation; what it stands for must become so too.
"""

from ptrtensor._torch.subclass import lazy_bits, set_lazy_bits, with_lazy_bits
from ptrtensor.tensor.base import Pointer


def settle(pointer: Pointer) -> None:
    """Make the pointer stand for its value with the bits that it is marked with."""
    conj, neg = lazy_bits(pointer)
    if (conj, neg) == (pointer._meta.conj, pointer._meta.neg):
        return
    set_lazy_bits(pointer, pointer._meta.conj, pointer._meta.neg)
    marked = with_lazy_bits(pointer.detach(), conj, neg)
    assert isinstance(marked, Pointer)
    pointer._reference, pointer._meta = marked._reference, marked._meta
    set_lazy_bits(pointer, conj, neg)
