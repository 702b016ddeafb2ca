"""Each kind of check, with what passes it and what does not."""

from typing import Any

import pytest
import torch

from ptrtensor.worker.checks import (
    Check,
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
    up_to,
    with_plane,
    within,
)
from ptrtensor.worker.checks_of_memory import apart, contiguous, dense, typed, unrepeated

NOTHING = torch.zeros(0, 5)
SHARED = torch.zeros(4)
MATRIX = torch.zeros(2, 3)

CASES: list[tuple[Check, dict[str, Any], dict[str, Any]]] = [
    (shaped("x", lambda given: [2, 3]), {"x": MATRIX}, {"x": torch.zeros(2, 4)}),
    (shaped("x", lambda given: [2, 3]), {"x": None}, {"x": 3}),
    (like("y", "x")[0], {"x": MATRIX, "y": torch.ones(2, 3)}, {"x": MATRIX, "y": torch.ones(6)}),
    (like_but_last("y", "x", 1), {"x": MATRIX, "y": torch.ones(2, 5)}, {"x": MATRIX, "y": torch.ones(3, 3)}),
    (like_but_last("y", "x", 1), {"x": MATRIX, "y": torch.ones(2, 0)}, {"x": MATRIX, "y": torch.ones(1, 2, 3)}),
    (with_plane("x", 2), {"x": torch.ones(0, 1, 1)}, {"x": torch.ones(1, 1, 0)}),
    (per_channel("x", "y"), {"x": MATRIX, "y": torch.ones(3)}, {"x": MATRIX, "y": torch.ones(2)}),
    (per_channel("x", "y"), {"x": MATRIX, "y": None}, {"x": torch.ones(3), "y": None}),
    (dimensions("x", 1, 2), {"x": MATRIX}, {"x": torch.ones(1, 1, 1)}),
    (dimensions("x", 2), {"x": MATRIX}, {"x": torch.ones(1)}),
    (within("x", lambda given: 3), {"x": torch.tensor([0, 2])}, {"x": torch.tensor([0, 3])}),
    (within("x", lambda given: 3), {"x": torch.tensor([], dtype=torch.int64)}, {"x": torch.tensor([-1])}),
    (within("x", lambda given: 3, least=-1), {"x": torch.tensor([-1])}, {"x": torch.tensor([0.5])}),
    (ascending("x", lambda given: 3), {"x": torch.tensor([0, 0, 3])}, {"x": torch.tensor([0, 2, 1])}),
    (ascending("x", lambda given: 3), {"x": None}, {"x": torch.tensor([0, 4])}),
    (ascending("x", lambda given: 3), {"x": torch.tensor([0])}, {"x": torch.tensor([1])}),
    (ascending("x", lambda given: 3), {"x": torch.tensor([0])}, {"x": torch.tensor([[0]])}),
    (of_length("x", lambda given: 6), {"x": MATRIX}, {"x": torch.zeros(5)}),
    (numbers("x", 1), {"x": MATRIX}, {"x": torch.zeros(0)}),
    (bounded("n", 5), {"n": 5}, {"n": 6}),
    (bounded("n", 5), {"n": torch.zeros(0)}, {"n": torch.tensor([1.0, 9.0])}),
    (up_to("n", lambda given: 2), {"n": 2}, {"n": 3}),
    (finite("x"), {"x": MATRIX}, {"x": torch.tensor([float("nan")])}),
    (count("n", 2), {"n": [1, 2]}, {"n": [1]}),
    (
        as_forward("aten::avg_pool2d", grad=0),
        {"self": torch.ones(1, 4, 4), "kernel_size": [2, 2], "grad": torch.ones(1, 2, 2)},
        {"self": torch.ones(1, 4, 4), "kernel_size": [2, 2], "grad": torch.ones(1, 3, 3)},
    ),
    (contiguous("x"), {"x": MATRIX}, {"x": MATRIX.t()}),
    (dense("x"), {"x": MATRIX.t()}, {"x": MATRIX[:, :2]}),
    (unrepeated("x"), {"x": MATRIX[:, :2]}, {"x": MATRIX[:, :1].expand(2, 4)}),
    (typed("x", "y"), {"x": MATRIX, "y": torch.ones(1)}, {"x": MATRIX, "y": torch.ones(1, dtype=torch.int64)}),
    (apart(["out"]), {"x": MATRIX, "out": torch.ones(1)}, {"x": SHARED, "out": SHARED[1:]}),
    (apart(["out"]), {"x": SHARED, "y": SHARED, "out": torch.ones(1)}, {"out": torch.ones(1).expand(3)}),
    (apart(["out"]), {"x": NOTHING, "out": torch.ones(0, 5)}, {"x": NOTHING, "out": NOTHING}),
]


@pytest.mark.parametrize(("check", "right", "wrong"), CASES)
def test_a_check_passes_one_and_refuses_the_other(check: Check, right: dict[str, Any], wrong: dict[str, Any]) -> None:
    check(right)
    with pytest.raises(ValueError):
        check(wrong)


def test_an_error_names_argument_and_range() -> None:
    with pytest.raises(ValueError, match="indices has values from 1 to 7, which must be from 0 to below 5"):
        within("indices", lambda given: 5)({"indices": torch.tensor([1, 7])})
