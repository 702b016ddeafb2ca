"""Every private or untyped call into torch, precisely typed: the one place for `type: ignore`.

What torch may change between releases is used here and nowhere else.
"""

import ctypes
import functools
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from types import ModuleType
from typing import Any, Final, Literal, ParamSpec, Self, TypeVar, cast

import torch
import torch.nn.modules.linear_cross_entropy  # it registers operations of torch's own when it is imported
from torch import Tensor, nn
from torch._C import DispatchKey, DispatchKeySet
from torch._ops import OpOverload
from torch.nn.parameter import is_lazy
from torch.overrides import TorchFunctionMode

from ptrtensor.errors import UnsupportedOpError
from ptrtensor.locks import process_lock
from ptrtensor.wire.limits import MAX_DIMENSIONS
from ptrtensor.wire.metadata import ITEM_BYTES, TensorMeta, intern

P = ParamSpec("P")
R = TypeVar("R")

DEVICE_TYPE: Final = "lazy"
"""The device type that pointers have. Torch has device guards and autograd support for it and registers no kernels
of its own, until `torch._lazy.ts_backend.init()` is called. Why this one: docs/explanation/design.md."""

DISPATCH_KEY: Final = "Lazy"

# --- names of dtypes and the like

DTYPES: Final[dict[str, torch.dtype]] = {
    name: getattr(torch, name) for name in ITEM_BYTES if isinstance(getattr(torch, name, None), torch.dtype)
}
DTYPE_NAMES: Final[dict[torch.dtype, str]] = {dtype: name for name, dtype in DTYPES.items()}
LAYOUTS: Final[dict[str, torch.layout]] = {"strided": torch.strided}
LAYOUT_NAMES: Final[dict[torch.layout, str]] = {layout: name for name, layout in LAYOUTS.items()}
MEMORY_FORMATS: Final[dict[str, torch.memory_format]] = {
    "contiguous_format": torch.contiguous_format,
    "preserve_format": torch.preserve_format,
    "channels_last": torch.channels_last,
    "channels_last_3d": torch.channels_last_3d,
}
MEMORY_FORMAT_NAMES: Final[dict[torch.memory_format, str]] = {
    memory_format: name for name, memory_format in MEMORY_FORMATS.items()
}

# --- metadata and bytes

COPIED_BELOW_BYTES: Final = 1024 * 1024
MEMORYLESS_KEYS: Final = ("Python", "Functionalize", "FuncTorchBatched", "FuncTorchGradWrapper")
"""Dispatch keys of tensors that stand for others."""


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
            f"a tensor of layout {tensor.layout} cannot live behind a pointer: convert it with .to_dense() first"
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


def tensor_of(meta: TensorMeta, payload: memoryview) -> Tensor:
    """The tensor with these bytes, which are laid out as `meta` says.

    Small ones are copied, because torch can then resize them; of large ones the bytes become the tensor's memory.
    """
    dtype = DTYPES[meta.dtype]
    if meta.elements == 0:
        return torch.empty_strided(meta.shape, meta.stride, dtype=dtype, device="cpu")
    flat = torch.frombuffer(payload, dtype=dtype)
    if len(payload) < COPIED_BELOW_BYTES:
        flat = flat.clone()
    laid_out = flat.as_strided(meta.shape, meta.stride)
    if not is_dense(laid_out):
        raise ValueError("the values do not fill the payload, each once")
    return laid_out


def storage_key(tensor: Tensor) -> int:
    """Equal for tensors that share a storage."""
    return int(tensor.untyped_storage()._cdata)


def offset_of(tensor: Tensor) -> int:
    """The storage offset in elements."""
    return int(tensor.storage_offset())


# --- the dispatcher's thread-local state

_INCLUDED: Final = torch._C._dispatch_tls_local_include_set()
_EXCLUDED: Final = torch._C._dispatch_tls_local_exclude_set()


with torch._C._AutoDispatchBelowAutograd():
    _EXCLUDED_BELOW_AUTOGRAD: Final = torch._C._dispatch_tls_local_exclude_set() | _EXCLUDED


