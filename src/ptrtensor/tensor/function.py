"""What `__torch_function__` decides: above autograd, by the call as it was written (D19).

Almost every call goes on as it is. Its cost is paid on every call, so the tables are short and looked up once.
"""

import operator
from collections.abc import Callable
from typing import Final, SupportsIndex

import torch
import torch.nn.functional as F
from torch import Tensor

from ptrtensor._torch.subclass import BACKWARD_HOOKS_SETTER, MAY_ASSIGN_DATA, REQUIRES_GRAD_SETTER, native_function
from ptrtensor.errors import WorkerMismatchError
from ptrtensor.tensor.base import Pointer, Wrap
from ptrtensor.tensor.carrying import pointer_to, value_of
from ptrtensor.tensor.marks import settle
from ptrtensor.tensor.reshaping import check_recordable

Func = Callable[..., object]
Args = tuple[object, ...]
Kwargs = dict[str, object]
Prepared = tuple[Func, Args, Kwargs]
Prepare = Callable[[Func, Args, Kwargs, Wrap], Prepared]


def prepared(func: Func, types: tuple[type, ...], args: Args, kwargs: Kwargs, wrap: Wrap) -> object:
    """Run one of the functions in `PREPARED`, which was given a pointer."""
    func, args, kwargs = PREPARED[func](func, args, kwargs, wrap)
    return native_function(func, types, args, kwargs)


def fetch_indices(func: Func, args: Args, kwargs: Kwargs, wrap: Wrap) -> Prepared:
    """`tensor_split` wants the places to split at in main memory, on any device; a pointer to them is fetched."""
    given = [value_of(value) if place and isinstance(value, Pointer) else value for place, value in enumerate(args)]
    named = {
        name: value_of(value) if isinstance(value, Pointer) and name != "input" else value
        for name, value in kwargs.items()
    }
    return func, tuple(given), named


def send_lengths(func: Func, args: Args, kwargs: Kwargs, wrap: Wrap) -> Prepared:
    """For a tensor subclass `ctc_loss` computes with the lengths where the log-probabilities are."""
    log_probs = args[0] if args else kwargs["log_probs"]
    if not isinstance(log_probs, Pointer):
        return func, args, kwargs
    worker = log_probs._worker

    def there(value: object) -> object:
        local = isinstance(value, Tensor) and not isinstance(value, Pointer)
        return pointer_to(value, worker, wrap) if local and isinstance(value, Tensor) else value

    return func, tuple(there(value) for value in args), {name: there(value) for name, value in kwargs.items()}


def write_out(func: Func, args: Args, kwargs: Kwargs, wrap: Wrap) -> Prepared:
    """Torch's code forgets `out` for tensor subclasses: it is checked as torch does, and copied into."""
    out = kwargs.get("out")
    if not isinstance(out, Tensor):
        return func, args, kwargs
    name = getattr(func, "__name__", str(func))

    def written(*args: object, **kwargs: object) -> Tensor:
        result = func(*args, **kwargs)
        assert isinstance(result, Tensor)
        if torch.is_grad_enabled() and (result.requires_grad or out.requires_grad):
            raise RuntimeError(
                f"{name}(): functions with out=... arguments don't support automatic differentiation, "
                "but one of the arguments requires grad."
            )
        if result.device != out.device:
            raise WorkerMismatchError(f"{name}() computes on {result.device} and its out is on {out.device}")
        if not (
            torch.can_cast(result.dtype, out.dtype) if func is torch.linalg.matrix_rank else result.dtype == out.dtype
        ):
            raise RuntimeError(f"{name}(): expected out to have dtype {result.dtype}, but got {out.dtype} instead")
        if out.shape != result.shape:
            out.resize_(result.shape)
        return out.copy_(result)

    return written, args, {name: value for name, value in kwargs.items() if name != "out"}


def check_requirable(func: Func, args: Args, kwargs: Kwargs, wrap: Wrap) -> Prepared:
    """`requires_grad_` and the attribute."""
    pointer, value = args[0], args[1] if len(args) > 1 else kwargs.get("requires_grad", True)
    if value and isinstance(pointer, Pointer) and pointer._worker.has_reshaped_views:
        check_recordable(pointer)
    return func, args, kwargs


def by_size(func: Func, args: Args, kwargs: Kwargs, wrap: Wrap) -> Prepared:
    """`p.new(2, 3)` makes an empty tensor; torch's own code for it loses the index of the device."""
    pointer, *sizes = args
    if kwargs or not isinstance(pointer, Tensor) or not all(isinstance(size, int | torch.Size) for size in sizes):
        return func, args, kwargs
    return Tensor.new_empty, (pointer, sizes[0] if sizes and isinstance(sizes[0], torch.Size) else sizes or [0]), {}


def check_classes(func: Func, args: Args, kwargs: Kwargs, wrap: Wrap) -> Prepared:
    """For a tensor subclass `one_hot` does not look at the values; `scatter` does, where they are."""

    def checked(input: Tensor, num_classes: SupportsIndex = -1) -> object:
        count = operator.index(num_classes)
        if input.dtype != torch.int64:
            return func(input, count)
        if not input.numel() and count <= 0:
            raise RuntimeError("Can not infer total number of classes from empty tensor.")
        if count == -1:
            least, most = torch.stack(torch.aminmax(input)).tolist()
            if least < 0:
                raise RuntimeError("Class values must be non-negative.")
            count = most + 1
        if count <= 0:
            raise RuntimeError("Class values must be smaller than num_classes.")
        return input.new_zeros((*input.shape, count)).scatter_(-1, input.unsqueeze(-1), 1)

    return checked, args, kwargs


def settle_marks(func: Func, args: Args, kwargs: Kwargs, wrap: Wrap) -> Prepared:
    """The last of what `torch.load` does to a tensor."""
    pointer = args[0]
    if isinstance(pointer, Pointer):
        settle(pointer)
    return func, args, kwargs


def may_assign_data(func: Func, args: Args, kwargs: Kwargs, wrap: Wrap) -> Prepared:
    """Lets `Module.cpu()` assign to `.data`, whose setter keeps the parameter's identity (D4)."""
    return (lambda *tensors: True), args, kwargs


PREPARED: Final[dict[Func, Prepare]] = {
    torch.tensor_split: fetch_indices,
    Tensor.tensor_split: fetch_indices,
    torch.ctc_loss: send_lengths,
    F.ctc_loss: send_lengths,
    F.one_hot: check_classes,
    torch.linalg.matrix_rank: write_out,
    torch.matmul: write_out,
    Tensor.new: by_size,
    BACKWARD_HOOKS_SETTER: settle_marks,
    Tensor.requires_grad_: check_requirable,
    REQUIRES_GRAD_SETTER: check_requirable,
    MAY_ASSIGN_DATA: may_assign_data,
}
"""Functions whose arguments must be prepared before torch looks at them."""
