"""Inference: the metadata of an operation's results, from torch's fake tensors.

The fakes are of the worker's kind of device. `meta` tensors would not do: their kernels have other strides, and other
shapes for BatchNorm in eval mode, than the CPU's.
"""

import contextlib
import logging
from collections.abc import Iterator
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

from ptrtensor._torch.memory import is_out_of_memory
from ptrtensor._torch.state import isolated
from ptrtensor.errors import UnsupportedOpError
from ptrtensor.locks import process_lock
from ptrtensor.tensor.cache import Change, Extent
from ptrtensor.tensor.fakes import Fakes, extent_of
from ptrtensor.tensor.misfits import is_suspect
from ptrtensor.tensor.operation import Args, Kind, Kwargs, Operation
from ptrtensor.tensor.trial import (
    TRIED_ELEMENTS,
    Dtypes,
    computes_nothing,
    dtypes_of,
    elements,
    is_expanded,
    is_mixed,
    is_of_dtypes,
    is_small,
)
from ptrtensor.tensor.uninterrupted import uninterrupted

UNPREDICTABLE: Final = (
    DataDependentOutputException,
    DynamicOutputShapeException,
    UnsupportedOperatorException,
    NotImplementedError,
)


Inferred = tuple[list[Extent | None], list[Change]]
"""The fresh results, and the arguments whose metadata the operation changes."""


class Unpredictable(Exception):
    """Only the worker can know: the result depends on values. Never leaves this package."""


class Inference:
    """Runs operations on fakes. One at a time: torch's mode is not made for several threads."""

    def __init__(self, device: torch.device, lock: AbstractContextManager[bool]) -> None:
        self._device = device
        self._mode: FakeTensorMode | None = None
        self._lock = lock
        self._taken: set[tuple[int, Dtypes]] = set()
        """Operations, with dtypes that they were found to take."""

    def __call__(self, operation: Operation, args: Args, kwargs: Kwargs) -> Inferred:
        """The fresh results, and the arguments whose metadata the operation changes.

        :raises Unpredictable: the result depends on values.
        :raises Exception: what torch raises for such arguments, anywhere.
        """
        if operation.returns_scalar or operation.shaped_by_content or operation.only_checks:
            raise Unpredictable
        # Torch's modes do not survive Ctrl-C: struck inside one, the process may even be ended.
        return uninterrupted(lambda: isolated(self._infer, operation, args, kwargs))

    def _infer(self, operation: Operation, args: Args, kwargs: Kwargs) -> Inferred:
        with self._lock, quiet():
            given = elements(args) + elements(kwargs.values())
            can_try = self._device.type == "cpu" and given <= TRIED_ELEMENTS
            dtypes = dtypes_of(args, kwargs)
            mixed = is_mixed(operation, dtypes)
            if not can_try and (operation.is_unlike_fakes or (operation.is_unlike_fakes_when_mixed and mixed)):
                raise Unpredictable
            if can_try and (operation.is_unlike_fakes or is_expanded(operation, args)):
                return self._on_zeros(operation, args, kwargs)
            inferred = self._on_fakes(operation, args, kwargs)
            if not can_try or (operation.draws and "generator" not in operation.argument_names):
                return inferred
            made = given + sum(extent.meta.elements for extent in inferred[0] if extent is not None)
            if made <= TRIED_ELEMENTS and is_suspect(operation, args, kwargs):
                with contextlib.suppress(Unpredictable):
                    self._on_zeros(operation, args, kwargs)
            if mixed and made <= TRIED_ELEMENTS and not operation.is_in_place:
                return self._tried(operation, args, kwargs) or inferred
            if (operation.number, dtypes) not in self._taken and is_small(operation, dtypes, made):
                tried = self._tried(operation, args, kwargs)
                if tried is not None and not computes_nothing(args, kwargs, tried[0]):
                    self._taken.add((operation.number, dtypes))
            return inferred

    def _tried(self, operation: Operation, args: Args, kwargs: Kwargs) -> Inferred | None:
        """What comes of zeros; None where torch does not take them, for another reason than their dtypes.

        :raises Exception: torch's own, for dtypes that it does not take.
        """
        try:
            return self._on_zeros(operation, args, kwargs)
        except Exception as error:
            if is_of_dtypes(error):
                raise
        return None

    def _on_zeros(self, operation: Operation, args: Args, kwargs: Kwargs) -> Inferred:
        """:raises Unpredictable: they are too large for this process."""
        try:
            zeros = Fakes(None, self._device, with_offset=operation.offset_matters)
            returned = zeros.run(operation, args, kwargs)
        except (MemoryError, RuntimeError) as error:
            if is_out_of_memory(error):
                raise Unpredictable from error
            raise
        return masked(operation, args, fresh_results(operation, returned)), zeros.changes()

    def _on_fakes(self, operation: Operation, args: Args, kwargs: Kwargs) -> Inferred:
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


def native_error(operation: Operation, args: Args, kwargs: Kwargs, error: Exception) -> Exception:
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