def isolated(act: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """Call `act` with torch as at the start of a fresh thread, below autograd.

    Inside a dispatch, a mode or a transform, the dispatcher's state is the caller's; what this library computes for
    itself (an in-process worker's operations, inference, seeds) must not see it. A function and not a context manager
    in Python: Ctrl-C cannot fall into the guards' own steps, since they are torch's in C.
    """
    with (
        torch._C.DisableTorchFunction(),
        torch._C._ForceDispatchKeyGuard(_INCLUDED, _EXCLUDED_BELOW_AUTOGRAD),
        torch._C._InferenceMode(False) if torch.is_inference_mode_enabled() else _AS_IT_IS,
    ):
        return act(*args, **kwargs)


_AS_IT_IS: Final = nullcontext()


def is_compiling() -> bool:
    """Whether `torch.compile`, `torch.export` or `torch.jit.trace` is reading this program."""
    return torch.compiler.is_compiling() or torch._C._get_tracing_state() is not None


def refuse_compiling() -> Literal[False]:
    """Make `torch.compile`, if it is what asks, leave the function that it is reading as it is."""
    if torch._guards.TracingContext.try_get() is not None:
        _warn_of_compiling()
        raise sys.modules["torch._dynamo.exc"].SkipFrame("pointers are not compiled")
    return False


@functools.cache
def _warn_of_compiling() -> None:
    """Once in a process."""
    warnings.warn("torch.compile runs functions of pointers as they are, uncompiled", stacklevel=1)


def never_compiled(function: Callable[..., object]) -> None:
    """Keep `torch.compile` from reading a function of ours, and what that calls, when it is called uncompiled."""
    skip = torch._C._dynamo.eval_frame._FrameAction.SKIP
    strategy = torch._C._dynamo.eval_frame._FrameExecStrategy(skip, skip)
    torch._C._dynamo.eval_frame.set_code_exec_strategy(function.__code__, strategy)


def is_tracing() -> bool:
    """Whether operations are being recorded into a graph, which would hold a pointer's values as constants."""
    return torch._C._get_dispatch_mode(torch._C._TorchDispatchModeKey.PROXY) is not None


def has_dual_level() -> bool:
    """Whether forward-mode differentiation is under way."""
    return torch.autograd.forward_ad._current_level >= 0


def view_mode(base: Tensor | None) -> AbstractContextManager[object]:
    """Where to make a view of this tensor: under `inference_mode` a view of an ordinary tensor is an ordinary one."""
    if base is not None and torch.is_inference_mode_enabled() and not base.is_inference():
        return torch._C._InferenceMode(False)
    return _AS_IT_IS


def in_backward() -> bool:
    """Whether this thread is inside a backward pass."""
    return torch._C._current_graph_task_id() != -1


def use_count(tensor: Tensor) -> int:
    """How many owners the tensor has in C++; more than one means that a graph or a view holds it."""
    return int(tensor._use_count())  # type: ignore[attr-defined]


make_wrapper: Final = torch.Tensor._make_wrapper_subclass
"""A tensor of a class, with metadata and without data."""

MAY_ASSIGN_DATA: Final[Callable[..., object]] = torch._has_compatible_shallow_copy_type
"""What `Module._apply` asks before it assigns to a parameter's `.data`."""


def native_function(
    func: Callable[..., object],
    types: tuple[type, ...],
    args: tuple[object, ...],
    kwargs: dict[str, object],
) -> object:
    """Call `func` as torch does for a class without `__torch_function__`."""
    return torch._C._disabled_torch_function_impl(func, types, args, kwargs)


def as_subclass_of(cls: type[Tensor], func: Callable[..., object], made: object) -> object:
    """What torch's own `__torch_function__` makes of a result: tensors of the class, where that is meant."""
    if func in torch.overrides.get_default_nowrap_functions():
        return made
    converted: object = torch._tensor._convert(made, cls)
    return converted


BACKWARD_HOOKS_SETTER: Final[Callable[..., object]] = Tensor._backward_hooks.__set__  # type: ignore[union-attr]
"""The last of what `torch.load` does to a tensor; before it the lazy bits were set without a word."""

REQUIRES_GRAD_SETTER: Final[Callable[..., object]] = Tensor.requires_grad.__set__  # type: ignore[attr-defined]
"""What `__torch_function__` is given when the attribute is assigned to."""


def plain(tensor: Tensor) -> Tensor:
    """The same tensor as torch's own type, sharing its memory and, where it is no leaf, its history."""
    with torch._C.DisableTorchFunctionSubclass():
        if not tensor.is_leaf:
            return tensor.as_subclass(Tensor)
        return tensor.detach().as_subclass(Tensor).requires_grad_(tensor.requires_grad)


def answered(getter: Callable[[Any], object]) -> Any:
    """A read-only attribute in the place of one that torch declares as writable."""
    return property(getter)


def shown_as(convert: Callable[[Any], Tensor]) -> Any:
    """A `__repr__` that shows another tensor; torch gives it an argument that mypy lets nobody override."""
    return lambda tensor, *, tensor_contents=None: repr(convert(tensor))


def set_metadata(tensor: Tensor, fresh: Tensor) -> None:
    """Give a wrapper another wrapper's sizes, strides, dtype, offset and lazy bits; its autograd history stays."""
    if lazy_bits(tensor) != lazy_bits(fresh):
        set_lazy_bits(tensor, *lazy_bits(fresh))
    torch._C.TensorBase.data.__set__(tensor, fresh)  # type: ignore[attr-defined]


def bump_versions(tensors: Iterable[Tensor]) -> None:
    """Count an in-place change, where autograd does not see it itself."""
    torch.autograd.graph.increment_version(tensors)


def set_lazy_bits(tensor: Tensor, conj: bool, neg: bool) -> None:
    torch._C._set_conj(tensor, conj)
    torch._C._set_neg(tensor, neg)


def lazy_bits(tensor: Tensor) -> tuple[bool, bool]:
    """Whether it is conjugated, and negated."""
    return torch._C.TensorBase.is_conj(tensor), torch._C.TensorBase.is_neg(tensor)


def with_lazy_bits(tensor: Tensor, conj: bool, neg: bool) -> Tensor:
    """A view that has these bits."""
    if conj:
        tensor = torch._conj(tensor)
    return torch._neg_view(tensor) if neg else tensor


def raw_grad(tensor: Tensor) -> Tensor | None:
    """`.grad` as torch has it, past any property of a subclass."""
    with torch._C.DisableTorchFunctionSubclass():
        return cast("Tensor | None", torch._C.TensorBase.grad.__get__(tensor))  # type: ignore[union-attr]


def set_raw_grad(tensor: Tensor, grad: Tensor | None) -> None:
    with torch._C.DisableTorchFunctionSubclass():
        torch._C.TensorBase.grad.__set__(tensor, grad)  # type: ignore[union-attr]


def recorded(function: type[torch.autograd.Function], *args: object) -> Tensor:
    """Call a function of a tensor that brings its own backward."""
    result: object = function.apply(*args)
    assert isinstance(result, Tensor)
    return result


def on_gradient(tensor: Tensor, act: Callable[[Tensor], None]) -> None:
    """Call `act` with the gradient when it arrives."""
    tensor.register_hook(act)


def swap(first: Tensor, second: Tensor) -> None:
    """Exchange what two Python objects are; whoever holds the one holds the other's value after it."""
    torch.utils.swap_tensors(first, second)


def is_exchangeable(parameter: Tensor) -> bool:
    """Whether `swap` will take it: nobody in C++ holds it but the node that accumulates its gradient."""
    owners = use_count(parameter)
    if owners == 1:
        return True
    if owners > 2 or not parameter.requires_grad:
        return False
    edge = torch.autograd.graph.get_gradient_edge(parameter)  # makes the node, if that is not the other owner
    return edge is not None and use_count(parameter) == 2


def put_through(module: nn.Module, act: Callable[[Tensor], Tensor]) -> None:
    """Put `act`'s result in the place of every parameter, gradient and buffer, as `Module.to` does."""
    module._apply(act)


def take_over_hooks(tensor: Tensor) -> Callable[[Tensor], None]:
    """Remember the hooks of a leaf; the result puts them on what the leaf is later."""
    hooks, after = tensor._backward_hooks, tensor._post_accumulate_grad_hooks

    def restore(leaf: Tensor) -> None:
        if hooks:
            leaf._backward_hooks = hooks
        if after:
            leaf._post_accumulate_grad_hooks = after

    return restore


# --- randomness


GENERATOR_LOCK: Final = process_lock()
"""Held by whoever draws from torch's default generators, or lends one of them to an operation."""


def draw_seed(generator: torch.Generator | None) -> int:
    """63 bits from the generator, or from torch's default one, advancing it."""
    with GENERATOR_LOCK:
        return isolated(_draw_seed, generator)


def _draw_seed(generator: torch.Generator | None) -> int:
    return int(torch.empty((), dtype=torch.int64, device="cpu").random_(generator=generator).item())


def default_generator(device: torch.device) -> torch.Generator:
    """The generator that operations of this device use when none is given."""
    if device.type == "cuda":
        index = torch.cuda.current_device() if device.index is None else device.index
        return torch.cuda.default_generators[index]
    return torch.default_generator


# --- flags of the process that change results

_SMALLEST_NORMAL: Final = 2.2250738585072014e-308

Flags = tuple[str, bool, bool, bool, str, bool, bool, bool, bool, bool, bool]
"""The fields of `wire.messages.Settings`, in their order."""


def read_flags() -> Flags:
    """The flags of this process and thread. Torch cannot be asked for the last one, arithmetic can."""
    return (
        DTYPE_NAMES[torch.get_default_dtype()],
        torch._C._get_deterministic_algorithms(),
        torch._C._get_deterministic_algorithms_warn_only(),
        torch._C._get_deterministic_fill_uninitialized_memory(),
        torch._C._get_float32_matmul_precision(),
        torch._C._get_flash_sdp_enabled(),
        torch._C._get_mem_efficient_sdp_enabled(),
        torch._C._get_math_sdp_enabled(),
        torch._C._get_cudnn_sdp_enabled(),
        torch._C._get_mkldnn_enabled(),
        _SMALLEST_NORMAL * 0.5 == 0.0,
    )


def write_flags(flags: Flags) -> None:
    (dtype, deterministic, warn_only, fill, precision, flash, efficient, math, cudnn, mkldnn, flush) = flags
    torch.set_default_dtype(DTYPES[dtype])
    torch._C._set_deterministic_algorithms(deterministic, warn_only=warn_only)
    torch._C._set_deterministic_fill_uninitialized_memory(fill)
    torch._C._set_float32_matmul_precision(precision)
    torch._C._set_sdp_use_flash(flash)
    torch._C._set_sdp_use_mem_efficient(efficient)
    torch._C._set_sdp_use_math(math)
    torch._C._set_sdp_use_cudnn(cudnn)
    torch._C._set_mkldnn_enabled(mkldnn)
    torch.set_flush_denormal(flush)


# --- operations and kernels


def native_kernel(op: OpOverload[..., object]) -> Callable[..., object]:
    """The dispatcher's entry for an operation, without the Python layer above it."""
    return op._op


def resolve_op(name: str) -> OpOverload[..., object] | None:
    """`aten::add.Tensor` -> torch.ops.aten.add.Tensor; None where torch has no such operation."""
    namespace, _, rest = name.partition("::")
    packet_name, _, overload = rest.partition(".")
    packet = getattr(getattr(torch.ops, namespace, None), packet_name, None)
    op = getattr(packet, overload or "default", None)
    return op if isinstance(op, OpOverload) else None


def op_name(op: OpOverload[..., object]) -> str:
    """torch.ops.aten.add.Tensor -> `aten::add.Tensor`."""
    schema = op._schema
    return f"{schema.name}.{schema.overload_name}" if schema.overload_name else schema.name


def packet_name(op: OpOverload[..., object]) -> str:
    """torch.ops.aten.add.Tensor -> `aten::add`."""
    return op._schema.name


def op_arguments(op: OpOverload[..., object]) -> list[torch.Argument]:
    return list(op._schema.arguments)


def op_returns(op: OpOverload[..., object]) -> list[torch.Argument]:
    return list(op._schema.returns)


def type_name(argument: torch.Argument) -> str:
    """The schema's type: `Tensor`, `Optional[Tensor]`, `List[Tensor]`, `int`, ..."""
    return str(argument.type)


def writes(argument: torch.Argument) -> bool:
    return argument.alias_info is not None and argument.alias_info.is_write


def aliases(argument: torch.Argument) -> frozenset[str]:
    return frozenset() if argument.alias_info is None else frozenset(argument.alias_info.before_set)


def decomposes(op: OpOverload[..., object]) -> bool:
    """Whether torch only has it in terms of others; under `inference_mode` such operations arrive whole."""
    return bool(op._can_decompose()) and not torch._C._dispatch_has_kernel_for_dispatch_key(op.name(), "CPU")


def decompose(op: OpOverload[..., object], args: tuple[object, ...], kwargs: dict[str, object]) -> object:
    return op.decompose(*args, **kwargs)


def has_tag(op: OpOverload[..., object], tag: Literal["pointwise", "nondeterministic_seeded", "inplace_view"]) -> bool:
    return getattr(torch.Tag, tag) in op.tags


def kept_whole() -> Iterator[OpOverload[..., object]]:
    """Operations that torch decomposes on a device without a kernel for them, and has a kernel for on a CPU."""
    registered = torch._C._dispatch_get_registrations_for_dispatch_key
    for name in set(registered("CompositeImplicitAutograd")) & set(registered("CPU")):
        op = resolve_op(name)
        if op is not None and op.namespace == "aten":
            yield op


def factory_ops() -> Iterator[OpOverload[..., object]]:
    """Every aten operation that makes a tensor on a device out of no tensor."""
    for schema in torch._C._jit_get_all_schemas():
        if not schema.name.startswith("aten::"):
            continue
        names = [argument.name for argument in schema.arguments]
        if "device" not in names or any("Tensor" in type_name(argument) for argument in schema.arguments):
            continue
        returned = [type_name(result) for result in schema.returns]
        op = resolve_op(f"{schema.name}.{schema.overload_name}" if schema.overload_name else schema.name)
        if op is not None and returned == ["Tensor"]:
            yield op


def has_kernel(name: str, key: str) -> bool:
    return torch._C._dispatch_has_kernel_for_dispatch_key(name, key)


def kernel_library() -> torch.library.Library:
    """A place to register kernels for pointers' dispatch key; they live as long as it."""
    return torch.library.Library("aten", "IMPL")  # noqa: TOR901


def register_kernel(library: torch.library.Library, op: OpOverload[..., object], kernel: Callable[..., object]) -> None:
    library.impl(op, kernel, DISPATCH_KEY)


# --- storages that torch.load restores


class StorageElsewhere(torch.UntypedStorage):
    """What `torch.load` takes for a storage on another device. It has one byte, since torch looks for an address."""

    _elsewhere: torch.device

    @classmethod
    def on(cls, device: torch.device) -> Self:
        storage = cls(1)
        storage._elsewhere = device
        return storage

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        return self._elsewhere


def bytes_of_storage(storage: torch.UntypedStorage) -> Tensor:
    return torch.empty(0, dtype=torch.uint8).set_(storage)


def register_storage_location(restore: Callable[[torch.UntypedStorage, str], torch.UntypedStorage | None]) -> None:
    """By torch's own registry, behind what it has itself; nothing is tagged when tensors are saved."""
    registered: Any = restore
    torch.serialization.register_package(50, lambda storage: None, registered)


# --- autocast, by the key of a device for which no build of torch has kernels

_AUTOCAST_DEVICE: Final = "hpu"
_AUTOCAST_KEY: Final = "AutocastHPU"

_KEY: Final = getattr(DispatchKey, _AUTOCAST_KEY)
_BELOW_AUTOCAST: Final = torch._C._dispatch_keyset_full_after(_KEY)

AUTOCAST_KEYS: Final = DispatchKeySet(_KEY)
"""What a tensor carries to be seen by the kernels; it costs nothing while they are switched off."""


def autocast_operations() -> list[str]:
    """The names of what torch casts on a CPU."""
    return list(torch._C._dispatch_get_registrations_for_dispatch_key("AutocastCPU"))


def autocast_libraries(
    names: Iterable[str], make: Callable[[OpOverload[..., object]], Callable[..., object]]
) -> tuple[torch.library.Library, ...]:
    """The kernels of these operations, as far as this torch has them; they live as long as what is returned.

    Every other operation goes on as it is.
    """
    rest, library = torch.library.Library("_", "IMPL"), kernel_library()  # noqa: TOR901
    rest.fallback(torch.library.fallthrough_kernel, _AUTOCAST_KEY)
    for name in names:
        op = resolve_op(name)
        if op is not None:
            library.impl(op, make(op), _AUTOCAST_KEY, with_keyset=True)
    return rest, library


def below_autocast(
    op: OpOverload[..., object], keys: DispatchKeySet, args: tuple[object, ...], kwargs: dict[str, object]
) -> object:
    """Go on with an operation as if no kernel had been registered for it."""
    return op.redispatch(keys & _BELOW_AUTOCAST, *args, **kwargs)


def enable_autocast_key(enabled: bool) -> bool:
    """Switch the kernels on or off for this thread; returns what they were."""
    before = torch.is_autocast_enabled(_AUTOCAST_DEVICE)
    torch.set_autocast_enabled(_AUTOCAST_DEVICE, enabled)
    return before


def without_autocast_key() -> AbstractContextManager[object]:
    return torch._C._ExcludeDispatchKeyGuard(AUTOCAST_KEYS)


def is_view(tensor: Tensor) -> bool:
    return tensor._is_view()


def register_autograd_kernel(
    library: torch.library.Library, op: OpOverload[..., object], kernel: Callable[..., object]
) -> None:
    """In the place of torch's decomposition; what the kernel calls is recorded by autograd."""
    library.impl(op, kernel, f"Autograd{DISPATCH_KEY}")


def chooses_flash_attention(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, dropout_p: float, is_causal: bool, **options: Any
) -> bool:
    """Whether torch would take its fused kernel for such tensors in main memory; their values do not matter."""

    def like(tensor: Tensor) -> Tensor:
        empty = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="cpu")
        return empty.requires_grad_(tensor.requires_grad)

    given_mask = None if mask is None else like(mask)
    choice = torch._fused_sdp_choice(like(query), like(key), like(value), given_mask, dropout_p, is_causal, **options)
    return bool(choice == torch.nn.attention.SDPBackend.FLASH_ATTENTION.value)


