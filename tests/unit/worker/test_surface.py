"""Which operations are not run, and why."""

import pytest
import torch

from ptrtensor._torch.operations import resolve_op
from ptrtensor.worker.surface import INTERNAL, refusal


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("aten::from_file.out", "files"),
        ("aten::str", "TorchScript"),
        ("aten::_index_put_impl_", "helper"),
        ("aten::cudnn_convolution", "backend"),
        ("aten::sparse_compressed_tensor.comp_plain_value", "sparse"),
        ("aten::nll_loss_nd", "made of others"),
    ],
)
def test_what_is_refused(name: str, reason: str) -> None:
    op = resolve_op(name)
    assert op is not None
    assert reason in (refusal(name, op) or "")


@pytest.mark.parametrize("name", ["aten::add.Tensor", "aten::_foreach_add_.List", "aten::__lshift__.Scalar"])
def test_what_runs(name: str) -> None:
    op = resolve_op(name)
    assert op is not None
    assert refusal(name, op) is None


def test_every_helper_that_is_named_exists() -> None:
    assert [name for name in INTERNAL if not hasattr(torch.ops.aten, name.removeprefix("aten::"))] == []
