"""`TorchHook`: the tutorial's spelling, `torch.tensor(...).send(bob)`, without patching torch (F6)."""

import copy
from collections.abc import Callable
from types import ModuleType, TracebackType
from typing import Final, Self

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from ptrtensor._torch.compiler import is_compiling
from ptrtensor._torch.modes import insert_mode, remove_mode
from ptrtensor._torch.subclass import as_subclass_of, native_function, plain, shown_as
from ptrtensor.tensor.local import LocalWorker, local_worker
from ptrtensor.tensor.pointer import PointerTensor, wrap
from ptrtensor.tensor.transfer import send_tensor
from ptrtensor.tensor.worker import Worker, check_worker

FACTORIES: Final = frozenset(
    getattr(torch, name)
    for name in (
        "tensor as_tensor from_numpy empty zeros ones full arange linspace logspace eye rand randn randint randperm "
        "empty_like zeros_like ones_like full_like rand_like randn_like randint_like"
    ).split()
)


class SendableTensor(Tensor):
    """An ordinary local tensor that also has `send`. Operations on it give such tensors again."""

    def send(self, worker: Worker) -> PointerTensor:
        """See `ptrtensor.send`."""
        return sent(self, worker)

    @classmethod
    def __torch_function__(
        cls,
        func: Callable[..., object],
        types: tuple[type, ...],
        args: tuple[object, ...] = (),
        kwargs: dict[str, object] | None = None,
    ) -> object:
        made = native_function(func, types, args, kwargs or {})
        if type(made) is Tensor and made.is_leaf and made.requires_grad:
            return sendable(made)
        return as_subclass_of(cls, func, made)

    def __deepcopy__(self, memo: dict[int, object]) -> Tensor:
        copied = memo[id(self)] = sendable(copy.deepcopy(plain(self), memo))
        return copied

    def __format__(self, format_spec: str) -> str:
        return format(plain(self), format_spec)

    __repr__ = shown_as(plain)

    def __reduce_ex__(self, protocol: object) -> str | tuple[object, ...]:
        """Saved as the plain tensor it is, so that `torch.load` needs to know nothing of this class."""
        reduced: tuple[object, ...] = plain(self).__reduce_ex__(protocol)
        return reduced


class FactoryMode(TorchFunctionMode):
    """Makes torch's factories return tensors that can be sent. Everything else passes through."""

    def __torch_function__(
        self,
        func: Callable[..., object],
        types: tuple[type, ...],
        args: tuple[object, ...] = (),
        kwargs: dict[str, object] | None = None,
    ) -> object:
        made = func(*args, **(kwargs or {}))
        if func not in FACTORIES or type(made) is not Tensor:
            return made
        if is_compiling():
            return made
        return sendable(made)


class TorchHook:
    """``hook = TorchHook(torch)``: from here on, in this thread, tensors made by torch's factories have ``send``.

    Nothing in torch is replaced: it is one of torch's own function modes that stays entered until `close`. It costs
    about 10 us for each call of torch, so code of one's own calls `ptrtensor.send` instead.
    """

    def __init__(self, torch_module: ModuleType | None = None) -> None:
        self.local_worker: LocalWorker = local_worker
        self._mode: FactoryMode | None = FactoryMode()
        insert_mode(self._mode)

    def close(self) -> None:
        """Make factories return plain tensors again. May be called twice; in the thread that made the hook."""
        if self._mode is not None and remove_mode(self._mode):
            self._mode = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def sendable(tensor: Tensor) -> SendableTensor:
    """The same tensor with `send`; a leaf stays a leaf, which `as_subclass` alone does not keep."""
    converted = tensor.detach().as_subclass(SendableTensor)
    converted.requires_grad_(tensor.requires_grad)
    return converted


def sent(tensor: Tensor, worker: Worker) -> PointerTensor:
    check_worker(worker, "send()")
    base = plain(tensor)
    if tensor.is_leaf and tensor.grad is not None:
        base.grad = plain(tensor.grad)
    pointer = send_tensor(base, worker, wrap)
    assert isinstance(pointer, PointerTensor)
    return pointer
