"""`PointerTensor`: a tensor without data, standing for one at a worker."""

from collections.abc import Callable
from itertools import count
from typing import Any, Final, NoReturn, Self

import torch
from torch import Tensor
from torch._ops import OpOverload

from ptrtensor._torch.autocast import AUTOCAST_KEYS
from ptrtensor._torch.compiler import never_compiled, refuse_compiling
from ptrtensor._torch.memory import offset_of
from ptrtensor._torch.names import DTYPES
from ptrtensor._torch.subclass import (
    answered,
    make_wrapper,
    native_function,
    raw_grad,
    set_lazy_bits,
    set_metadata,
    set_raw_grad,
    swap,
)
from ptrtensor.client.reference import Reference
from ptrtensor.errors import UnsupportedOpError, WorkerMismatchError
from ptrtensor.tensor import attention, function
from ptrtensor.tensor.arguments import checked_texts
from ptrtensor.tensor.autograd import at
from ptrtensor.tensor.base import Pointer
from ptrtensor.tensor.copying import deep_copy, like, reduced
from ptrtensor.tensor.dispatch import dispatch
from ptrtensor.tensor.factories import Factories
from ptrtensor.tensor.handlers import accelerated, crossing, loading, sharing, viewing
from ptrtensor.tensor.local import LocalWorker, local_worker
from ptrtensor.tensor.release import ReleaseRequest, ask_release
from ptrtensor.tensor.reshaping import note_exchange
from ptrtensor.tensor.signature import check_usable
from ptrtensor.tensor.transfer import get_pointer, move_pointer
from ptrtensor.tensor.view import View
from ptrtensor.tensor.worker import Worker, check_worker
from ptrtensor.wire.messages import Annotate
from ptrtensor.wire.metadata import TensorMeta

HANDLERS: Final = (accelerated, attention, crossing, loading, sharing, viewing)
"""The modules that fill dispatch's table when they are imported."""

_ids: Final = count(1)


