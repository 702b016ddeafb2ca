"""Operations whose kernels trust their arguments, each with what is checked before [P5.5].

Found with tests/attacks/fuzzing on torch's kernels for CPUs: every operation that a worker runs was called with numbers
out of range and with tensors of the wrong shape, dtype, content or layout, while all memory was guarded. Named here
are those that crashed or reached beside a tensor, and their closest relatives; outputs.py has what `out=` writes to.
"""

from math import prod
from typing import Final

import torch

from ptrtensor.worker.checks import (
    Check,
    Given,
    Size,
    as_forward,
    ascending,
    bounded,
    count,
    dimensions,
    finite,
    like,
    like_but_last,
    numbers,
    of_length,
    per_channel,
    shaped,
    tensor,
    up_to,
    with_plane,
    within,
)
from ptrtensor.worker.checks_of_families import (
    alike_lists,
    as_many,
    attention,
    bag_sizes,
    bags_in,
    ctc,
    ctc_backward,
    indices_within,
    inside_storage,
    labels,
    pivots_of_blocks,
    repeated,
    scaled,
    segments,
    spectrum,
    statistics,
    truncated,
    weight_norm,
)
from ptrtensor.worker.checks_of_memory import apart, contiguous, dense, typed, unrepeated


def size_of(name: str, dimension: int) -> Size:
    return lambda given: tensor(given, name).shape[dimension]


def elements_of(name: str, dimensions: int | None = None) -> Size:
    """How many elements there are in the last dimensions."""
    return lambda given: prod(tensor(given, name).shape[-dimensions if dimensions else None :])


def reduced(given: Given) -> int:
    """The elements of a loss: one, or one for each sample."""
    samples = tensor(given, "self")
    return samples.shape[0] if given["reduction"] == 0 and samples.dim() > 1 else 1


def pool_backward(forward: str, plane: int) -> tuple[Check, ...]:
    """The gradient of a pool that says where its maxima were."""
    return (
        as_forward(forward, grad_output=0, indices=1),
        dense("indices"),
        within("indices", elements_of("self", plane)),
    )


def fractional_backward(plane: int) -> tuple[Check, ...]:
    return (
        dimensions("self", plane + 1, plane + 2),
        count("output_size", plane),
        shaped("grad_output", lambda given: [*tensor(given, "self").shape[:-plane], *given["output_size"]]),
        *like("grad_output", "indices"),
        contiguous("indices"),
        within("indices", elements_of("self", plane)),
    )


def grid_backward(plane: int) -> tuple[Check, ...]:
    return (
        dimensions("input", plane + 2),
        shaped("grid", lambda given: [tensor(given, "input").shape[0], *tensor(given, "grid").shape[1:-1], plane]),
        dimensions("grid", plane + 2),
        shaped("grad_output", lambda given: [*tensor(given, "input").shape[:2], *tensor(given, "grid").shape[1:-1]]),
        typed("input", "grid", "grad_output"),
    )


def pad_backward(forward: str, plane: int) -> tuple[Check, ...]:
    return count("padding", 2 * plane), as_forward(forward, grad_output=0)


PIVOTS: Final = (
    shaped(
        "LU_pivots",
        lambda given: [*tensor(given, "LU_data").shape[:-2], min(tensor(given, "LU_data").shape[-2:])],
    ),
    within("LU_pivots", lambda given: tensor(given, "LU_data").shape[-2] + 1, least=1),
)

BATCH_NORM: Final = (per_channel("input", "weight", "bias", "running_mean", "running_var"), statistics)

BATCH_NORM_BACKWARD: Final = (
    *like("input", "grad_out"),
    per_channel("input", "weight", "running_mean", "running_var"),
    numbers("input", least=1),
    statistics,
)

BAGS: Final = (
    contiguous("indices", "offsets", "per_sample_weights"),
    within("indices", size_of("weight", 0)),
    ascending("offsets", elements_of("indices")),
    bags_in(None),
    of_length("per_sample_weights", elements_of("indices")),
)

ADAPTIVE: Final = (*like("grad_output", "indices"), dense("indices"))

UPSAMPLED: Final = (
    *(f"_upsample_{kind}2d_aa" for kind in ("bilinear", "bicubic", "lanczos")),
    *(f"{name}{plane}d" for name in ("upsample_nearest", "_upsample_nearest_exact") for plane in (1, 2, 3)),
)