def register_device_module(module: ModuleType) -> None:
    """Make `torch.<device type>` this module; torch's own way, and the one new name in torch."""
    torch._register_device_module(DEVICE_TYPE, module)


# --- the stack of torch function modes of this thread


def insert_mode(mode: TorchFunctionMode) -> None:
    """Put a mode below all others but that of `set_default_device`, which torch keeps at the bottom.

    There no other mode's `with` can pop it by mistake, whatever order they are left in.
    """
    stack = _take_modes()
    default_device = getattr(torch._GLOBAL_DEVICE_CONTEXT, "device_context", None)
    place = 1 if stack and stack[0] is default_device else 0
    _put_modes([*stack[:place], mode, *stack[place:]])


def remove_mode(mode: TorchFunctionMode) -> bool:
    """Take a mode out from wherever it stands; False where it is not on this thread's stack."""
    stack = _take_modes()
    rest = [other for other in stack if other is not mode]
    _put_modes(rest)
    return len(rest) < len(stack)


def _take_modes() -> list[TorchFunctionMode]:
    """All modes, the outermost first, off the stack."""
    taken = [torch._C._pop_torch_function_stack() for _ in range(torch._C._len_torch_function_stack())]
    return taken[::-1]


def _put_modes(modes: list[TorchFunctionMode]) -> None:
    for mode in modes:
        torch._C._push_on_torch_function_stack(mode)
