"""A tensor's metadata, and its bytes."""

import ctypes
import mmap
import sys
from collections.abc import Callable
from typing import Any, Final

import torch
from torch import Tensor
from torch.nn.parameter import is_lazy

from ptrtensor._torch.names import DTYPE_NAMES, DTYPES
from ptrtensor._torch.state import isolated
from ptrtensor.errors import MessageTooLargeError, UnsupportedOpError
from ptrtensor.wire.limits import MAX_DIMENSIONS
from ptrtensor.wire.metadata import TensorMeta, intern

COPIED_BELOW_BYTES: Final = 1024 * 1024


def system_madvise() -> Callable[..., object] | None:
    """The system's call, where it knows huge pages."""
    if sys.platform != "linux" or not hasattr(mmap, "MADV_HUGEPAGE"):
        return None
    call: Any = ctypes.CDLL(None).madvise
    call.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    found: Callable[..., object] = call
    return found


madvise: Final = system_madvise()

MEMORYLESS_KEYS: Final = ("Python", "Functionalize", "FuncTorchBatched", "FuncTorchGradWrapper")
"""Dispatch keys of tensors that stand for others."""

WANT_OF_MEMORY: Final = ("you tried to allocate", "Storage size calculation overflowed")
"""What torch says of main memory, without a class for it."""


def meta_of(tensor: Tensor) -> TensorMeta:
    """The metadata of a dense tensor, local or fake; `UnsupportedOpError` names any other layout or dtype."""
    if is_lazy(tensor):
        raise UnsupportedOpError(
            "an uninitialized parameter has no values to send: run its lazy module once first, or send the module"
        )
    if tensor.is_nested:
        raise UnsupportedOpError(
            "a nested tensor cannot live behind a pointer: send its parts, or pad it with .to_padded_tensor() first"
        )
    if tensor.layout is not torch.strided:
        raise UnsupportedOpError(
            f"a tensor of layout {tensor.layout} cannot live behind a pointer: send what its .to_dense() gives, and "
            "convert a pointer to it here, after .cpu()"
        )
    if tensor.dim() > MAX_DIMENSIONS:
        raise UnsupportedOpError(
            f"a tensor of {tensor.dim()} dimensions cannot live behind a pointer: {MAX_DIMENSIONS} are the most"
        )
    if tensor.is_quantized:
        raise UnsupportedOpError("a quantized tensor cannot live behind a pointer: .dequantize() it first")
    name = DTYPE_NAMES.get(tensor.dtype)
    if name is None:
        raise UnsupportedOpError(f"tensors of {tensor.dtype} cannot live behind a pointer")
    return intern(tuple(tensor.shape), tensor.stride(), name, tensor.is_conj(), tensor.is_neg())


def dense(tensor: Tensor) -> Tensor:
    """The same values without gaps or lazy bits, in the order of memory where that is possible."""
    if tensor.is_contiguous() and not (tensor.is_conj() or tensor.is_neg() or tensor._is_zerotensor()):
        return tensor.detach()
    plain = tensor.detach().resolve_conj().resolve_neg()
    if plain._is_zerotensor():
        plain = plain.clone()  # torch's zeros without memory
    return plain if is_dense(plain) else plain.clone()  # which keeps the order of the dimensions, as `.to()` does


def has_memory(tensor: Tensor) -> bool:
    """Whether the values are in memory of its own; those of fakes and inside torch.func's transforms are not."""
    keys = torch._C._dispatch_keys(tensor)
    return not any(keys.has(getattr(torch._C.DispatchKey, name)) for name in MEMORYLESS_KEYS)


def is_dense(tensor: Tensor) -> bool:
    """Whether the elements fill one stretch of memory, each once."""
    return bool(torch.ops.aten.is_non_overlapping_and_dense.default(tensor))


def bytes_of(tensor: Tensor) -> memoryview:
    """The memory of a dense tensor in main memory, as it is laid out; not a copy."""
    if tensor.numel() == 0:
        return memoryview(b"")
    # Not by way of numpy, which would leave the caller's tensor unable to be resized.
    memory = (ctypes.c_ubyte * (tensor.numel() * tensor.itemsize)).from_address(tensor.data_ptr())
    memory.owner = tensor  # type: ignore[attr-defined]
    return memoryview(memory).cast("B")


def allocate(size: int) -> memoryview:
    """Writable memory that a tensor owns, in huge pages where the system has them: `tensor_of` gives that tensor.

    :raises MessageTooLargeError: there is none.
    """
    if size < COPIED_BELOW_BYTES:
        return memoryview(bytearray(size))
    try:
        owner = isolated(lambda: torch.empty(size, dtype=torch.uint8, device="cpu"))
    except RuntimeError as error:
        raise MessageTooLargeError(f"there is no memory for a payload of {size} bytes: {error}") from error
    if madvise is not None:
        begin = -(-owner.data_ptr() // mmap.PAGESIZE) * mmap.PAGESIZE
        # To touch ordinary pages first costs as much as to receive them. Refused, they are ordinary ones.
        madvise(begin, owner.data_ptr() + size - begin, mmap.MADV_HUGEPAGE)
    return bytes_of(owner)


def tensor_of(meta: TensorMeta, payload: memoryview) -> Tensor:
    """The tensor with these bytes, which are laid out as `meta` says.

    Small ones are copied; of large ones the bytes become the tensor's memory, which torch can resize if it comes from
    `allocate`.

    :raises MemoryError: there was none for the bytes, which did not arrive therefore.
    """
    dtype = DTYPES[meta.dtype]
    if len(payload) < meta.nbytes:
        raise MemoryError(f"there was no memory for the {meta.nbytes} bytes of {meta}")
    if meta.elements == 0:
        return torch.empty_strided(meta.shape, meta.stride, dtype=dtype, device="cpu")
    owner = getattr(payload.obj, "owner", None)
    if isinstance(owner, Tensor) and owner.nbytes == len(payload):
        flat = owner.view(dtype)
    else:
        flat = torch.frombuffer(payload, dtype=dtype)
        if len(payload) < COPIED_BELOW_BYTES:
            flat = flat.clone()
    if len(meta.shape) == 1 and meta.stride == (1,):
        return flat
    laid_out = flat.as_strided(meta.shape, meta.stride)
    if not is_dense(laid_out):
        raise ValueError("the values do not fill the payload, each once")
    return laid_out


def is_out_of_memory(error: BaseException) -> bool:
    """Whether this needed more memory than there is, or than there can be."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in WANT_OF_MEMORY)


def storage_key(tensor: Tensor) -> int:
    """Equal for tensors that share a storage."""
    return int(tensor.untyped_storage()._cdata)


def offset_of(tensor: Tensor) -> int:
    """The storage offset in elements."""
    return int(tensor.storage_offset())