class PointerTensor(Pointer):
    """A tensor at a worker, used like any other tensor.

    Made by `send`, by operations on pointers, and by factories with ``device=worker.device``. It has the shape,
    strides, dtype and autograd history of the tensor it stands for, and none of its values.
    """

    def __new__(cls, *args: object, **kwargs: object) -> Self:
        raise UnsupportedOpError(
            "a PointerTensor is not made by its class: use send(tensor, worker), or a factory of torch with "
            "device=worker.device"
        )

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls,
        func: OpOverload[..., object],
        types: tuple[type, ...],
        args: tuple[object, ...] = (),
        kwargs: dict[str, object] | None = None,
    ) -> object:
        if len(types) > 1 and not all(issubclass(kind, Pointer) for kind in types):
            return NotImplemented
        return dispatch(func, args, kwargs or {}, wrap)

    @classmethod
    def __torch_function__(
        cls,
        func: Callable[..., object],
        types: tuple[type, ...],
        args: tuple[object, ...] = (),
        kwargs: dict[str, object] | None = None,
    ) -> object:
        if func in function.PREPARED:
            return function.prepared(func, types, args, kwargs or {}, wrap)
        try:
            return native_function(func, types, args, kwargs or {})
        except WorkerMismatchError as error:
            error.add_note(f"in the call of {getattr(func, '__name__', func)}")
            raise

    # --- what a pointer has besides what a tensor has

    @property
    def location(self) -> Worker:
        """The worker that holds the value."""
        return self._worker

    @property
    def id_at_location(self) -> int:
        """The name of the value at the worker. A view is given one when this is first asked.

        :raises SpentPointerError: a view that was taken away before it had a name.
        """
        reference = self._reference
        if isinstance(reference, View) and reference.known_name is None:
            check_usable(self)
        return reference.name

    @property
    def id(self) -> int:
        """The name of this pointer in this process."""
        if "_id" not in self.__dict__:
            self.__dict__["_id"] = next(_ids)
        return int(self.__dict__["_id"])

    @property
    def owner(self) -> LocalWorker:
        """Who holds the pointer: this process."""
        return local_worker

    @property
    def tags(self) -> set[str]:
        """What `tag` gave; `Worker.search` finds by them."""
        return set(self.__dict__.get("_tags", ()))

    @property
    def description(self) -> str:
        """What `describe` gave."""
        return str(self.__dict__.get("_description", ""))

    def tag(self, *tags: str) -> Self:
        """Add tags at the worker, by which `Worker.search` finds the tensor.

        :raises PtrTensorError: a tag is no str, or none that can travel.
        """
        added = (*self.__dict__.get("_tags", ()), *checked_texts(tags, "tag()"))
        return self._annotate(tuple(dict.fromkeys(added)), self.description)

    def describe(self, description: str) -> Self:
        """Describe the tensor at the worker.

        :raises PtrTensorError: the description is no str, or none that can travel.
        """
        (text,) = checked_texts([description], "describe()")
        return self._annotate(self.__dict__.get("_tags", ()), text)

    def _annotate(self, tags: tuple[str, ...], description: str) -> Self:
        check_usable(self)
        self._reference.is_settled = False  # whoever finds it by its tags shares its memory
        self._worker.client.send(Annotate(self._reference.name, tags, description))
        self.__dict__.update(_tags=tags, _description=description)
        return self

    def get(self) -> Tensor:
        """Fetch the value and take it away from the worker; this pointer is spent.

        A leaf gives a leaf with its ``.grad``; anything else is differentiable.

        :raises SpentPointerError: it was taken before.
        :raises RemoteOpError: an operation that the value hangs on failed.
        """
        return get_pointer(self, wrap)

    def request(self, reason: str) -> ReleaseRequest:
        """Ask the owner of private data to release this value, as it is now. This pointer stays as it is.

        :raises PermissionDeniedError: the value is not private, may not be asked for, or nobody there decides.
        :raises PtrTensorError: the reason is no text, or empty; or the value has more than 16 MiB.
        """
        check_usable(self)
        return ask_release(self._worker.client, self._reference.name, self._meta.nbytes, reason)

    def move(self, worker: Worker) -> "PointerTensor":
        """Take the value to another worker; this pointer is spent and the returned one stands for it.

        :raises SpentPointerError: it was taken before.
        :raises PtrTensorError: that is no worker.
        """
        check_worker(worker, "move()")
        moved = move_pointer(self, worker, wrap)
        assert isinstance(moved, PointerTensor)
        return moved

    def copy(self) -> "PointerTensor":
        """A copy at the same worker."""
        copied = self.clone()
        assert isinstance(copied, PointerTensor)
        return copied

    # --- what torch answers from memory that a pointer does not have

    def numpy(self, *, force: bool = False) -> NoReturn | object:  # type: ignore[override]
        """With ``force=True`` the values are fetched, as torch does for other devices."""
        if force:
            return self.detach().cpu().resolve_conj().resolve_neg().numpy()
        raise no_memory("numpy()", "use .cpu().numpy(), or numpy(force=True)")

    def __array__(self, *args: object, **kwargs: object) -> NoReturn:
        raise no_memory(
            "numpy.asarray()",
            "fetch them with .cpu().numpy(); to compute with an array at the worker, send it: "
            "torch.from_numpy(array).to(pointer.device)",
        )

    def data_ptr(self) -> NoReturn:
        raise no_memory("data_ptr()", "the address exists at the worker only; fetch the tensor with .cpu()")

    def untyped_storage(self) -> NoReturn:
        raise no_memory(
            "untyped_storage()",
            "fetch the tensor with .cpu(). torch.save and safetensors write pointers as they are; any other library, "
            "and what makes nested tensors of jagged layout, is given {name: value.cpu()}",
        )

    def storage(self) -> NoReturn:
        raise no_memory("storage()", "fetch the tensor with .cpu()")

    def share_memory_(self) -> NoReturn:
        raise no_memory("share_memory_()", "fetch the tensor with .cpu()")

    def is_shared(self) -> bool:
        return False

    def tolist(self) -> list[Any]:
        """The values as Python numbers, fetched once."""
        values: list[Any] = self.detach().cpu().tolist()
        return values

    def __reduce_ex__(self, protocol: object) -> str | tuple[object, ...]:
        return reduced(self, protocol)

    def __copy__(self) -> Tensor:
        return like(self, self)

    def __deepcopy__(self, memo: dict[int, object]) -> Tensor:
        return deep_copy(self, memo)

    def __tensor_flatten__(self) -> tuple[list[str], object]:
        """Tells `Module.to` to keep a parameter's identity; there is no inner tensor to trace."""
        return [], None

    @staticmethod
    def __tensor_unflatten__(*args: object) -> NoReturn:
        raise UnsupportedOpError("a pointer cannot be traced: it has no tensors inside")

    # --- what is known without asking torch: each would cost a call of __torch_function__

    shape: torch.Size = answered(lambda pointer: torch.Size(pointer._meta.shape))
    dtype: torch.dtype = answered(lambda pointer: DTYPES[pointer._meta.dtype])
    device: torch.device = answered(lambda pointer: pointer._worker.device)
    ndim: int = answered(lambda pointer: len(pointer._meta.shape))
    layout: torch.layout = answered(lambda pointer: torch.strided)
    is_sparse: bool = answered(lambda pointer: False)  # optimizers ask it of each gradient in each step
    is_nested: bool = answered(lambda pointer: refuse_compiling())  # what torch.compile asks first

    def dim(self) -> int:
        return len(self._meta.shape)

    # --- attributes that must move the reference, or hold a rule, as well

    @property
    def data(self) -> Tensor:
        """The same tensor without its history; assigning another tensor makes this one stand for it (D5)."""
        check_usable(self)
        return wrap(self._worker, self._reference, self._meta, offset_of(self))

    @data.setter
    def data(self, other: Tensor) -> None:
        if isinstance(other, PointerTensor):
            if other._meta is not self._meta or offset_of(other) != offset_of(self):
                note_exchange(self)
            set_metadata(self, other)
            self._worker, self._reference, self._meta = other._worker, other._reference, other._meta
            return
        grad = raw_grad(self)
        set_raw_grad(self, None)
        swap(self, like(self, other))
        if grad is not None:
            self.grad = grad.cpu()

    @property
    def grad(self) -> Tensor | None:
        """The gradient, at the same worker.

        :raises WorkerMismatchError: a function of the user put one there that lives elsewhere.
        """
        grad = raw_grad(self)
        return None if grad is None else at(grad, self._worker)

    @grad.setter
    def grad(self, grad: Tensor | None) -> None:
        set_raw_grad(self, None if grad is None else at(grad, self._worker))

    @grad.deleter
    def grad(self) -> None:
        set_raw_grad(self, None)

    def __format__(self, format_spec: str) -> str:
        """A single number is fetched and formatted, as torch does on other devices."""
        if self.dim() == 0:
            return format(self.item(), format_spec)
        return object.__format__(self, format_spec)

    def __repr__(self, *, tensor_contents: object = None) -> str:  # type: ignore[override]
        """Class, shape, dtype, whether it requires grad, and the way to the value; never waits, never fetches."""
        shape = tuple(self._meta.shape)
        way = f"{local_worker.id}:{self.id} -> {self._worker.id}:{self._reference}"
        spent = " spent" if self._reference.spent is not None else ""
        tags = "".join(f" {tag}" for tag in sorted(self.tags))
        grad = ", requires_grad=True" if self.requires_grad else ""
        kind = "Parameter containing:\n" if isinstance(self, torch.nn.Parameter) else ""
        return f"{kind}PointerTensor({way}, shape={shape}, dtype=torch.{self._meta.dtype}{grad}{tags}{spent})"


def wrap(worker: Worker, reference: Reference | View, meta: TensorMeta, offset: int) -> PointerTensor:
    """A pointer with this metadata."""
    pointer = make_wrapper(
        PointerTensor,
        meta.shape,
        meta.stride,
        offset,
        None,  # no memory format: the strides say it
        DTYPES[meta.dtype],
        torch.strided,
        worker.device,
        False,  # not pinned
        False,  # nor a leaf that requires grad
        None,  # sizes and strides are torch's own to answer
        False,
        False,
        AUTOCAST_KEYS,  # by position: as a keyword it costs half as much again
    )
    if meta.conj or meta.neg:
        set_lazy_bits(pointer, meta.conj, meta.neg)
    pointer._worker = worker
    pointer._reference = reference
    pointer._meta = meta
    return pointer


def no_memory(what: str, mend: str) -> UnsupportedOpError:
    return UnsupportedOpError(f"{what} needs the values in this process, and a pointer has none: {mend}")


factories: Final = Factories(wrap)

never_compiled(PointerTensor.__torch_function__)
never_compiled(PointerTensor.__torch_dispatch__)
