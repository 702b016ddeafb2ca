"""Stand-ins for the arguments of a call: torch's fake tensors, or real ones of zeros."""

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from ptrtensor._torch.memory import meta_of, offset_of
from ptrtensor._torch.names import DTYPES
from ptrtensor._torch.subclass import with_lazy_bits
from ptrtensor.tensor.base import Pointer
from ptrtensor.tensor.cache import Change, Extent
from ptrtensor.tensor.operation import Args, Kwargs, Operation
from ptrtensor.wire.metadata import TensorMeta


class Fakes:
    """The fakes of one call: one for each tensor, however often it is an argument."""

    def __init__(self, mode: FakeTensorMode | None, device: torch.device, *, with_offset: bool) -> None:
        self._mode = mode
        self._device = device
        self._with_offset = with_offset
        self._by_identity: dict[int, Tensor] = {}
        self._in_order: list[tuple[Tensor, Extent]] = []

    def run(self, operation: Operation, args: Args, kwargs: Kwargs) -> object:
        fake_args = [self.of(value) for value in args]
        fake_kwargs = {name: self.of(value) for name, value in kwargs.items()}
        if self._mode is None and operation.draws and "generator" in operation.argument_names:
            fake_kwargs["generator"] = torch.Generator()  # the caller's goes on as if nothing had been tried
        returned: object = operation.op(*fake_args, **fake_kwargs)
        return returned

    def of(self, value: object) -> object:
        if isinstance(value, list | tuple):
            return [self.of(item) for item in value]
        if isinstance(value, Tensor):
            fake = self._by_identity.get(id(value))
            if fake is None:
                fake = self._by_identity[id(value)] = self._fake(value)
            self._in_order.append((fake, extent_of(fake)))
            return fake
        if isinstance(value, torch.device):
            return self._device
        if isinstance(value, torch.Generator):
            return None
        return value

    def _fake(self, value: Tensor) -> Tensor:
        if not isinstance(value, Pointer):
            # Not by the mode: it keeps a weak reference to what it makes a fake of, and holds a parameter in its place.
            made = fake_of(meta_of(value), 0, value.device, real=self._mode is None)
            return made if self._mode is not None else made.copy_(value)
        offset = offset_of(value) if self._with_offset else 0
        return fake_of(value._meta, offset, self._device, real=self._mode is None)

    def changes(self) -> list[Change]:
        return [
            Change(place, extent_of(fake))
            for place, (fake, before) in enumerate(self._in_order)
            if extent_of(fake) != before
        ]


def fake_of(meta: TensorMeta, offset: int, device: torch.device, *, real: bool) -> Tensor:
    """A fake with this metadata, under the mode; without it a real tensor, of zeros."""
    dtype = DTYPES[meta.dtype]
    if offset or real:
        extent = sum((size - 1) * stride for size, stride in zip(meta.shape, meta.stride, strict=True)) + 1
        make = torch.zeros if real else torch.empty
        storage = make(offset + max(extent, 0), dtype=dtype, device=device)
        fake = storage.as_strided(meta.shape, meta.stride, offset)
    else:
        fake = torch.empty_strided(meta.shape, meta.stride, dtype=dtype, device=device)
    return with_lazy_bits(fake, meta.conj, meta.neg)


def extent_of(tensor: Tensor) -> Extent:
    return Extent(meta_of(tensor), offset_of(tensor))