POLYNOMIALS: Final = (
    *(f"{kind}_polynomial_{letter}" for kind in ("chebyshev", "shifted_chebyshev") for letter in "tuvw"),
    *("hermite_polynomial_h", "hermite_polynomial_he", "laguerre_polynomial_l", "legendre_polynomial_p"),
)

CHECKS: Final[dict[str, tuple[Check, ...]]] = {
    "_adaptive_avg_pool2d_backward": (like_but_last("self", "grad_output", 2), with_plane("self", 2)),
    "_adaptive_avg_pool3d_backward": (like_but_last("self", "grad_output", 3), with_plane("self", 3)),
    "_batch_norm_with_update": BATCH_NORM,
    "_cdist_backward": (as_forward("aten::_cdist_forward", grad=0, cdist=0),),
    "_ctc_loss": (contiguous("targets"), ctc),
    "_ctc_loss_backward": (contiguous("targets"), ctc, ctc_backward),
    "_embedding_bag": BAGS,
    "_embedding_bag_forward_only": BAGS,
    "_embedding_bag_backward": (
        contiguous("indices", "offsets", "offset2bag", "bag_size", "maximum_indices"),
        dimensions("grad", 2),
        within("indices", lambda given: given["num_weights"]),
        ascending("offsets", elements_of("indices")),
        bag_sizes,
        of_length("per_sample_weights", elements_of("indices")),
    ),
    "_embedding_bag_per_sample_weights_backward": (
        contiguous("indices", "offsets", "offset2bag"),
        dimensions("grad", 2),
        within("indices", size_of("weight", 0)),
        ascending("offsets", elements_of("indices")),
        bag_sizes,
    ),
    **dict.fromkeys(("_fft_c2c", "_fft_c2r", "_fft_r2c"), (spectrum,)),
    "_foreach_copy": (as_many("self", "src"),),
    **dict.fromkeys(
        (f"_fused_{optimizer}" for optimizer in ("adagrad_", "adam_", "adamw_", "sgd_")),
        (alike_lists,),
    ),
    "_linalg_eigvals": (finite("self"),),
    "_log_softmax_backward_data": (*like("grad_output", "output"), typed("grad_output", "output")),
    "_softmax_backward_data": (*like("grad_output", "output"), typed("grad_output", "output")),
    "_native_batch_norm_legit": BATCH_NORM,
    "_new_zeros_with_same_feature_meta": (up_to("self_num_batch_dims", lambda given: tensor(given, "self").dim()),),
    "_pdist_backward": (as_forward("aten::_pdist_forward", grad=0, pdist=0), contiguous("pdist"), numbers("self", 1)),
    "_reshape_alias": (inside_storage,),
    "_scaled_dot_product_flash_attention_for_cpu": (attention,),
    "_scaled_dot_product_flash_attention_for_cpu_backward": (
        attention,
        as_forward("aten::_scaled_dot_product_flash_attention_for_cpu", grad_out=0, out=0, logsumexp=1),
        typed("query", "grad_out", "out"),
        dense("out", "logsumexp"),
    ),
    "_segment_reduce_backward": (segments, *like("grad", "output"), typed("data", "grad", "output")),
    "_unsafe_masked_index": (indices_within,),
    "_unsafe_masked_index_put_accumulate": (indices_within,),
    **dict.fromkeys((f"{kind}{way}" for kind in UPSAMPLED for way in ("", "_backward")), (scaled,)),
    "_weight_norm_interface": (weight_norm("v", "g"),),
    "_weight_norm_interface_backward": (
        *like("saved_v", "grad_w"),
        weight_norm("saved_v", "saved_g", "saved_norms"),
        contiguous("grad_w"),
    ),
    "adaptive_max_pool2d_backward": (
        like_but_last("self", "grad_output", 2),
        *ADAPTIVE,
        within("indices", elements_of("self", 2)),
    ),
    "adaptive_max_pool3d_backward": (
        like_but_last("self", "grad_output", 3),
        *ADAPTIVE,
        within("indices", elements_of("self", 3)),
    ),
    "as_strided_": (inside_storage,),
    "adaptive_avg_pool3d_backward": (like_but_last("self", "grad_output", 3), with_plane("self", 3)),
    "avg_pool2d_backward": (as_forward("aten::avg_pool2d", grad_output=0),),
    "avg_pool3d_backward": (as_forward("aten::avg_pool3d", grad_output=0),),
    "batch_norm_backward": BATCH_NORM_BACKWARD,
    "batch_norm_update_stats": (per_channel("input", "running_mean", "running_var"),),
    "binomial": (finite("count", "prob"),),
    **dict.fromkeys(("div.Tensor_mode", "div.Scalar_mode", "div.out_mode", "div.Scalar_mode_out"), (truncated,)),
    **dict.fromkeys(("div_.Tensor_mode", "div_.Scalar_mode"), (truncated,)),
    "embedding_dense_backward": (within("indices", lambda given: given["num_weights"]),),
    "fractional_max_pool2d_backward": fractional_backward(2),
    "fractional_max_pool3d_backward": fractional_backward(3),
    "grid_sampler_2d_backward": grid_backward(2),
    "grid_sampler_3d_backward": grid_backward(3),
    "linalg_eigvals": (finite("self"),),
    "linalg_ldl_solve": (pivots_of_blocks,),
    "linalg_lstsq": (with_plane("b", 1),),
    "linalg_lu_solve": (
        shaped("pivots", lambda given: tensor(given, "LU").shape[:-1]),
        within("pivots", lambda given: tensor(given, "LU").shape[-1] + 1, least=1),
    ),
    "lu_unpack": PIVOTS,
    "max_pool2d_with_indices_backward": pool_backward("aten::max_pool2d_with_indices", 2),
    "max_pool3d_with_indices_backward": pool_backward("aten::max_pool3d_with_indices", 3),
    "median": (unrepeated("self"),),
    "multi_margin_loss_backward": (of_length("grad_output", reduced),),
    "multilabel_margin_loss_backward": (of_length("grad_output", reduced), *like("target", "is_target")),
    "nanmedian": (unrepeated("self"),),
    "native_batch_norm": BATCH_NORM,
    "native_batch_norm_backward": BATCH_NORM_BACKWARD,
    "native_group_norm": (dense("input"), contiguous("weight", "bias")),
    "native_group_norm_backward": (
        dense("grad_out", "input"),
        *like("input", "grad_out"),
        contiguous("mean", "rstd", "weight"),
    ),
    "native_layer_norm_backward": (
        *like("input", "grad_out"),
        of_length("mean", lambda given: tensor(given, "input").numel() // max(1, prod(given["normalized_shape"]))),
        of_length("rstd", lambda given: tensor(given, "input").numel() // max(1, prod(given["normalized_shape"]))),
        contiguous("mean", "rstd"),
    ),
    "nll_loss_backward": (labels,),
    "nll_loss2d_backward": (labels,),
    "reflection_pad1d_backward": pad_backward("aten::reflection_pad1d", 1),
    "reflection_pad2d_backward": pad_backward("aten::reflection_pad2d", 2),
    "reflection_pad3d_backward": pad_backward("aten::reflection_pad3d", 3),
    "repeat_interleave": (repeated,),
    "replication_pad1d_backward": pad_backward("aten::replication_pad1d", 1),
    "replication_pad2d_backward": pad_backward("aten::replication_pad2d", 2),
    "replication_pad3d_backward": pad_backward("aten::replication_pad3d", 3),
    "rrelu_with_noise": (*like("self", "noise"), apart(["noise"])),
    "rrelu_with_noise_": (*like("self", "noise"), apart(["noise"])),
    "rrelu_with_noise_functional": (*like("self", "noise"), apart(["noise"])),
    "segment_reduce": (segments,),
    **dict.fromkeys((f"special_{family}" for family in POLYNOMIALS), (bounded("n", 2**20),)),
    "unfold_backward": (
        shaped(
            "grad_in",
            lambda given: (
                torch.empty(given["input_sizes"], device="meta")
                .unfold(given["dim"], given["size"], given["step"])
                .shape
            ),
        ),
    ),
}
"""By name, without `aten::`, and without overload where all have the same."""

STATISTICS: Final = ("weight", "bias", "running_mean", "running_var", "save_mean", "save_invstd", "save_var")

PACKED: Final[dict[str, tuple[str, ...]]] = {
    "_ctc_loss": ("targets",),
    "_ctc_loss_backward": ("targets",),
    "batch_norm_backward": STATISTICS,
    "median": ("self",),
    "nanmedian": ("self",),
    "native_batch_norm_backward": STATISTICS,
    "native_group_norm": ("weight", "bias"),
    "native_group_norm_backward": ("mean", "rstd", "weight"),
    "native_layer_norm_backward": ("mean", "rstd"),
}
"""Arguments that the kernel of an operation takes for contiguous, whether they are or not: it is given a copy."""
