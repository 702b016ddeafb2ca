"""Which of torch's operations a worker runs [P5.5]: those that clients send, and no way around them.

Many operations are torch's own helpers, whose callers have checked the arguments before: given others, they read and
write beside their tensors. So an operation whose name begins with an underscore runs only if it is named here, and it
is if torch's functions, modules, optimizers and distributions come down to it. One that is made of others is not run at
all: clients send the others. What of the rest is unsafe was found by tests/attacks/fuzzing: it is refused here, or has
its arguments checked (checked_operations.py).
"""

from functools import cache
from typing import Final

from torch._ops import OpOverload

from ptrtensor._torch.operations import decomposes, is_dispatched, resolve_op, schemas
from ptrtensor.wire.limits import NAMESPACES

INTERNAL: Final = frozenset(
    f"aten::_{name}"
    for name in """
    adaptive_avg_pool2d adaptive_avg_pool2d_backward adaptive_avg_pool3d adaptive_avg_pool3d_backward addmm_activation
    aminmax amp_foreach_non_finite_check_and_unscale_ amp_update_scale_ batch_norm_with_update cdist_backward
    cdist_forward chunk_cat conj conj_copy conj_physical ctc_loss ctc_loss_backward dirichlet_grad efficientzerotensor
    embedding_bag embedding_bag_backward embedding_bag_forward_only embedding_bag_per_sample_weights_backward
    euclidean_dist fft_c2c fft_c2r fft_r2c fused_adagrad_ fused_adam_ fused_adamw_ fused_sgd_ grouped_mm
    has_same_storage_numel histogramdd_bin_edges histogramdd_from_bin_cts histogramdd_from_bin_tensors is_all_true
    is_any_true linalg_check_errors linalg_det linalg_eigh linalg_eigvals linalg_slogdet linalg_solve_ex linalg_svd
    local_scalar_dense log_softmax log_softmax_backward_data native_batch_norm_legit neg_view neg_view_copy
    new_zeros_with_same_feature_meta pack_padded_sequence pdist_backward pdist_forward prelu_kernel
    prelu_kernel_backward reshape_alias reshape_copy safe_softmax sample_dirichlet
    scaled_dot_product_flash_attention_for_cpu scaled_dot_product_flash_attention_for_cpu_backward scaled_mm
    scaled_mm_v2 segment_reduce_backward softmax softmax_backward_data standard_gamma standard_gamma_grad to_copy
    to_sparse trilinear unique unique2 unsafe_masked_index unsafe_masked_index_put_accumulate unsafe_view
    upsample_bicubic2d_aa upsample_bicubic2d_aa_backward upsample_bilinear2d_aa upsample_bilinear2d_aa_backward
    upsample_lanczos2d_aa upsample_lanczos2d_aa_backward upsample_nearest_exact1d upsample_nearest_exact1d_backward
    upsample_nearest_exact2d upsample_nearest_exact2d_backward upsample_nearest_exact3d
    upsample_nearest_exact3d_backward weight_norm_interface weight_norm_interface_backward
    """.split()
)
"""Of those with an underscore, the ones that run, besides those that begin as below."""

PUBLIC_PREFIXES: Final = ("aten::__", "aten::_foreach_")

OF_A_BACKEND: Final = (
    *(f"aten::{backend}_" for backend in ("cudnn", "miopen", "mkldnn", "mps", "lstm_mps")),
    *("aten::quantize", "aten::slow_conv", "aten::convolution_overrideable", "aten::convolution_backward_overrideable"),
)
"""Torch chooses a backend itself, where it runs an operation."""

OF_SPARSE: Final = "aten::sparse_"
"""Those that make sparse tensors or change them; their parts would have to be checked, and nothing sparse is held."""

REFUSED: Final[dict[str, str]] = {
    "aten::from_file": "it reaches beyond tensors, to the worker's files",
}


@cache
def runnable() -> frozenset[str]:
    """The names of all that a worker runs, without overloads."""
    names = (f"{schema.name}.{schema.overload_name}".removesuffix(".") for schema in schemas(NAMESPACES))
    return frozenset(
        name.partition(".")[0] for name in names if (op := resolve_op(name)) is not None and refusal(name, op) is None
    )


def refusal(name: str, op: OpOverload[..., object]) -> str | None:
    """Why this operation is not run; None if it is."""
    if not is_dispatched(op):
        return "it belongs to TorchScript, and is none of tensors"
    base = name.partition(".")[0]
    if base in REFUSED:
        return REFUSED[base]
    if base.startswith("aten::_") and base not in INTERNAL and not base.startswith(PUBLIC_PREFIXES):
        return "it is a helper inside of torch"
    if base.startswith(OF_A_BACKEND):
        return "it belongs to one backend, which torch chooses by itself"
    if base.startswith(OF_SPARSE):
        return "sparse layout is not supported behind a pointer"
    if decomposes(op):
        return "it is made of others, which clients send instead"
    return None
