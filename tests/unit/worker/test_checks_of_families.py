"""What the checks of single operations let pass and what not; the attacks have what they are against."""

from typing import Any

import pytest
import torch

from ptrtensor.worker.checks import Check
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

LABELS = {
    "log_probs": torch.zeros(5, 2, 4),
    "targets": torch.tensor([[1, 2, -7], [3, 3, 3]]),
    "input_lengths": [5, 4],
    "target_lengths": torch.tensor([2, 3]),
    "blank": 0,
}
LEFT = {"grad": torch.zeros(2), "neg_log_likelihood": torch.zeros(2), "log_alpha": torch.zeros(2, 5, 7)}
BAGS = {
    "grad": torch.zeros(2, 3),
    "indices": torch.tensor([0, 1, 1]),
    "offsets": torch.tensor([0, 1]),
    "offset2bag": torch.tensor([0, 1, 1]),
    "bag_size": torch.tensor([1, 2]),
    "maximum_indices": torch.zeros(2, 3, dtype=torch.int64),
    "mode": 2,
    "num_weights": 4,
}
HEADS = {name: torch.zeros(1, 2, 3, 4) for name in ("query", "key", "value")}
PARTS = {"data": torch.zeros(4, 2), "lengths": torch.tensor([1, 3]), "offsets": None, "axis": 0}
NORM = {"v": torch.zeros(2, 3), "g": torch.zeros(2, 1), "dim": 0}
BLOCKS = {"LD": torch.zeros(3, 3), "pivots": torch.tensor([1, -2, -2], dtype=torch.int32), "B": torch.zeros(3, 1)}
FUSED = {"self": [torch.zeros(2)], "grads": [torch.zeros(2)], "empty": [], "state_steps": [torch.zeros(())], "lr": 0.1}
NAMED = {"self": torch.zeros(2, 3), "target": torch.tensor([-100, 2]), "ignore_index": -100}
RESIZED = {"self": torch.zeros(1, 1, 2, 2), "output_size": [3, 4], "scales_h": 1.7, "scales_w": None}
LEAST = {"self": torch.tensor([5, -(2**63)]), "other": torch.tensor([-1, 1]), "rounding_mode": "trunc"}
SHRUNK = {"self": torch.zeros(1, 1, 8), "output_size": [4], "scales": 0.5}
VIEW = {"self": torch.zeros(4), "size": [2], "stride": [2], "storage_offset": 1}

