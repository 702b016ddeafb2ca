"""Calls that make torch's own kernels crash or read beside their tensors: a session answers each with an error.

They are findings of tests/attacks/fuzzing (`make fuzz`), in reproducers.jsonl there.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest
import torch
from by_hand import At, ByHand, Deviceless, Part
from torch import Tensor

from ptrtensor.worker.checked_operations import PACKED
from ptrtensor.worker.operations import operation

TESTS: Final = Path(__file__).parents[1]
SCRIPT: Final = TESTS / "attacks" / "fuzzing" / "reproducing.py"
REPRODUCERS: Final = SCRIPT.with_name("reproducers.jsonl").read_text().splitlines()


def outcomes(way: str) -> list[tuple[str, str]]:
    """What came of each reproducer, in a child process."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(TESTS), *sys.path]), "OMP_NUM_THREADS": "1"}
    child = subprocess.run([sys.executable, SCRIPT, way], env=environment, capture_output=True, text=True, timeout=100)
    assert child.returncode == 0, child.stdout[-300:] + child.stderr[-2000:]
    return [(op, outcome) for op, outcome in map(json.loads, child.stdout.splitlines())]


def test_each_ends_as_an_error_of_its_command() -> None:
    """Or runs on copies of what its kernel would have taken for contiguous."""
    found = outcomes("checked")
    assert len(found) == len(REPRODUCERS) > 100
    assert [op for op, error in found if "Error: " not in error and op.removeprefix("aten::") not in PACKED] == []


CHANNELS: Final = 2000


def stretched(value: float) -> Tensor:
    """Memory for one number, in the place of many."""
    return torch.full((1,), value).expand(CHANNELS)


def scattered(value: float) -> Tensor:
    """Numbers with others between them."""
    return torch.tensor([value, 1e9, -1e9]).repeat(CHANNELS)[::3]


X = torch.randn(2, CHANNELS, generator=torch.Generator().manual_seed(1))
MASK = [True, True, True]

NEEDS_CONTIGUOUS: dict[str, tuple[str, Callable[[Callable[[float], Tensor]], list[object]]]] = {
    "the weight of a batch norm": (
        "native_batch_norm_backward",
        lambda make: [X, X, make(0.5), None, None, X.mean(0), X.std(0), True, 1e-5, MASK],
    ),
    "the statistics that it saved": (
        "native_batch_norm_backward",
        lambda make: [X, X, None, None, None, make(0.5), make(2.0), True, 1e-5, MASK],
    ),
    "its running statistics": (
        "native_batch_norm_backward",
        lambda make: [X, X, None, make(0.5), make(2.0), None, None, False, 1e-5, MASK],
    ),
    "the weight of a group norm": (
        "native_group_norm",
        lambda make: [X[:, :, None], make(0.5), make(1.5), 2, CHANNELS, 1, 4, 1e-5],
    ),
    "a median": ("median", lambda make: [make(0.5)]),
    "a median of numbers": ("nanmedian", lambda make: [make(0.5)]),
}


@pytest.mark.parametrize("make", [stretched, scattered])
@pytest.mark.parametrize("case", NEEDS_CONTIGUOUS)
def test_what_a_kernel_takes_for_contiguous_is_contiguous(case: str, make: Callable[[float], Tensor]) -> None:
    """Else it reads beside what it was given, and gives it away."""
    name, arguments = NEEDS_CONTIGUOUS[case]
    kernel = operation(f"aten::{name}").kernel
    found, wanted = kernel(*arguments(make)), kernel(*arguments(lambda value: make(value).contiguous()))
    several = isinstance(wanted, tuple)
    for one, other in zip(found if several else [found], wanted if several else [wanted], strict=True):
        assert torch.equal(one, other)


def test_a_batch_norm_by_one_weight_for_all_has_its_gradients() -> None:
    hand = ByHand()
    weight = Part(hand.put(torch.ones(1)), 0, (CHANNELS,), (0,))
    x = At(hand.put(X))
    ones = At(hand.put(torch.ones(2, CHANNELS)))
    mean, deviation = At(hand.put(torch.zeros(CHANNELS))), At(hand.put(torch.ones(CHANNELS)))
    first = hand.run(
        *("aten::native_batch_norm_backward", ones, x, weight, mean, deviation, mean, deviation, False, 0.0, MASK),
        expect=[X, torch.zeros(CHANNELS), torch.zeros(CHANNELS)],
    )
    assert torch.equal(hand.fetch(first), torch.ones(2, CHANNELS))


@pytest.mark.skipif(not sys.platform.startswith("linux") or shutil.which("cc") is None, reason="needs guard.c")
def test_each_is_a_finding_without_the_checks() -> None:
    assert [op for op, finding in outcomes("unchecked") if not finding] == []


