"""Which forms of argument are refused, and that checks see the arguments by name."""

import pytest
import torch

from ptrtensor._torch.operations import native_kernel, resolve_op
from ptrtensor.worker.checked_operations import CHECKS
from ptrtensor.worker.forms import guarded, misfit
from ptrtensor.worker.operations import operation
from ptrtensor.worker.surface import refusal


@pytest.mark.parametrize(
    ("kind", "right", "wrong"),
    [
        ("ScalarType", torch.float32, 6),
        ("Optional[ScalarType]", None, 99),
        ("Optional[Layout]", torch.strided, 0),
        ("Optional[MemoryFormat]", torch.preserve_format, 0.0),
        ("Device", torch.device("cpu"), "meta"),
        ("Tensor", ..., None),
        ("List[Tensor]", [..., ...], [..., None]),
    ],
)
def test_what_misfits(kind: str, right: object, wrong: object) -> None:
    assert not misfit(kind, right)
    assert misfit(kind, wrong)


@pytest.mark.parametrize(
    ("kind", "value"), [("Optional[Tensor]", None), ("List[Optional[Tensor]]", [None]), ("int", 3), ("", 3)]
)
def test_what_fits(kind: str, value: object) -> None:
    assert not misfit(kind, value)


def test_a_kernel_without_checks_is_as_it_was() -> None:
    for name in ("aten::add.Tensor", "aten::max_unpool2d"):
        op = resolve_op(name)
        assert op is not None
        kernel = native_kernel(op)
        assert guarded(op, kernel) is kernel


def test_checks_see_defaults_and_names() -> None:
    kernel = operation("aten::_ctc_loss").kernel
    scores, targets = torch.zeros(3, 1, 2).log_softmax(2), torch.tensor([[1]])
    assert len(kernel(scores, targets, input_lengths=[3], target_lengths=[1])) == 2
    with pytest.raises(ValueError, match="targets has values"):
        kernel(scores, torch.tensor([[2]]), [3], [1])


def test_every_name_in_the_table_is_an_operation_that_runs() -> None:
    for name in CHECKS:
        base, _, overload = name.partition(".")
        packet = getattr(torch.ops.aten, base)
        overloads = [getattr(packet, each) for each in ([overload] if overload else packet.overloads())]
        assert [op for op in overloads if refusal(f"aten::{name}", op) is None], name


def test_results_of_operations_that_are_not_pointwise_are_kept_apart() -> None:
    for name in ("aten::sum.IntList_out", "aten::sort.values_stable", "aten::div.out_mode"):
        op = resolve_op(name)
        assert op is not None
        assert operation(name).kernel is not native_kernel(op)
    op = resolve_op("aten::add.out")
    assert op is not None
    assert operation("aten::add.out").kernel is native_kernel(op)


def test_a_division_without_rounding_is_not_slowed_down() -> None:
    op = resolve_op("aten::div.Tensor")
    assert op is not None
    assert operation("aten::div.Tensor").kernel is native_kernel(op)