CASES: list[tuple[Check, dict[str, Any], dict[str, Any]]] = [
    (ctc, LABELS, {"targets": torch.tensor([[1, 4, 0], [1, 1, 1]])}),
    (ctc, LABELS | {"targets": torch.tensor([1, 2, 3, 1, 2])}, {"targets": torch.tensor([1, 2])}),
    (ctc, LABELS | {"target_lengths": [0, 0]}, {"target_lengths": [1, 4]}),
    (ctc, LABELS, {"input_lengths": [5, 6]}),
    (ctc, LABELS, {"input_lengths": [5]}),
    (ctc, LABELS, {"blank": 4}),
    (ctc_backward, LABELS | LEFT, {"log_alpha": torch.zeros(2, 5, 6)}),
    (ctc_backward, LABELS | LEFT, {"grad": torch.zeros(2, dtype=torch.float64)}),
    (bag_sizes, BAGS, {"offset2bag": torch.tensor([0, 1, 2])}),
    (bag_sizes, BAGS, {"bag_size": torch.tensor([1])}),
    (bag_sizes, BAGS, {"maximum_indices": torch.full((2, 3), 4)}),
    (bag_sizes, BAGS | {"offset2bag": torch.zeros(0)}, {"offsets": torch.tensor([0, 1, 2])}),
    (bags_in(1), BAGS | {"offsets": torch.tensor([0, 3])}, {"offsets": torch.tensor([0, 1])}),
    (bags_in(None), BAGS, {"offsets": torch.tensor([])}),
    (attention, HEADS, {"key": torch.zeros(1, 2, 3, 5)}),
    (
        attention,
        HEADS | {"key": torch.zeros(1, 1, 3, 4), "value": torch.zeros(1, 1, 3, 4)},
        {"key": torch.zeros(1, 0, 3, 4)},
    ),
    (attention, HEADS | {"attn_mask": torch.zeros(1, 3)}, {"attn_mask": torch.zeros(2, 3)}),
    (attention, HEADS, {"value": torch.zeros(1, 2, 4, 3).mT}),
    (segments, PARTS, {"lengths": torch.tensor([2, 3])}),
    (segments, PARTS | {"lengths": None, "offsets": torch.tensor([0, 1, 4])}, {"offsets": torch.tensor([0, 2, 1])}),
    (segments, PARTS, {"axis": 2}),
    (segments, PARTS | {"output": torch.zeros(2, 2)}, {"output": torch.zeros(1, 2)}),
    (indices_within, {"self": torch.zeros(2), "indices": [None]}, {"indices": [None, None]}),
    (weight_norm("v", "g"), NORM, {"g": torch.zeros(1, 3)}),
    (weight_norm("v", "g"), NORM, {"dim": 2}),
    (pivots_of_blocks, BLOCKS, {"pivots": torch.tensor([1, 2, -3], dtype=torch.int32)}),
    (pivots_of_blocks, BLOCKS, {"pivots": torch.tensor([0, 2, 3], dtype=torch.int32)}),
    (labels, NAMED, {"target": torch.tensor([2, 3])}),
    (labels, NAMED | {"self": torch.zeros(3)}, {"target": torch.tensor(-1)}),
    (scaled, RESIZED, {"scales_h": 0.9}),
    (scaled, RESIZED | {"input_size": [1, 1, 2, 2]}, {"scales_w": float("inf")}),
    (scaled, SHRUNK, {"scales": 1e-320}),
    (scaled, SHRUNK | {"scales": None}, {"output_size": None}),
    (truncated, LEAST, {"other": -1}),
    (truncated, LEAST, {"other": torch.tensor(-1)}),
    (truncated, LEAST | {"rounding_mode": "floor", "other": -1}, {"rounding_mode": "trunc"}),
    (truncated, LEAST | {"other": -1.0}, {"other": -1}),
    (truncated, {**LEAST, "self": torch.zeros(0).int(), "other": -1}, {"self": torch.tensor([-(2**31)]).int()}),
    (repeated, {"repeats": torch.tensor([2, 0])}, {"repeats": torch.tensor([2, -1])}),
    (repeated, {"repeats": torch.zeros(0).long()}, {"repeats": torch.full((4,), 2**62)}),
    (spectrum, {"self": torch.zeros(2, 3), "dim": [0, 1]}, {"dim": [0, 2]}),
    (spectrum, {"self": torch.zeros(2, 3), "dim": [1]}, {"dim": [-1]}),
    (spectrum, {"self": torch.zeros(2, 3), "dim": [1]}, {"dim": [1, 1]}),
    (as_many("self", "src"), {"self": [torch.zeros(1)], "src": [torch.zeros(2)]}, {"src": []}),
    (pivots_of_blocks, BLOCKS, {"B": torch.zeros(5, 3, 1)}),
    (alike_lists, FUSED, {"grads": [torch.zeros(1)]}),
    (alike_lists, FUSED, {"state_steps": [torch.zeros(2)]}),
    (alike_lists, FUSED, {"grads": [torch.zeros(2), torch.zeros(2)]}),
    (alike_lists, FUSED | {"grad_scale": torch.ones(1)}, {"grad_scale": torch.ones(2)}),
    (inside_storage, VIEW, {"storage_offset": 2}),
    (inside_storage, VIEW, {"size": [2**62]}),
    (inside_storage, VIEW | {"storage_offset": None}, {"stride": [-1]}),
    (
        statistics,
        {"input": torch.zeros(1, 2), "training": False, "running_mean": torch.ones(2), "running_var": torch.ones(2)},
        {"running_var": None},
    ),
]


@pytest.mark.parametrize(("check", "right", "changes"), CASES)
def test_a_check_passes_one_and_refuses_the_other(check: Check, right: dict[str, Any], changes: dict[str, Any]) -> None:
    check(right)
    with pytest.raises(ValueError):
        check(right | changes)