@pytest.mark.parametrize(
    ("op", "reason"),
    [
        ("aten::_convert_indices_from_csr_to_coo", "helper inside of torch"),
        ("aten::_stack", "helper inside of torch"),
        ("aten::_index_put_impl_", "helper inside of torch"),
        ("aten::embedding_bag", "made of others"),
        ("aten::mkldnn_linear", "one backend"),
        ("aten::save", "TorchScript"),
        ("aten::set_grad_enabled", "TorchScript"),
    ],
)
def test_what_clients_never_send_is_not_run(op: str, reason: str) -> None:
    hand = ByHand()
    result = hand.run(op, expect=[torch.zeros(1)])
    assert reason in hand.why(result)


@pytest.mark.parametrize(
    ("offset", "shape", "stride"),
    [(0, (2**62,), (1,)), (0, (5,), (1,)), (0, (2, 2), (2**62, 2**62)), (-1, (1,), (1,)), (2**62, (1,), (1,))],
)
def test_no_view_reaches_beyond_its_tensor(offset: int, shape: tuple[int, ...], stride: tuple[int, ...]) -> None:
    """Of four bytes each, 2**62 elements are none in 64 bits."""
    hand = ByHand()
    base = hand.put(torch.arange(4.0))
    assert "Error" in hand.why(hand.run("aten::neg", Part(base, offset, shape, stride), expect=None))
    hand.run("aten::as_strided_", At(base), list(shape), list(stride), offset)
    assert hand.state(base) == "x"


def test_what_is_read_is_not_given_another_shape() -> None:
    hand = ByHand()
    matrix, bias = hand.put(torch.ones(4, 2)), hand.put(torch.ones(4, 4))
    hand.run("aten::addmm.out", At(bias), At(matrix), At(hand.put(torch.ones(2, 4))), out=At(matrix))
    assert torch.equal(hand.fetch(matrix), torch.full((4, 4), 3.0))


@pytest.mark.parametrize("length", [0, 1, 14])
def test_indices_are_not_overwritten_after_they_were_looked_at(length: int) -> None:
    """A result that is empty yet grows over what lies beside it in its storage."""
    hand = ByHand()
    memory = hand.put(torch.tensor([0, 0, 0, 0, 0, 1, 2, 3, *[0] * 8]))
    values = torch.cat([torch.full((8,), 100.0), torch.full((6,), 500.0)])
    hand.run(
        "aten::searchsorted.Tensor_out",
        At(hand.put(torch.arange(4.0))),
        At(hand.put(values)),
        sorter=Part(memory, 4, (4,), (1,)),
        out=Part(memory, 0, (length,), (1,)),
    )
    assert hand.fetch(memory).tolist() == [4] * 14 + [0, 0]


def test_results_are_not_sorted_into_each_other() -> None:
    hand = ByHand()
    memory = hand.put(torch.zeros(304, dtype=torch.int64))
    hand.run(
        "aten::sort.values_stable",
        At(hand.put(torch.randperm(300))),
        stable=False,
        dim=0,
        descending=True,
        values=Part(memory, 2, (300,), (1,)),
        indices=Part(memory, 1, (300,), (1,)),
    )
    assert hand.fetch(memory)[301] == 0 and 0 <= hand.fetch(memory)[1:301].min() <= hand.fetch(memory).max() < 300


def test_a_degree_is_not_overwritten_after_it_was_looked_at() -> None:
    """The kernel counts up to it."""
    hand = ByHand()
    degrees = hand.put(torch.tensor([3.0] + [1.0] * 7))
    numbers = hand.put(torch.tensor([1e5] + [0.5] * 7))
    hand.run("aten::special_legendre_polynomial_p.out", At(numbers), Part(degrees, 0, (8,), (0,)), out=At(degrees))
    expected = torch.special.legendre_polynomial_p(torch.tensor([1e5] + [0.5] * 7), torch.full((8,), 3.0))
    assert torch.equal(hand.fetch(degrees), expected)


def test_a_number_is_no_dtype() -> None:
    hand = ByHand()
    result = hand.run("aten::zeros", [2], dtype=99, expect=None)
    assert "takes no such dtype" in hand.why(result)


def test_nothing_is_made_on_another_device() -> None:
    hand = ByHand()
    result = hand.run("aten::zeros", [2], device="meta", expect=None)
    assert "takes no such device" in hand.why(result)


def test_zeros_without_memory_have_some_here() -> None:
    """Torch's own can be resized, and are read where nothing is."""
    hand = ByHand()
    zeros = hand.run("aten::_efficientzerotensor", [4], device=Deviceless(), expect=[torch.zeros(4)])
    hand.run("aten::resize_", At(zeros), [8])
    assert hand.fetch(zeros)[:4].tolist() == [0, 0, 0, 0]
