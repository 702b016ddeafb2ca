"""Inference: the metadata of an operation's results, from torch's fake tensors.

The fakes are of the worker's kind of device. `meta` tensors would not do: their kernels have other strides, and other
shapes for BatchNorm in eval mode, than the CPU's.
"""

import logging
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Final

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensorMode,
    UnsupportedOperatorException,
)

from ptrtensor._torch.memory import meta_of, offset_of
from ptrtensor._torch.names import DTYPES
from ptrtensor._torch.state import isolated
from ptrtensor._torch.subclass import with_lazy_bits
from ptrtensor.errors import UnsupportedOpError
from ptrtensor.locks import process_lock
from ptrtensor.tensor.base import Pointer
from ptrtensor.tensor.cache import Change, Extent
from ptrtensor.tensor.operation import Kind, Operation
from ptrtensor.tensor.uninterrupted import uninterrupted
from ptrtensor.wire.metadata import TensorMeta

TRIED_ELEMENTS: Final = 1 << 26
"""Arguments of so many elements are made of zeros to hear torch's own error; such zeros take no memory as yet."""

UNPREDICTABLE: Final = (
    DataDependentOutputException,
    DynamicOutputShapeException,
    UnsupportedOperatorException,
    NotImplementedError,
)


class Unpredictable(Exception):
    """Only the worker can know: the result depends on values. Never leaves this package."""


class Inference:
    """Runs operations on fakes. One at a time: torch's mode is not made for several threads."""

    def __init__(self, device: torch.device, lock: AbstractContextManager[bool]) -> None:
        self._device = device
        self._mode: FakeTensorMode | None = None
        self._lock = lock

    def __call__(
        self, operation: Operation, args: tuple[object, ...], kwargs: dict[str, object]
    ) -> tuple[list[Extent | None], list[Change]]:
        """The fresh results, and the arguments whose metadata the operation changes.

        :raises Unpredictable: the result depends on values.
        :raises Exception: what torch raises for such arguments, anywhere.
        """
        if operation.returns_scalar or operation.shaped_by_content or operation.only_checks:
            raise Unpredictable
        # Torch's modes do not survive Ctrl-C: struck inside one, the process may even be ended.
        return uninterrupted(lambda: isolated(self._infer, operation, args, kwargs))

    def _infer(
        self, operation: Operation, args: tuple[object, ...], kwargs: dict[str, object]
    ) -> tuple[list[Extent | None], list[Change]]:
        with self._lock, quiet():
            can_try = self._device.type == "cpu" and elements(args) <= TRIED_ELEMENTS
            if operation.is_unlike_fakes and not can_try:
                raise Unpredictable
            if can_try and (operation.is_unlike_fakes or is_mixed(operation, args) or is_expanded(operation, args)):
                zeros = Fakes(None, self._device, with_offset=operation.offset_matters)
                return fresh_results(operation, zeros.run(operation, args, kwargs)), zeros.changes()
            if self._mode is None:
                self._mode = FakeTensorMode(allow_fallback_kernels=False)
                self._mode.cache_enabled = False  # what it remembers of an `out=` that grew leaves the growing out
            try:
                with self._mode:
                    fakes = Fakes(self._mode, self._device, with_offset=operation.offset_matters)
                    returned = fakes.run(operation, args, kwargs)
                    return masked(operation, args, fresh_results(operation, returned)), fakes.changes()
            except UnsupportedOpError:
                raise  # ours: what comes of it cannot live behind a pointer
            except UNPREDICTABLE as error:
                raise Unpredictable from error
            except Exception as error:
                raise native_error(operation, args, kwargs, error) from None


def is_mixed(operation: Operation, args: tuple[object, ...]) -> bool:
    """Whether normalisation is given parameters of another dtype."""
    return (
        operation.is_unlike_fakes_when_mixed and len({value.dtype for value in args if isinstance(value, Tensor)}) > 1
    )


