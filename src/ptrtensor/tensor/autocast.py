"""Mixed precision: what `torch.autocast` does for a kind of device, for the pointers of one worker.

Torch has no autocast for the pointers' device type, and casting must happen above autograd. So pointers carry the
autocast key of a device that no build of torch has kernels for, and this registers kernels there: one for each
operation that torch casts on a CPU or on CUDA, by torch's own lists (ATen/autocast_mode.h, autocast_mode.cpp).
"""

import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import ContextDecorator
from enum import Enum, auto
from functools import cache
from types import TracebackType
from typing import Final, Self

import torch
from torch import Tensor
from torch._C import DispatchKeySet
from torch._ops import OpOverload

from ptrtensor._torch.autocast import (
    autocast_libraries,
    autocast_operations,
    below_autocast,
    enable_autocast_key,
    without_autocast_key,
)
from ptrtensor._torch.operations import op_name
from ptrtensor.tensor.base import Pointer
from ptrtensor.tensor.casting import Casting, is_eligible

LOWER_DTYPES: Final = (torch.bfloat16, torch.float16)


class Policy(Enum):
    """What is done with the arguments of an operation; the names are torch's."""

    LOWER_PRECISION = auto()
    FLOAT32 = auto()
    FLOAT32_RESULT = auto()
    """As it is with a dtype given, else with `dtype=torch.float32`."""
    PROMOTE = auto()
    """To the widest of its arguments' dtypes."""
    BANNED = auto()


def names(text: str) -> frozenset[str]:
    return frozenset(f"aten::{name}" for name in text.split())


CPU_LOWER_PRECISION: Final = names("""
    _addmm_activation _convolution.deprecated _native_multi_head_attention addbmm addmm baddbmm bmm conv1d
    conv1d.padding conv2d conv2d.padding conv3d conv3d.padding conv_tbc conv_transpose1d conv_transpose2d.input
    conv_transpose3d.input linalg_vecdot linear matmul mkldnn_rnn_layer mm prelu scaled_dot_product_attention
""")

CPU_PROMOTE: Final = names("cat index_copy stack")

CUDA: Final = {
    Policy.LOWER_PRECISION: names("""
        _convolution.deprecated _convolution conv1d conv2d conv3d conv_tbc conv_transpose1d conv_transpose2d.input
        conv_transpose3d.input convolution prelu addmm addmv addr matmul einsum mm mv linalg_vecdot linear addbmm
        baddbmm bmm chain_matmul linalg_multi_dot _thnn_fused_lstm_cell _thnn_fused_gru_cell lstm_cell gru_cell
        rnn_tanh_cell rnn_relu_cell _scaled_dot_product_flash_attention scaled_dot_product_attention
    """),
    Policy.FLOAT32: names("""
        acos asin cosh erfinv exp expm1 log log10 log2 log1p reciprocal rsqrt sinh tan pow.Tensor_Scalar
        pow.Tensor_Tensor pow.Scalar softplus layer_norm native_layer_norm rms_norm group_norm frobenius_norm.dim
        nuclear_norm nuclear_norm.dim cosine_similarity poisson_nll_loss cosine_embedding_loss nll_loss nll_loss2d
        hinge_embedding_loss kl_div l1_loss smooth_l1_loss huber_loss mse_loss margin_ranking_loss
        multilabel_margin_loss soft_margin_loss triplet_margin_loss multi_margin_loss
        binary_cross_entropy_with_logits dist pdist cdist renorm logsumexp upsample_nearest1d
        _upsample_nearest_exact1d upsample_nearest2d _upsample_nearest_exact2d upsample_nearest3d
        _upsample_nearest_exact3d upsample_linear1d upsample_bilinear2d _upsample_bilinear2d_aa upsample_trilinear3d
        upsample_bicubic2d _upsample_bicubic2d_aa
    """),
    Policy.FLOAT32_RESULT: names("""
        prod prod.dim_int softmax.int log_softmax.int cumprod cumsum linalg_vector_norm linalg_matrix_norm
        linalg_matrix_norm.str_ord sum sum.dim_IntList norm.Scalar norm.ScalarOpt_dim
    """),
    Policy.PROMOTE: names("""
        addcdiv addcmul atan2 bilinear cross dot vdot grid_sampler index_put tensordot scatter_add
    """),
    Policy.BANNED: names("binary_cross_entropy"),
}


@cache
def policies(kind: str) -> dict[str, Policy]:
    """The policy of each operation that torch casts on such a device; on a CPU nearly all of them run in float32."""
    if kind == "cuda":
        return {name: policy for policy, listed in CUDA.items() for name in listed}
    table = dict.fromkeys(autocast_operations(), Policy.FLOAT32)
    table.update(dict.fromkeys(CPU_LOWER_PRECISION, Policy.LOWER_PRECISION))
    table.update(dict.fromkeys(CPU_PROMOTE, Policy.PROMOTE))
    return table