def is_expanded(operation: Operation, args: tuple[object, ...]) -> bool:
    """Whether a pointwise operation is given an expanded tensor: fakes order the strides of its result otherwise."""
    return operation.numbers_are_fields and any(
        stride == 0 and size > 1
        for value in args
        if isinstance(value, Pointer)
        for size, stride in zip(value._meta.shape, value._meta.stride, strict=True)
    )


def native_error(
    operation: Operation, args: tuple[object, ...], kwargs: dict[str, object], error: Exception
) -> Exception:
    """What torch itself raises for such arguments: fakes' rules in Python have other errors, and refuse more.

    Asked on zeros of the same shapes, where they are not too large; else on `meta` tensors.
    """
    small = elements(args) + elements(kwargs.values()) <= TRIED_ELEMENTS
    device = torch.device("cpu" if small else "meta")
    try:
        Fakes(None, device, with_offset=operation.offset_matters).run(operation, args, kwargs)
        if small:
            return Unpredictable("torch takes what its rule for fakes refuses")
    except UNPREDICTABLE:
        return error
    except Exception as native:
        error = native
    if isinstance(error, AssertionError):  # of a rule that is written in Python; where torch checks in C++ it is this
        return RuntimeError(str(error))
    return error


def elements(values: Iterable[object]) -> int:
    return sum(
        elements(value) if isinstance(value, list | tuple) else value.numel() if isinstance(value, Tensor) else 0
        for value in values
    )


@contextmanager
def quiet() -> Iterator[None]:
    """An operation that fails on fakes is the caller's error and is raised; torch logs it as its own as well."""
    log = logging.getLogger("torch._subclasses.fake_tensor")
    log.addFilter(refuse_record)
    try:
        yield
    finally:
        log.removeFilter(refuse_record)


def refuse_record(record: logging.LogRecord) -> bool:
    return False


class Fakes:
    """The fakes of one call: one for each tensor, however often it is an argument."""

    def __init__(self, mode: FakeTensorMode | None, device: torch.device, *, with_offset: bool) -> None:
        self._mode = mode
        self._device = device
        self._with_offset = with_offset
        self._by_identity: dict[int, Tensor] = {}
        self._in_order: list[tuple[Tensor, Extent]] = []

    def run(self, operation: Operation, args: tuple[object, ...], kwargs: dict[str, object]) -> object:
        fake_args = [self.of(value) for value in args]
        fake_kwargs = {name: self.of(value) for name, value in kwargs.items()}
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
            return value if self._mode is None else self._mode.from_tensor(value)
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


def fresh_results(operation: Operation, returned: object) -> list[Extent | None]:
    """The results that get names, in order; an undefined one has a name and no value."""
    values = (returned,) if len(operation.kinds) == 1 else returned
    fresh: list[Extent | None] = []
    if isinstance(values, tuple):
        for kind, value in zip(operation.kinds, values, strict=True):
            if kind is Kind.FRESH:
                fresh.append(extent_of(value) if isinstance(value, Tensor) else None)
            elif kind is Kind.FRESH_LIST:
                fresh += [extent_of(item) if isinstance(item, Tensor) else None for item in value]
    return fresh


def masked(operation: Operation, args: tuple[object, ...], fresh: list[Extent | None]) -> list[Extent | None]:
    """Without the results that an `output_mask` leaves out: a kernel may make them all the same, fakes always do."""
    if "output_mask" not in operation.argument_names:
        return fresh
    mask = args[operation.argument_names.index("output_mask")]
    assert isinstance(mask, list | tuple)
    return [extent if wanted else None for extent, wanted in zip(fresh, mask, strict=True)]


class Inferences:
    """One inference for each kind of compute device, whichever workers have it."""

    def __init__(self) -> None:
        self._by_device: dict[torch.device, Inference] = {}
        self._lock = process_lock()

    def __getitem__(self, device: torch.device) -> Inference:
        return self._by_device.setdefault(device, Inference(device, self._lock))


inferences: Final = Inferences()