class Autocast(ContextDecorator):
    """``with bob.autocast():``, or a decorator. Counts for the thread that enters it."""

    def __init__(self, casting: Casting, dtype: torch.dtype | None, enabled: bool, cache_enabled: bool | None) -> None:
        self._casting = casting
        self._dtype = dtype or (torch.float16 if casting.kind == "cuda" else torch.bfloat16)
        self._enabled = enabled
        self._cached = torch.is_autocast_cache_enabled() if cache_enabled is None else cache_enabled
        self._before: list[tuple[torch.dtype | None, bool, bool]] = []
        if enabled and self._dtype not in LOWER_DTYPES:
            warnings.warn(
                f"autocast casts to torch.bfloat16 or torch.float16, and {self._dtype} was asked for: it is off here",
                stacklevel=3,
            )
            self._enabled = False

    def __enter__(self) -> Self:
        register()
        casting = self._casting
        key = enable_autocast_key(True)
        if not self._enabled:
            enable_autocast_key(key)  # nothing is to be cast that was not before
        self._before.append((casting.dtype, casting.cached, key))
        casting.dtype, casting.cached = self._dtype if self._enabled else None, self._cached
        casting.depth += 1
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        casting = self._casting
        casting.dtype, casting.cached, key = self._before.pop()
        enable_autocast_key(key)
        casting.depth -= 1
        if not casting.depth:
            casting.casts.clear()


# --- the kernels


@cache
def register() -> object:
    """Register the kernels, when autocast is used for the first time; returns what keeps them."""
    return autocast_libraries({**policies("cpu"), **policies("cuda")}, kernel)


def kernel(op: OpOverload[..., object]) -> Callable[..., object]:
    """What runs in the place of an operation while a pointer among its arguments is being cast."""
    name = op_name(op)

    def cast_and_call(keys: DispatchKeySet, *args: object, **kwargs: object) -> object:
        casting = casting_of((*args, *kwargs.values()))
        policy = None if casting is None else policies(casting.kind).get(name)
        if casting is None or policy is None:
            return below_autocast(op, keys, args, kwargs)  # the operations that it consists of may be cast
        with without_autocast_key():
            if policy is Policy.BANNED:
                raise RuntimeError(BANNED)
            if policy is Policy.FLOAT32_RESULT:
                return with_float32_result(op, args, kwargs)
            dtype = {Policy.LOWER_PRECISION: casting.dtype, Policy.FLOAT32: torch.float32}.get(policy)
            dtype = dtype or widest((*args, *kwargs.values()), casting)
            return op(
                *(cast(value, casting, dtype) for value in args),
                **{name: cast(value, casting, dtype) for name, value in kwargs.items()},
            )

    return cast_and_call


BANNED: Final = (
    "binary_cross_entropy and BCELoss are unsafe to autocast: combine the sigmoid before it with the loss by "
    "binary_cross_entropy_with_logits or BCEWithLogitsLoss, which are safe"
)


def tensors(values: Iterable[object]) -> Iterator[Tensor]:
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from tensors(value)


def casting_of(values: Iterable[object]) -> Casting | None:
    """How the first pointer is cast whose worker casts; None where none does."""
    for tensor in tensors(values):
        if isinstance(tensor, Pointer) and tensor._worker.casting.dtype is not None:
            return tensor._worker.casting
    return None


def cast(value: object, casting: Casting, dtype: torch.dtype) -> object:
    if isinstance(value, Pointer):
        return casting.cast(value, dtype)
    if isinstance(value, list | tuple):
        return [cast(item, casting, dtype) for item in value]
    return value


def widest(values: Iterable[object], casting: Casting) -> torch.dtype:
    pointers = (tensor for tensor in tensors(values) if isinstance(tensor, Pointer))
    dtypes = {pointer.dtype for pointer in pointers if is_eligible(pointer)} - {casting.dtype}
    if dtypes - {torch.float32}:
        other = (dtypes - {torch.float32}).pop()
        raise RuntimeError(
            f"autocast to {casting.dtype} got arguments of {other} too: cast them before, or choose that dtype"
        )
    return torch.float32 if dtypes or casting.dtype is None else casting.dtype


def with_float32_result(op: OpOverload[..., object], args: tuple[object, ...], kwargs: dict[str, object]) -> object:
    first = args[0]
    if not (isinstance(first, Pointer) and is_eligible(first)):
        return op(*args, **kwargs)
    if op is torch.ops.aten.norm.Scalar:
        return torch.ops.aten.norm.ScalarOpt_dtype(args[0], *(args[1:] or (2,)), dtype=torch.float32)
    if op is torch.ops.aten.norm.ScalarOpt_dim:
        keepdim = args[3:] or (False,)
        return torch.ops.aten.norm.ScalarOpt_dim_dtype(*args[:3], *keepdim, dtype=torch.float32)
    place = [argument.name for argument in op._schema.arguments].index("dtype")
    given = args[place] if place < len(args) else kwargs.get("dtype")
    if given is not None:
        return op(*args, **kwargs)
    return op(*args[:place], **{**kwargs, "dtype": torch.float32})
